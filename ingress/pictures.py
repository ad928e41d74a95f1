"""JPEG and PNG from strangers as model inputs: looked at before they are decoded, resized as asked."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from slicemq.errors import InputError, MissingDependencyError
from slicemq.messages import TensorSpec
from slicemq.pixels import MODES, check_is_picture, check_normalization, normalized

Resize = Literal["stretch", "fit", "crop", "exact"]
RESIZES: tuple[Resize, ...] = ("stretch", "fit", "crop", "exact")
JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class PictureRules:
    """How pictures are read: `max_pixels` bounds width x height before anything is decoded."""

    resize: Resize = "stretch"
    normalize: str | None = None
    max_pixels: int = 25_000_000


def is_picture(payload: bytes) -> bool:
    """Whether it begins as a JPEG or PNG does."""
    return payload.startswith((JPEG, PNG))


def pillow() -> ModuleType:
    """Pillow's module Image; raises MissingDependencyError."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            "JPEG and PNG need the package pillow: pip install 'slicemq[image]'"
        ) from error
    return Image


def read_picture(
    payload: bytes, spec: TensorSpec, rules: PictureRules
) -> tuple[npt.NDArray[Any], dict[str, str | int]]:
    """The picture as the tensor `spec` (NHWC, one frame), and what it was: `format`, `width`, `height`.

    It is turned upright as its EXIF data say and resized (bilinear): `stretch` to the input's size; `fit` inside it
    with black around, in the middle; `crop` to its middle; `exact` refuses another size. Unknown sizes of the
    input are the picture's own. Raises InputError for what is no picture, a damaged or too large one, or an input
    that takes none; UsageError for a normalisation that does not fit the input.
    """
    check_is_picture(spec)
    how = check_normalization(rules.normalize, spec)
    module = pillow()
    try:
        with warnings.catch_warnings():
            # Pillow's own bound is only a warning; ours follows, before a pixel is decoded.
            warnings.simplefilter("ignore")
            opened = module.open(io.BytesIO(payload), formats=("JPEG", "PNG"))
        with opened:
            width, height = opened.size
            if width * height > rules.max_pixels:
                raise InputError(
                    f"a picture of {width}x{height} pixels, the limit is {rules.max_pixels / 1e6:g} million"
                )
            kind = str(opened.format).lower()
            opened.load()
            picture = _upright(opened)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"not a readable picture: {error}") from error
    if picture.mode.startswith("I"):
        # 16 bits a pixel (grey PNG), of which `convert` would clip all above 255.
        picture = module.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    shown: dict[str, str | int] = {"format": kind, "width": int(picture.width), "height": int(picture.height)}
    wanted = (
        picture.width if spec.shape[2] == -1 else spec.shape[2],
        picture.height if spec.shape[1] == -1 else spec.shape[1],
    )
    mode = MODES[spec.shape[3]]
    placed = _resized(module, picture.convert(mode), wanted, mode, rules.resize)
    pixels = np.asarray(placed, dtype=np.uint8).reshape(1, wanted[1], wanted[0], spec.shape[3])
    return normalized(pixels, spec.dtype, how)[0], shown


def _upright(picture: Any) -> Any:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # noqa: BLE001
        # Damaged EXIF data do not damage the pixels.
        return picture


def _resized(module: ModuleType, picture: Any, wanted: tuple[int, int], mode: str, resize: Resize) -> Any:
    if picture.size == wanted:
        return picture
    if resize == "exact":
        raise InputError(
            f"a picture of {picture.width}x{picture.height} pixels, expected {wanted[0]}x{wanted[1]} (resize exact)"
        )
    bilinear = module.Resampling.BILINEAR
    if resize == "stretch":
        return picture.resize(wanted, bilinear)
    scales = (wanted[0] / picture.width, wanted[1] / picture.height)
    scale = min(scales) if resize == "fit" else max(scales)
    if resize == "crop":
        # The part that is kept, in the picture's own pixels: no picture larger than it is ever made.
        width, height = wanted[0] / scale, wanted[1] / scale
        left, top = (picture.width - width) / 2, (picture.height - height) / 2
        box = (max(0.0, left), max(0.0, top), min(picture.width, left + width), min(picture.height, top + height))
        return picture.resize(wanted, bilinear, box=box)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    size = (min(size[0], wanted[0]), min(size[1], wanted[1]))
    ground = module.new(mode, wanted)
    ground.paste(picture.resize(size, bilinear), ((wanted[0] - size[0]) // 2, (wanted[1] - size[1]) // 2))
    return ground
