"""The frozen encoder's features: computed once per recording, and kept for every later epoch, run and arm.

`cache` is where they lie, `shards` how, `identity` whose they are, `encoding` makes them. Names are imported when they
are first used, so that `oblong cache` starts without torch. See design/053.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from oblong.speech.features.cache import FeatureCache, locate_features, open_feature_cache
    from oblong.speech.features.encoding import EncodedUtterances, EncodingCost, encode_utterances

__all__ = [
    "EncodedUtterances",
    "EncodingCost",
    "FeatureCache",
    "encode_utterances",
    "locate_features",
    "open_feature_cache",
]

_HOME: Final = {
    "EncodedUtterances": "oblong.speech.features.encoding",
    "EncodingCost": "oblong.speech.features.encoding",
    "FeatureCache": "oblong.speech.features.cache",
    "encode_utterances": "oblong.speech.features.encoding",
    "locate_features": "oblong.speech.features.cache",
    "open_feature_cache": "oblong.speech.features.cache",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'oblong.speech.features' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
