"""Methods that act on predictions do in two processes what they do in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oblong.speech.training import train_speech
from tests.held_builders import make_plain
from tests.integration.test_speech_several_processes import make_job, require_same_training
from tests.several_processes import run_together
from tests.training_builders import make_recipe

FILES = [f"{place}/{name}.safetensors" for place in ("last", "best") for name in ("adaptor", "trained")]
REPLAY = {"name": "replay", "strength": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and the adaptor of a stage A."""
    return make_plain(tmp_path_factory.mktemp("held-together"))


def make_held_job(folder: Path, name: str, method: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Three blocks of old text per comparison, which two processes cannot divide evenly."""
    adapt = {"arm": {"plan": str(folder / "plan.yaml")}, "steps": 6, "learning_rate": 1e-3, "sequence_length": 16}
    adapt |= {"method": method, "anchor": {"sources": "self_generated", "blocks": 4}, "anchor_blocks": 3}
    return make_job(folder, name, align={"start_from": str(folder / "plain")}, adapt=adapt, **changes)


def test_two_processes_hold_as_one(folder: Path) -> None:
    compared = {"name": "kl_to_base", "strength": 5.0}
    jobs = [
        make_held_job(folder, "two-compared", compared, shard_frozen=True),
        make_held_job(folder, "two-replay", REPLAY),
    ]
    assert run_together(folder, jobs) == [["ok", "ok"]] * 2
    for name, method in (("compared", compared), ("replay", REPLAY)):
        train_speech(make_recipe(folder, **make_held_job(folder, f"one-{name}", method)))
        require_same_training(folder, f"two-{name}", f"one-{name}", FILES)
