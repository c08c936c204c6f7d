"""What the rows share: the device, the sizes of the work, checkpoints, detectors, photographs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from feature_extraction.config import Boxes, Grid, Precision
from feature_extraction.detector.build import Detector, load_detector
from feature_extraction.detector.files import CheckpointFiles, find_checkpoint
from feature_extraction.errors import DeviceError
from feature_extraction.features import Arrays, Computation, NetworkInput, computation_of, compute
from feature_extraction.images.decode import decode_image
from feature_extraction.progress import Clock

from ..dev import synthetic_checkpoint
from .golden import DATA, photograph
from .table import NotRun

KINDS: Final[dict[str, Computation]] = {
    "grid": computation_of(Grid()),
    "boxes": computation_of(Boxes(class_probs=True)),
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is done: enough for figures on a GPU, little where a CPU only exercises the code."""

    golden: dict[str, tuple[str, ...]]
    """Golden cases by model."""
    model: str
    """The model whose speed and drift are measured."""
    drift_images: tuple[str, ...]
    precisions: tuple[Precision, ...]
    batch_sizes: tuple[int, ...]
    speed_seconds: float
    """Per setting."""
    matrix: int
    """Side of the matrices whose product is timed."""
    centroids: int
    rows: int
    """k-means."""


EVERY: Final = ("astronaut", "camera", "chelsea", "coffee", "coins", "motorcycle", "page", "coffee_strip",
                "chelsea_tall", "astronaut_crop33")  # fmt: skip
FULL: Final = Sizes(
    golden={"tiny": EVERY, "x152": ("camera", "coffee", "coffee_strip")}, model="x152", drift_images=EVERY,
    precisions=("float32", "tf32", "bfloat16", "float16"), batch_sizes=(1, 4, 16), speed_seconds=2.5,
    matrix=8192, centroids=10_000, rows=32_768,
)  # fmt: skip
SMALL: Final = Sizes(
    golden={"tiny": ("coffee", "astronaut_crop33"), "x152": ("coffee_strip",)}, model="tiny",
    drift_images=("coffee", "astronaut_crop33"), precisions=("float32", "tf32", "bfloat16", "float16"),
    batch_sizes=(1, 2), speed_seconds=0.3, matrix=1024, centroids=1024, rows=1024,
)  # fmt: skip
"""For --device cpu."""


@dataclass
class Bench:
    """One device and what was loaded for it."""

    device: torch.device
    sizes: Sizes
    scratch: Path
    models: tuple[str, ...] = ("tiny", "x152")
    figures: dict[str, float] = field(default_factory=dict)
    """What one row measured and another needs, by name."""
    exact: dict[str, tuple[list[NetworkInput], list[Arrays]]] = field(default_factory=dict)
    """Photographs and their arrays in float32, by kind."""
    _detectors: dict[tuple[str, Precision], Detector] = field(default_factory=dict)

    def make_checkpoint(self, model: str) -> float:
        """Write the seeded weights; the seconds it took."""
        start = time.monotonic()
        synthetic_checkpoint.write(self.scratch / model, (DATA / model / "config.yaml").read_text(encoding="utf-8"))
        return time.monotonic() - start

    def files(self, model: str) -> CheckpointFiles:
        if model not in self.models:
            raise NotRun(f"{model} was left out by --models")
        return find_checkpoint(self.scratch / model)

    def detector(self, model: str, precision: Precision) -> Detector:
        """Loaded once; beside float32 only the last other precision is kept."""
        if (model, precision) not in self._detectors:
            for key in [k for k in self._detectors if k != (model, "float32")]:
                del self._detectors[key]
            self.empty_cache()
            self._detectors[model, precision] = self.load(model, precision)
        return self._detectors[model, precision]

    def load(self, model: str, precision: Precision) -> Detector:
        """A detector of its own. Raises NotRun for a precision that the device does not have."""
        try:
            return load_detector(self.files(model), engine="native", device=self.device, precision=precision)
        except DeviceError as error:
            raise NotRun(str(error)) from error

    def empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Wall seconds of ``work()``, the device's queue empty before and after."""
        self.synchronize()
        start = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - start


def picture(name: str) -> NDArray[np.uint8]:
    """A photograph of the golden set. Raises NotRun where scikit-image is not installed."""
    try:
        return photograph(name)
    except (ImportError, OSError) as error:
        raise NotRun(f"scikit-image, which holds the photographs, is not here ({error}): pip install it") from error


def made_up_picture(height: int = 480, width: int = 640) -> NDArray[np.uint8]:
    """Something with edges and texture, for speed, which does not depend on what is seen."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    rng = np.random.default_rng(1)
    waves = [127 + 60 * np.sin(x / (7 + 5 * c) + y / (11 + 3 * c)) for c in range(3)]
    return np.clip(np.stack(waves, 2) + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def network_input(kind: str, pixels: NDArray[np.uint8]) -> NetworkInput:
    return KINDS[kind].network_input(decode_image(pixels))


def arrays(detector: Detector, kind: str, batch: list[NetworkInput]) -> list[Arrays]:
    """Features as the extraction computes them; an image without any is an error here."""
    found = []
    for result in compute(detector, KINDS[kind], batch, Clock()):
        if isinstance(result, Exception):
            raise result
        found.append(result)
    return found


def on_device(detector: Detector, images: list[NetworkInput]) -> torch.Tensor:
    """(B, 3, H, W) float32 as the extraction hands it over."""
    stacked = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2)
    return stacked.to(detector.device)
