"""What some models make of one recording, or of one question without any sound, and how long each takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from oblong.errors import SpeechInputError, UserError
from oblong.records import Ending
from oblong.speech.decoding import DecodingSettings, generate_guarded
from oblong.speech.loading import LoadedTranscriber
from oblong.speech.sources import load_audio
from oblong.speech.transcribers import AudioLanguageModelTranscriber
from oblong.speech.transcribing import Clip, transcribe_clips

MAX_ANSWER_TOKENS: Final = 96
NO_LANGUAGE: Final = "only transcribes: there is no language model to ask"
CUT: Final = {Ending.LOOP: "cut: it repeated itself", Ending.LIMIT: f"cut after {MAX_ANSWER_TOKENS} tokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A model's text, the seconds it took, and what else there is to say of it."""

    text: str
    seconds: float
    remark: str = ""


def hear(loaded: LoadedTranscriber, audio: Path, lang: str | None = None) -> Reply:
    """Transcribe a file of any length.

    Args:
        loaded: the model.
        audio: any format that `load_audio` takes.
        lang: such as `de`; None lets the model find out.

    Returns:
        The text; a language that the model does not know, or a file that cannot be read, is a remark.
    """

    def transcribe() -> tuple[str, str]:
        clip = Clip(samples=load_audio(audio), lang=lang)
        transcription = transcribe_clips(loaded.transcriber, [clip], DecodingSettings())[0]
        cut = transcription.num_cut
        remark = f"{cut} of {len(transcription.segments)} windows cut" if cut else ""
        return transcription.text, remark or ("" if transcription.text else "heard no words")

    return _time(transcribe)


def ask(loaded: LoadedTranscriber, question: str) -> Reply:
    """Ask a model something without sound, greedily, as one would ask the language model that it was made from.

    Args:
        loaded: the model.
        question: the user's turn.

    Returns:
        The answer; a model without a language model says so in the remark.
    """
    transcriber = loaded.transcriber
    if not isinstance(transcriber, AudioLanguageModelTranscriber):
        return Reply(text="", seconds=0.0, remark=NO_LANGUAGE)
    return _time(lambda: _answer(transcriber.model, transcriber.processor, question))


def _answer(model: Any, processor: Any, question: str) -> tuple[str, str]:
    if (placeholder := getattr(processor, "audio_token", None)) and placeholder in question:
        raise SpeechInputError(f"{placeholder} stands for a recording, and a question in writing has none")
    chat = [{"role": "user", "content": [{"type": "text", "text": question}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(text=[prompt]).to(model.device)
    tokenizer = processor.tokenizer
    row = generate_guarded(
        model,
        inputs,
        [MAX_ANSWER_TOKENS],
        prompt_length=inputs["input_ids"].shape[1],
        pad_token_id=tokenizer.pad_token_id,
    )[0]
    return tokenizer.decode(list(row.tokens), skip_special_tokens=True).strip(), CUT.get(row.ending, "")


def _time(work: Callable[[], tuple[str, str]]) -> Reply:
    started = time.perf_counter()
    try:
        text, remark = work()
    except UserError as error:
        text, remark = "", str(error)
    return Reply(text=text, seconds=time.perf_counter() - started, remark=remark)


def reply_in_turn(
    models: Sequence[LoadedTranscriber], work: Callable[[LoadedTranscriber], Reply]
) -> Iterator[list[Reply]]:
    """One model after the other, so that neither slows the other down; yields what there is after each."""
    replies: list[Reply] = []
    for loaded in models:
        replies.append(work(loaded))
        yield list(replies)
