"""Hugging Face libraries without their own progress bars and advice, so that oblong's output stays readable."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' bars and messages below error for a block; what was set before comes back."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # half of its functions have no annotations
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), _no_gguf_bar():
            warnings.filterwarnings("ignore", module=r"transformers\..*|gguf\..*")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _no_gguf_bar() -> Iterator[None]:
    """The GGUF loader draws a tqdm bar that ignores transformers' own switch."""
    loader: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    original = getattr(loader, "tqdm", None)
    if original is None:
        yield
        return
    loader.tqdm = partial(original, disable=True)
    try:
        yield
    finally:
        loader.tqdm = original
