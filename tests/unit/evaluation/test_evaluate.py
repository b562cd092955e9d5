from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from oblong.checkpoints.delta import digest_tensor, name_dtype, write_delta
from oblong.corpora import Documents
from oblong.errors import DataError, PlanMismatchError
from oblong.evaluation import Corpus, evaluate
from oblong.records import DeltaManifest, Evaluation, Provenance, TensorDigest
from tests.tuning_builders import SELECTED, TEXTS, save_tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


def save_delta(model: Path, run: Path, *, name: str = SELECTED[0], step: float = 0.5) -> Path:
    """A delta checkpoint that adds `step` to the first row of one tensor."""
    weights = load_file(model / "model.safetensors")
    tuned = weights[name].clone()
    tuned[0] += step
    digests = {
        key: TensorDigest(shape=tuple(weight.shape), dtype=name_dtype(weight.dtype), base=digest_tensor(weight))
        for key, weight in weights.items()
    }
    manifest = DeltaManifest(
        model=str(model),
        plan_digest="sha256:0",
        changed={name: digests[name].model_copy(update={"tuned": digest_tensor(tuned)})},
        frozen={key: digest for key, digest in digests.items() if key != name},
        provenance=Provenance.here(),
    )
    write_delta(run / "delta", {name: tuned}, manifest)
    return run / "delta"


def make_corpus(name: str, *, new_domain: bool = False, count: int = 3) -> Corpus:
    return Corpus(documents=Documents(name=name, source="test", texts=TEXTS[:count]), new_domain=new_domain)


def test_evaluates_the_base(model: Path) -> None:
    corpora = [make_corpus("general"), make_corpus("german", new_domain=True, count=2)]
    evaluation = evaluate(str(model), corpora, window=64, stride=32)
    assert evaluation.name == "base"
    assert list(evaluation.corpora) == ["general", "german"]
    assert [score.new_domain for score in evaluation.corpora.values()] == [False, True]
    general = evaluation.corpora["general"]
    assert general.data == corpora[0].documents.describe()
    assert [score.num_tokens for score in general.documents] == [len(text.encode()) - 1 for text in TEXTS[:3]]
    assert (evaluation.drift, general.kl, evaluation.window, evaluation.stride) == (None, None, 64, 32)


def test_the_same_documents_score_the_same_twice(model: Path) -> None:
    first, second = (evaluate(str(model), [make_corpus("a")], window=64, stride=32) for _ in range(2))
    assert first.corpora == second.corpora


def test_a_delta_changes_the_scores_and_is_measured(model: Path, tmp_path: Path) -> None:
    delta = save_delta(model, tmp_path / "arm")
    before = evaluate(str(model), [make_corpus("a")], window=64, stride=32)
    after = evaluate(str(model), [make_corpus("a")], delta=delta, base=str(model), window=64, stride=32)
    assert (after.name, after.delta) == ("arm", str(delta))
    assert after.corpora["a"].loss != before.corpora["a"].loss
    assert (after.corpora["a"].kl or 0) > 0
    assert after.drift is not None
    # One row of 32 moved: down_proj is 32 x 48.
    assert (after.drift.num_changed_tensors, after.drift.num_parameters_in_changed) == (1, 32 * 48)
    assert after.drift.fraction_moved == 1 / 32


def test_the_record_survives_its_file(model: Path, tmp_path: Path) -> None:
    evaluation = evaluate(str(model), [make_corpus("a")], base=str(model), window=64, stride=32, name="mine")
    evaluation.write(tmp_path / "evaluation.json")
    assert Evaluation.read(tmp_path / "evaluation.json") == evaluation
    assert evaluation.name == "mine"
    assert evaluation.corpora["a"].kl == 0


def test_progress_runs_over_all_corpora(model: Path) -> None:
    seen: list[tuple[int, int]] = []
    corpora = [make_corpus("a"), make_corpus("b", count=1)]
    evaluate(str(model), corpora, window=64, stride=32, on_progress=lambda *step: seen.append(step))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (1000, 1000)


def test_threads_are_set(model: Path) -> None:
    before = torch.get_num_threads()
    try:
        evaluate(str(model), [make_corpus("a", count=1)], window=64, stride=32, threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_errors_name_the_corpus(model: Path) -> None:
    short = Corpus(documents=Documents(name="tiny texts", source="test", texts=("fine", "x")))
    with pytest.raises(DataError, match="tiny texts: document 2 is too short"):
        evaluate(str(model), [short], window=64, stride=32)


def test_corpora_need_different_names(model: Path) -> None:
    with pytest.raises(DataError, match="the same name, 'a'"):
        evaluate(str(model), [make_corpus("a"), make_corpus("a")])
    with pytest.raises(DataError, match="no corpus"):
        evaluate(str(model), [])


def test_a_delta_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    other = save_tiny_llama(tmp_path / "other", seed=1)
    with pytest.raises(PlanMismatchError, match="not those that the delta was made from"):
        evaluate(str(model), [make_corpus("a")], delta=save_delta(other, tmp_path / "run"), window=64, stride=32)
