"""The suite: our answers, and the same questions through lm-eval."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from oblong.corpora.questions import BUNDLED_TASKS, SUITE_FOLDER, read_questions
from oblong.errors import DataError, MissingExtraError
from oblong.evaluation import evaluate
from oblong.evaluation.harness import evaluate_with_harness, make_score
from oblong.evaluation.multiple_choice import score_questions
from oblong.evaluation.suite import answer_suite
from oblong.models.causal_lm import LoadedModel
from oblong.records import Evaluation
from tests.suite_builders import load_tiny

LIMIT = 6
has_lm_eval = importlib.util.find_spec("lm_eval") is not None
needs_lm_eval = pytest.mark.skipif(not has_lm_eval, reason="needs the extra lm-eval")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_tiny(tmp_path_factory.mktemp("models") / "tiny")


def test_answers_every_bundled_task(loaded: LoadedModel) -> None:
    steps: list[tuple[int, int]] = []
    scores = answer_suite(loaded, ["small"], limit=LIMIT, on_progress=lambda *step: steps.append(step))
    assert list(scores) == list(BUNDLED_TASKS)
    assert all(len(score.right) == LIMIT and score.chance == 0.25 for score in scores.values())
    assert steps == sorted(steps)
    assert steps[-1] == (6000, 6000)


def test_a_record_holds_every_answer(loaded: LoadedModel, tmp_path: Path) -> None:
    evaluation = evaluate(str(loaded.path), [], suite=["cities"], suite_limit=LIMIT, dtype="float32")
    evaluation.write(tmp_path / "evaluation.json")
    again = Evaluation.read(tmp_path / "evaluation.json")
    assert again.suite == answer_suite(loaded, ["cities"], limit=LIMIT)
    assert again.corpora == {}


def test_nothing_to_evaluate_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(DataError, match="no corpus and no suite"):
        evaluate(str(loaded.path), [])


def test_errors_name_the_task(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded.model.config, "max_position_embeddings", 20)
    with pytest.raises(DataError, match="cities: a question of"):
        answer_suite(loaded, ["cities"], limit=LIMIT)


@pytest.mark.skipif(has_lm_eval, reason="lm-eval is installed")
def test_a_task_of_lm_eval_needs_the_extra(loaded: LoadedModel) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'oblong\[lm-eval\]'"):
        answer_suite(loaded, ["hellaswag"])


@needs_lm_eval
@pytest.mark.filterwarnings("ignore")
def test_lm_eval_finds_the_same_numbers(loaded: LoadedModel) -> None:
    """The bundled task files, run by lm-eval: the same log-likelihoods, and the same answers under both metrics."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    names = {f"oblong_{task}": task for task in BUNDLED_TASKS}
    result = simple_evaluate(
        model=HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=4),
        tasks=["oblong_small"],
        task_manager=TaskManager(include_path=str(SUITE_FOLDER), include_defaults=False),
        limit=LIMIT,
        bootstrap_iters=0,
    )
    assert sorted(result["samples"]) == sorted(names)
    ours = answer_suite(loaded, ["small"], limit=LIMIT)
    for name, task in names.items():
        answers = sorted(result["samples"][name], key=lambda answer: answer["doc_id"])
        scores = score_questions(loaded.model, loaded.tokenizer, read_questions(task, limit=LIMIT).questions)
        for answer, expected in zip(answers, scores, strict=True):
            assert [value for value, _ in answer["filtered_resps"]] == pytest.approx(list(expected), abs=1e-3)
        assert tuple(bool(answer[BUNDLED_TASKS[task]]) for answer in answers) == ours[task].right
        assert result["results"][name][f"{BUNDLED_TASKS[task]},none"] == pytest.approx(ours[task].accuracy)


@needs_lm_eval
@pytest.mark.filterwarnings("ignore")
def test_a_task_whose_questions_cannot_be_had_is_named(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="the questions of arc_easy could not be loaded") as caught:
        evaluate_with_harness(loaded, ["arc_easy"], limit=2)
    assert "--suite small` needs no network" in str(caught.value)


@needs_lm_eval
def test_an_unknown_task_is_named(loaded: LoadedModel) -> None:
    with pytest.raises(DataError, match="no task is called 'hellaswog': choose `small`, or a name from"):
        evaluate_with_harness(loaded, ["hellaswog"])


def log_answer(number: int, *, filter_: str = "none", num_choices: int = 4, **metrics: float) -> dict[str, object]:
    """What lm-eval logs of one question."""
    hashes = {key: f"{key}{number}" for key in ("doc_hash", "prompt_hash", "target_hash")}
    return {
        "doc_id": number,
        "filter": filter_,
        "arguments": [("context", " choice")] * num_choices,
        "metrics": list(metrics),
        **hashes,
        **metrics,
    }


def test_normalised_accuracy_comes_first_and_questions_in_order() -> None:
    score = make_score("t", [log_answer(1, acc=1.0, acc_norm=0.0), log_answer(0, acc=0.0, acc_norm=1.0)])
    assert (score.metric, score.right, score.chance) == ("acc_norm", (True, False), 0.25)
    assert score.digest == make_score("t", [log_answer(0, acc=1.0), log_answer(1, acc=1.0)]).digest
    assert score.digest != make_score("t", [log_answer(0, acc=1.0), log_answer(2, acc=1.0)]).digest


def test_the_first_filter_of_a_generated_answer_is_taken() -> None:
    answers = [
        log_answer(0, filter_="strict-match", num_choices=1, exact_match=0.0),
        log_answer(0, filter_="flexible-extract", num_choices=1, exact_match=1.0),
    ]
    score = make_score("gsm8k", answers)
    assert (score.metric, score.right, score.chance) == ("exact_match, strict-match", (False,), None)


def test_a_task_without_right_answers_is_refused() -> None:
    with pytest.raises(DataError, match="wikitext measures word_perplexity, not right and wrong answers"):
        make_score("wikitext", [log_answer(0, word_perplexity=20.0)])
