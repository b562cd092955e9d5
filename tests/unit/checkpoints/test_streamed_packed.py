"""Streaming quantised models: what belongs together may lie in two shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oblong.errors import (
    DownloadError,
)
from oblong.scanning import scan
from tests import packed_builders as build
from tests.checkpoint_builders import make_weights, write_typed
from tests.hub_builders import REPO, FolderHub, list_files


def test_scales_in_the_next_shard_are_found(tmp_path: Path, hub: FolderHub) -> None:
    for file in hub.folder.iterdir():
        file.unlink()
    codes = bytes(range(0x20, 0x20 + 64))
    for index in range(4):
        scale = np.array([1 + index], dtype=np.float32).tobytes()
        before = [(f"{index - 1}.weight_scale", "F32", (1,), scale)] if index else []
        here = [(f"{index}.weight", "F8_E4M3", (8, 8), codes)]
        write_typed(hub.folder / f"model-{index}.safetensors", [*before, *here])
    streamed = scan(REPO, stream=True)
    assert [u.model_dump(exclude={"seconds"}) for u in streamed] == [
        u.model_dump(exclude={"seconds"}) for u in scan(hub.folder)
    ]
    assert hub.most_on_disk == 2
    assert len(hub.fetched_shards) == 4


def write_packed_shards(folder: Path, stored: build.Stored, method: str) -> None:
    """The parts of a quantised weight in turn in two shards, between tensors that are not quantised."""
    for file in folder.iterdir():
        file.unlink()
    plain = [build.entry(f"{index}.weight", make_weights(8, 8, seed=index)) for index in range(4)]
    for index, parts in enumerate(([plain[0]], stored[::2], [*stored[1::2], plain[1]], [plain[2]], [plain[3]])):
        write_typed(folder / f"model-{index}.safetensors", parts)
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": method}}))


PACKED = {
    "gptq": build.build_gptq(4, act=True)[0],
    "awq": build.build_awq()[0],
    "bitsandbytes": build.build_bnb4(nested=True)[0],
    "mxfp4": build.build_mxfp4(),
    "compressed-tensors": build.build_compressed(4, asymmetric=True, act=True)[0],
}


@pytest.mark.parametrize("method", PACKED)
def test_a_quantised_weight_that_lies_in_two_shards_is_put_together(method: str, hub: FolderHub, cache: Path) -> None:
    write_packed_shards(hub.folder, PACKED[method], method)
    streamed, whole = scan(REPO, stream=True), scan(hub.folder)
    assert [u.model_dump(exclude={"seconds"}) for u in streamed] == [u.model_dump(exclude={"seconds"}) for u in whole]
    assert streamed.header.checkpoint == whole.header.checkpoint
    assert any(unit.measures and unit.note and "dequantised from" in unit.note for unit in streamed)
    assert hub.most_on_disk == 2
    assert set(hub.peeked) <= {"model-1.safetensors", "model-2.safetensors"}
    assert list_files(cache) == []


def test_the_shape_of_a_quantised_weight_that_cannot_be_read_says_what_to_do(
    hub: FolderHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_packed_shards(hub.folder, PACKED["bitsandbytes"], "bitsandbytes")

    def fail(path: str, mode: str, *, cache_type: str) -> Any:
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(hub, "open", fail)
    with pytest.raises(DownloadError, match=r"cannot read m\.weight\.quant_state.*model-.*reset by peer; run the same"):
        scan(REPO, stream=True)
