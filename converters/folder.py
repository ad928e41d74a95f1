"""Folders of slices: written whole or not at all, read with every hash checked."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from converters.graph import Graph
from converters.manifest import (
    FILE_NAME,
    Manifest,
    SliceEntry,
    file_name,
    make_manifest,
    parse_manifest,
    slice_entry,
)
from converters.slicing import Edge, Slice
from slicemq.errors import ArtifactError, ModelError, StoreError

_log = logging.getLogger(__name__)

_MAX_MANIFEST_BYTES = 64 << 20


def write_folder(folder: Path, graph: Graph, slices: Iterable[Slice], bundles: Iterable[Edge]) -> Manifest:
    """Write `slice-00.tflite` ... and `slices.json`; slices are taken one at a time.

    An earlier folder of slices is replaced; any other content is refused. What is there stays until the new folder
    is whole and in its place; a symbolic link stays one. Raises StoreError.
    """
    folder = Path(os.path.realpath(folder))
    old = _foreign_check(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        entries = [_write_slice(fresh, graph, number, piece) for number, piece in enumerate(slices)]
        manifest = make_manifest(graph, entries, tuple(bundles))
        (fresh / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
        fresh.chmod(0o777 & ~_umask())
        if old:
            _exchange(fresh, folder)
        else:
            fresh.replace(folder)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return manifest


def _exchange(fresh: Path, folder: Path) -> None:
    """Put `fresh` in the place of `folder`, which is removed last, and is there again when that fails."""
    aside = fresh.with_suffix(".old")
    folder.rename(aside)
    try:
        fresh.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    try:
        shutil.rmtree(aside)
    except OSError as error:
        _log.warning("%s: the earlier slices cannot be removed: %s", aside, error.strerror or error)


def _write_slice(folder: Path, graph: Graph, number: int, piece: Slice) -> SliceEntry:
    (folder / file_name(number)).write_bytes(piece.data)
    return slice_entry(graph, number, piece)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _foreign_check(folder: Path) -> bool:
    """Whether an earlier folder of slices is in the way; raises StoreError when it is something else."""
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}") from error
    ours = {FILE_NAME}
    if FILE_NAME in names:
        try:
            ours.update(entry.file for entry in _read_manifest(folder).slices)
        except ModelError as error:
            raise StoreError(f"{folder}: is not empty, and its {FILE_NAME} is not ours: {error}") from error
    foreign = sorted(names - ours)
    if foreign:
        raise StoreError(f"{folder}: holds {foreign[0]}, which is no slice: choose a new or empty folder")
    return True


def _read_manifest(folder: Path) -> Manifest:
    path = folder / FILE_NAME
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise ModelError(f"{path}: larger than {_MAX_MANIFEST_BYTES} bytes")
        return parse_manifest(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_folder(folder: Path) -> Manifest:
    """The manifest of a folder of slices. Raises ModelError when it does not hold together, ArtifactError when a
    slice is not the one that was written.
    """
    manifest = _read_manifest(folder)
    for entry in manifest.slices:
        path = folder / entry.file
        try:
            with path.open("rb") as file:
                digest = hashlib.sha256()
                while block := file.read(1 << 20):
                    digest.update(block)
                size = file.tell()
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
        if digest.hexdigest() != entry.sha256:
            raise ArtifactError(f"{path}: its SHA-256 is {digest.hexdigest()}, {FILE_NAME} says {entry.sha256}")
        if size != entry.size:
            raise ArtifactError(f"{path}: has {size} bytes, {FILE_NAME} says {entry.size}")
    return manifest
