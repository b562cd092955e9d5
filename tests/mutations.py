"""Mutations of a checkpoint's files: blind ones of bytes, and ones that know JSON. Every choice comes from one seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from tests.mutation_seeds import CONFIG, INDEX, Files, make_seeds

MAX_FLIPS: Final = 8
INTEGERS: Final = (0, 1, -1, 2, 7, 255, 1 << 20, 2**31 - 1, 2**31, 2**32, 2**40, 2**53, 2**62, 2**63, 2**64 - 1, 2**64)
NAMES: Final = (
    *("", ".", "..", "../x", "/etc/passwd", "a/b", "a\0b", "x" * 300, "\ud800", "e\u0301", "\u202egnp", "a\nb"),
    *("[red]x", "[/]", "lm_head.weight", "model.embed_tokens.weight", "h.0.attn.c_attn.weight", "m.qweight"),
    *("model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.self_attn.qkv_proj.weight", "m.weight_packed"),
    *("m.weight.absmax", "m.weight_scale", "m_blocks", "model.layers.99999999999999999999.mlp.up_proj.weight"),
    *("model.layers.0.self_attn.q_proj.weight_scale", "conv.parametrizations.weight.original1", "\x1b[2J"),
)
STRANGE: Final[Sequence[Any]] = (
    *(None, True, False, [], {}, [1], {"a": 1}, "", "x", 0.5, 1e308, float("nan"), float("-inf"), "\ud800", 10**400),
    *(-0.0, [[]], "nan", [[[[1]]]], {"": None}),
)

Mutation = Callable[[bytes, Random], bytes]


def mutate_checkpoint(seed: int, number: int) -> tuple[str, Files, str]:
    """The `number`-th mutant of a run.

    Returns:
        Name of the format, its files, and what was done to them.
    """
    from tests.format_mutations import list_mutations

    random = Random(f"{seed}:{number}")
    seeds = make_seeds()
    kind = list(seeds)[number % len(seeds)]
    files = dict(seeds[kind])
    done = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        name = _choose_file(files, random)
        mutation = random.choice(list_mutations(name))
        try:
            files[name] = mutation(files[name], random)
        except (ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError):
            mutation = flip_bits  # an earlier mutation left nothing that knows its format could work on
            files[name] = flip_bits(files[name], random)
        done.append(f"{mutation.__name__}({name})")
    return kind, files, ", ".join(done)


def _choose_file(files: Files, random: Random) -> str:
    """Weights more often than what is beside them, an index more often than a configuration."""
    weights = [1 if name == CONFIG else 2 if name == INDEX else 4 for name in files]
    return random.choices(list(files), weights)[0]


def flip_bits(content: bytes, random: Random) -> bytes:
    """Some bits anywhere, or near the beginning, where headers are."""
    if not content:
        return b"\0"
    changed = bytearray(content)
    reach = random.choice((16, 512, len(content)))
    for _ in range(random.randint(1, MAX_FLIPS)):
        changed[random.randrange(min(reach, len(content)))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncate(content: bytes, random: Random) -> bytes:
    """Anywhere, often within the last or first few bytes."""
    places = (random.randint(0, len(content)), random.randint(0, min(32, len(content))))
    return content[: random.choice((*places, max(len(content) - random.randint(1, 64), 0)))]


def delete_range(content: bytes, random: Random) -> bytes:
    start, stop = _choose_range(content, random)
    return content[:start] + content[stop:]


def duplicate_range(content: bytes, random: Random) -> bytes:
    start, stop = _choose_range(content, random)
    return content[:stop] + content[start:]


def insert_bytes(content: bytes, random: Random) -> bytes:
    start, _ = _choose_range(content, random)
    return content[:start] + random.randbytes(random.choice((1, 7, 8, 300))) + content[start:]


def overwrite_range(content: bytes, random: Random) -> bytes:
    """Zeros or ones: NaN in most floating-point formats."""
    start, stop = _choose_range(content, random)
    return content[:start] + random.choice((b"\0", b"\xff", b"\x7f")) * (stop - start) + content[stop:]


def overwrite_integer(content: bytes, random: Random) -> bytes:
    """A number that is at the edge of something, where a number might be."""
    size = random.choice((4, 8))
    start = random.randrange(0, max(min(len(content), random.choice((64, 1024, 1 << 30))) - size, 1), 4)
    number = random.choice(INTEGERS) % (1 << (8 * size))
    return content[:start] + number.to_bytes(size, "little") + content[start + size :]


def _choose_range(content: bytes, random: Random) -> tuple[int, int]:
    start = random.randint(0, random.choice((len(content), min(len(content), 256))))
    return start, min(len(content), start + random.choice((1, 4, 8, 64, 1000)))


BLIND: Final[Sequence[Mutation]] = (
    *(flip_bits, truncate, delete_range, duplicate_range, insert_bytes, overwrite_range, overwrite_integer),
)


def change_json_value(content: bytes, random: Random) -> bytes:
    """One value anywhere becomes something else."""
    document = {"": json.loads(content)}
    holder, key = random.choice(list(iter_places(document)))
    holder[key] = choose_value(random)
    return dump(document[""])


def drop_json_key(content: bytes, random: Random) -> bytes:
    document = json.loads(content)
    holder, key = random.choice([place for place in iter_places(document) if isinstance(place[0], dict)])
    del holder[key]
    return dump(document)


def rename_json_key(content: bytes, random: Random) -> bytes:
    document = json.loads(content)
    holder, key = random.choice([place for place in iter_places(document) if isinstance(place[0], dict)])
    holder[random.choice(NAMES)] = holder.pop(key)
    return dump(document)


def repeat_json_key(content: bytes, random: Random) -> bytes:
    """The first key a second time, with another value."""
    document = json.loads(content)
    key = next(iter(document))
    return b"{" + json.dumps(key).encode() + b":" + dump(choose_value(random)) + b"," + content.lstrip()[1:]


def nest_deeply(content: bytes, random: Random) -> bytes:
    depth = random.choice((500, 100_000))
    return content.rstrip()[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"


def wrap_json(content: bytes, random: Random) -> bytes:
    """The right thing in the wrong dress: a byte order mark, another encoding, a list around it, something behind."""
    ways = (b"\xef\xbb\xbf" + content, content.decode().encode("utf-16"), b"[" + content + b"]", content + b"{}", b"")
    return random.choice(ways)


JSON: Final[Sequence[Mutation]] = (
    *(change_json_value, change_json_value, change_json_value, drop_json_key, rename_json_key, repeat_json_key),
    *(nest_deeply, wrap_json),
)


def choose_value(random: Random) -> Any:
    """A value that a careless reader trips over."""
    return random.choice(
        (random.choice(INTEGERS), random.choice(STRANGE), random.choice(NAMES), -random.choice(INTEGERS))
    )


def dump(document: Any) -> bytes:
    """JSON as Python writes it: NaN and lone surrogates pass."""
    return json.dumps(document).encode()


def iter_places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    keys = list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    places = [(document, key) for key in keys]
    return places + [place for key in keys for place in iter_places(document[key])]
