"""Pictures as model inputs: turned upright, resized (bilinear) and normalised, each step stated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slicemq.errors import InputError, MissingDependencyError
from slicemq.messages import TensorSpec
from slicemq.pixels import MODES, check_is_picture, check_normalization, normalized

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


def open_image(file: Path) -> Image:
    """Read the picture and turn it as its EXIF data say; raises InputError that names the file."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependencyError(
            "pictures need the package pillow: pip install 'slicemq[coordinator]'"
        ) from error
    try:
        with Image.open(file) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: not a readable picture: {error}") from error


def image_to_input(picture: Image, spec: TensorSpec, normalize: str | None = None) -> tuple[npt.NDArray[Any], str]:
    """The picture as the tensor `spec` (NHWC, one frame), and one line that says what was done to it.

    Unknown height or width keep the picture's own. Float inputs are scaled as `normalize` says (default -1..1),
    uint8 inputs hold the pixels 0..255, int8 inputs the pixels minus 128. Raises InputError when the input is no
    picture, UsageError for a normalisation that does not fit.
    """
    check_is_picture(spec)
    shape = spec.shape
    how = check_normalization(normalize, spec)
    from PIL import Image as Module

    mode = MODES[shape[3]]
    was = f"{picture.width}x{picture.height} {picture.mode}"
    if picture.mode.startswith("I"):
        # 16 bits a pixel (grey PNG), of which `convert` would clip all above 255.
        picture = Module.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    height = picture.height if shape[1] == -1 else shape[1]
    width = picture.width if shape[2] == -1 else shape[2]
    resized = picture.convert(mode).resize((width, height), Module.Resampling.BILINEAR)
    pixels = np.asarray(resized, dtype=np.uint8).reshape(1, height, width, shape[3])
    array, stated = normalized(pixels, spec.dtype, how)
    return array, f"{was} resized to {width}x{height} {mode} (bilinear), {stated}"
