"""Frames from files, random frames, .npz files that are written, summaries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordinator.cli.arrays import random_frames, read_frame, summary, summary_text, write_npz
from slicemq.errors import InputError, StoreError
from slicemq.messages import TensorSpec

IMAGE = TensorSpec(3, "image", "float32", (1, 2, 2, 3))
SIZE = TensorSpec(5, "size", "int32", (2,))


def test_npy_npz_and_pictures_become_frames(tmp_path: Path) -> None:
    array = np.random.default_rng(1).random((1, 2, 2, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", size=np.array([1, 2], np.int32), image=array)
    Image.new("RGB", (9, 9)).save(tmp_path / "c.PNG")
    np.testing.assert_array_equal(read_frame(tmp_path / "a.npy", [IMAGE]).arrays[3], array)
    both = read_frame(tmp_path / "b.npz", [IMAGE, SIZE])
    np.testing.assert_array_equal(both.arrays[3], array)
    np.testing.assert_array_equal(both.arrays[5], [1, 2])
    seen = read_frame(tmp_path / "c.PNG", [IMAGE])
    assert seen.arrays[3].max() == -1
    assert "9x9" in seen.note
    assert both.note == ""


def _save_objects(file: Path) -> None:
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)


BAD: dict[str, tuple[Any, str]] = {
    "shape.npy": (lambda f: np.save(f, np.zeros((2, 2, 3), np.float32)), r"expected float32 \[1, 2, 2, 3\], got"),
    "dtype.npy": (lambda f: np.save(f, np.zeros((1, 2, 2, 3))), r"got float64 \[1, 2, 2, 3\]"),
    "objects.npy": (_save_objects, "Object arrays cannot be loaded"),
    "empty.npy": (lambda f: f.write_bytes(b""), "cannot be read as numpy file"),
    "text.npy": (lambda f: f.write_text("hello"), "it is no .npy or .npz file, it begins with b'hello'"),
    "cut.npy": (lambda f: f.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fort"), "cannot be read"),
    "zip.npz": (lambda f: f.write_bytes(b"PK\x03\x04rubbish"), "cannot be read as numpy file"),
    "name.npz": (lambda f: np.savez(f, picture=np.zeros(1)), "no input 'picture', expected one of 'image'"),
    "void.npz": (lambda f: np.savez(f), "missing input 'image'"),
    "plain.npz": (lambda f: np.save(f.open("wb"), np.zeros(1)), "it is an .npy file by content"),
    "several.npy": (lambda f: np.savez(f.open("wb"), a=np.zeros(1)), "it is an .npz file by content"),
    "film.mp4": (lambda f: f.write_bytes(b"x"), r"expected \.npy, \.npz, .*got '\.mp4'"),
    "missing.npy": (lambda f: None, "No such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_what_was_expected(tmp_path: Path, name: str) -> None:
    make, text = BAD[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=text) as caught:
        read_frame(tmp_path / name, [IMAGE])
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_a_model_with_several_inputs_wants_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(1))
    with pytest.raises(InputError, match=r"has 2 inputs, expected one \.npz file with the arrays 'image', 'size'"):
        read_frame(tmp_path / "a.npy", [IMAGE, SIZE])


def test_random_frames_are_the_same_for_a_seed_and_fit_the_specification() -> None:
    specs = [
        TensorSpec(i, d, d, (1, -1, 50))
        for i, d in enumerate(["float32", "float16", "uint8", "int8", "int64", "bool"])
    ]
    first, again, other = (random_frames(specs, 2, seed) for seed in (1, 1, 2))
    for index, one in enumerate(specs):
        assert first[0][index].dtype.name == one.dtype
        assert first[0][index].shape == (1, 1, 50)
        np.testing.assert_array_equal(first[0][index], again[0][index])
    assert (first[0][0] != first[1][0]).any()
    assert (first[0][0] != other[0][0]).any()
    assert first[0][0].min() < -0.5
    assert first[0][3].min() < 0
    assert set(first[0][4].flat) == {0, 1}


def test_npz_takes_any_name_and_replaces_the_old_file_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "out.npz"
    file.write_bytes(b"old")
    arrays = {"file": np.arange(3), "0/StatefulPartitionedCall:0": np.zeros((0, 2), np.int8), "x@7": np.float32(2)}
    write_npz(file, arrays)  # type: ignore[arg-type]
    with np.load(file) as loaded:
        assert set(loaded.files) == set(arrays)
        np.testing.assert_array_equal(loaded["file"], [0, 1, 2])
        assert loaded["0/StatefulPartitionedCall:0"].shape == (0, 2)
        assert loaded["x@7"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]


def test_what_cannot_be_written_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    file = tmp_path / "out.npz"
    file.write_bytes(b"old")
    with pytest.raises(StoreError, match=r"out\.npz: cannot be written"):
        write_npz(file, {"a": np.array([object()])})
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]
    with pytest.raises(StoreError, match="No such file"):
        write_npz(tmp_path / "no" / "out.npz", {})


def test_a_vector_shows_its_top_five_and_nan_stands_last() -> None:
    values = np.array([[0.1, np.nan, 0.9, 0.5, 0.9, -np.inf, 0.2]], np.float32)
    body = summary("scores", values)
    assert [row["index"] for row in body["top"]] == [2, 4, 3, 6, 0]
    assert (body["dtype"], body["shape"], body["max"]) == ("float32", [1, 7], None)
    json.dumps(body, allow_nan=False)
    assert summary_text(body).startswith("scores  float32 [1, 7]  top 5: 2: 0.9, 4: 0.9, 3: 0.5")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float32(2.5), "y  float32 []  2.5"),
        (np.array([[7]], np.int8), "y  int8 [1, 1]  7"),
        (np.array([[1, 2], [3, 6]]), "y  int64 [2, 2]  min 1, mean 3, max 6"),
        (np.zeros((0, 4), np.uint8), "y  uint8 [0, 4]"),
        (np.full((2, 2), np.inf), "y  float64 [2, 2]  min not finite, mean not finite, max not finite"),
    ],
)
def test_other_outputs_are_told_in_three_numbers(array: Any, text: str) -> None:
    body = summary("y", np.asarray(array))
    assert summary_text(body) == text
    assert "top" not in body
