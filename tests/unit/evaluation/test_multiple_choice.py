from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from oblong.corpora.questions import Question
from oblong.errors import DataError, NonFinitePredictionError
from oblong.evaluation.multiple_choice import collect_rows, judge, score_questions
from oblong.models.causal_lm import LoadedModel
from tests.suite_builders import QUESTIONS, load_tiny


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_tiny(tmp_path_factory.mktemp("models") / "tiny")


def add_up(loaded: LoadedModel, context: str, choice: str) -> float:
    """Log-likelihood of a choice, one sequence and one token at a time."""
    tokens = list((context + choice).encode())
    ids = loaded.tokenizer(context + choice)["input_ids"]
    assert len(ids) == len(tokens)  # one token per byte
    with torch.inference_mode():
        log_p = loaded.model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
    start = len(context.encode())
    return sum(float(log_p[place - 1, ids[place]]) for place in range(start, len(ids)))


def test_scores_are_sums_of_log_probabilities(loaded: LoadedModel) -> None:
    scores = score_questions(loaded.model, loaded.tokenizer, QUESTIONS)
    for question, found in zip(QUESTIONS, scores, strict=True):
        assert found == pytest.approx([add_up(loaded, question.context, text) for text in question.choices], abs=1e-4)


def test_choices_of_one_token_share_a_sequence(loaded: LoadedModel) -> None:
    question = Question(context="x", choices=("a", "b", "c"), answer=0)
    (row,) = collect_rows(loaded.tokenizer, [question])
    assert row.targets == {(0, place): (ord(letter) - 33,) for place, letter in enumerate("abc")}
    (scores,) = score_questions(loaded.model, loaded.tokenizer, [question])
    assert scores == pytest.approx([add_up(loaded, "x", text) for text in question.choices], abs=1e-4)


def test_the_best_choice_depends_on_the_metric() -> None:
    question = Question(context="x", choices=(" long choice", " no"), answer=0)
    scores = (np.array([-6.0, -3.0]),)  # per character -0.5 and -1
    assert judge([question], scores, "acc") == (False,)
    assert judge([question], scores, "acc_norm") == (True,)


def test_the_first_of_equally_good_choices_is_taken() -> None:
    questions = [Question(context="x", choices=(" a", " b"), answer=answer) for answer in (0, 1)]
    assert judge(questions, (np.zeros(2), np.zeros(2)), "acc") == (True, False)


def test_progress_counts_every_sequence(loaded: LoadedModel) -> None:
    seen: list[tuple[int, int]] = []
    score_questions(loaded.model, loaded.tokenizer, QUESTIONS, on_progress=lambda *step: seen.append(step))
    total = len(collect_rows(loaded.tokenizer, QUESTIONS))
    assert seen[-1] == (total, total)


def test_a_question_longer_than_the_context_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(DataError, match="a question of 601 tokens is longer than the model's context of 512"):
        score_questions(loaded.model, loaded.tokenizer, [Question(context="x" * 600, choices=(" a", " b"), answer=0)])


def test_a_choice_without_tokens_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(DataError, match="choice 2 of question 1 has no tokens"):
        score_questions(loaded.model, loaded.tokenizer, [Question(context="x", choices=(" a", ""), answer=0)])


def test_predictions_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    broken = load_tiny(tmp_path / "broken")
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(NonFinitePredictionError, match="question 1 are not finite"):
        score_questions(broken.model, broken.tokenizer, QUESTIONS)
