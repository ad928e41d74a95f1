"""Damage to .tflite files, most of it where it hurts: in the flatbuffer's tables, vectors and offsets (pure).

Every kind of damage is a function of the content, where its structure lies, another model's content and a random
generator; so one number makes one damaged file, always the same.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters import schema

# Damage that leaves the flatbuffer whole comes furthest, so it is made most often.
_FIELDS_SHARE = 0.25
# Vectors of bytes at least as long are weights: damage inside them changes numbers and nothing else.
_WEIGHTS = 512
_EXTREMES = (0, 1, 2, 3, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_SHORT_EXTREMES = (0, 2, 4, 5, 6, 8, 12, 255, 256, 32767, 32768, 65534, 65535)
_Structure = Sequence[tuple[int, int]]
_STRANGE = (-(2**31), -1000, -2, -1, 0, 1, 2, 3, 5, 7, 64, 255, 65536, 2**31 - 1)


@dataclass(frozen=True)
class Original:
    """A sound model: its bytes, and the (start, end) of its parts that are not weights."""

    name: str
    data: bytes
    structure: tuple[tuple[int, int], ...]


def original(name: str, data: bytes) -> Original:
    """Find the structure of a sound model."""
    model = schema.root(data)
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    weights = []
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if buffer.DataLength() >= _WEIGHTS:
            begin = buffer.DataAsNumpy().__array_interface__["data"][0] - start
            weights.append((begin, begin + buffer.DataLength()))
    structure, at = [], 0
    for begin, end in sorted(set(weights)):
        if begin > at:
            structure.append((at, begin))
        at = max(at, end)
    structure.append((at, len(data)))
    return Original(name, data, tuple(structure))


def damaged(source: Original, other: Original, rng: random.Random) -> tuple[bytes, str]:
    """`source` with one to four pieces of damage, and what was done to it."""
    count = rng.choice((1, 1, 1, 2, 2, 4))
    kinds = ["fields" if rng.random() < _FIELDS_SHARE else rng.choice(KINDS[1:])]
    data = bytearray(source.data)
    if kinds[0] == "fields":
        data = bytearray(_fields(source.data, rng))
    else:
        kinds += [rng.choice(KINDS[1:]) for _ in range(count - 1)]
        for kind in kinds:
            _DAMAGE[kind](data, source.structure, other, rng)
    return bytes(data), "+".join(kinds)


def _place(data: bytearray, structure: _Structure, rng: random.Random, width: int = 1) -> int:
    """Where `width` bytes lie that are structure, on a multiple of `width`."""
    begin, end = rng.choices(structure, [end - begin for begin, end in structure])[0]
    place = rng.randrange(begin, end)
    return max(0, min(place - place % width, len(data) - width))


def _flip(data: bytearray, structure: _Structure, _: Original, rng: random.Random) -> None:
    for _i in range(rng.choice((1, 1, 2, 8, 64))):
        if data:
            data[_place(data, structure, rng)] ^= 1 << rng.randrange(8)


def _bytes(data: bytearray, structure: _Structure, _: Original, rng: random.Random) -> None:
    for _i in range(rng.choice((1, 1, 2, 8, 64))):
        if data:
            data[_place(data, structure, rng)] = rng.randrange(256)


def _anywhere(data: bytearray, _s: _Structure, _: Original, rng: random.Random) -> None:
    for _i in range(rng.choice((1, 4, 32))):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)


def _word(data: bytearray, structure: _Structure, _: Original, rng: random.Random) -> None:
    if len(data) < 8:
        return
    place = _place(data, structure, rng, 4)
    value = struct.unpack_from("<I", data, place)[0]
    near = (value + rng.choice((-8, -4, -1, 1, 4, 8)), len(data), len(data) - place, len(data) // 4, -place)
    struct.pack_into("<I", data, place, rng.choice((*_EXTREMES, *near, *near)) & 0xFFFFFFFF)


def _short(data: bytearray, structure: _Structure, _: Original, rng: random.Random) -> None:
    if len(data) >= 2:
        struct.pack_into("<H", data, _place(data, structure, rng, 2), rng.choice(_SHORT_EXTREMES))


def _truncate(data: bytearray, structure: _Structure, _: Original, rng: random.Random) -> None:
    if data:
        del data[rng.choice((_place(data, structure, rng), rng.randrange(len(data)))) :]


def _insert(data: bytearray, structure: _Structure, _: Original, rng: random.Random) -> None:
    if data:
        place = _place(data, structure, rng)
        data[place:place] = rng.randbytes(rng.choice((1, 4, 16, 256)))


def _delete(data: bytearray, structure: _Structure, _: Original, rng: random.Random) -> None:
    if data:
        place = _place(data, structure, rng)
        del data[place : place + rng.choice((1, 4, 16, 256))]


def _duplicate(data: bytearray, structure: _Structure, _: Original, rng: random.Random) -> None:
    if data:
        length = rng.choice((4, 8, 16, 64, 1024))
        source, target = _place(data, structure, rng, 4), _place(data, structure, rng, 4)
        piece = bytes(data[source : source + length])
        end = target + len(piece) if rng.random() < 0.7 else target
        data[target:end] = piece


def _swap_words(data: bytearray, structure: _Structure, _: Original, rng: random.Random) -> None:
    if len(data) >= 8:
        a, b = _place(data, structure, rng, 4), _place(data, structure, rng, 4)
        data[a : a + 4], data[b : b + 4] = bytes(data[b : b + 4]), bytes(data[a : a + 4])


def _swap_vtables(data: bytearray, structure: _Structure, _: Original, rng: random.Random) -> None:
    """Let one table be read with the vtable of another."""
    tables = _tables(data, structure)
    if len(tables) >= 2:
        for _i in range(rng.choice((1, 1, 4))):
            (a, _va), (_b, vb) = rng.sample(tables, 2)
            struct.pack_into("<i", data, a, max(-(2**31), min(a - vb, 2**31 - 1)))


def _splice(data: bytearray, structure: _Structure, other: Original, rng: random.Random) -> None:
    """Put a piece of another model over this one's."""
    if data:
        length = rng.choice((4, 16, 64, 512, 4096))
        source, target = _place(bytearray(other.data), other.structure, rng, 4), _place(data, structure, rng, 4)
        if rng.random() < 0.3:
            data[target:] = other.data[target:]
        else:
            data[target : target + length] = other.data[source : source + length]


def _tables(data: bytearray, structure: _Structure) -> list[tuple[int, int]]:
    """(place, place of its vtable) of what looks like a table."""
    found = []
    for begin, end in structure:
        for place in range((begin + 3) // 4 * 4, min(end, len(data)) - 3, 4):
            vtable = place - struct.unpack_from("<i", data, place)[0]
            if 0 <= vtable <= len(data) - 4 and vtable != place:
                size, length = struct.unpack_from("<HH", data, vtable)
                if 4 <= size <= 64 and size % 2 == 0 and 4 <= length <= 256:
                    found.append((place, vtable))
    return found


def _fields(data: bytes, rng: random.Random) -> bytes:
    """A flatbuffer that holds together, with strange numbers in some of its fields."""
    tree = schema.classes().ModelT.InitFromPackedBuf(data, 0)
    for _ in range(rng.choice((1, 1, 2, 4))):
        left = [one for one in tree.subgraphs if one.operators and one.tensors]
        if not left:  # a list was emptied before
            break
        subgraph = rng.choice(left)
        target = rng.choice(
            [
                *[rng.choice(subgraph.operators)] * 4,
                *[rng.choice(subgraph.operators).builtinOptions] * 4,
                *[rng.choice(subgraph.tensors)] * 4,
                rng.choice(subgraph.tensors).quantization,
                rng.choice(tree.operatorCodes),
                rng.choice(tree.buffers),
                subgraph,
            ]
        )
        if target is not None:
            _strange_field(target, rng)
    builder = schema.builder(2 * len(data) + 1024)
    try:
        builder.Finish(tree.Pack(builder), schema.IDENTIFIER)
    except Exception:  # noqa: BLE001 - a number that does not fit its field: nothing to write
        return data
    return bytes(builder.Output())


def _strange_field(target: Any, rng: random.Random) -> None:
    fields = [
        name
        for name, value in vars(target).items()
        if isinstance(value, (int, float, np.ndarray)) or (isinstance(value, list) and len(value) < 10_000)
    ]
    if not fields:
        return
    name = rng.choice(fields)
    value = getattr(target, name)
    if isinstance(value, bool):
        setattr(target, name, not value)
    elif isinstance(value, int):
        setattr(target, name, rng.choice((value + 1, value - 1, 2 * value, rng.randrange(256), *_STRANGE)))
    elif isinstance(value, float):
        setattr(target, name, rng.choice((0.0, -value, float("nan"), float("inf"), 1e30, 1e-40)))
    elif isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iu":
        changed = value.copy()
        place = rng.randrange(value.size)
        limits = np.iinfo(value.dtype)
        wanted = rng.choice((int(value[place]) + 1, int(value[place]) - 1, rng.randrange(200), *_STRANGE))
        changed[place] = max(int(limits.min), min(wanted, int(limits.max)))
        setattr(target, name, rng.choice((changed, changed, changed, changed[:place], np.tile(value, 2))))
    elif len(value) > 0:
        changed_list = list(value)
        place = rng.randrange(len(changed_list))
        changed_list[place] = changed_list[rng.randrange(len(changed_list))]
        setattr(target, name, rng.choice((changed_list, changed_list, changed_list[:place], changed_list[::-1])))


_Damage = Callable[[bytearray, _Structure, Original, random.Random], None]
_DAMAGE: dict[str, _Damage] = {
    "flip": _flip,
    "bytes": _bytes,
    "anywhere": _anywhere,
    "word": _word,
    "short": _short,
    "truncate": _truncate,
    "insert": _insert,
    "delete": _delete,
    "duplicate": _duplicate,
    "swap-words": _swap_words,
    "swap-vtables": _swap_vtables,
    "splice": _splice,
}
KINDS = ("fields", *_DAMAGE)
