"""Calibration sets: which files are samples, which samples are taken, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from converters.calibration import calibration_files, read_samples, spread
from slicemq.errors import InputError, UsageError
from slicemq.messages import TensorSpec

ROW = TensorSpec(0, "x", "float32", (1, 3))
PICTURE = TensorSpec(0, "picture", "float32", (1, 4, 6, 3))
PAIR = (TensorSpec(0, "a", "float32", (1, 2)), TensorSpec(1, "b", "int32", (1, 3)))


def _values(folder: Path, spec: TensorSpec = ROW, most: int = 100) -> list[list[float]]:
    samples = list(read_samples(calibration_files(folder), [spec], most))
    for sample in samples:
        assert list(sample) == [spec.name]
        assert sample[spec.name].dtype.name == spec.dtype
        assert sample[spec.name].ndim == len(spec.shape)
    return [sample[spec.name].reshape(-1).tolist() for sample in samples]


def _refused(folder: Path, *specs: TensorSpec) -> str:
    with pytest.raises(InputError) as caught:
        list(read_samples(calibration_files(folder), specs or [ROW], 10))
    return str(caught.value)


@pytest.mark.parametrize(
    ("count", "most", "taken"), [(3, 10, [0, 1, 2]), (10, 4, [0, 2, 5, 7]), (1, 1, [0]), (0, 5, [])]
)
def test_spread(count: int, most: int, taken: list[int]) -> None:
    assert spread(count, most) == taken


def test_one_array_a_batch_and_one_without_the_batch_dimension(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((1, 3), 1, np.float32))
    np.save(tmp_path / "b.npy", np.arange(6, dtype=np.float64).reshape(2, 3))
    np.save(tmp_path / "c.npy", np.full(3, 7, np.float16))
    np.save(tmp_path / "d.npy", np.full((2, 1, 3), 9, np.float32))
    assert _values(tmp_path) == [[1] * 3, [0, 1, 2], [3, 4, 5], [7] * 3, [9] * 3, [9] * 3]


def test_files_evenly_apart_and_samples_evenly_apart(tmp_path: Path) -> None:
    for number in range(6):
        np.save(tmp_path / f"{number}.npy", np.full((4, 3), number, np.float32) + np.arange(4)[:, None] / 10)
    firsts = [round(values[0], 3) for values in _values(tmp_path, most=3)]
    assert firsts == [0.0, 2.0, 4.0]
    assert [round(v[0], 3) for v in _values(tmp_path, most=8)] == [0.0, 0.2, 1.0, 1.2, 2.0, 3.0, 4.0, 5.0]
    assert len(_values(tmp_path)) == 24


def test_subfolders_in_order_hidden_and_other_files_left_out(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".cache").mkdir()
    np.save(tmp_path / "sub" / "a.npy", np.full((1, 3), 2, np.float32))
    np.save(tmp_path / "z.npy", np.full((1, 3), 3, np.float32))
    np.save(tmp_path / ".cache" / "b.npy", np.full((1, 3), 4, np.float32))
    (tmp_path / "labels.txt").write_text("cat")
    (tmp_path / "folder.npy").mkdir()
    assert _values(tmp_path) == [[2] * 3, [3] * 3]


def test_no_samples(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        calibration_files(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"holds none of \*\.npy, \*\.npz, \*\.png"):
        calibration_files(tmp_path)
    np.save(tmp_path / "a.npy", np.zeros((0, 3), np.float32))
    assert _values(tmp_path) == []


def test_several_inputs_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones((2, 2), np.float32), b=np.ones((2, 3), np.int64))
    samples = list(read_samples(calibration_files(tmp_path), PAIR, 10))
    assert [{name: (array.dtype.name, array.shape) for name, array in s.items()} for s in samples] == [
        {"a": ("float32", (1, 2)), "b": ("int32", (1, 3))}
    ] * 2


def test_pictures_are_scaled_as_infer_scales_them(tmp_path: Path) -> None:
    Image.new("RGB", (12, 8), (255, 0, 51)).save(tmp_path / "a.png")
    files = calibration_files(tmp_path)
    (sample,) = read_samples(files, [PICTURE], 5)
    assert sample["picture"].shape == (1, 4, 6, 3)
    assert np.allclose(sample["picture"][0, 0, 0], [1, -1, -0.6])
    (sample,) = read_samples(files, [PICTURE], 5, "0..1")
    assert np.allclose(sample["picture"][0, 0, 0], [1, 0, 0.2])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((2, 4), np.float32), "expected float32 [1, 3] or a batch of it, got float32 [2, 4]"),
        (np.zeros((), np.float32), "got float32 []"),
        (np.zeros((1, 3), np.uint8), "got uint8 [1, 3]"),
        (np.zeros((1, 3), np.complex64), "got complex64 [1, 3]"),
        (np.array([[1, np.nan, 2]], np.float32), "not finite"),
        (np.array([[1, 1e300, 2]]), "not finite"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, array: npt.NDArray[Any], expected: str) -> None:
    np.save(tmp_path / "bad.npy", array)
    text = _refused(tmp_path)
    assert text.startswith(f"{tmp_path / 'bad.npy'}: input 'x': ")
    assert expected in text


def test_integers_must_fit(tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", np.array([[1, 2, 2**40]]))
    assert "holds values that int32 does not" in _refused(tmp_path, TensorSpec(0, "b", "int32", (1, 3)))


def test_damaged_and_misnamed_files(tmp_path: Path) -> None:
    for name, content in {
        "empty.npy": b"",
        "text.npy": b"hello, this is no array",
        "text.npz": b"PK\x03\x04 and nothing",
        "text.png": b"\x89PNG but not one",
    }.items():
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(content)
        assert _refused(folder, PICTURE).startswith(f"{folder / name}: ")
    folder = tmp_path / "swapped"
    folder.mkdir()
    with (folder / "a.npy").open("wb") as file:
        np.savez(file, x=np.zeros((1, 3)))
    assert "it is an .npz file by content" in _refused(folder)


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    assert "cannot be read as numpy file" in _refused(tmp_path)


def test_wrong_names_counts_and_kinds(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 2), np.float32))
    assert "the model has 2 inputs, expected .npz files with 'a', 'b'" in _refused(tmp_path, *PAIR)
    (tmp_path / "a.npy").unlink()
    np.savez(tmp_path / "a.npz", a=np.zeros((1, 2), np.float32), c=np.zeros((1, 3), np.int32))
    assert "expected the arrays 'a', 'b', found 'a', 'c'" in _refused(tmp_path, *PAIR)
    np.savez(tmp_path / "a.npz", a=np.zeros((2, 2), np.float32), b=np.zeros((3, 3), np.int32))
    assert "expected as many samples of each input, found 2 of 'a', 3 of 'b'" in _refused(tmp_path, *PAIR)


def test_a_picture_for_an_input_that_takes_none(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    assert "a picture fits" in _refused(tmp_path)
