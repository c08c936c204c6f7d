"""What a feature file says of its making (DESIGN: a reader must be able to tell two files apart)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import PIL
import PIL.features

from .places import CHECKOUT


def decoder_identity() -> dict[str, Any]:
    """What of the reading of images decides values, beside the settings: library versions."""
    return {"pillow": PIL.__version__, "libjpeg": _libjpeg(), "opencv": cv2.__version__}


def notes_of(device_name: str, synthetic: bool) -> dict[str, Any]:
    """What is worth knowing but is not compared on resuming."""
    return {
        "synthetic_weights": synthetic,
        "device_name": device_name,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "source_revision": source_revision(),
    }


def _libjpeg() -> str:
    turbo = PIL.features.version_feature("libjpeg_turbo") if PIL.features.check_feature("libjpeg_turbo") else None
    return f"turbo {turbo}" if turbo else str(PIL.features.version_codec("jpg"))


def source_revision(root: Path = CHECKOUT) -> str:
    """Commit of this checkout, "+changes" if it was edited; the image's build writes REVISION instead of .git."""
    recorded = root / "REVISION"
    if recorded.is_file():
        return recorded.read_text(encoding="utf-8").strip()
    if not (root / ".git").exists():  # installed: a repository above it would be somebody else's
        return "unknown"
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+changes", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()
