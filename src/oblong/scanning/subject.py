"""What `oblong.scan` was asked to scan: a checkpoint on this disk, one on the Hub, or a live module."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, Union

from oblong.checkpoints import Checkpoint, locate_model, open_checkpoint
from oblong.errors import SelectionError

if TYPE_CHECKING:
    from torch import nn

Model: TypeAlias = Union[str, "os.PathLike[str]", "nn.Module"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An opened model and what the record calls it."""

    name: str
    checkpoint: Checkpoint
    is_local: bool = False
    """Whether it is files on this disk: only those are spread over a cluster."""
    is_stored: bool = False
    """Whether it is files anywhere, whose matrices the cache of findings may know; a live module's bytes may change."""


@contextmanager
def open_subject(model: Model, *, stream: bool = False) -> Iterator[Subject]:
    """Open what the user named; a streamed model's private files go when the block succeeds.

    Args:
        model: a directory, a checkpoint file, a Hub id, `demo`, or a live `torch.nn.Module`.
        stream: whether to fetch a Hub model shard by shard.

    Raises:
        ModelNotFoundError, UnsupportedFormatError, CorruptCheckpointError: see `locate_model`, `open_checkpoint`.
        UnreadableModuleError: see `open_module`.
        SelectionError: neither a path nor a module, or a module or local path with `stream`.
    """
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        if stream:
            from oblong.checkpoints.streamed import open_streamed

            with open_streamed(name) as checkpoint:
                yield Subject(name=f"{name}@{checkpoint.path.name}", checkpoint=checkpoint, is_stored=True)
        else:
            checkpoint = open_checkpoint(locate_model(name))
            yield Subject(name=name, checkpoint=checkpoint, is_local=True, is_stored=True)
        return
    if stream:
        raise SelectionError("stream=True needs a Hub id such as ORG/NAME; a live module is already here")
    checkpoint = _open_live(model)
    yield Subject(name=checkpoint.path.name, checkpoint=checkpoint)


def _open_live(module: nn.Module) -> Checkpoint:
    # Whoever has a module has imported torch; a scan of files must not.
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(module, torch.nn.Module):
        kind = type(module).__name__
        raise SelectionError(f"oblong.scan takes a path, a Hub id, `demo` or a torch.nn.Module, not a {kind}")
    from oblong.checkpoints.modules import open_module

    return open_module(module)
