"""Make the texts that ship in src/oblong/corpora from unpacked Debian packages and the Python standard library.

    apt-get download libreoffice-help-de libreoffice-help-en-us r-cran-janeaustenr
    for f in *.deb; do dpkg-deb -x $f unpacked; done
    python tools/make_corpora.py unpacked

The result is committed; run this only to change the selection. Same input, same output: pages are drawn with a fixed
seed from the sorted file list. A paragraph that occurs in the training pages is dropped from the held-out ones (help
pages share many), so that the held-out text is unseen.
"""

from __future__ import annotations

import html
import json
import random
import re
import struct
import sys
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "src" / "oblong" / "corpora"
SEED = 20261122
HELP_SECTIONS = ("swriter/guide", "scalc/guide", "simpress/guide", "shared/guide", "sdraw/guide", "shared/optionen")
GERMAN_BYTES = 420_000
OFFICE_BYTES = 180_000
TEST_DOCUMENTS = 40
TEST_CHARACTERS = 1800
MIN_CHARACTERS = 900
AUSTEN_NOVELS = ("PRIDE AND PREJUDICE", "EMMA", "Persuasion")
STDLIB_MODULES = (
    "argparse", "ast", "bisect", "calendar", "configparser", "contextlib", "copy", "csv", "dataclasses", "difflib",
    "enum", "fileinput", "fractions", "functools", "glob", "gzip", "heapq", "inspect", "ipaddress", "linecache",
    "mailbox", "netrc", "numbers", "pathlib", "pprint", "queue", "random", "sched", "shlex", "shutil", "socketserver",
    "statistics", "string", "tarfile", "tempfile", "textwrap", "threading", "timeit", "traceback", "zipfile",
)  # fmt: skip


def main() -> None:
    """Write the JSON Lines files."""
    packages = Path(sys.argv[1])
    for name, language, num_bytes in (("german", "de", GERMAN_BYTES), ("office", "en-US", OFFICE_BYTES)):
        train, test = make_help(packages / f"usr/share/libreoffice/help/{language}/text", num_bytes)
        write(f"{name}_train", train)
        write(f"{name}_test", test)
    write("english_prose", list(make_austen(packages))[:TEST_DOCUMENTS])
    write("python_code", list(make_code()))


def write(name: str, documents: Sequence[tuple[str, str]]) -> None:
    """One `{"source", "text"}` object per line."""
    lines = (json.dumps({"source": source, "text": text}, ensure_ascii=False) for source, text in documents)
    path = TARGET / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path.name}: {len(documents)} documents, {path.stat().st_size} bytes\n")


def make_help(root: Path, num_bytes: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """LibreOffice help: so many bytes of training pages, and held-out pages without a paragraph of the former."""
    pages = sorted(path for section in HELP_SECTIONS for path in (root / section).glob("*.html"))
    random.Random(SEED).shuffle(pages)
    texts = [(str(page.relative_to(root)), read_paragraphs(page)) for page in pages]
    texts = [(name, paragraphs) for name, paragraphs in texts if sum(map(len, paragraphs)) >= MIN_CHARACTERS]
    train: list[tuple[str, str]] = []
    while sum(len(text.encode()) for _, text in train) < num_bytes:
        name, paragraphs = texts.pop()
        train.append((name, "\n".join(paragraphs)))
    seen = {paragraph for _, text in train for paragraph in text.split("\n")}
    test: list[tuple[str, str]] = []
    for name, paragraphs in texts:
        fresh = "\n".join(paragraph for paragraph in paragraphs if paragraph not in seen)
        if len(fresh) >= MIN_CHARACTERS and len(test) < TEST_DOCUMENTS:
            test.append((name, cut(fresh, TEST_CHARACTERS)))
            seen.update(fresh.split("\n"))
    return train, test


def read_paragraphs(page: Path) -> list[str]:
    """Running text of a help page, without navigation, scripts and repeated lines."""
    text = page.read_text(encoding="utf-8")
    match = re.search(r"(?is)<div id=\"DisplayArea\".*?>(.*?)<div id=\"DonationFrame\"|<main.*?>(.*)</main>", text)
    body = (match[1] or match[2]) if match else text
    body = re.sub(r"(?is)<(script|style|head|nav)\b.*?</\1>", " ", body)
    body = re.sub(r"(?i)</(p|div|h\d|li|tr|dd|dt|pre)>|<br[^>]*>", "\n", body)
    body = html.unescape(re.sub(r"<[^>]+>", " ", body)).replace("\xad", "")
    lines = (re.sub(r"\s+", " ", line).strip() for line in body.split("\n"))
    return list(dict.fromkeys(line for line in lines if len(line) > 1))


def make_austen(packages: Path) -> Iterator[tuple[str, str]]:
    """Passages spread evenly over three of Jane Austen's novels."""
    novels = {lines[0].strip(): lines for lines in read_r_strings(next(packages.rglob("janeaustenr/**/Rdata.rdb")))}
    chosen = [novels[title] for title in AUSTEN_NOVELS]
    per_novel = -(-TEST_DOCUMENTS // len(chosen))
    for index in range(1, per_novel + 1):  # the novels in turn, so that any first N documents hold all three
        for lines in chosen:
            paragraphs = [" ".join(part.split("\n")) for part in "\n".join(lines).split("\n\n")]
            start = index * (len(paragraphs) // (per_novel + 1))
            passage = "\n".join(part.strip() for part in paragraphs[start : start + 60] if part.strip())
            yield f"{lines[0].strip().title()}, paragraph {start}", cut(passage, TEST_CHARACTERS)


def read_r_strings(path: Path) -> Iterator[list[str]]:
    """Character vectors of an R lazy-load database: zlib chunks (4-byte length first) of XDR-serialised vectors."""
    data, position = path.read_bytes(), 0
    while position < len(data) - 6:
        if data[position + 4] != 0x78:
            position += 1
            continue
        stream = zlib.decompressobj()
        raw = stream.decompress(data[position + 4 :])
        position = len(data) - len(stream.unused_data)
        strings = []
        for match in re.finditer(rb"\x00[\x00\x04]\x00\x09", raw):
            (length,) = struct.unpack(">i", raw[match.end() : match.end() + 4])
            if 0 <= length < 400:
                strings.append(raw[match.end() + 4 : match.end() + 4 + length].decode("utf-8", "replace"))
        if len(strings) > 5000:
            yield strings


def make_code() -> Iterator[tuple[str, str]]:
    """The middle of modules of the Python standard library, from a top-level definition on."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for module in STDLIB_MODULES:
        text = (root / f"{module}.py").read_text(encoding="utf-8")
        start = text.find("\ndef ", len(text) // 3)
        start = start if start >= 0 else text.find("\nclass ", len(text) // 3)
        start = start if start >= 0 else text.find("\n", len(text) // 3)
        yield (
            f"{module}.py of Python {sys.version_info[0]}.{sys.version_info[1]}",
            cut(text[start:].lstrip("\n"), TEST_CHARACTERS),
        )


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, ending at a line end where there is one."""
    if len(text) <= limit:
        return text
    end = text.rfind("\n", limit // 2, limit)
    return text[: end if end > 0 else limit]


if __name__ == "__main__":
    main()
