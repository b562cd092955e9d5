"""What Whisper's encoder says about short clips in a window of 30 s, and with a little silence behind them instead.

    python -m benchmarks.trailing_silence [MANIFEST] [--encoder whisper-base] [--clips 12] [--silence 1.0]
                                          [--dtype float32] [--threads 1] [--json FILE]

Each clip is encoded alone, in the whole window and with `--silence` seconds behind it (the model's `trailing_silence`),
from the same spectrogram; the first clip is encoded twice, and its first time does not count. Printed are seconds per
clip by the clock and of CPU time, the median over clips of the ratio of CPU times, and the cosine between the two
versions of each valid frame: mean, 5 % quantile and smallest over all frames of all clips.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from benchmarks.timing import Measured, measure
from oblong.checkpoints import cache_dir
from oblong.corpora.speech import SAMPLE_RATE, load_audio, read_manifest
from oblong.models.quiet import quiet_transformers
from oblong.models.speech_lm import SpeechLMForConditionalGeneration, build_speech_lm

Pair = tuple[Measured[torch.Tensor], Measured[torch.Tensor]]


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, nargs="?", default=cache_dir() / "speech" / "prompts-en-test.jsonl")
    parser.add_argument("--encoder", default="whisper-base")
    parser.add_argument("--clips", type=int, default=12, help="drawn from the manifest with seed 0")
    parser.add_argument("--silence", type=float, default=1.0, help="seconds behind each clip")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the encoder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    utterances = read_manifest(options.manifest)
    chosen = random.Random(0).sample(utterances, min(options.clips, len(utterances)))
    clips = [load_audio(utterance.audio) for utterance in chosen]
    with quiet_transformers():
        # The language model is not asked anything.
        model, processor = build_speech_lm(options.encoder, "demo", dtype=options.dtype)
        spectrograms = [
            processor.feature_extractor(
                samples, sampling_rate=SAMPLE_RATE, return_attention_mask=True, return_tensors="pt"
            )
            for samples in clips
        ]
        pairs = [encode_both_ways(model, inputs, options.silence) for inputs in (spectrograms[0], *spectrograms)][1:]
    result = {
        "encoder": options.encoder,
        "dtype": options.dtype,
        "threads": options.threads,
        "silence_seconds": options.silence,
        "mean_clip_seconds": mean(len(samples) / SAMPLE_RATE for samples in clips),
        **summarise(pairs),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def encode_both_ways(model: SpeechLMForConditionalGeneration, inputs: Any, silence: float) -> Pair:
    """Valid frames (T, D) of one recording: with the whole window, and with so many seconds of silence."""
    spectrogram = inputs["input_features"].to(model.model.audio_tower.dtype)

    def encode(trailing_silence: float | None) -> torch.Tensor:
        model.config.trailing_silence = trailing_silence
        return model.encode_audio(spectrogram, inputs["attention_mask"]).frames[0].float()

    return measure(lambda: encode(None)), measure(lambda: encode(silence))


def summarise(pairs: Sequence[Pair]) -> dict[str, float]:
    """Figures over the clips: cost of each way, and how far their frames point the same way."""
    cosines = torch.cat([cosine_similarity(whole.result, short.result, dim=-1) for whole, short in pairs])
    return {
        "clips": len(pairs),
        "frames": len(cosines),
        "window_seconds_per_clip": mean(whole.seconds for whole, _ in pairs),
        "silence_seconds_per_clip": mean(short.seconds for _, short in pairs),
        "window_cpu_seconds_per_clip": mean(whole.cpu_seconds for whole, _ in pairs),
        "silence_cpu_seconds_per_clip": mean(short.cpu_seconds for _, short in pairs),
        "cpu_ratio": median(short.cpu_seconds / whole.cpu_seconds for whole, short in pairs),
        "mean_cosine": float(cosines.mean()),
        "cosine_quantile_5_percent": float(cosines.quantile(0.05)),
        "smallest_cosine": float(cosines.min()),
    }


if __name__ == "__main__":
    main()
