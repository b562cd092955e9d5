"""A page to speak to one or two models: their transcripts side by side, and what they answer to plain text.

Nothing leaves the machine: no share link, no telemetry, no fonts or scripts from elsewhere, and the server listens on
the loopback interface only. What was recorded is deleted within the hour.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from huggingface_hub import constants as huggingface_constants

from oblong.errors import MissingExtraError, SelectionError
from oblong.speech.loading import LoadedTranscriber
from oblong.speech.side_by_side import Reply, ask, hear, reply_in_turn

LOCALHOST: Final = "127.0.0.1"
MAX_MODELS: Final = 2
LANGUAGES: Final = [
    ("let the model find out", ""),
    *((code, code) for code in ("en", "de", "fr", "es", "it", "nl", "ru")),
]
EXAMPLE: Final = "Name three colours of the rainbow."
KEEP_SECONDS: Final = 3600
TITLE: Final = "oblong speech"
WAITING: Final = "..."
SYSTEM_FONTS: Final = ("system-ui", "Helvetica", "Arial", "sans-serif")


def build_page(models: Sequence[LoadedTranscriber]) -> Any:
    """The page, not yet served.

    Args:
        models: one, or two to compare.

    Returns:
        A `gradio.Blocks`.

    Raises:
        SelectionError: no model, or more than two.
        MissingExtraError: gradio is not installed.
    """
    if not 1 <= len(models) <= MAX_MODELS:
        raise SelectionError(f"the page shows one model or two side by side, not {len(models)}")
    gradio = import_gradio()
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEEP_SECONDS, KEEP_SECONDS)) as page:
        gradio.Markdown(f"## {TITLE}\nSpeak, or drop a file. Everything stays on this machine.")
        with gradio.Row():
            audio = gradio.Audio(sources=["upload", "microphone"], type="filepath", label="speech", scale=3)
            with gradio.Column(scale=1):
                language = gradio.Dropdown(LANGUAGES, value="", label="language", allow_custom_value=True)
                listen = gradio.Button("Transcribe", variant="primary")
        heard = _add_columns(gradio, models, label="heard")
        gradio.Markdown("### Is the language still there?\nA question in writing; no sound is involved.")
        with gradio.Row(equal_height=True):
            question = gradio.Textbox(value=EXAMPLE, label="question", lines=2, scale=3)
            send = gradio.Button("Ask", scale=1)
        answered = _add_columns(gradio, models, label="answer")
        # All work goes through one queue of one, or the times would mean nothing.
        options = {"concurrency_limit": 1, "concurrency_id": "models"}
        gradio.on(
            [listen.click, audio.stop_recording, audio.upload],
            partial(show_heard, models),
            [audio, language],
            heard,
            api_name="transcribe",
            **options,
        )
        gradio.on(
            [send.click, question.submit],
            partial(show_answered, models),
            [question],
            answered,
            api_name="ask",
            **options,
        )
    return page


def serve_page(page: Any, *, port: int | None = None, open_browser: bool = False, block: bool = True) -> str:
    """Serve a page on this machine alone; with `block`, until Ctrl-C.

    Args:
        page: of `build_page`.
        port: None takes a free one from 7860 on.
        open_browser: show it at once.
        block: false returns while it is served by a thread.

    Returns:
        Its address.

    Raises:
        SelectionError: the port is taken.
    """
    gradio = import_gradio()
    try:
        _, address, _ = page.launch(
            server_name=LOCALHOST,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            theme=gradio.themes.Default(font=SYSTEM_FONTS, font_mono=("ui-monospace", "monospace")),
        )
    except OSError as error:
        place = "any port from 7860 on" if port is None else f"port {port}"
        raise SelectionError(f"cannot listen on {place} of {LOCALHOST}: choose another with --port") from error
    if block:
        page.block_thread()
    return str(address)


def import_gradio() -> Any:
    """Gradio, told to keep quiet before it wakes up.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Its variable is read when it is imported, which transformers has done by now.
    huggingface_constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        import gradio
    except ImportError as error:
        raise MissingExtraError("the page", "gradio") from error
    return gradio


def show_heard(models: Sequence[LoadedTranscriber], audio: str | None, lang: str | None) -> Iterator[list[str]]:
    """What the page shows of a recording: for each model its text and a line below; again after each model."""
    if audio is None:
        yield _show_none(models, "record something or drop a file first")
        return
    yield from _show(models, lambda loaded: hear(loaded, Path(audio), (lang or "").strip() or None))


def show_answered(models: Sequence[LoadedTranscriber], question: str) -> Iterator[list[str]]:
    """The same of a question."""
    if not question.strip():
        yield _show_none(models, "write a question first")
        return
    yield from _show(models, lambda loaded: ask(loaded, question))


def _show(models: Sequence[LoadedTranscriber], work: Callable[[LoadedTranscriber], Reply]) -> Iterator[list[str]]:
    yield _show_none(models, WAITING)
    for replies in reply_in_turn(models, work):
        shown = [part for reply in replies for part in (reply.text, describe_reply(reply))]
        yield shown + ["", WAITING] * (len(models) - len(replies))


def _show_none(models: Sequence[LoadedTranscriber], remark: str) -> list[str]:
    return ["", remark] * len(models)


def describe_reply(reply: Reply) -> str:
    """Time taken and remark, such as `1.2 s; heard no words`."""
    took = f"{reply.seconds:.1f} s" if reply.seconds else ""
    return "; ".join(part for part in (took, reply.remark) if part)


def _add_columns(gradio: Any, models: Sequence[LoadedTranscriber], *, label: str) -> list[Any]:
    """A box and a line below it for each model."""
    fields = []
    with gradio.Row():
        for loaded in models:
            with gradio.Column():
                fields.append(gradio.Textbox(label=f"{label}: {loaded.name}", lines=3, interactive=False))
                fields.append(gradio.Markdown(container=False))
    return fields
