"""Modules that a causal language model has beside its own, a part of them for each task: columns and experts.

They are hooked into a frozen base: none of its modules is replaced and none of its tensors changes, so the base is
there bit for bit whenever it is asked for. See design/062-added-modules.md.
"""

from oblong.models.added_modules.attached import AddedModules, find_added
from oblong.models.added_modules.building import ModuleTensors, attach_described, build_added, describe_added

__all__ = ["AddedModules", "ModuleTensors", "attach_described", "build_added", "describe_added", "find_added"]
