"""What is said in the sound files of Debian packages, read from the packages' own text files."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Final

from oblong.errors import DataError

ASTERISK_LINE: Final = re.compile(r"([\w/.-]+):\s*(.*\S)\s*")
# dialogId(name, font, English), in a translation followed by dialogStr(the translation).
DIALOGUE: Final = re.compile(
    r'dialogId\("([^"]+)",\s*"[^"]*",\s*"((?:[^"\\]|\\.)*)"\)(?:\s*dialogStr\("((?:[^"\\]|\\.)*)"\))?'
)


def parse_asterisk(text: str) -> dict[str, str]:
    """`name: what is said` per line, `;` opens a comment; some lines repeat their name."""
    transcripts = {}
    for line in text.splitlines():
        if (match := ASTERISK_LINE.fullmatch(line)) and not line.startswith(";"):
            transcripts[match[1]] = match[2].removeprefix(f"{match[1]}:").strip()
    return transcripts


def parse_dialogues(script: str) -> dict[str, tuple[str, str]]:
    """The lines of a level of Fish Fillets by name: in English, and in the script's language (empty where missing)."""
    return {name: (_unescape(english), _unescape(local)) for name, english, local in DIALOGUE.findall(script)}


def parse_letters(document: bytes) -> dict[str, str]:
    """KLettres' `sounds.xml`: file to letter or syllable, the latter in small letters.

    Raises:
        DataError: no XML.
    """
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError as error:
        raise DataError(f"sounds.xml of klettres-data: is not valid XML: {error}") from error
    names = {sound.get("file", ""): sound.get("name", "") for sound in root.iter("sound")}
    return {file: name if len(name) == 1 else name.lower() for file, name in names.items() if file and name}


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text.replace("\\n", " "))
