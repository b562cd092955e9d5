"""The suite: our answers, and the same questions through lm-eval."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from oblong.corpora.questions import BUNDLED_TASKS, SUITE_FOLDER, Question, read_questions
from oblong.errors import DataError, MissingExtraError
from oblong.evaluation import evaluate
from oblong.evaluation.harness import evaluate_with_harness, make_score
from oblong.evaluation.multiple_choice import judge, score_questions
from oblong.evaluation.suite import answer_suite, check_suite
from oblong.models.causal_lm import LoadedModel
from oblong.records import Evaluation
from tests.suite_builders import load_tiny

LIMIT = 6
PAGE = Path(__file__).parents[3] / "docs/how-to/questions.md"
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
    with pytest.raises(MissingExtraError):
        check_suite(["hellaswag"])
    check_suite(["small"])


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


@pytest.fixture
def unreachable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An address that refuses connections in the Hub's place, and an empty cache of `datasets`, which is returned."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for module, name in ((constants, "ENDPOINT"), (datasets.config, "HF_ENDPOINT")):
        monkeypatch.setattr(module, name, "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets"


@needs_lm_eval
@pytest.mark.filterwarnings("ignore")
def test_an_unreachable_hub_is_asked_once(
    loaded: LoadedModel, unreachable_hub: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import time

    from huggingface_hub import constants

    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(DataError, match=r"the questions of arc_easy could not be loaded.*ai2_arc.*HF_HOME"):
        evaluate_with_harness(loaded, ["arc_easy"], limit=2)
    assert pauses == []
    assert "Retrying" not in capfd.readouterr().err
    assert not constants.HF_HUB_OFFLINE


@needs_lm_eval
@pytest.mark.filterwarnings("ignore")
def test_questions_come_from_the_cache_where_the_hub_cannot_be_reached(
    loaded: LoadedModel, unreachable_hub: Path
) -> None:
    """A cache as `datasets` leaves it behind: CACHE/OWNER___NAME/CONFIG/VERSION/HASH, a file for each split."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    rows = [
        {
            "id": str(number),
            "question": f"Which comes after {number}?",
            "choices": {"text": [str(number + 1), "x", "y", "z"], "label": ["A", "B", "C", "D"]},
            "answerKey": "A",
        }
        for number in range(3)
    ]
    folder = unreachable_hub / "allenai___ai2_arc" / "ARC-Easy" / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    splits = datasets.SplitDict(dataset_name="ai2_arc")
    features = datasets.Dataset.from_list(rows).features
    for split in ("train", "validation", "test"):
        with ArrowWriter(features=features, path=str(folder / f"ai2_arc-{split}.arrow")) as writer:
            for row in rows:
                writer.write(row)
            writer.finalize()
        splits.add(datasets.SplitInfo(name=split, num_examples=len(rows), dataset_name="ai2_arc"))
    datasets.DatasetInfo(
        features=features,
        splits=splits,
        builder_name="parquet",
        dataset_name="ai2_arc",
        config_name="ARC-Easy",
        version="0.0.0",
    ).write_to_directory(str(folder))
    scores = evaluate_with_harness(loaded, ["arc_easy"], limit=2)
    assert {task: (score.metric, len(score.right), score.chance) for task, score in scores.items()} == {
        "arc_easy": ("acc_norm", 2, 0.25)
    }


@needs_lm_eval
@pytest.mark.filterwarnings("ignore")
def test_a_task_file_of_ones_own_is_asked(
    loaded: LoadedModel, unreachable_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that the documentation shows, from the folder that its questions are in."""
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```yaml\n(task: contracts\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    Path("contracts.yaml").write_text(block[1], encoding="utf-8")
    asked = [Question(context=f"{n} is", choices=(" even", " odd"), answer=n % 2) for n in range(3)]
    rows = [{"question": item.context, "choices": item.choices, "answer": item.answer} for item in asked]
    Path("contracts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    scores = answer_suite(loaded, ["cities", "contracts.yaml"], limit=2)
    assert list(scores) == ["cities", "contracts"]
    score = scores["contracts"]
    assert (score.metric, score.chance) == ("acc", 0.5)
    assert score.right == judge(asked[:2], score_questions(loaded.model, loaded.tokenizer, asked[:2]), "acc")


@needs_lm_eval
@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read as a task file"), ("dataset_path: json\n", "names no `task`")],
)
def test_a_task_file_that_is_none_is_refused(
    loaded: LoadedModel, tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        evaluate_with_harness(loaded, [str(file)])


@needs_lm_eval
def test_an_unknown_task_is_named(loaded: LoadedModel) -> None:
    message = "no task is called 'hellaswog': choose `small`, a name from"
    with pytest.raises(DataError, match=message):
        evaluate_with_harness(loaded, ["hellaswog"])
    with pytest.raises(DataError, match=message):  # and before there is a model
        check_suite(["small", "hellaswog"])


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
