"""From a checkpoint folder to a detector on a device, and what has to be recorded about it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from .. import catalog
from ..errors import CheckpointError, DeviceError
from .checkpoint import (
    build,
    file_sha256,
    read_tensors,
)
from .config import DetectorConfig, read_config
from .faster_rcnn import Detections

ENGINES: Final = ("native", "reference")
PRECISIONS: Final = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""float32 (TF32 off) is the published arithmetic; the others are faster and drift (README)."""


class Detector(Protocol):
    """What both engines offer; see detector.faster_rcnn for shapes."""

    def region_features(self, images: Tensor, regions: list[Tensor]) -> Tensor: ...

    def detect(self, images: Tensor) -> list[Detections]: ...


@dataclass(frozen=True)
class CheckpointFiles:
    """The two files of a checkpoint."""

    config: Path
    model: Path


def find_checkpoint(folder: Path) -> CheckpointFiles:
    """The files in ``folder`` under the names the scripts read or those the published README saves.

    Raises CheckpointError that names what was looked for and where."""
    found: dict[str, Path] = {}
    for script_name, readme_name in catalog.README_CHECKPOINT_NAMES.items():
        candidates = [folder / script_name, folder / readme_name]
        path = next((c for c in candidates if c.is_file()), None)
        if path is None:
            raise CheckpointError(
                f"no {script_name} (or {readme_name}) in {folder.resolve()}: `make download` fetches it, "
                "--checkpoint_dir names another folder"
            )
        found[script_name] = path
    return CheckpointFiles(found["detectron_config.yaml"], found["detectron_model.pth"])


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
        index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0")) % max(count, 1)
        if index >= count:
            raise DeviceError(
                f"device {name} asked for, {count} GPUs seen by PyTorch {torch.__version__}: use --device cpu, or "
                "check the driver and that this PyTorch is a CUDA build"
            )
        return torch.device("cuda", index)
    if device.type != "cpu":
        raise DeviceError(f"device {name!r} is not supported: known are auto, cpu, cuda and cuda:N")
    return device


def prepare_arithmetic(device: torch.device, precision: str) -> None:
    """Process-wide settings that decide bits: TF32 only if asked for, no algorithm chosen by timing."""
    if precision not in PRECISIONS:
        raise DeviceError(f"no precision {precision!r}: known are {', '.join(PRECISIONS)}")
    if precision == "tf32" and device.type == "cpu":
        raise DeviceError("precision tf32 needs a GPU; on a CPU choose float32 or bfloat16")
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device.type == "cpu" and "LOCAL_WORLD_SIZE" in os.environ:
        # torchrun gives every process one thread unless told otherwise; share the cores instead
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))


@dataclass(frozen=True)
class Engine:
    """A detector ready to run."""

    name: str
    detector: Detector
    config: DetectorConfig
    device: torch.device
    passed_over: Sequence[str]
    """Tensors of the checkpoint that the detector has no use for."""


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


def load(files: CheckpointFiles, name: str, device: torch.device, precision: str) -> Engine:
    """Load the detector. Raises CheckpointError, DeviceError, or ImportError with the way out (reference)."""
    prepare_arithmetic(device, precision)
    config = read_config(files.config)
    if name == "reference":
        from . import reference

        if PRECISIONS[precision] != torch.float32:
            raise DeviceError(f"the reference engine computes in float32 or tf32, not in {precision}")
        return Engine(name, reference.load(files, device), config, device, ())
    model, passed_over = build(files.model, config, read_tensors(files.model))
    # Plain float32 convolutions on CUDA are made for (B, C, H, W) memory; oneDNN and tensor cores like channels last.
    layout = torch.contiguous_format if device.type == "cuda" and precision == "float32" else torch.channels_last
    return Engine(name, model.place(device, PRECISIONS[precision], layout), config, device, passed_over)
