"""Whether the parts of a `slices.json` agree with each other. Pure: the first contradiction, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from slicemq.codecs import DTYPES

if TYPE_CHECKING:
    from converters.manifest import Manifest, TensorEntry

_MOST = 1 << 64


def contradictions(manifest: Manifest) -> Iterator[str]:
    """What cannot be so, one text for each, beginning with the field; bundles' slices must exist."""
    ids = [entry.id for entry in manifest.slices]
    yield from _twice("slices: field file", [entry.file for entry in manifest.slices])
    yield from _twice("bundles: field id", [bundle.id for bundle in manifest.bundles])
    for entry in manifest.slices:
        yield from _twice(f"slice {entry.id}: field operators", entry.operators)
    yield from _differing(manifest)
    yield from _bundles(manifest, {key: number for number, key in enumerate(ids)})
    given = {t.index for entry in manifest.slices for t in entry.outputs}
    if not manifest.outputs:
        yield "field outputs: expected at least one, got none"
    for tensor in manifest.outputs:
        if tensor.index not in given:
            yield f"field outputs: no slice gives tensor {tensor.index} ({tensor.name})"


def _twice(where: str, values: Sequence[object]) -> Iterator[str]:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            yield f"{where}: {value!r} is listed twice"
        seen.add(value)


def _differing(manifest: Manifest) -> Iterator[str]:
    """A tensor is the same wherever it is listed; only the model's inputs and outputs go by other names."""
    first: dict[int, tuple[str, TensorEntry]] = {}
    lists = [("inputs", manifest.inputs), ("outputs", manifest.outputs)]
    for entry in manifest.slices:
        lists += [(f"slice {entry.id}: inputs", entry.inputs), (f"slice {entry.id}: outputs", entry.outputs)]
    for where, tensors in lists:
        for tensor in tensors:
            if tensor.dtype not in DTYPES:
                yield f"{where}: tensor {tensor.index}: field dtype: {tensor.dtype!r} cannot travel"
            there, other = first.setdefault(tensor.index, (where, tensor))
            for field in ("dtype", "shape"):
                if getattr(tensor, field) != getattr(other, field):
                    yield (
                        f"{where}: tensor {tensor.index}: field {field}: {_plain(getattr(tensor, field))}, but "
                        f"{_plain(getattr(other, field))} in {there}"
                    )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _bundles(manifest: Manifest, places: dict[str, int]) -> Iterator[str]:
    takes = [{t.index for t in entry.inputs} for entry in manifest.slices]
    gives = [{t.index for t in entry.outputs} for entry in manifest.slices]
    client = {t.index for t in manifest.inputs}
    entries = {t.index: t for entry in manifest.slices for t in chain(entry.outputs, entry.inputs)}
    brought: set[tuple[int, int]] = set()
    for bundle in manifest.bundles:
        where = f"bundle {bundle.id}"
        source = -1 if bundle.source is None else places[bundle.source]
        for field, values in (("to", bundle.targets), ("tensors", bundle.tensors)):
            if not values:
                yield f"{where}: field {field}: expected at least one, got none"
            yield from _twice(f"{where}: field {field}", values)
        for tensor in bundle.tensors:
            if tensor not in (client if source < 0 else gives[source]):
                yield f"{where}: field tensors: {bundle.source or 'the client'} does not give tensor {tensor}"
        for target in bundle.targets:
            number = places[target]
            if number <= source:
                yield f"{where}: field to: slice {target} does not run after {bundle.source}"
            for tensor in bundle.tensors:
                if tensor not in takes[number]:
                    yield f"{where}: field tensors: slice {target} does not take tensor {tensor}"
                if (number, tensor) in brought:
                    yield f"{where}: field tensors: an earlier bundle brings tensor {tensor} to slice {target}"
                brought.add((number, tensor))
        sizes = [_nbytes(entries[t]) for t in bundle.tensors if t in entries]
        if None not in sizes and (total := sum(size or 0 for size in sizes)) != bundle.nbytes:
            yield f"{where}: field bytes: {bundle.nbytes}, but its tensors have {total}"
    for number, entry in enumerate(manifest.slices):
        for tensor in sorted(takes[number]):
            if (number, tensor) not in brought:
                yield f"slice {entry.id}: field inputs: no bundle brings tensor {tensor}"


def _nbytes(tensor: TensorEntry) -> int | None:
    """Bytes of the tensor; None where a size is not known. Above what anything has, it does not count on."""
    if -1 in tensor.shape or tensor.dtype not in DTYPES:
        return None
    total = DTYPES[tensor.dtype]
    for size in tensor.shape:
        total *= size
        if total > _MOST:
            break
    return total
