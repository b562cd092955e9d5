"""`--data`: what is held out is never trained on, and does not depend on the order of the documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oblong.comparing.splitting import replace_data, split_documents
from oblong.corpora import Documents, read_documents
from oblong.errors import DataError
from tests.tuning_builders import write_text

RECIPE: dict[str, Any] = {
    "name": "x",
    "train": {"data": "bundled:german-train", "steps": 3},
    "evaluate": {
        "german": {"data": "bundled:german-test", "new_domain": True, "documents": 16, "characters": 700},
        "english": {"data": "bundled:english-prose"},
    },
}


def make_documents(texts: list[str]) -> Documents:
    return Documents(name="mine", source="mine.jsonl", texts=tuple(texts))


@pytest.mark.parametrize(("number", "held_out"), [(4, 2), (30, 3), (100, 10), (2000, 64)])
def test_a_tenth_is_held_out_and_no_text_is_on_both_sides(number: int, held_out: int) -> None:
    texts = [f"document {index}" for index in range(number)]
    split = split_documents(make_documents([*texts, *texts]))
    assert len(set(split.held_out)) == held_out
    assert len(split.held_out) == 2 * held_out
    assert not set(split.train) & set(split.held_out)
    assert sorted([*split.train, *split.held_out]) == sorted([*texts, *texts])
    assert set(split_documents(make_documents(texts[::-1])).held_out) == set(split.held_out)


def test_too_few_documents_are_refused() -> None:
    with pytest.raises(DataError, match=r"mine\.jsonl has 3 different documents.*give at least 4"):
        split_documents(make_documents(["a", "b", "c", "c"]))


def test_a_bundled_new_domain_gives_way_to_the_held_out_part(tmp_path: Path) -> None:
    file = write_text(tmp_path / "mine.jsonl", [f"text {index}" for index in range(20)])
    recipe = replace_data(RECIPE, str(file), text_field="text", output=tmp_path / "out")
    assert list(recipe["evaluate"]) == ["mine (held out)", "english"]
    spec = recipe["evaluate"]["mine (held out)"]
    assert spec["new_domain"] is True
    assert spec["characters"] == 700
    parts = [set(read_documents(recipe["train"]["data"]).texts), set(read_documents(spec["data"]).texts)]
    assert [len(part) for part in parts] == [18, 2]
    assert parts[0] | parts[1] == set(read_documents(str(file)).texts)


def test_a_held_out_text_of_ones_own_stays(tmp_path: Path) -> None:
    file = write_text(tmp_path / "mine.jsonl")
    own = {**RECIPE, "evaluate": {"own": {"data": "own.jsonl", "new_domain": True}}}
    recipe = replace_data(own, str(file), text_field="text", output=tmp_path / "out")
    assert recipe["evaluate"] == own["evaluate"]
    assert recipe["train"]["data"] == {"source": str(file), "text_field": "text"}
    assert not (tmp_path / "out").exists()
