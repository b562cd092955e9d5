from __future__ import annotations

from pathlib import Path

import pytest

from oblong.corpora import Documents
from oblong.evaluation import Corpus, evaluate
from oblong.tuning import Relearning, probe_relearning, tune
from oblong.tuning.relearning import ModelScores
from tests.report_builders import make_corpus
from tests.tuning_builders import TEXTS, make_recipe

OLD = tuple(text[::-1] for text in TEXTS)
HELD_OUT = [Corpus(documents=Documents(name="old", source="test", texts=OLD[8:]))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on text that reads forwards; the old text is the same backwards."""
    folder = tmp_path_factory.mktemp("relearning")
    tune(make_recipe(folder, steps=20, threads=1))
    return folder


def probe(folder: Path, **options: int) -> Relearning:
    return probe_relearning(
        folder / "run", Documents(name="old", source="old text", texts=OLD[:8]), HELD_OUT, **options
    )


def test_what_is_forgotten_comes_back(folder: Path) -> None:
    found = probe(folder, steps=10)
    (gap,) = found.compute_gaps().values()
    assert gap.forgotten.mean > 0
    assert found.tuned_relearned.corpora["old"].loss < found.tuned.corpora["old"].loss
    assert found.base_relearned.corpora["old"].loss < found.base.corpora["old"].loss
    assert gap.remaining.mean == pytest.approx(
        found.tuned_relearned.corpora["old"].loss - found.base_relearned.corpora["old"].loss
    )
    assert gap.returned == pytest.approx(1 - gap.remaining.mean / gap.forgotten.mean)
    assert gap.returned is not None
    assert gap.returned > 0


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
