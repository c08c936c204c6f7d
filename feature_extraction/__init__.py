"""Visual features of X-LXMERT, reproducible: grid and box features of a ResNeXt-152 Faster R-CNN.

    from feature_extraction import FeatureExtractor

The public Python API is loaded on first use; importing this package does not import torch.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (in a checkout nothing has been installed yet that would know)
    sys.exit(f"this kit needs Python 3.11 or newer, not {sys.version.split()[0]}: make PYTHON=python3.12, for example")

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .api import BoxFeatures, FeatureExtractor, GridFeatures
    from .class_names import read_names
    from .config import Boxes, GivenBoxes
    from .drawing import draw, draw_words
    from .errors import (
        CheckpointError,
        DeviceError,
        ImageError,
        ImageFolderError,
        KitError,
        ReferenceMissing,
        StoreError,
        UsageError,
    )
    from .recipes import RECIPES
    from .storage.store import image_ids, open_features

__version__: Final = "1.2.0"
_HOMES: Final = {
    **dict.fromkeys(("BoxFeatures", "FeatureExtractor", "GridFeatures"), "api"),
    **dict.fromkeys(
        (
            "CheckpointError",
            "DeviceError",
            "ImageError",
            "ImageFolderError",
            "KitError",
            "ReferenceMissing",
            "StoreError",
            "UsageError",
        ),
        "errors",
    ),
    **dict.fromkeys(("Boxes", "GivenBoxes"), "config"),
    "RECIPES": "recipes",
    **dict.fromkeys(("draw", "draw_words"), "drawing"),
    "read_names": "class_names",
    **dict.fromkeys(("image_ids", "open_features"), "storage.store"),
}
__all__ = [
    "RECIPES",
    "BoxFeatures",
    "Boxes",
    "CheckpointError",
    "DeviceError",
    "FeatureExtractor",
    "GivenBoxes",
    "GridFeatures",
    "ImageError",
    "ImageFolderError",
    "KitError",
    "ReferenceMissing",
    "StoreError",
    "UsageError",
    "__version__",
    "draw",
    "draw_words",
    "image_ids",
    "open_features",
    "read_names",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
