"""Tiny speech LLMs with an arm applied, a training step, and deltas of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from oblong.models.causal_lm import Dtype
from oblong.models.speech_lm import make_training_inputs, pad_training_inputs
from oblong.speech.arms import AppliedArm, ArmRecipe, LoraRecipe, apply_arm, write_speech_delta
from tests.speech_builders import SpeechLM, build_tiny, make_tones, wake_attention
from tests.tuning_builders import SELECTED, make_plan

KINDS = ("plan", "adaptor_only", "lora", "audio_gated_lora")


def make_arm(folder: Path, kind: str, *, names: Sequence[str] = SELECTED) -> ArmRecipe:
    """One of `KINDS`; a Plan of the named tensors is written to `folder`."""
    if kind == "plan":
        make_plan(folder / "llama", names).write(folder / "plan.yaml", force=True)
        return ArmRecipe(plan=str(folder / "plan.yaml"))
    if kind == "adaptor_only":
        return ArmRecipe(adaptor_only=True)
    return ArmRecipe(lora=LoraRecipe(rank=2, audio_gated=kind == "audio_gated_lora"))


@dataclass(frozen=True, kw_only=True)
class Study:
    """A tiny speech LLM with an arm."""

    folder: Path
    model: Any
    processor: Any
    applied: AppliedArm

    @classmethod
    def make(cls, folder: Path, kind: str, *, dtype: Dtype = "bfloat16", names: Sequence[str] = SELECTED) -> Study:
        model, processor = build_tiny(folder, dtype=dtype)
        wake_attention(model)
        applied = apply_arm(model, make_arm(folder, kind, names=names), language_model=folder / "llama")
        return cls(folder=folder, model=model, processor=processor, applied=applied)

    def train(self, *, num_steps: int = 2) -> None:
        """A few AdamW steps of 1e-2 under autocast."""
        trained = [*self.applied.trained.values(), *self.applied.adaptor.values()]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
        batch = make_batch((self.model, self.processor))
        self.model.train()
        for _ in range(num_steps):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.model.dtype != torch.float32):
                loss = self.model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        self.model.eval()

    def write(self, name: str = "delta", *, replace: bool = False) -> Path:
        """Write its delta."""
        directory = self.folder / name
        write_speech_delta(
            directory,
            self.model,
            self.applied,
            processor=self.processor,
            encoder=str(self.folder / "whisper"),
            language_model=str(self.folder / "llama"),
            replace=replace,
        )
        return directory


def make_batch(speech_lm: SpeechLM) -> dict[str, torch.Tensor]:
    """Two recordings with transcripts."""
    model, processor = speech_lm
    request = processor.apply_transcription_request(make_tones([0.3, 0.8]))
    counts = (request["input_ids"] == model.config.audio_token_id).sum(-1).tolist()
    items = [make_training_inputs(processor, num_audio_tokens=count, text="abc") for count in counts]
    audio = {name: request[name] for name in ("input_features", "input_features_mask")}
    return pad_training_inputs(items, processor) | audio


def transcribe(model: Any, processor: Any) -> torch.Tensor:
    """Token ids of two transcriptions, 10 tokens each; under autocast, as float32 masters in bf16 towers need it."""
    request = processor.apply_transcription_request(make_tones([0.3, 0.8])).to(model.device, model.dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.dtype != torch.float32):
        output: torch.Tensor = model.generate(**request, max_new_tokens=10, min_new_tokens=10)
    return output
