"""Devices' bytes as inputs: every kind, and every way in which they can be wrong."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ingress import pictures
from ingress.payloads import InputKind, InputRules, read_payload
from ingress.pictures import PictureRules, Resize
from slicemq.errors import InputError, MissingDependencyError, SliceMQError, UsageError
from slicemq.messages import TensorSpec

FLOAT = TensorSpec(3, "x", "float32", (1, 2, 3))
PICTURE = TensorSpec(0, "image", "uint8", (1, 4, 6, 3))
VALUES = np.arange(6, dtype=np.float32).reshape(1, 2, 3)


def npy(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=array.dtype.hasobject)
    return stream.getvalue()


def npz(**arrays: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def picture(width: int = 6, height: int = 4, mode: str = "RGB", form: str = "PNG", color: Any = None) -> bytes:
    made = Image.new(mode, (width, height), color)
    stream = io.BytesIO()
    made.save(stream, form)
    return stream.getvalue()


def read(payload: bytes, spec: TensorSpec = FLOAT, kind: InputKind = "auto", **rules: Any) -> npt.NDArray[Any]:
    arrays, _ = read_payload(payload, (spec,), InputRules(kind, PictureRules(**rules)))
    return arrays[spec.index]


@pytest.mark.parametrize("kind", ["auto", "raw"])
def test_raw_bytes_are_little_endian_rows(kind: InputKind) -> None:
    np.testing.assert_array_equal(read(VALUES.astype("<f4").tobytes(), kind=kind), VALUES)


def test_raw_bytes_of_an_unknown_size() -> None:
    spec = TensorSpec(0, "x", "int16", (1, -1, 2))
    assert read(bytes(12), spec).shape == (1, 3, 2)
    with pytest.raises(InputError, match="whole rows"):
        read(bytes(10), spec)
    with pytest.raises(InputError, match="whole rows"):
        read(bytes(12), TensorSpec(0, "x", "int16", (-1, -1, 2)))


@pytest.mark.parametrize("array", [VALUES, np.asfortranarray(VALUES), VALUES.astype(">f4")])
def test_npy_of_any_order(array: npt.NDArray[Any]) -> None:
    np.testing.assert_array_equal(read(npy(array)), VALUES)
    assert read(npy(array)).dtype == np.float32


def test_npz_by_name() -> None:
    specs = (TensorSpec(0, "a", "float32", (1,)), TensorSpec(1, "b", "int8", (2,)))
    payload = npz(a=np.ones(1, np.float32), b=np.zeros(2, np.int8))
    arrays, shown = read_payload(payload, specs, InputRules())
    assert (arrays[0].tolist(), arrays[1].tolist(), shown) == ([1.0], [0, 0], {"format": "npz"})


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "0 bytes, expected 24 bytes"),
        (b"x" * 23, "23 bytes"),
        (npy(VALUES.astype(np.float64)), r"float64 \[1, 2, 3\], expected float32"),
        (npy(VALUES[0]), r"\[2, 3\]"),
        (npy(VALUES)[:-1], "23 bytes of data"),
        (npy(VALUES) + b"x", "25 bytes of data"),
        (npy(np.array([{"a": 1}], dtype=object)), "expected float32"),
        (npy(np.zeros(2, dtype=[("a", "f4")])), "expected float32"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "header of more than"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "header of more than"),
        (b"\x93NUMPY\x07\x00\x04\x00{}  ", "not a readable .npy"),
        (b"\x93NUMPY\x01\x00\x09\x00((((((((\n", "not a readable .npy"),
        (b"\x93NUMPY", "not a readable .npy"),
        (b"PK\x03\x04nothing", "not a readable .npz"),
        (npz(y=VALUES), "with 'y.npy'"),
        (npz(x=VALUES[0]), r"\[2, 3\]"),
    ],
)
def test_wrong_bytes_are_refused_in_words(payload: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(payload)


def test_a_compressed_bomb_is_read_no_further_than_the_input_is_large() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(VALUES) + bytes(50_000_000))
    assert len(stream.getvalue()) < 100_000
    with pytest.raises(InputError, match="has more than"):
        read(stream.getvalue())


def test_several_inputs_want_an_npz() -> None:
    specs = (FLOAT, TensorSpec(4, "y", "float32", (1,)))
    with pytest.raises(InputError, match=r"2 inputs \('x', 'y'\): expected an .npz"):
        read_payload(VALUES.tobytes(), specs, InputRules())


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_picture_of_the_right_size_is_its_pixels(form: str) -> None:
    arrays, shown = read_payload(picture(form=form, color=(9, 9, 9)), (PICTURE,), InputRules())
    assert arrays[0].shape == (1, 4, 6, 3)
    assert set(arrays[0].ravel().tolist()) == {9}
    assert shown == {"format": form.lower(), "width": 6, "height": 4}


def test_floats_are_normalised_as_asked() -> None:
    spec = TensorSpec(0, "image", "float32", (1, 4, 6, 3))
    white = picture(color=(255, 255, 255))
    assert read(white, spec).max() == 1.0
    assert read(picture(), spec).min() == -1.0
    assert read(picture(), spec, normalize="0..1").min() == 0.0
    assert read(white, spec, normalize="none").max() == 255.0
    with pytest.raises(UsageError, match="is for float inputs"):
        read(white, PICTURE, normalize="0..1")


@pytest.mark.parametrize(
    ("resize", "corner", "middle"), [("stretch", 200, 200), ("fit", 0, 200), ("crop", 200, 200)]
)
def test_resizing(resize: Resize, corner: int, middle: int) -> None:
    found = read(picture(40, 10, color=(200, 200, 200)), PICTURE, resize=resize)[0]
    assert (found[0, 0, 0], found[2, 3, 0]) == (corner, middle)


def test_crop_keeps_the_middle() -> None:
    wide = Image.new("RGB", (30, 4), (0, 0, 0))
    wide.paste((250, 250, 250), (12, 0, 18, 4))
    stream = io.BytesIO()
    wide.save(stream, "PNG")
    assert read(stream.getvalue(), PICTURE, resize="crop").min() == 250


def test_exact_refuses_another_size() -> None:
    with pytest.raises(InputError, match="40x10 pixels, expected 6x4"):
        read(picture(40, 10), PICTURE, resize="exact")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_kind_of_png_fits(mode: str) -> None:
    assert read(picture(mode=mode), PICTURE).shape == (1, 4, 6, 3)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than anybody has memory for."""
    head = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return pictures.PNG + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + bytes(100)


@pytest.mark.parametrize("size", [(6000, 6000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"the limit is 25 million|not a readable picture"):
        read(bomb(*size), PICTURE)


@pytest.mark.parametrize("payload", [pictures.PNG, pictures.JPEG, picture()[:45], picture(form="JPEG")[:300]])
def test_damaged_pictures_are_refused(payload: bytes) -> None:
    with pytest.raises(InputError, match="not a readable picture"):
        read(payload, PICTURE)


def test_other_formats_are_not_even_tried() -> None:
    with pytest.raises(InputError, match="not a readable picture"):
        read(picture(form="GIF", mode="P"), PICTURE, "image")


def test_a_model_that_takes_no_picture_says_so() -> None:
    with pytest.raises(InputError, match="a picture fits"):
        read(picture())


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = picture()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"slicemq\[image\]"):
        read(payload, PICTURE)


@settings(max_examples=300, deadline=None)
@given(
    head=st.sampled_from([npy(VALUES), npz(x=VALUES), picture(), picture(form="JPEG"), b""]),
    cut=st.integers(0, 400),
    noise=st.binary(max_size=40),
    at=st.integers(0, 400),
    kind=st.sampled_from(["auto", "raw", "npy", "image"]),
    spec=st.sampled_from([FLOAT, PICTURE]),
)
def test_damaged_bytes_are_read_or_refused_and_nothing_else(
    head: bytes, cut: int, noise: bytes, at: int, kind: InputKind, spec: TensorSpec
) -> None:
    payload = (head[:at] + noise + head[at + len(noise) :])[: max(cut, 0) or None]
    try:
        array = read(payload, spec, kind)
    except SliceMQError:
        return
    assert array.shape == spec.shape
    assert array.dtype.name == spec.dtype
