"""Mutations that know safetensors, GGUF and torch's pickles: what is wrong lies behind what makes a file look right."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import PurePath
from random import Random
from typing import Any, Final

from tests.mutation_seeds import (
    GGUF_KINDS,
    GGUF_OTHER_KINDS,
    Segment,
    list_gguf_segments,
)
from tests.mutations import BLIND, INTEGERS, JSON, NAMES, Mutation, choose_value, dump

DTYPES: Final = (
    *("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL", "F4", "F8_E8M0"),
    *("f32", "Q4_0", "", 7, None, "F6_E2M3", "C64", "U64"),
)
GLOBALS: Final = ("os system", "builtins eval", "torch FloatStorage", "torch DoubleStorage", "numpy.core.multiarray x")
BOMB_BYTES: Final = 32 << 20


def list_mutations(name: str) -> Sequence[Mutation]:
    """What can be done to a file of this name; what knows the format comes as often as what is blind."""
    suffix = PurePath(name).suffix
    if suffix == ".json":
        return (*JSON, *JSON, *BLIND)
    aware = {".safetensors": SAFETENSORS_MUTATIONS, ".gguf": GGUF_MUTATIONS}.get(suffix, PICKLE_MUTATIONS)
    return (*aware, *aware, *BLIND)


def change_header(content: bytes, random: Random, change: Callable[[dict[str, Any], str], None]) -> bytes:
    """Apply a change to one entry of a safetensors header and put the file together again."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header, random.choice(list(header)))
    return join(dump(header), content[8 + length :])


def join(raw: bytes, data: bytes) -> bytes:
    return len(raw).to_bytes(8, "little") + raw + data


def change_shape(content: bytes, random: Random) -> bytes:
    """Another shape, often one of as many elements."""

    def change(header: dict[str, Any], name: str) -> None:
        shape = header[name]["shape"]
        count = 1
        for size in shape:
            count *= size
        same = ([count], [1, count], [count, 1], [1, 1, count], [*shape, 1], shape[::-1], [2, count // 2])
        size = random.choice(INTEGERS)
        other: Sequence[Any] = (
            [size, size],
            [size],
            [-size, -1],
            [0, size],
            [],
            [0],
            "8",
            None,
            [True, count],
            [float(count)],
        )
        header[name]["shape"] = random.choice(random.choice((list(same), list(other))))

    return change_header(content, random, change)


def change_shape_and_fit(content: bytes, random: Random) -> bytes:
    """A shape that the bytes fit, so that only who knows the meaning can refuse it; the tensors move together."""

    def change(header: dict[str, Any], name: str) -> None:
        begin, end = header[name]["data_offsets"]
        header[name] |= {"dtype": "U8", "shape": random.choice(([end - begin], [1, end - begin], [end - begin, 1, 1]))}

    return change_header(content, random, change)


def change_offsets(content: bytes, random: Random) -> bytes:
    def change(header: dict[str, Any], name: str) -> None:
        begin, end = header[name]["data_offsets"]
        size = random.choice(INTEGERS)
        choices = ([begin + 4, end + 4], [end, begin], [0, end], [begin, size], [-size, size], [begin], None, "ab")
        header[name]["data_offsets"] = random.choice((*choices, [begin, begin], [float(begin), end], [begin, end, 0]))

    return change_header(content, random, change)


def change_dtype(content: bytes, random: Random) -> bytes:
    return change_header(content, random, lambda header, name: header[name].update(dtype=random.choice(DTYPES)))


def change_entry(content: bytes, random: Random) -> bytes:
    """An entry, or one of its fields, becomes something else."""

    def change(header: dict[str, Any], name: str) -> None:
        holder, key = random.choice(((header, name), (header[name], random.choice(list(header[name])))))
        holder[key] = choose_value(random)

    return change_header(content, random, change)


def rename_tensor(content: bytes, random: Random) -> bytes:
    def change(header: dict[str, Any], name: str) -> None:
        header[random.choice(NAMES)] = header.pop(name)

    return change_header(content, random, change)


def exchange_tensors(content: bytes, random: Random) -> bytes:
    """Two names change places: codes where scales should be."""

    def change(header: dict[str, Any], name: str) -> None:
        other = random.choice(list(header))
        header[name], header[other] = header[other], header[name]

    return change_header(content, random, change)


def drop_tensor(content: bytes, random: Random) -> bytes:
    """The last tensor goes with its bytes, so that the file stays whole."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = max(header, key=lambda key: header[key]["data_offsets"][1])
    begin = header.pop(name)["data_offsets"][0]
    return join(dump(header), content[8 + length : 8 + length + begin])


def repeat_tensor(content: bytes, random: Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    raw = content[8 : 8 + length].rstrip()
    name, entry = random.choice(list(json.loads(raw).items()))
    extra = b"," + dump(name) + b":" + dump(entry) + b"}"
    return join(raw[:-1] + extra, content[8 + length :])


def change_metadata(content: bytes, random: Random) -> bytes:
    return change_header(content, random, lambda header, _: header.update(__metadata__=choose_value(random)))


def poison_data(content: bytes, random: Random) -> bytes:
    """NaN, infinities or the largest numbers in the data of a sound file."""
    start = 8 + int.from_bytes(content[:8], "little")
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 50))):
        place = start + random.randrange(max(len(content) - start, 1)) // 4 * 4
        changed[place : place + 4] = random.choice((b"\0\0\xc0\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f", b"\xff" * 4))
    return bytes(changed[: len(content)])


SAFETENSORS_MUTATIONS: Final[Sequence[Mutation]] = (
    *(change_shape, change_shape_and_fit, change_offsets, change_dtype, change_entry, rename_tensor),
    *(exchange_tensors, drop_tensor, repeat_tensor, change_metadata, poison_data),
)


def change_gguf_segment(content: bytes, random: Random) -> bytes:
    """A count, a size, a type, an offset or a string of a GGUF file becomes another; the rest moves with it."""
    kinds, architecture = (GGUF_KINDS, "llama") if b"llama" in content[:200] else (GGUF_OTHER_KINDS, "qwen2")
    segments = list_gguf_segments(kinds, architecture)
    for _ in range(random.choice((1, 1, 2))):
        place = random.choice([index for index, segment in enumerate(segments) if segment.kind != "data"])
        segments[place] = change_segment(segments[place], random)
    return b"".join(segment.content for segment in segments)


def change_segment(segment: Segment, random: Random) -> Segment:
    number = random.choice(INTEGERS)
    if segment.kind == "u32":
        return Segment("u32", struct.pack("<I", random.choice((number % (1 << 32), random.randrange(45)))))
    if segment.kind == "u64":
        return Segment("u64", struct.pack("<Q", random.choice((number % (1 << 64), random.randrange(600)))))
    text = random.choice((*NAMES, "general.alignment", "blk.0.attn_q.weight")).encode("utf-8", "surrogatepass")
    length = random.choice((len(text), len(text), number % (1 << 64)))
    return Segment("string", struct.pack("<Q", length) + random.choice((text, b"\xff\xfe" + text[2:])))


GGUF_MUTATIONS: Final[Sequence[Mutation]] = (change_gguf_segment, change_gguf_segment, change_gguf_segment)


def rewrite_zip(content: bytes, change: Callable[[dict[str, bytes]], None], *, how: int = zipfile.ZIP_STORED) -> bytes:
    """Change the members of a torch archive and write it anew: its checksums are right, as torch wants them."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ValueError("no archive") from error
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return buffer.getvalue()


def change_member(content: bytes, random: Random) -> bytes:
    """Any member: the pickle, the byte order, the version, a storage."""

    def change(members: dict[str, bytes]) -> None:
        name = random.choice(list(members))
        members[name] = random.choice(BLIND)(members[name], random)

    return rewrite_zip(content, change)


def drop_member(content: bytes, random: Random) -> bytes:
    def change(members: dict[str, bytes]) -> None:
        del members[random.choice(list(members))]

    return rewrite_zip(content, change)


def rename_member(content: bytes, random: Random) -> bytes:
    def change(members: dict[str, bytes]) -> None:
        name = random.choice(list(members))
        members[random.choice(("archive/../../x", "/tmp/x", "x", f"{name}0"))] = members.pop(name)

    return rewrite_zip(content, change)


def compress_a_bomb(content: bytes, random: Random) -> bytes:
    """A storage of zeros that takes a thousandth of its size."""

    def change(members: dict[str, bytes]) -> None:
        members[random.choice([name for name in members if "/data/" in name])] = bytes(BOMB_BYTES)

    return rewrite_zip(content, change, how=zipfile.ZIP_DEFLATED)


def change_opcodes(content: bytes, random: Random) -> bytes:
    """Numbers, names and opcodes of the pickle inside, or of a file from before torch used archives."""

    def change(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith("data.pkl"))
        members[name] = change_pickle(members[name], random)

    return rewrite_zip(content, change) if content[:2] == b"PK" else change_legacy(content, random)


def change_legacy(content: bytes, random: Random) -> bytes:
    """A file of magic number, protocol, system, tensors, keys of storages, and the storages."""
    stream = io.BytesIO(content)
    try:
        for _ in range(random.choice((0, 1, 2, 3, 3, 3, 3, 4))):
            for _ in pickletools.genops(stream):
                pass
        start = stream.tell()
        for _ in pickletools.genops(stream):
            pass
    except (ValueError, EOFError, UnicodeDecodeError) as error:
        raise ValueError("no pickle") from error
    stop = stream.tell()
    return content[:start] + change_pickle(content[start:stop], random) + content[stop:]


def change_pickle(content: bytes, random: Random) -> bytes:
    operations = [(code, value, place) for code, value, place in pickletools.genops(content) if place is not None]
    code, value, place = random.choice(operations)
    following = [other for *_, other in operations if other > place]
    stop = following[0] if following else len(content)
    if isinstance(value, int) and not isinstance(value, bool) and random.random() < 0.7:
        number = random.choice((*INTEGERS, -1, value + 1, value * 1000))
        return content[:place] + pickle.dumps(number, protocol=2)[2:-1] + content[stop:]
    if code.name == "GLOBAL":
        module, name = random.choice(GLOBALS).split()
        return content[:place] + f"c{module}\n{name}\n".encode() + content[stop:]
    if isinstance(value, str):
        text = random.choice(NAMES).encode("utf-8", "surrogatepass")
        return content[:place] + b"X" + struct.pack("<I", random.choice((len(text), 2**31))) + text + content[stop:]
    other = random.choice(pickletools.opcodes).code.encode("latin-1")
    return content[:place] + other + content[place + random.choice((0, 1)) :]


PICKLE_MUTATIONS: Final[Sequence[Mutation]] = (
    *(change_member, change_member, drop_member, rename_member, compress_a_bomb, change_opcodes, change_opcodes),
    *(change_opcodes, change_opcodes),
)
