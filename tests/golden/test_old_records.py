"""Records that were written by an earlier schema version must be read for ever.

The files come from a comparison of a tiny random Llama, and from a tiny speech LLM (shortened).
A new schema version adds a folder; an old one is never edited.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oblong.records import (
    Comparison,
    DeltaManifest,
    Evaluation,
    Plan,
    Record,
    Run,
    Scan,
    SpeechDelta,
    SpeechEvaluation,
    SpeechRun,
)
from oblong.records.base import load_document

FOLDER = Path(__file__).parent / "records"
VERSIONS = sorted(path.name for path in FOLDER.iterdir())
KINDS: dict[str, type[Record]] = {
    "plan.yaml": Plan,
    "run.json": Run,
    "evaluation.json": Evaluation,
    "manifest.json": DeltaManifest,
    "comparison.json": Comparison,
    "speech_run.json": SpeechRun,
    "speech_delta.json": SpeechDelta,
    "speech_evaluation.json": SpeechEvaluation,
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", KINDS)
def test_an_old_record_is_read_and_loses_nothing(version: str, name: str) -> None:
    path = FOLDER / version / name
    record = KINDS[name].read(path)
    written = record.model_dump(mode="json")
    assert contains(written, load_document(path))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_scan_is_read_and_loses_nothing(version: str) -> None:
    path = FOLDER / version / "scan.jsonl"
    scan = Scan.read(path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    records = (scan.header, *scan.units)
    assert len(records) == len(lines)
    for record, line in zip(records, lines, strict=True):
        assert contains(record.model_dump(mode="json"), line)


def test_the_current_version_is_among_them() -> None:
    versions = {json.loads((FOLDER / version / "run.json").read_text())["schema_version"] for version in VERSIONS}
    assert Run.model_fields["schema_version"].default in versions


def test_every_kind_of_record_is_among_them() -> None:
    kinds = {kind for kind in Record.__subclasses__() if kind.__module__.startswith("oblong.")}
    assert kinds == set(KINDS.values())


def contains(whole: object, part: object) -> bool:
    """Whether every value of `part` is in `whole` at the same place; later versions may add fields."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(whole, list) and isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return whole == part


def test_contains_notices_a_loss() -> None:
    assert contains({"a": [1, {"b": 2}], "new": 0}, {"a": [1, {"b": 2}]})
    assert not contains({"a": [1, {"b": 3}]}, {"a": [1, {"b": 2}]})
    assert not contains({"a": [1]}, {"a": [1, 2]})
