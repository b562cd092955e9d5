"""Make the questions that ship in src/oblong/corpora/suite from unpacked Debian packages and the standard library.

    apt-get download r-cran-janeaustenr wordnet-base tzdata && for f in *.deb; do dpkg-deb -x $f unpacked; done
    python tools/make_suite.py unpacked

The result is committed; run this only to change the selection. Same input, same output: everything is drawn with a
fixed seed from sorted lists. Every question is a context, four continuations, and the place of the right one.
"""

from __future__ import annotations

import json
import random
import re
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from make_corpora import AUSTEN_NOVELS, STDLIB_MODULES, read_r_strings

TARGET: Final = Path(__file__).resolve().parent.parent / "src" / "oblong" / "corpora" / "suite"
SEED: Final = 20261123
NUM_WRONG: Final = 3
MAX_DRAWN: Final = 400  # questions to choose from: arithmetic has no end
SIZES: Final[Mapping[str, int]] = {
    "next_sentence": 100,
    "last_word": 110,
    "definitions": 140,
    "cities": 150,
    "python_next_line": 96,
    "arithmetic": 130,
}
COMMON_SENSE_COUNT: Final = 4  # how often WordNet's tagged texts must use a word in this sense for it to be known
DISPUTED: Final = ("El Aaiun", "Gaza", "Hebron", "Jerusalem", "Simferopol", "Stanley", "Taipei")  # no right answer
SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[\"A-Z])")
ABBREVIATION: Final = re.compile(r"\b(Mr|Mrs|Dr|St|Esq|[A-Z])\.$")
Question = dict[str, object]


def main() -> None:
    """Write one JSON Lines file per task."""
    packages = Path(sys.argv[1])
    novels = read_novels(packages)
    makers = {
        "next_sentence": iter_next_sentences(novels, random.Random(SEED)),
        "last_word": iter_last_words(novels, random.Random(SEED + 1)),
        "definitions": iter_definitions(packages / "usr/share/wordnet", random.Random(SEED + 2)),
        "cities": iter_cities(packages / "usr/share/zoneinfo", random.Random(SEED + 3)),
        "python_next_line": iter_next_lines(random.Random(SEED + 4)),
        "arithmetic": iter_sums(random.Random(SEED + 5)),
    }
    TARGET.mkdir(exist_ok=True)
    for name, questions in makers.items():
        write(name, list(islice(questions, MAX_DRAWN)), SIZES[name])


def write(name: str, questions: Sequence[Question], size: int) -> None:
    """The first so many different questions, one JSON object per line."""
    different = list({question["context"]: question for question in questions}.values())
    if len(different) < size:
        raise SystemExit(f"{name}: only {len(different)} questions could be made, not {size}")
    path = TARGET / f"{name}.jsonl"
    lines = (json.dumps(question, ensure_ascii=False) for question in different[:size])
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path.name}: {size} of {len(different)} questions, {path.stat().st_size} bytes\n")


def make_question(context: str, right: str, wrong: Sequence[str], draw: random.Random) -> Question:
    """Four continuations in random order; each begins with the white space that parts it from the context."""
    choices = [right, *wrong]
    draw.shuffle(choices)
    return {"context": context, "choices": choices, "answer": choices.index(right)}


def read_novels(packages: Path) -> list[list[list[str]]]:
    """Three of Jane Austen's novels as paragraphs of sentences."""
    found = {lines[0].strip(): lines for lines in read_r_strings(next(packages.rglob("janeaustenr/**/Rdata.rdb")))}
    return [
        [split_sentences(" ".join(part.split())) for part in "\n".join(found[title]).split("\n\n") if part.strip()]
        for title in AUSTEN_NOVELS
    ]


def split_sentences(paragraph: str) -> list[str]:
    """Sentences of a paragraph; a full stop after a title or an initial ends none."""
    sentences: list[str] = []
    for piece in SENTENCE_END.split(paragraph):
        if sentences and ABBREVIATION.search(sentences[-1]):
            sentences[-1] += f" {piece}"
        else:
            sentences.append(piece)
    return sentences


def iter_next_sentences(novels: Sequence[list[list[str]]], draw: random.Random) -> Iterator[Question]:
    """Which sentence follows these two? The others are of the same novel and of like length."""
    for novel in shuffled_in_turn(novels, draw):
        place, paragraph, paragraphs = novel
        for start in range(0, len(paragraph) - 2, 3):
            context, right = " ".join(paragraph[start : start + 2]), paragraph[start + 2]
            if not (50 <= len(context) <= 140 and 25 <= len(right) <= 60):
                continue
            others = [
                sentence
                for index, other in enumerate(paragraphs)
                for sentence in other
                if abs(index - place) > 20 and abs(len(sentence) - len(right)) <= 5
            ]
            if len(others) >= NUM_WRONG:
                yield make_question(context, f" {right}", [f" {text}" for text in draw.sample(others, NUM_WRONG)], draw)


def iter_last_words(novels: Sequence[list[list[str]]], draw: random.Random) -> Iterator[Question]:
    """Which word ends this passage? The others stand in the passage too, and could end a sentence elsewhere."""
    endings = {words[-1] for novel in novels for paragraph in novel for words in map(list_words, paragraph) if words}
    for _, paragraph, _ in shuffled_in_turn(novels, draw):
        for start in range(0, len(paragraph) - 1, 2):
            passage = " ".join(paragraph[start : start + 2])
            match = re.fullmatch(r"(.{90,240}[a-z,]) ([a-z]{4,})[.!?]", passage)
            if match is None:
                continue
            others = sorted({word for word in list_words(match[1]) if len(word) >= 4 and word in endings} - {match[2]})
            if len(others) >= NUM_WRONG:
                wrong = [f" {word}" for word in draw.sample(others, NUM_WRONG)]
                yield make_question(match[1], f" {match[2]}", wrong, draw)


def shuffled_in_turn(
    novels: Sequence[list[list[str]]], draw: random.Random
) -> Iterator[tuple[int, list[str], list[list[str]]]]:
    """Paragraphs in random order, a novel at a time in turn: place, paragraph, all paragraphs of its novel."""
    orders = [draw.sample(range(len(novel)), len(novel)) for novel in novels]
    for places in zip(*orders, strict=False):
        for place, novel in zip(places, novels, strict=True):
            yield place, novel[place], novel


def list_words(text: str) -> list[str]:
    """Lower-case words in order."""
    return re.findall(r"\b[a-z]+\b", text)


def iter_definitions(wordnet: Path, draw: random.Random) -> Iterator[Question]:
    """Which noun is defined? The others are common nouns of the same WordNet category."""
    known = read_common_nouns(wordnet / "cntlist.rev")
    categories: dict[str, dict[str, str]] = defaultdict(dict)
    for line in (wordnet / "data.noun").read_text(encoding="utf-8").splitlines():
        fields, _, gloss = line.partition(" | ")
        if line.startswith(" "):
            continue
        _, category, _, _, word, sense, *_ = fields.split()
        text = gloss.split(";")[0].strip()
        usable = 20 <= len(text) <= 80 and text.isascii() and "(" not in text and word[:4] not in text
        if usable and (word, category, int(sense, 16)) in known:
            categories[category].setdefault(word, text)
    pairs = [(category, word) for category, words in sorted(categories.items()) for word in sorted(words)]
    for category, word in draw.sample(pairs, len(pairs)):
        others = sorted(set(categories[category]) - {word})
        if len(others) >= 4 * NUM_WRONG:
            wrong = [f" {other}" for other in draw.sample(others, NUM_WRONG)]
            yield make_question(f'The word that means "{categories[category][word]}" is', f" {word}", wrong, draw)


def read_common_nouns(path: Path) -> set[tuple[str, str, int]]:
    """Lemma, category and sense of the nouns that WordNet's tagged texts use often, in their first sense only."""
    known = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        key, number, count = line.split()
        lemma, _, rest = key.partition("%")
        kind, category, sense, *_ = rest.split(":")
        if kind == "1" and number == "1" and int(count) >= COMMON_SENSE_COUNT and re.fullmatch("[a-z]{3,}", lemma):
            known.add((lemma, category, int(sense)))
    return known


def iter_cities(zoneinfo: Path, draw: random.Random) -> Iterator[Question]:
    """In which country does this place lie? The other countries are of the same part of the world."""
    rows = [line.split("\t") for line in (zoneinfo / "iso3166.tab").read_text().splitlines() if line[0] != "#"]
    countries = {code: name for code, name in rows if re.fullmatch(r"[A-Za-z ]+", name)}
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for line in (zoneinfo / "zone.tab").read_text(encoding="utf-8").splitlines():
        code, *fields = line.split("\t")
        region, _, city = fields[1].partition("/") if not line.startswith("#") else ("", "", "")
        name = city.replace("_", " ")
        if code in countries and name and "/" not in name and name not in DISPUTED and region != "Antarctica":
            places[region][name] = countries[code]
    pairs = [(region, city) for region, cities in sorted(places.items()) for city in sorted(cities)]
    for region, city in draw.sample(pairs, len(pairs)):
        country = places[region][city]
        others = sorted(set(places[region].values()) - {country})
        if len(others) >= NUM_WRONG and not set(city.split()) & set(country.split()):
            wrong = [f" {other}" for other in draw.sample(others, NUM_WRONG)]
            yield make_question(f"{city} is a place in the country of", f" {country}", wrong, draw)


def iter_next_lines(draw: random.Random) -> Iterator[Question]:
    """Which line of code follows? The others stand elsewhere in the same module, indented alike."""
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = {name: (root / f"{name}.py").read_text(encoding="utf-8").split("\n") for name in STDLIB_MODULES}
    places = [(name, row) for name, lines in sources.items() for row in range(20, len(lines))]
    for name, row in draw.sample(places, 12_000):
        lines, right = sources[name], sources[name][row]
        context = "\n".join(lines[row - 4 : row])
        if not (is_code(right) and all(map(is_code, lines[row - 3 : row])) and 60 <= len(context) <= 170):
            continue
        others = sorted({line for line in lines if is_code(line) and indent(line) == indent(right) and line != right})
        if len(others) >= NUM_WRONG:
            wrong = [f"\n{line}" for line in draw.sample(others, NUM_WRONG)]
            yield make_question(context.strip("\n"), f"\n{right}", wrong, draw)


def is_code(line: str) -> bool:
    """Whether a line says enough to tell it from others, and is no comment."""
    return 12 <= len(line.strip()) <= 44 and "#" not in line and '"""' not in line and line == line.rstrip()


def indent(line: str) -> int:
    """Columns before the first character."""
    return len(line) - len(line.lstrip())


def iter_sums(draw: random.Random) -> Iterator[Question]:
    """Sums and differences after two worked examples."""
    while True:
        examples = [make_sum(draw) for _ in range(2)]
        text, result = make_sum(draw)
        near = sorted({result + step for step in (-10, -2, -1, 1, 2, 10) if result + step >= 0})
        context = "\n".join([f"{sum_} = {value}" for sum_, value in examples] + [f"{text} ="])
        yield make_question(context, f" {result}", [f" {value}" for value in draw.sample(near, NUM_WRONG)], draw)


def make_sum(draw: random.Random) -> tuple[str, int]:
    """A sum or a difference of numbers below 50, never negative."""
    first, second = draw.randint(2, 49), draw.randint(2, 20)
    if draw.random() < 0.5 and first >= second:
        return f"{first} - {second}", first - second
    return f"{first} + {second}", first + second


if __name__ == "__main__":
    main()
