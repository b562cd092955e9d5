"""Human speech with transcripts that Debian packages carry: voice prompts, the dialogues of a game, spoken letters."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from oblong.corpora.speech.audio import SAMPLE_RATE, Samples, decode_audio
from oblong.corpora.speech.building.clips import store_clip
from oblong.corpora.speech.building.context import BuildContext
from oblong.corpora.speech.building.convention import Unspeakable, standardise_text
from oblong.corpora.speech.building.deb_archive import iter_files
from oblong.corpora.speech.building.packages import Package
from oblong.corpora.speech.building.splits import TEST, choose_split
from oblong.corpora.speech.building.transcripts import parse_asterisk, parse_dialogues, parse_letters
from oblong.corpora.speech.usable import SILENCE_PEAK
from oblong.corpora.speech.utterance import HUMAN, Utterance
from oblong.errors import AudioError, DataError

MIN_SECONDS: Final = 0.2
MAX_SECONDS: Final = 30.0  # Whisper's window
SOUNDS: Final = "usr/share/asterisk/sounds/"
PROMPT_SPEAKERS: Final[Mapping[str, str]] = {"en": "Allison Smith", "fr": "June Wallack", "ru": "ivrvoice.ru"}
PROMPT_LICENCES: Final[Mapping[str, str]] = {"en": "CC-BY-SA-3.0", "fr": "CC-BY-SA-3.0", "ru": "CC-BY-3.0"}
FISH: Final[Mapping[str, str]] = {"m": "small fish", "v": "big fish"}
KLETTRES: Final = "usr/share/klettres/"
LETTER_FOLDERS: Final[Mapping[str, str]] = {
    "de": "de", "en": "en", "en_GB": "en", "es": "es", "fr": "fr", "it": "it", "nl": "nl",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RawClip:
    """A sound file of a package with what is said in it, as the package has both."""

    name: str
    data: bytes
    text: str
    lang: str
    speaker: str


def build_prompts(context: BuildContext, lang: str) -> list[Utterance]:
    """Voice prompts of the Asterisk telephone exchange: one professional speaker per language."""
    texts, sounds = (context.packages[name] for name in list_prompt_packages(lang))
    clips = _iter_prompts(lang, texts, sounds, context)
    return _store(clips, f"prompts-{lang}", sounds, PROMPT_LICENCES[lang], context)


def list_prompt_packages(lang: str) -> tuple[str, str]:
    """The package of the texts and that of the sounds."""
    return f"asterisk-core-sounds-{lang}", f"asterisk-core-sounds-{lang}-g722"


def build_dialogues_nl(context: BuildContext) -> list[Utterance]:
    """Dialogues of the game Fish Fillets in Dutch: two actors and some minor parts."""
    sounds = context.packages["fillets-ng-data-nl"]
    clips = _iter_dialogues(context.packages["fillets-ng-data"], sounds, context)
    return _store(clips, "dialogues-nl", sounds, "GPL-2", context)


def build_letters(context: BuildContext) -> list[Utterance]:
    """Letters and syllables of KLettres in six languages; too short to train on, so all of them are for tests."""
    package = context.packages["klettres-data"]
    return _store(_iter_letters(package, context), "letters", package, "GPL-2+", context, split=TEST)


def _iter_prompts(lang: str, texts: Package, sounds: Package, context: BuildContext) -> Iterator[RawClip]:
    member = f"usr/share/doc/{texts.name}/core-sounds-{lang}.txt.gz"
    transcripts = parse_asterisk(_read_one(texts, member, zipped=True))
    for path, data in iter_files(sounds.file, lambda name: name.startswith(SOUNDS) and name.endswith(".g722")):
        name = path.removeprefix(SOUNDS).partition("/")[2].removesuffix(".g722")
        if name not in transcripts:
            context.skips.add("no transcript", f"{sounds.name}: {path}: has no line in {member}")
            continue
        yield RawClip(name=f"{name}.g722", data=data, text=transcripts[name], lang=lang, speaker=PROMPT_SPEAKERS[lang])


def _iter_dialogues(texts: Package, sounds: Package, context: BuildContext) -> Iterator[RawClip]:
    scripts = iter_files(texts.file, lambda name: name.endswith("/dialogs_nl.lua"))
    lines = {
        name: local
        for _, data in scripts
        for name, (_, local) in parse_dialogues(data.decode("utf-8", "replace")).items()
    }
    for path, data in iter_files(sounds.file, lambda name: name.endswith(".ogg")):
        name = Path(path).stem
        if not lines.get(name, "").strip():
            context.skips.add("no transcript", f"{sounds.name}: {path}: has no line in Dutch")
            continue
        part = re.search(r"(?:^|-)([mv])-", name)
        speaker = f"fillets nl {FISH[part[1]] if part else 'minor parts'}"
        yield RawClip(name=f"{name}.ogg", data=data, text=lines[name], lang="nl", speaker=speaker)


def _iter_letters(package: Package, context: BuildContext) -> Iterator[RawClip]:
    documents = iter_files(package.file, lambda name: name.startswith(KLETTRES) and name.endswith("/sounds.xml"))
    by_folder = {path.split("/")[-2]: parse_letters(data) for path, data in documents}
    wanted = tuple(f"{KLETTRES}{folder}/" for folder in LETTER_FOLDERS)
    for path, data in iter_files(package.file, lambda name: name.startswith(wanted) and name.endswith(".ogg")):
        file = path.removeprefix(KLETTRES)
        folder = file.partition("/")[0]
        text = by_folder.get(folder, {}).get(file)
        if text is None:
            context.skips.add("no transcript", f"{package.name}: {path}: is not in sounds.xml")
            continue
        lang = LETTER_FOLDERS[folder]
        yield RawClip(name=file, data=data, text=text, lang=lang, speaker=f"klettres {folder}")


def _store(
    clips: Iterable[RawClip], name: str, sounds: Package, licence: str, context: BuildContext, split: str | None = None
) -> list[Utterance]:
    """Decode, check and write clips; what cannot be used is counted."""
    utterances = []
    for number, clip in enumerate(clips, 1):
        context.report(name, number, 0)
        text = standardise_text(clip.text, clip.lang)
        if isinstance(text, Unspeakable):
            context.skips.add(text.kind, f"{sounds.name}: {clip.name}: {text}")
            continue
        try:
            path = context.folder / "clips" / name / Path(clip.name).with_suffix(".flac")
            seconds = store_clip(path, partial(_decode, clip, f"{sounds.name}: {clip.name}"))
        except AudioError as error:
            context.skips.add(error.kind, str(error))
            continue
        side = split or choose_split(text)
        source = str(sounds)
        utterances.append(
            Utterance(path, text, clip.lang, seconds, clip.speaker, source, licence, split=side, kind=HUMAN)
        )
    return utterances


def _decode(clip: RawClip, place: str) -> Samples:
    samples = decode_audio(clip.data, Path(clip.name))
    seconds = samples.size / SAMPLE_RATE
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        kind = "too short" if seconds < MIN_SECONDS else "too long"
        raise AudioError(place, f"lasts {seconds:.2f} s", kind=kind)
    if float(np.abs(samples).max()) < SILENCE_PEAK:
        raise AudioError(place, "is silent", kind="silent")
    return samples


def _read_one(package: Package, member: str, *, zipped: bool) -> str:
    for _, data in iter_files(package.file, lambda name: name == member):
        return (gzip.decompress(data) if zipped else data).decode("utf-8", "replace")
    raise DataError(f"{package.file}: does not hold {member}; this version of the package is laid out differently")
