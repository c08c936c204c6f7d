"""What a feature file says of its making (DESIGN: a reader must be able to tell two files apart)."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import h5py
import numpy as np
import PIL
import PIL.features
import torch

if TYPE_CHECKING:
    from .extract import Task


def identity_of(dataset: str, split: str, task: Task, engine: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the values: compared on resuming. Flat: text, numbers and booleans only."""
    of_task = asdict(task)
    if task.kind == "grid":
        del of_task["num_boxes"], of_task["class_probs"]
    else:
        del of_task["grid_size"], of_task["imsize"]
    return {
        "dataset": dataset,
        "split": split,
        **{key: 0 if value is None else value for key, value in of_task.items()},
        **engine,
        "pillow": PIL.__version__,
        "libjpeg": _libjpeg(),
        "opencv": cv2.__version__,
    }


def notes_of(device: torch.device) -> dict[str, Any]:
    """What is worth knowing but does not decide values."""
    return {
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "source_revision": source_revision(),
    }


def _libjpeg() -> str:
    turbo = PIL.features.version_feature("libjpeg_turbo") if PIL.features.check_feature("libjpeg_turbo") else None
    return f"turbo {turbo}" if turbo else str(PIL.features.version_codec("jpg"))


def source_revision() -> str:
    """Commit of this checkout, "+changes" if it was edited; the image's build writes REVISION instead of .git."""
    root = Path(__file__).resolve().parents[1]
    recorded = root / "REVISION"
    if recorded.is_file():
        return recorded.read_text(encoding="utf-8").strip()
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+changes", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()
