"""The page of `oblong speech serve`: what its handlers show, and that it answers on this machine alone."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from oblong.errors import MissingExtraError, SelectionError
from oblong.speech.gradio_page import build_page, describe_reply, show_answered, show_heard
from oblong.speech.loading import LoadedTranscriber
from oblong.speech.side_by_side import NO_LANGUAGE, Reply, ask, hear
from oblong.speech.transcribers import AudioLanguageModelTranscriber
from tests.speech_builders import build_tiny
from tests.transcription_builders import (
    ScriptedTranscriber,
    hear_pitch,
    make_loaded,
    make_silence,
    make_tone,
    write_sound,
)


@pytest.fixture
def models() -> list[LoadedTranscriber]:
    second = ScriptedTranscriber(lambda samples: "second", langs=("en",))
    return [make_loaded(ScriptedTranscriber(hear_pitch), name="one"), make_loaded(second, name="two")]


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    return write_sound(tmp_path / "tone.wav", make_tone(1.0, hertz=500))


@pytest.fixture(scope="module")
def speech_lm(tmp_path_factory: pytest.TempPathFactory) -> LoadedTranscriber:
    model, processor = build_tiny(tmp_path_factory.mktemp("tiny"))
    return LoadedTranscriber(
        transcriber=AudioLanguageModelTranscriber(model=model, processor=processor),
        name="tiny",
        digest="sha256:tiny",
        dtype="float32",
        device=torch.device("cpu"),
        prompt=None,
    )


def test_both_models_are_heard_one_after_the_other(models: list[LoadedTranscriber], tone: Path) -> None:
    shown = list(show_heard(models, str(tone), "en"))
    assert [states[0::2] for states in shown] == [["", ""], ["tone500", ""], ["tone500", "second"]]
    assert shown[1][3] == "..."
    assert shown[2][1].endswith(" s")


def test_what_one_model_cannot_do_does_not_stop_the_other(models: list[LoadedTranscriber], tone: Path) -> None:
    last = list(show_heard(models, str(tone), "de"))[-1]
    assert last[0] == "tone500"
    assert last[2] == ""
    assert "it knows no 'de'" in last[3]


def test_silence_bad_files_and_nothing_at_all_are_said(models: list[LoadedTranscriber], tmp_path: Path) -> None:
    silence = write_sound(tmp_path / "silence.wav", make_silence(1.0))
    assert hear(models[0], silence).remark == "heard no words"
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF nonsense")
    assert "cannot be decoded" in hear(models[0], bad).remark
    assert list(show_heard(models, None, "")) == [["", "record something or drop a file first"] * 2]
    assert list(show_answered(models, "  ")) == [["", "write a question first"] * 2]


def test_a_model_without_a_language_model_says_so(models: list[LoadedTranscriber]) -> None:
    assert ask(models[0], "Who are you?") == Reply(text="", seconds=0.0, remark=NO_LANGUAGE)
    assert describe_reply(Reply(text="", seconds=0.0, remark=NO_LANGUAGE)) == NO_LANGUAGE
    assert describe_reply(Reply(text="yes", seconds=1.26, remark="cut")) == "1.3 s; cut"


def test_an_answer_is_that_of_the_bare_language_model(speech_lm: LoadedTranscriber) -> None:
    transcriber: Any = speech_lm.transcriber
    bare, tokenizer = transcriber.model.as_causal_lm(), transcriber.processor.tokenizer
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ends = transcriber.model.generation_config.eos_token_id
    expected: list[int] = []
    with torch.inference_mode():
        for _ in range(12):
            token = bare(torch.cat([ids, torch.tensor([expected], dtype=torch.long)], 1)).logits[0, -1].argmax().item()
            if token in ends:
                break
            expected.append(token)
    text = tokenizer.decode(expected, skip_special_tokens=True).strip()
    reply = ask(speech_lm, "hello")
    assert reply.text[: len(text)] == text
    assert reply.seconds > 0


def test_a_placeholder_in_a_question_is_refused_in_words(speech_lm: LoadedTranscriber) -> None:
    reply = ask(speech_lm, "what is <|audio|>?")
    assert reply.text == ""
    assert "audio" in reply.remark


@pytest.mark.parametrize("count", [0, 3])
def test_one_model_or_two(models: list[LoadedTranscriber], count: int) -> None:
    with pytest.raises(SelectionError, match="one model or two"):
        build_page((models * 2)[:count])


def test_without_gradio_the_extra_is_named(models: list[LoadedTranscriber], monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *given: Any, **options: Any) -> Any:
        if name == "gradio":
            raise ImportError(name)
        return original(name, *given, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"oblong\[gradio\]"):
        build_page(models)


SERVED = """
import json, socket, sys

strangers = []
connect, look_up = socket.socket.connect, socket.getaddrinfo

def watch_connect(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1"):
        strangers.append(address[0])
    connect(self, address)

def watch_look_up(host, *given, **options):
    if host not in ("127.0.0.1", "localhost", "::1", None):
        strangers.append(host)
    return look_up(host, *given, **options)

socket.socket.connect, socket.getaddrinfo = watch_connect, watch_look_up

from oblong.speech.gradio_page import build_page, serve_page
from tests.transcription_builders import ScriptedTranscriber, hear_pitch, make_loaded

models = [make_loaded(ScriptedTranscriber(hear_pitch), name="one")]
models.append(make_loaded(ScriptedTranscriber(lambda samples: "second"), name="two"))
page = build_page(models)
address = serve_page(page, block=False)
import httpx

# Not through gradio_client, which calls its home on its own account.
api = httpx.Client(base_url=address + "gradio_api", timeout=300)

def call(name, data):
    event = api.post("/call/" + name, json={"data": data}).json()["event_id"]
    lines = api.get("/call/" + name + "/" + event).text.splitlines()
    return json.loads([line for line in lines if line.startswith("data: ")][-1].removeprefix("data: "))

with open(sys.argv[1], "rb") as file:
    uploaded = api.post("/upload", files={"files": file}).json()[0]
heard = call("transcribe", [{"path": uploaded, "meta": {"_type": "gradio.FileData"}}, "en"])
answered = call("ask", ["Who are you?"])
facts = [page.share, page.analytics_enabled]
from oblong.errors import SelectionError

try:
    serve_page(build_page(models[:1]), port=int(address.strip("/").rpartition(":")[2]), block=False)
except SelectionError as error:
    facts.append(str(error))
page.close()
print(json.dumps([address, heard, answered, facts, strangers]))
"""


def test_the_page_answers_on_this_machine_alone(tone: Path) -> None:
    """In a process of its own: gradio leaves sockets open, which would be an error in whatever test comes next."""
    if find_spec("gradio") is None:
        pytest.skip("the extra `gradio` is not installed")
    command = [sys.executable, "-c", SERVED, str(tone)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert finished.returncode == 0, finished.stderr
    address, heard, answered, facts, strangers = json.loads(finished.stdout.splitlines()[-1])
    assert address.startswith("http://127.0.0.1:")
    assert (heard[0], heard[2]) == ("tone500", "second")
    assert answered[1] == NO_LANGUAGE
    assert facts[:2] == [False, False]
    assert "choose another with --port" in facts[2]
    assert strangers == []
