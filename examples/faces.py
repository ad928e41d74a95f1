"""MediaPipe's full-range face detector: pictures in, boxes out (the pipeline only sees tensors)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIZE = 192
_STRIDE = 4
_GRID = SIZE // _STRIDE
_SCORE = 0.5
_OVERLAP = 0.3
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Face:
    """A face's box in pixels of the picture, and the detector's score."""

    score: float
    left: float
    top: float
    right: float
    bottom: float


def load_picture(path: Path) -> Image.Image:
    """A picture as RGB."""
    return Image.open(path).convert("RGB")


def to_input(picture: Image.Image) -> Array:
    """The detector's input: float32 [1, 192, 192, 3] from -1 to 1, the picture letter-boxed in it."""
    scale = SIZE / max(picture.size)
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (SIZE, SIZE))
    canvas.paste(small, ((SIZE - small.width) // 2, (SIZE - small.height) // 2))
    return (np.asarray(canvas, dtype=np.float32) / 127.5 - 1.0)[None]


def to_faces(boxes: Array, scores: Array, picture: Image.Image) -> list[Face]:
    """Read the detector's outputs: boxes [1, 2304, 16] (centre, size, six points) and scores [1, 2304, 1]."""
    confidence = 1.0 / (1.0 + np.exp(-np.clip(scores[0, :, 0], -80, 80)))
    rows, columns = np.divmod(np.arange(_GRID * _GRID), _GRID)
    x = boxes[0, :, 0] + (columns + 0.5) * _STRIDE
    y = boxes[0, :, 1] + (rows + 0.5) * _STRIDE
    half_w, half_h = boxes[0, :, 2] / 2, boxes[0, :, 3] / 2
    scale = max(picture.size) / SIZE
    shift_x, shift_y = (max(picture.size) - picture.width) / 2, (max(picture.size) - picture.height) / 2
    found = [
        Face(
            float(confidence[i]),
            float((x[i] - half_w[i]) * scale - shift_x),
            float((y[i] - half_h[i]) * scale - shift_y),
            float((x[i] + half_w[i]) * scale - shift_x),
            float((y[i] + half_h[i]) * scale - shift_y),
        )
        for i in np.argsort(-confidence)
        if confidence[i] >= _SCORE
    ]
    kept: list[Face] = []
    for face in found:
        if all(_overlap(face, other) < _OVERLAP for other in kept):
            kept.append(face)
    return kept


def draw(picture: Image.Image, faces: list[Face], path: Path) -> None:
    """Write the picture with a box around each face."""
    marked = picture.copy()
    pen = ImageDraw.Draw(marked)
    for face in faces:
        pen.rectangle((face.left, face.top, face.right, face.bottom), outline=(255, 64, 0), width=4)
        label = (face.left - 2, face.top - 22, face.left + 46, face.top)
        pen.rectangle(label, fill=(255, 64, 0))
        pen.text((face.left + 4, face.top - 22), f"{face.score:.2f}", fill=(255, 255, 255), font_size=18)
    path.parent.mkdir(parents=True, exist_ok=True)
    marked.save(path)


def _overlap(a: Face, b: Face) -> float:
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    shared = max(0.0, width) * max(0.0, height)
    areas = (a.right - a.left) * (a.bottom - a.top) + (b.right - b.left) * (b.bottom - b.top)
    return shared / (areas - shared) if areas > shared else 0.0
