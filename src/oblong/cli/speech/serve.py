"""`oblong speech serve`: speak to one or two models in the browser."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from oblong.cli.terminal import note, stdout


def serve(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            help="One model or two: directories, Hub ids, or names such as `whisper-base`.", metavar="MODEL..."
        ),
    ],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: a free one from 7860 on.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None, typer.Option(help="Default: bfloat16 on a GPU, float32 on the CPU.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")] = None,
) -> None:
    """Record or drop a file and see the transcripts of two models side by side, with the time each took.

    A box below asks both something in writing: is the language still there? Only this machine can reach the page, and
    nothing is sent anywhere. Needs `pip install 'oblong[speech,gradio]'`. Ctrl-C ends it.

    Example: oblong speech serve oblong-speech-demo/best whisper-base
    """
    from oblong.speech.gradio_page import build_page, import_gradio, serve_page
    from oblong.speech.loading import load_transcriber

    import_gradio()  # before minutes are spent on loading
    models = []
    for checkpoint in checkpoints:
        note(f"loading {checkpoint}")
        models.append(load_transcriber(checkpoint, device=device, dtype=dtype))
    page = build_page(models)
    address = serve_page(page, port=port, open_browser=open_browser, block=False)
    stdout().print(f"{address} (Ctrl-C ends it)", soft_wrap=True, markup=False)
    page.block_thread()
