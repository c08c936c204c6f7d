"""From a checkpoint folder to a detector on a device, and what has to be recorded about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import machine
from ..config import ENGINES, Engine, Precision
from ..errors import DeviceError, UsageError
from .arithmetic import PRECISIONS as PRECISIONS
from .arithmetic import Arithmetic, check_precision
from .checkpoint import build, file_sha256, read_tensors
from .config import DetectorConfig, read_config
from .faster_rcnn import Detections
from .files import CheckpointFiles
from .layers import stored_as
from .synthetic import looks_synthetic


class Model(Protocol):
    """What both engines offer; see detector.faster_rcnn for shapes."""

    def once(self, images: Tensor) -> AbstractContextManager[None]: ...

    def region_features(self, images: Tensor, regions: list[Tensor]) -> Tensor: ...

    def describe(self, images: Tensor, regions: list[Tensor]) -> list[Detections]: ...

    def detect(self, images: Tensor) -> list[Detections]: ...


def choose_device(name: str) -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``. Under torchrun each process takes the
    GPU of its local rank. Raises DeviceError."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"no device {name!r}: known are auto, cpu, cuda and cuda:N") from error
    if device.type == "cuda":
        index = device.index if device.index is not None else machine.local_rank() % max(count, 1)
        if index >= count:
            raise DeviceError(
                f"device {name} asked for, {count} GPUs seen by PyTorch {torch.__version__}: use --device cpu, or "
                "check the driver and that this PyTorch is a CUDA build"
            )
        return torch.device("cuda", index)
    if device.type != "cpu":
        raise DeviceError(f"device {name!r} is not supported: known are auto, cpu, cuda and cuda:N")
    return device


def device_name(device: torch.device) -> str:
    """The card's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@dataclass(frozen=True)
class Detector:
    """A detector ready to run. What it computes depends on its own precision, whatever the process has set."""

    name: str
    """native or reference."""
    model: Model
    config: DetectorConfig
    device: torch.device
    precision: str
    passed_over: Sequence[str]
    """Tensors of the checkpoint that the detector has no use for."""
    synthetic: bool
    """Whether the weights are the seeded ones of scripts/dev/synthetic_checkpoint.py: no meaning in the features."""

    @property
    def arithmetic(self) -> Arithmetic:
        """The settings of PyTorch that hold while it computes."""
        return Arithmetic(self.device.type, self.precision == "tf32")

    @property
    def emulated(self) -> bool:
        """Whether this processor lacks the precision: results are rounded to it, float32 would take the same time."""
        dtype = PRECISIONS[self.precision]
        return self.name == "native" and stored_as(self.device, dtype) != dtype

    def once(self, images: Tensor) -> AbstractContextManager[None]:
        """Within: several things may be asked of this very batch, and the backbone runs on it once (native)."""
        return self.model.once(images)

    def region_features(self, images: Tensor, regions: list[Tensor]) -> Tensor:
        """fc6 (sum of R_i, F) float32 of given regions, image after image."""
        with self.arithmetic.applied():
            return self.model.region_features(images, regions)

    def describe(self, images: Tensor, regions: list[Tensor]) -> list[Detections]:
        """Features and class scores of given regions, image by image: at least one in all."""
        with self.arithmetic.applied():
            return self.model.describe(images, regions)

    def detect(self, images: Tensor) -> list[Detections]:
        """Proposals, features and class scores of every image."""
        with self.arithmetic.applied():
            return self.model.detect(images)


def identity(files: CheckpointFiles, name: str, device: torch.device, precision: str) -> dict[str, Any]:
    """What of the engine decides the values of features: written into every file, compared on resuming."""
    return {
        "engine": name,
        "precision": precision,
        "device": device.type,
        "checkpoint_sha256": file_sha256(files.model),
        "config_sha256": file_sha256(files.config),
        "torch": torch.__version__.partition("+")[0],
    }


def is_synthetic(files: CheckpointFiles) -> bool:
    """Whether the weights are the seeded ones of scripts/dev/synthetic_checkpoint.py. Raises CheckpointError."""
    return looks_synthetic(read_tensors(files.model))


def load_detector(files: CheckpointFiles, *, engine: Engine, device: torch.device, precision: Precision) -> Detector:
    """Load the detector. Raises CheckpointError, DeviceError, or ReferenceMissing with the way out."""
    if engine not in ENGINES:
        raise UsageError(f"no engine {engine!r}: known are {', '.join(ENGINES)}")
    check_precision(device, precision)
    config = read_config(files.config)
    if engine == "reference" and PRECISIONS[precision] != torch.float32:
        raise DeviceError(f"the reference engine computes in float32 or tf32, not in {precision}")
    model: Model
    passed_over: list[str] = []
    if engine == "reference":
        from . import reference

        model = reference.load(files, device)
        synthetic = is_synthetic(files)
    else:
        tensors = read_tensors(files.model)
        native, passed_over = build(files.model, config, tensors)
        synthetic = looks_synthetic(tensors)
        model = native.place(device, PRECISIONS[precision], tf32=precision == "tf32")
    return Detector(engine, model, config, device, precision, passed_over, synthetic)
