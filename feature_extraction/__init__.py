"""Visual features of X-LXMERT, reproducible: grid and box features of a ResNeXt-152 Faster R-CNN.

    from feature_extraction import FeatureExtractor

The public Python API is loaded on first use; importing this package does not import torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import BoxFeatures, FeatureExtractor, GridFeatures
    from .errors import ImageError

__all__ = ["BoxFeatures", "FeatureExtractor", "GridFeatures", "ImageError"]


def __getattr__(name: str) -> Any:
    if name == "ImageError":
        from .errors import ImageError

        return ImageError
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
