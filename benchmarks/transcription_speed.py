"""Real-time factor of our transcription against transformers' own speech recognition pipeline, same weights and clips.

    python -m benchmarks.transcription_speed MANIFEST [--model whisper-base] [--limit 32] [--batch-size 8]
                                             [--rounds 3] [--threads N] [--speech-llm DIR] [--json FILE]

Both run in this process in every round, on clips in memory, drawn from the manifest with seed 0, in float32, greedily,
with the clips' language given and the same number of clips at a time. Figures are medians over the rounds of seconds
per second of audio, by the clock and of this process's CPU time, which other programs on the machine disturb less, and
of the ratio of CPU times within a round. What each does, so that nobody is favoured unknowingly:

- oblong        sorts the clips by length, computes features, decodes with a limit and a loop guard per row.
- transformers  `pipeline("automatic-speech-recognition")` in the order of the manifest, greedily, though its default is
                five beams; otherwise its defaults: no limit but 256 tokens. It may write more where the model loops;
                `same_texts` counts the clips of which both wrote the same.

With `--speech-llm`, oblong transcribes with that one instead, a speech LLM whose encoder is the Whisper model's; the
pipeline still runs Whisper, and the two write different texts.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

from benchmarks.timing import measure
from oblong.models.quiet import quiet_transformers
from oblong.speech.decoding import DecodingSettings
from oblong.speech.loading import load_transcriber
from oblong.speech.sources import SAMPLE_RATE, load_audio, read_manifest
from oblong.speech.transcribers import Transcriber, WhisperTranscriber
from oblong.speech.transcribing import Clip, transcribe_clips

GOAL = 1.0  # not slower than the pipeline


def make_pipeline_run(model: WhisperTranscriber, batch_size: int, lang: str) -> Callable[[Sequence[Clip]], list[str]]:
    """Transformers' pipeline over the same model object."""
    library: Any = transformers
    processor = copy.deepcopy(model.processor)
    processor.tokenizer.pad_token = processor.tokenizer.eos_token  # the pipeline refuses to batch without one
    recognise = library.pipeline(
        "automatic-speech-recognition",
        model=model.model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        batch_size=batch_size,
    )
    language = {} if len(model.languages) == 1 else {"language": lang, "task": "transcribe"}
    options = {**language, "num_beams": 1}

    def run(clips: Sequence[Clip]) -> list[str]:
        inputs = [{"raw": clip.samples, "sampling_rate": SAMPLE_RATE} for clip in clips]
        return [str(row["text"]).strip() for row in recognise(inputs, generate_kwargs=options)]

    return run


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="whisper-base")
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--speech-llm")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    utterances = read_manifest(options.manifest)
    utterances = random.Random(0).sample(utterances, min(options.limit, len(utterances)))
    lang = utterances[0].lang
    clips = [Clip(samples=load_audio(item.audio), lang=lang) for item in utterances]
    audio_seconds = sum(len(clip.samples) for clip in clips) / SAMPLE_RATE
    transcriber = load_transcriber(options.model, device="cpu", dtype="float32").transcriber
    if not isinstance(transcriber, WhisperTranscriber):
        raise SystemExit("--model must be a Whisper model")
    ears: Transcriber = transcriber
    if options.speech_llm:
        ears = load_transcriber(options.speech_llm, device="cpu", dtype="float32").transcriber
    settings = DecodingSettings(batch_size=options.batch_size)
    run_pipeline = make_pipeline_run(transcriber, options.batch_size, lang)
    rounds = []
    for _ in range(options.rounds):
        ours = measure(lambda: [heard.text for heard in transcribe_clips(ears, clips, settings)])
        with quiet_transformers():
            theirs = measure(lambda: run_pipeline(clips))
        rounds.append((ours, theirs))
    equal = sum(one == other for one, other in zip(rounds[-1][0].result, rounds[-1][1].result, strict=True))
    result = {
        "model": options.model,
        "speech_llm": Path(options.speech_llm).parent.name if options.speech_llm else None,
        "clips": len(clips),
        "audio_seconds": round(audio_seconds, 1),
        "batch_size": options.batch_size,
        "threads": torch.get_num_threads(),
        "oblong_rtf": round(median(ours.seconds for ours, _ in rounds) / audio_seconds, 4),
        "pipeline_rtf": round(median(theirs.seconds for _, theirs in rounds) / audio_seconds, 4),
        "oblong_cpu": round(median(ours.cpu_seconds for ours, _ in rounds) / audio_seconds, 4),
        "pipeline_cpu": round(median(theirs.cpu_seconds for _, theirs in rounds) / audio_seconds, 4),
        "speedup": round(median(theirs.cpu_seconds / ours.cpu_seconds for ours, theirs in rounds), 3),
        "goal": GOAL,
        "same_texts": equal,
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
