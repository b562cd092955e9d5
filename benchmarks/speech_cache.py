"""Training throughput with the feature cache against without: the adaptor under a frozen language model, same batches.

    python benchmarks/speech_cache.py [MANIFEST] [--encoder whisper-base] [--language-model demo] [--limit 24]
                                      [--batch-size 4] [--rounds 5] [--dtype bfloat16] [--threads N] [--json FILE]

In every round both take the same batches one after the other: forward, backward, and a step of AdamW on the adaptor.
The only difference is where the encoder's states come from:

- cached   `encode_utterances` made them once, and they are read from the mapped files.
- live     the sound files are decoded, and spectrogram and encoder run on the batch, as without a cache every epoch
           would. No gradients are kept for the encoder.

Batches are of similar length, as training makes them. Seconds are CPU seconds of this process, all threads together, so
that other programs on the machine do not count. Figures are medians over the rounds: utterances per CPU second of both,
and the ratio within a round. Beside them stands what the cache costs: seconds per recording to fill it, seconds to open
it again, bytes per hour of audio. The cache lies in a temporary folder. Exit code 1: less than 3 times faster, or the
two losses differ by more than rounding.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from oblong.checkpoints import cache_dir
from oblong.corpora.speech import SAMPLE_RATE, BucketRule, load_audio, plan_epoch, read_manifest
from oblong.models.speech_lm import build_speech_lm, make_training_inputs, pad_training_inputs
from oblong.models.speech_lm.frames import group_frames
from oblong.speech.features import EncodedUtterances, FeatureCache, encode_utterances

GOAL = 3.0
WINDOW_SECONDS = 30
MAX_LOSS_DIFFERENCE = 0.02  # of bfloat16 states, encoded alone and in a batch
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model with an optimiser for its adaptor, and utterances."""

    model: Any
    processor: Any
    optimizer: torch.optim.Optimizer
    encoded: EncodedUtterances

    def step(self, batch: Sequence[int], get_audio: Callable[[Sequence[int]], dict[str, Any]]) -> float:
        """One step of training; returns the loss."""
        inputs = pad_training_inputs([self.write(index) for index in batch], self.processor)
        loss = self.model(**inputs, **get_audio(batch), labelled_logits_only=True).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def write(self, index: int) -> Any:
        """Prompt and transcript of an utterance."""
        num_tokens = group_frames(self.encoded.num_frames(index), self.processor.downsampling)
        text = self.encoded.utterances[index].text
        return make_training_inputs(self.processor, num_audio_tokens=num_tokens, text=text)

    def get_cached(self, batch: Sequence[int]) -> dict[str, Any]:
        """States from the cache."""
        return {"audio_features": [self.encoded[index] for index in batch]}

    def get_live(self, batch: Sequence[int]) -> dict[str, Any]:
        """Spectrograms, for the model to run its encoder on."""
        clips = [load_audio(self.encoded.utterances[index].audio) for index in batch]
        features = self.processor.feature_extractor(
            clips, sampling_rate=SAMPLE_RATE, return_attention_mask=True, return_tensors="pt"
        )
        spectrograms = features["input_features"].to(self.model.model.audio_tower.dtype)
        return {"input_features": spectrograms, "input_features_mask": features["attention_mask"]}


def measure(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, and what came out."""
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, nargs="?", default=cache_dir() / "speech" / "prompts-en-train.jsonl")
    parser.add_argument("--encoder", default="whisper-base")
    parser.add_argument("--language-model", default="demo")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    utterances = read_manifest(options.manifest)
    chosen = random.Random(0).sample(utterances, min(options.limit, len(utterances)))
    model, processor = build_speech_lm(options.encoder, options.language_model, dtype=options.dtype)
    model.train()
    optimizer = torch.optim.AdamW(model.model.multi_modal_projector.parameters(), lr=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder))
        filling, filled = measure(lambda: encode_utterances(model, processor, chosen, cache=cache))
        opening, encoded = measure(lambda: encode_utterances(model, processor, chosen, cache=cache))
        bench = Bench(model=model, processor=processor, optimizer=optimizer, encoded=encoded)
        size = options.batch_size
        rule = BucketRule(max_seconds=size * WINDOW_SECONDS, max_utterances=size, num_buckets=len(encoded) // size)
        durations = [encoded.seconds(index) for index in range(len(encoded))]
        full = [batch for batch in plan_epoch(durations, rule, seed=0, epoch=0) if len(batch) == size]
        # The first round warms both up and does not count.
        rows = [compare(bench, full[number % len(full)]) for number in range(-1, options.rounds)][1:]
        usage = cache.measure_usage()
    result = {
        "encoder": options.encoder,
        "language_model": options.language_model,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "recordings": len(encoded),
        "audio_seconds": round(usage.audio_seconds, 1),
        "batch_size": size,
        "rounds": len(rows),
        "cached_utterances_per_cpu_second": round(median(size / row["cached"] for row in rows), 3),
        "live_utterances_per_cpu_second": round(median(size / row["live"] for row in rows), 3),
        "speedup": round(median(row["live"] / row["cached"] for row in rows), 2),
        "goal": GOAL,
        "largest_loss_difference": max(row["difference"] for row in rows),
        "filling_cpu_seconds_per_recording": round(filling / filled.cost.num_encoded, 3),
        "opening_cpu_seconds": round(opening, 3),
        "bytes_per_hour_of_audio": round(usage.num_bytes / usage.audio_seconds * SECONDS_PER_HOUR),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(result["speedup"] < GOAL or result["largest_loss_difference"] > MAX_LOSS_DIFFERENCE)


def compare(bench: Bench, batch: Sequence[int]) -> dict[str, float]:
    """One batch both ways, from the same weights: seconds of each, and how far apart the losses are."""
    adaptor = bench.model.model.multi_modal_projector
    weights = {name: value.clone() for name, value in adaptor.state_dict().items()}
    cached, cached_loss = measure(lambda: bench.step(batch, bench.get_cached))
    adaptor.load_state_dict(weights)
    live, live_loss = measure(lambda: bench.step(batch, bench.get_live))
    return {"cached": cached, "live": live, "difference": abs(cached_loss - live_loss)}


if __name__ == "__main__":
    main()
