"""What a feature file says of its making (DESIGN: a reader must be able to tell two files apart)."""

from __future__ import annotations

from typing import Any

import cv2
import h5py
import numpy as np
import PIL
import PIL.features

from .places import source_revision


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
