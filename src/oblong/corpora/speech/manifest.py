"""Manifests: JSON Lines, one utterance per line.

    {"audio": "clips/0001.flac", "text": "Thank you.", "lang": "en", "duration": 1.32, "speaker": "allison"}

`audio`, `text` and `lang` are required; `duration` (seconds), `speaker`, `source`, `licence`, `split` and `kind` are
not. A relative `audio` is relative to the manifest. Reading is strict: a mistake is refused with its line and field. It
opens no sound file; what cannot be decoded is found, skipped and counted by `oblong.corpora.speech.usable`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from oblong.corpora.speech.language import check_language
from oblong.corpora.speech.utterance import KINDS, Utterance
from oblong.errors import DataError
from oblong.records.base import replace_on_success

DIGITS: Final = 4  # of durations: less than two samples
LONGEST_SECONDS: Final = 1e9  # thirty years; a number that is no duration may not fit a float either
REQUIRED: Final = ("audio", "text", "lang")
LANGUAGE_CODE: Final = re.compile(r"[a-z]{2,3}")
# What the field is called in the manifests of other programs (NeMo, SLAM-LLM, HF datasets).
FOREIGN_NAMES: Final[Mapping[str, str]] = {
    "audio_filepath": "audio",
    "file_name": "audio",
    "path": "audio",
    "source_wav": "audio",
    "target": "text",
    "transcription": "text",
    "transcript": "text",
    "sentence": "text",
    "language": "lang",
    "lang_id": "lang",
    "license": "licence",
    "dur": "duration",
}


def read_manifest(path: Path, *, lang: str | None = None) -> list[Utterance]:
    """Read a manifest.

    Args:
        path: the JSON Lines file.
        lang: refuse a manifest that holds any other language.

    Raises:
        DataError: missing, empty, not JSON Lines, a wrong field, another language than `lang`, or texts that are
            evidently of another language than the manifest says; the message names line and field.
    """
    lines = _read_lines(path)
    utterances = [_parse_line(line, path.parent, f"{path} line {number}") for number, line in lines]
    if not utterances:
        raise DataError(f"{path}: the manifest is empty; it needs one JSON object per line with {', '.join(REQUIRED)}")
    if lang is not None:
        _require_language(utterances, lang, path, [number for number, _ in lines])
    check_language(utterances, str(path))
    return utterances


def write_manifest(path: Path, utterances: Iterable[Utterance], *, force: bool = False) -> None:
    """Write a manifest, whole or not at all; sound files below its folder are named relative to it.

    Raises:
        OutputExistsError: `path` exists and `force` is false.
        OutputWriteError: the disk is full or the place is not writable.
    """
    with replace_on_success(path, force=force) as file:
        for utterance in utterances:
            file.write(json.dumps(_to_json(utterance, path.parent), ensure_ascii=False, allow_nan=False) + "\n")


def _to_json(utterance: Utterance, folder: Path) -> dict[str, Any]:
    audio = utterance.audio.absolute()
    base = folder.absolute()
    row: dict[str, Any] = {
        "audio": audio.relative_to(base).as_posix() if audio.is_relative_to(base) else str(audio),
        "text": utterance.text,
        "lang": utterance.lang,
    }
    if utterance.duration is not None:
        row["duration"] = round(utterance.duration, DIGITS)
    optional = {name: getattr(utterance, name) for name in ("speaker", "source", "licence", "split", "kind")}
    return row | {name: value for name, value in optional.items() if value}


def _read_lines(path: Path) -> list[tuple[int, str]]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such manifest") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start}); convert it") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]


def _parse_line(line: str, folder: Path, place: str) -> Utterance:
    try:
        row = json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated)
    except ValueError as error:
        raise DataError(f"{place}: is not valid JSON: {error}") from error
    except RecursionError:
        raise DataError(f"{place}: is not valid JSON: nested too deeply") from None
    return make_utterance(row, folder, place)


def make_utterance(row: Any, folder: Path, place: str) -> Utterance:
    """Turn a parsed object into an utterance.

    Args:
        row: with the fields of a manifest.
        folder: what a relative `audio` is relative to.
        place: where it stands, for messages.

    Raises:
        DataError: no object, a field that is missing, unknown or wrong; the message names it.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: holds {type(row).__name__}, not an object with the fields {', '.join(REQUIRED)}")
    if unknown := [name for name in row if name not in _CHECKS]:
        raise DataError(f"{place}: unknown field {unknown[0]!r}{_hint(unknown[0])}; known are {', '.join(_CHECKS)}")
    if missing := [name for name in REQUIRED if name not in row]:
        raise DataError(f"{place}: field {missing[0]!r} is missing")
    for name, value in row.items():
        if (reason := _CHECKS[name](value)) is not None:
            raise DataError(f"{place}: field {name!r} {reason}")
    fields = {name: value for name, value in row.items() if value is not None}
    return Utterance(**{**fields, "audio": folder / row["audio"], "text": " ".join(row["text"].split())})


def _hint(name: str) -> str:
    return f" (it is called {FOREIGN_NAMES[name]!r} here)" if name in FOREIGN_NAMES else ""


def _require_language(utterances: Sequence[Utterance], lang: str, path: Path, numbers: Sequence[int]) -> None:
    strangers = [(number, item) for number, item in zip(numbers, utterances, strict=True) if item.lang != lang]
    if strangers:
        number, first = strangers[0]
        raise DataError(
            f"{path}: {len(strangers)} of {len(utterances)} utterances are not {lang!r}, the first on line {number}: "
            f"field 'lang' is {first.lang!r}; give the manifest of the right language, or ask for {first.lang!r}"
        )


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_repeated(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a field occurs twice")
    return row


def _check_string(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"holds {type(value).__name__}, not a string"
    # JSON can spell half a surrogate pair; neither tokenizers nor files take it.
    half = next((letter for letter in value if "\ud800" <= letter <= "\udfff"), None)
    return None if half is None else f"holds \\u{ord(half):04x}, half of a character: write the text as UTF-8"


def _check_audio(value: Any) -> str | None:
    reason = _check_string(value)
    if reason is None and (not value.strip() or "\0" in value):
        return "names no file"
    return reason


def _check_lang(value: Any) -> str | None:
    if isinstance(value, str) and LANGUAGE_CODE.fullmatch(value):
        return None
    short = str(value).replace("_", "-").split("-")[0].lower()
    hint = f" (write {short!r})" if LANGUAGE_CODE.fullmatch(short) and len(short) == 2 else ""
    return f"is {value!r}, not a language code such as 'en' or 'de'{hint}"


def _check_duration(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"holds {type(value).__name__}, not seconds"
    return None if 0 < value < LONGEST_SECONDS else f"is {value}; it must be more than 0 seconds, and a real duration"


def _check_kind(value: Any) -> str | None:
    return None if value in KINDS else f"is {value!r}; it is one of {', '.join(KINDS)}"


_CHECKS: Final[Mapping[str, Callable[[Any], str | None]]] = {
    "audio": _check_audio,
    "text": _check_string,
    "lang": _check_lang,
    "duration": _check_duration,
    "speaker": _check_string,
    "source": _check_string,
    "licence": _check_string,
    "split": _check_string,
    "kind": _check_kind,
}
