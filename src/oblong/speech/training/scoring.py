"""What is measured at an evaluation: word errors by real decoding, and what the text is still worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from oblong.corpora import read_documents
from oblong.evaluation import score_corpus, score_utterance, summarise_errors
from oblong.models.speech_lm import SpeechLMForConditionalGeneration, SpeechLMProcessor
from oblong.models.speech_lm.frames import group_frames
from oblong.models.speech_lm.supervision import tokenise_prompt
from oblong.records import Ending, TextRetention, WordErrors
from oblong.speech.decoding import DecodingSettings, generate_guarded
from oblong.speech.training.batches import Clip
from oblong.speech.training.processes import ALONE, Processes
from oblong.speech.training.recipe import RetentionText
from oblong.speech.transcribers import Heard, read_rows

NUM_RESAMPLES = 1000  # of the intervals at each evaluation; `oblong speech evaluate` takes more


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionCorpus:
    """Documents to watch; none is blank."""

    documents: tuple[str, ...]


def read_retention(texts: Mapping[str, RetentionText]) -> Mapping[str, RetentionCorpus]:
    """Read the texts to watch.

    Raises:
        DataError: one cannot be read.
    """
    corpora = {}
    for name, text in texts.items():
        read = read_documents(text.source, text_field=text.text_field, limit=text.documents)
        corpora[name] = RetentionCorpus(documents=tuple(document[: text.characters] for document in read.texts))
    return corpora


def measure_text_loss(
    model: SpeechLMForConditionalGeneration, processor: SpeechLMProcessor, corpora: Mapping[str, RetentionCorpus]
) -> Mapping[str, float]:
    """Nats per token of each text, read by the speech LLM without audio: audio-gated adapters are silent then."""
    losses = {}
    for name, corpus in corpora.items():
        limit = getattr(model.config.text_config, "max_position_embeddings", None) or 512
        window = min(512, limit)
        scores = score_corpus(model, processor.tokenizer, corpus.documents, window=window, stride=window // 2)
        losses[name] = math.fsum(score.nll for score in scores) / sum(score.num_tokens for score in scores)
    return losses


def compare_text_loss(losses: Mapping[str, float], base: Mapping[str, float]) -> Mapping[str, TextRetention]:
    """Losses beside those of the untouched language model."""
    return {
        name: TextRetention(loss=loss, ratio=math.exp(min(loss - base[name], 700.0))) for name, loss in losses.items()
    }


def score_clips(
    model: SpeechLMForConditionalGeneration,
    processor: SpeechLMProcessor,
    clips: Sequence[Clip],
    settings: DecodingSettings,
    *,
    processes: Processes = ALONE,
    in_step: bool = False,
) -> WordErrors:
    """Decode a test set from its frames, and count; see `transcribe_clips`."""
    heard = transcribe_clips(model, processor, clips, settings, processes=processes, in_step=in_step)
    return score_texts(clips, [row.text for row in heard], stopped_in_loop=[row.ending is Ending.LOOP for row in heard])


def score_texts(
    clips: Sequence[Clip], texts: Sequence[str], *, stopped_in_loop: Sequence[bool] | None = None
) -> WordErrors:
    """Count the errors of a test set's hypotheses.

    Args:
        clips: what was said.
        texts: what was recognised.
        stopped_in_loop: for each, whether decoding ended because the model repeated itself; default: none did.
    """
    errors = [
        score_utterance(clip.utterance.text, text, clip.utterance.lang, stopped_in_loop=loop)
        for clip, text, loop in zip(clips, texts, stopped_in_loop or [False] * len(clips), strict=True)
    ]
    langs = [clip.utterance.lang for clip in clips]
    scores = summarise_errors(errors, langs, num_resamples=NUM_RESAMPLES).corpus
    return WordErrors(
        words=scores.words,
        interval=scores.word_interval,
        num_utterances=scores.num_utterances,
        num_empty=scores.num_empty_hypotheses,
        num_loops=scores.num_loops,
    )


def transcribe_clips(
    model: SpeechLMForConditionalGeneration,
    processor: SpeechLMProcessor,
    clips: Sequence[Clip],
    settings: DecodingSettings,
    *,
    processes: Processes = ALONE,
    in_step: bool = False,
) -> list[Heard]:
    """Decode utterances from what the encoder made of them; in the order given.

    Prompts are those of `oblong speech evaluate`, limits and loop guard as well.

    Args:
        model: decodes.
        processor: the model's.
        clips: to decode.
        settings: how.
        processes: that divide the batches among them; each gets all of it.
        in_step: go on until the last process is done, as a sharded model must.
    """
    # Longest first: rows of equal length need no padding.
    order = sorted(range(len(clips)), key=lambda index: (-clips[index].num_frames, index))
    batches = [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]
    mine = {
        number: _transcribe_batch(model, processor, [clips[place] for place in places], settings, in_step=in_step)
        for number, places in processes.deal(batches)
    }
    rows = [row for batch in processes.collect(mine) for row in batch]
    heard = dict(zip(order, rows, strict=True))
    return [heard[index] for index in range(len(clips))]


def _transcribe_batch(
    model: SpeechLMForConditionalGeneration,
    processor: SpeechLMProcessor,
    clips: Sequence[Clip],
    settings: DecodingSettings,
    *,
    in_step: bool,
) -> list[Heard]:
    device = model.lm_head.weight.device
    prompts = [
        tokenise_prompt(
            processor,
            processor.make_prompt(language=clip.utterance.lang),
            group_frames(clip.num_frames, processor.downsampling),
        )
        for clip in clips
    ]
    length = max(map(len, prompts))
    padding = processor.tokenizer.pad_token_id or 0
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([[padding] * (length - len(ids)) + ids for ids in prompts], device=device),
        "attention_mask": torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts], device=device),
        "audio_features": [clip.frames.to(device) for clip in clips],
    }
    rows = generate_guarded(
        model,
        inputs,
        [settings.limit_tokens(clip.seconds) for clip in clips],
        prompt_length=length,
        num_beams=settings.num_beams,
        pad_token_id=processor.tokenizer.pad_token_id,
        **({"synced_gpus": True} if in_step else {}),
    )
    return read_rows(processor.tokenizer, rows)


@contextmanager
def rounded(parameters: Mapping[str, torch.nn.Parameter], dtype: torch.dtype) -> Iterator[None]:
    """Float32 masters as the saved model will have them, inside the block; the masters come back bit for bit."""
    masters = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = masters[name]
