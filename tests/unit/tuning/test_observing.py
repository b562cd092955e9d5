"""Looking at a model while it trains: what is seen is what the run would have ended in, and it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from oblong.checkpoints.delta import read_delta
from oblong.corpora import Documents
from oblong.evaluation.evaluate import Corpus, evaluate, score_corpora
from oblong.models.causal_lm import Dtype, LoadedModel
from oblong.records import CorpusScore, RunStatus
from oblong.tuning.observing import Observer
from oblong.tuning.run import tune
from tests.tuning_builders import TEXTS, make_recipe, save_tiny_llama

CORPORA = [Corpus(documents=Documents(name="held-out", source="-", texts=tuple(text.upper() for text in TEXTS[:3])))]
ADAPTERS = ("lora", "lisa", "osf")
WISE_FT = {"name": "wise_ft", "strength": 0.5}
Look = Callable[[int, LoadedModel], str | None]


def run_tuning(folder: Path, output: str, look: Look | None = None, **fields: Any) -> dict[str, torch.Tensor]:
    recipe = make_recipe(folder, output=str(folder / output), schedule="constant", **fields)
    observer = None if look is None else Observer(steps=frozenset({2, 4, 6}), look=look)
    tune(recipe, observer=observer)
    delta = read_delta(folder / output / "delta")
    return {**delta.tensors, **delta.modules}


BESIDE: tuple[dict[str, Any], ...] = (
    {"columns": {"rank": 2}},
    {"experts": {"rank": 2}},
    {"experts": {"rank": 2, "routing": "gumbel"}},
)


def score(loaded: LoadedModel) -> dict[str, CorpusScore]:
    return score_corpora(loaded, CORPORA, window=64, stride=32)


def is_bit_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8)) for name in first)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"method": WISE_FT},
        *({"adapter": name, "plan": None} for name in ADAPTERS),
        *({"adapter": part, "plan": None, "anchor": {"sources": "self_generated", "blocks": 2}} for part in BESIDE),
    ],
)
def test_states_are_what_shorter_runs_end_in_and_the_end_is_that_of_a_run_nobody_looked_at(
    tmp_path: Path, dtype: Dtype, fields: dict[str, Any]
) -> None:
    save_tiny_llama(tmp_path / "model", dtype=getattr(torch, dtype))
    seen: dict[int, dict[str, CorpusScore]] = {}

    def look(step: int, loaded: LoadedModel) -> None:
        seen[step] = score(loaded)

    fields = {"dtype": dtype} | fields
    watched = run_tuning(tmp_path, "watched", look, **fields)
    assert is_bit_equal(watched, run_tuning(tmp_path, "alone", **fields))
    assert seen.keys() == {2, 4}  # the last state is that of the finished run
    run_tuning(tmp_path, "short", steps=2, **fields)
    short = evaluate(
        str(tmp_path / "model"), CORPORA, delta=tmp_path / "short" / "delta", window=64, stride=32, dtype=dtype
    )
    assert seen[2] == short.corpora
    assert seen[4] != seen[2]


def test_an_observer_can_end_a_run(tmp_path: Path) -> None:
    stopped = run_tuning(tmp_path, "stopped", lambda step, loaded: "it is hopeless" if step == 4 else None)
    recipe = make_recipe(tmp_path, output=str(tmp_path / "again"), schedule="constant")
    run = tune(recipe, observer=Observer(steps=frozenset({4}), look=lambda step, loaded: "it is hopeless"))
    assert (run.status, run.stopped, run.num_steps) == (RunStatus.STOPPED, "it is hopeless", 4)
    assert is_bit_equal(stopped, run_tuning(tmp_path, "short", steps=4))
