from __future__ import annotations

import dataclasses

import pytest

from oblong.corpora.questions import BUNDLED_TASKS, SUITE_FOLDER, expand_suite, read_questions
from oblong.errors import DataError

MAX_BYTES = 150_000


@pytest.mark.parametrize("task", BUNDLED_TASKS)
def test_every_bundled_question_can_be_asked(task: str) -> None:
    questions = read_questions(task).questions
    assert len(questions) >= 95
    assert len({question.context for question in questions}) == len(questions)
    for question in questions:
        assert 0 <= question.answer < len(question.choices) == len(set(question.choices)) == 4
        assert question.context == question.context.rstrip() != ""
        assert all(choice[0].isspace() and choice.strip() for choice in question.choices)


@pytest.mark.parametrize("task", BUNDLED_TASKS)
def test_no_place_gives_the_answer_away(task: str) -> None:
    questions = read_questions(task).questions
    counts = [sum(question.answer == place for question in questions) for place in range(4)]
    # Uniform places: four standard deviations of a binomial with p = 1/4.
    spread = 4 * (len(questions) * 3 / 16) ** 0.5
    assert all(abs(count - len(questions) / 4) < spread for count in counts)


def test_the_suite_is_small_and_its_sources_are_named() -> None:
    files = sorted(SUITE_FOLDER.glob("*.jsonl"))
    assert sorted(file.stem for file in files) == sorted(BUNDLED_TASKS)
    assert sum(file.stat().st_size for file in files) < MAX_BYTES
    sources = (SUITE_FOLDER / "SOURCES.md").read_text(encoding="utf-8")
    assert all(file.name in sources for file in files)


def test_sums_are_right() -> None:
    for question in read_questions("arithmetic").questions:
        *examples, asked = question.context.split("\n")
        for line in (*examples, f"{asked} {question.choices[question.answer].strip()}"):
            sum_, _, result = line.partition(" = ")
            first, sign, second = sum_.split()
            assert int(result) == int(first) + int(second) * (1 if sign == "+" else -1)


def test_a_digest_is_that_of_the_questions() -> None:
    whole = read_questions("cities")
    first, *rest = whole.questions
    assert whole.digest == read_questions("cities").digest
    assert whole.digest != read_questions("cities", limit=20).digest
    turned = dataclasses.replace(first, answer=(first.answer + 1) % 4)
    assert dataclasses.replace(whole, questions=(turned, *rest)).digest != whole.digest
    assert whole.chance == 0.25


def test_small_stands_for_all_bundled_tasks() -> None:
    assert expand_suite(["small"]) == tuple(BUNDLED_TASKS)
    assert expand_suite(["cities", "small", "mmlu"])[0] == "cities"
    assert sorted(expand_suite(["cities", "small", "mmlu"])) == sorted([*BUNDLED_TASKS, "mmlu"])


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(DataError, match="no bundled task is called 'towns'; there are next_sentence"):
        read_questions("towns")
