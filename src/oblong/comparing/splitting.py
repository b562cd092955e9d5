"""`--data FILE`: the user's text in place of a recipe's, a part of it held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from oblong.corpora import Documents, read_documents
from oblong.corpora.bundled import BUNDLED_PREFIX
from oblong.errors import DataError
from oblong.records.base import replace_on_success

HELD_OUT_SHARE: Final = 0.1
MAX_HELD_OUT: Final = 64  # more make intervals hardly narrower and evaluations longer
MIN_HELD_OUT: Final = 2
DATA_FOLDER: Final = "data"
HELD_OUT_FILE: Final = "held-out.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A text in two parts that share no document.

    Attributes:
        train: documents to train on, in their order.
        held_out: documents that are only evaluated, in their order.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def split_documents(documents: Documents) -> Split:
    """Hold out a tenth of the documents, 2 at least and 64 at most, the same ones whatever their order.

    Held out are the documents with the smallest SHA-256 of their text; equal documents fall on the same side.

    Raises:
        DataError: fewer than 4 different documents.
    """
    different = sorted(set(documents.texts), key=_digest)
    if len(different) < 2 * MIN_HELD_OUT:
        raise DataError(
            f"{documents.source} has {len(different)} different documents, too few to hold some out: give at least "
            f"{2 * MIN_HELD_OUT}, for example one JSON Lines object per passage"
        )
    chosen = set(different[: min(MAX_HELD_OUT, max(MIN_HELD_OUT, round(HELD_OUT_SHARE * len(different))))])
    return Split(
        train=tuple(text for text in documents.texts if text not in chosen),
        held_out=tuple(text for text in documents.texts if text in chosen),
    )


def check_data(recipe: Mapping[str, Any], source: str, *, text_field: str) -> None:
    """Make sure that `replace_data` can do its work, and write nothing.

    Raises:
        DataError: unreadable, or too few documents.
    """
    documents = read_documents(source, text_field=text_field)
    if any(is_bundled_domain(spec) for spec in recipe["evaluate"].values()):
        split_documents(documents)


def replace_data(recipe: Mapping[str, Any], source: str, *, text_field: str, output: Path) -> dict[str, Any]:
    """Put a text in the place of a recipe's training text.

    Where the recipe's new domain is a bundled text, which says nothing about the new one, a part of the new text is
    held out in its place; both parts are written into the output folder. A held-out text of the user's own stays.

    Args:
        recipe: parsed data of a comparison's recipe.
        source: file, folder or Hub dataset.
        text_field: field or column that holds the text.
        output: folder of the comparison.

    Raises:
        DataError: unreadable, or too few documents.
        OutputWriteError: the parts cannot be written.
    """
    documents = read_documents(source, text_field=text_field)
    bundled = {name: spec for name, spec in recipe["evaluate"].items() if is_bundled_domain(spec)}
    if not bundled:
        return {**recipe, "train": {**recipe["train"], "data": {"source": source, "text_field": text_field}}}
    split = split_documents(documents)
    train = write_documents(output / DATA_FOLDER / "train.jsonl", split.train)
    held_out = write_documents(output / DATA_FOLDER / HELD_OUT_FILE, split.held_out)
    limits = {key: value for spec in bundled.values() for key, value in spec.items() if key == "characters"}
    others = {name: spec for name, spec in recipe["evaluate"].items() if name not in bundled}
    return {
        **recipe,
        "name": f"{documents.name}: {recipe['name']}",
        "train": {**recipe["train"], "data": str(train)},
        "evaluate": {f"{documents.name} (held out)": {"data": str(held_out), "new_domain": True, **limits}, **others},
    }


def is_bundled_domain(spec: Mapping[str, Any]) -> bool:
    """Whether a text of a recipe is a bundled new domain."""
    return bool(spec.get("new_domain")) and str(spec.get("data")).startswith(BUNDLED_PREFIX)


def write_documents(file: Path, texts: tuple[str, ...]) -> Path:
    """Write JSON Lines."""
    with replace_on_success(file, force=True) as lines:
        lines.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    return file


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
