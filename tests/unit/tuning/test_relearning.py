from __future__ import annotations

from pathlib import Path

import pytest

from oblong.corpora import Documents
from oblong.evaluation import Corpus, evaluate
from oblong.tuning import Relearning, merge_run, probe_relearning, tune
from oblong.tuning.relearning import Gap, ModelScores
from tests.report_builders import make_corpus, make_interval
from tests.tuning_builders import SELECTED, TEXTS, make_recipe, write_text

NEW = tuple("QWRTZPSFGHJKLXCVBNM"[index:] * 10 for index in range(8))  # no letter of the old text
HELD_OUT = [Corpus(documents=Documents(name="old", source="test", texts=TEXTS[8:]))]


TRAINED = (*SELECTED, "model.embed_tokens.weight")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that has learned the old text, and a run on text that shares no letter with it."""
    folder = tmp_path_factory.mktemp("relearning")
    school = folder / "school"
    write_text(folder / "old.jsonl", TEXTS[:8])
    tune(make_recipe(school, names=TRAINED, data=str(folder / "old.jsonl"), steps=40, threads=1))
    merge_run(school / "run", folder / "model")
    write_text(folder / "text.jsonl", NEW)
    tune(make_recipe(folder, names=TRAINED, steps=20, threads=1))
    return folder


def probe(folder: Path, *, steps: int) -> Relearning:
    return probe_relearning(
        folder / "run", Documents(name="old", source="old text", texts=TEXTS[:8]), HELD_OUT, steps=steps
    )


def test_what_is_forgotten_comes_back(folder: Path) -> None:
    found = probe(folder, steps=10)
    (gap,) = found.compute_gaps().values()
    assert gap.forgotten.low > 0
    assert found.tuned_relearned.corpora["old"].loss < found.tuned.corpora["old"].loss
    assert gap.remaining.mean == pytest.approx(
        found.tuned_relearned.corpora["old"].loss - found.base_relearned.corpora["old"].loss
    )
    assert gap.returned == pytest.approx(1 - gap.remaining.mean / gap.forgotten.mean)
    assert gap.returned is not None
    assert gap.returned > 0.5


def test_both_models_are_those_of_an_evaluation_before(folder: Path) -> None:
    found = probe(folder, steps=1)
    for scores, delta in ((found.base, None), (found.tuned, folder / "run" / "delta")):
        expected = evaluate(str(folder / "model"), HELD_OUT, delta=delta, window=32, stride=32)
        assert scores.corpora == expected.corpora


def test_nothing_forgotten_is_no_share() -> None:
    scores = ModelScores(corpora={"old": make_corpus("old", 2.0)}, suite={})
    same = Relearning(base=scores, tuned=scores, base_relearned=scores, tuned_relearned=scores)
    gap = same.compute_gaps()["old"]
    assert (gap.forgotten.mean, gap.returned) == (0, None)
    unclear = Gap(forgotten=make_interval(0.01, 0.02), remaining=make_interval(0.1))
    assert unclear.returned is None
