"""Pictures become tensors as the help says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converters.pictures import image_to_input, open_image
from slicemq.errors import InputError, UsageError
from slicemq.messages import TensorSpec


def spec(dtype: str = "float32", shape: tuple[int, ...] = (1, 2, 2, 3)) -> TensorSpec:
    return TensorSpec(0, "image", dtype, shape)


def picture(value: tuple[int, int, int] = (0, 51, 255), size: tuple[int, int] = (4, 6)) -> Image.Image:
    return Image.new("RGB", size, value)


@pytest.mark.parametrize(
    ("dtype", "normalize", "expected", "stated"),
    [
        ("float32", None, [-1, -0.6, 1], "pixels scaled to -1..1"),
        ("float32", "-1..1", [-1, -0.6, 1], "pixels scaled to -1..1"),
        ("float16", "0..1", [0, 0.2, 1], "pixels scaled to 0..1"),
        ("float32", "none", [0, 51, 255], "pixels 0..255"),
        ("float32", "imagenet", [-0.485 / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225], "ImageNet mean"),
        ("uint8", None, [0, 51, 255], "pixels 0..255"),
        ("uint8", "none", [0, 51, 255], "pixels 0..255"),
        ("int8", None, [-128, -77, 127], "pixels minus 128"),
    ],
)
def test_pixels_are_normalised_as_stated(
    dtype: str, normalize: str | None, expected: list[float], stated: str
) -> None:
    array, note = image_to_input(picture(), spec(dtype), normalize)
    assert (array.dtype.name, array.shape) == (dtype, (1, 2, 2, 3))
    np.testing.assert_allclose(array[0, 1, 1], expected, rtol=1e-3)
    assert note.startswith("4x6 RGB resized to 2x2 RGB (bilinear)")
    assert stated in note


def test_height_and_width_are_not_exchanged_and_unknown_ones_are_the_pictures() -> None:
    assert image_to_input(picture(), spec(shape=(1, 5, 3, 3)))[0].shape == (1, 5, 3, 3)
    assert image_to_input(picture(), spec(shape=(-1, -1, -1, 3)))[0].shape == (1, 6, 4, 3)


def test_an_unresized_picture_keeps_its_pixels_in_rows_from_the_top() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    array, _ = image_to_input(Image.fromarray(pixels), spec("uint8", (1, 2, 4, 3)))
    np.testing.assert_array_equal(array[0], pixels)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_the_number_of_channels_decides_the_mode(channels: int, mode: str) -> None:
    array, note = image_to_input(picture(), spec("uint8", (1, 2, 2, channels)))
    assert array.shape[3] == channels
    assert f" {mode} (bilinear)" in note


@pytest.mark.parametrize(
    "wrong",
    [
        spec(shape=(1, 3, 224, 224)),
        spec(shape=(2, 4, 4, 3)),
        spec(shape=(1, 10)),
        spec("int32"),
    ],
)
def test_an_input_that_is_no_picture_is_refused(wrong: TensorSpec) -> None:
    with pytest.raises(InputError, match=r"'image' is .*; a picture fits"):
        image_to_input(picture(), wrong)


@pytest.mark.parametrize(
    ("given", "normalize", "text"),
    [
        (spec("uint8"), "0..1", "is for float inputs"),
        (spec("int8"), "imagenet", "is for float inputs"),
        (spec(shape=(1, 2, 2, 1)), "imagenet", "is for 3 channels"),
        (spec(), "0-1", "expected -1..1, 0..1, none, imagenet"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(given: TensorSpec, normalize: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        image_to_input(picture(), given, normalize)


def test_a_picture_is_turned_as_its_camera_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture(size=(4, 6)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (6, 4)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"])
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.png"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.png: not a readable picture"):
        open_image(file)


def test_a_picture_cut_short_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"cut\.png: not a readable picture"):
        open_image(tmp_path / "cut.png")


def test_grey_pictures_of_16_bits_keep_their_brightness(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(levels * 257).save(tmp_path / "grey.png")
    array, note = image_to_input(open_image(tmp_path / "grey.png"), TensorSpec(0, "x", "uint8", (1, 16, 16, 3)))
    assert np.array_equal(array[0], np.repeat(levels[..., None], 3, axis=2))
    assert note.startswith("16x16 I")
