"""The Python API: features of images in memory or on disk, the same numbers as the commands write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .config import ExtractConfig
from .detector import build as engines
from .errors import ImageError
from .extract import Arrays, Task, compute, prepare
from .images.decode import Decode
from .progress import Clock

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[Any]
"""A path; a PIL image; or a uint8 array (H, W), (H, W, 1) or (H, W, 3) in RGB."""


@dataclass(frozen=True)
class GridFeatures:
    """Grid features of one image."""

    features: NDArray[np.float32]
    """(G, G, F) float32: fc6 after ReLU of each cell; row 0 is the top of the image, column 0 its left."""


@dataclass(frozen=True)
class BoxFeatures:
    """Box features of one image, best box first."""

    features: NDArray[np.float32]
    """(N, F) float32: fc6 after ReLU, pooled from the proposal."""
    boxes: NDArray[np.float32]
    """(N, 4) float32: x1, y1, x2, y2 in pixels of the original image."""
    obj_id: NDArray[np.int64]
    """(N,) int64: the best class without background, 0..1599 for Visual Genome's 1600."""
    cls_prob: NDArray[np.float32]
    """(N, classes) float32: softmax over all classes, background first."""
    img_w: int
    """Pixels of the original image."""
    img_h: int


class FeatureExtractor:
    """A detector on a device.

    Args:
        checkpoint_dir: folder with detectron_model.pth and detectron_config.yaml.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        precision: "float32" (the published arithmetic), "tf32", "bfloat16" or "float16".
        engine: "native", or "reference" where the fork is installed (the container).
        decode: "proper", or "as_published" for the published reading of palette files.

    Raises:
        detector.config.CheckpointError: files missing, damaged, or of another model.
        engine.DeviceError: a device or precision that this machine does not have.

    Example:
        >>> from feature_extraction import FeatureExtractor
        >>> extractor = FeatureExtractor(checkpoint_dir, device="cpu")
        >>> (grid,) = extractor.grid([photograph])
        >>> grid.features.shape[:2], str(grid.features.dtype)
        ((8, 8), 'float32')
        >>> (found,) = extractor.boxes([photograph], num_boxes=36)
        >>> found.boxes.shape, found.obj_id.shape
        ((36, 4), (36,))
        >>> bool((found.boxes >= 0).all())
        True
    """

    def __init__(
        self,
        checkpoint_dir: str | os.PathLike[str] = ExtractConfig.checkpoint_dir,
        *,
        device: str = ExtractConfig.device,
        precision: str = ExtractConfig.precision,
        engine: str = ExtractConfig.engine,
        decode: Decode = ExtractConfig.decode,
    ) -> None:
        files = engines.find_checkpoint(Path(checkpoint_dir))
        self._engine = engines.load(files, engine, engines.choose_device(device), precision)
        self._decode: Decode = decode

    @property
    def feature_dim(self) -> int:
        """F, the length of a feature: 2048 for the published checkpoint."""
        return self._engine.config.feature_dim

    def grid(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        grid_size: int = ExtractConfig.grid_size,
        imsize: int | None = ExtractConfig.imsize,
    ) -> list[GridFeatures]:
        """Features of grid_size x grid_size cells of each image, in the order given.

        ``imsize`` (a multiple of 32) resizes every image to that many pixels squared instead of by its sides. Raises
        ImageError, which names the position in ``images``, for one that cannot be used."""
        task = self._task("grid", grid_size=grid_size, imsize=imsize)
        return [GridFeatures(arrays["features"]) for arrays in self._each(images, task)]

    def boxes(
        self, images: ImageLike | Sequence[ImageLike], num_boxes: int = ExtractConfig.num_boxes
    ) -> list[BoxFeatures]:
        """The ``num_boxes`` best boxes of each image, in the order given. Raises ImageError as ``grid``."""
        task = self._task("boxes", num_boxes=num_boxes, class_probs=True)
        return [
            BoxFeatures(a["features"], a["boxes"], a["obj_id"], a["cls_prob"], int(a["img_w"]), int(a["img_h"]))
            for a in self._each(images, task)
        ]

    def _task(self, kind: Any, **settings: Any) -> Task:
        c = ExtractConfig
        defaults: dict[str, Any] = {
            name: getattr(c, name) for name in ("grid_size", "num_boxes", "imsize", "class_probs", "batch_size")
        }
        return Task(kind=kind, **{**defaults, "decode": self._decode, **settings})

    def _each(self, images: ImageLike | Sequence[ImageLike], task: Task) -> list[Arrays]:
        several: Sequence[ImageLike]
        several = [images] if isinstance(images, str | os.PathLike | Image.Image | np.ndarray) else images
        results = []
        for position, image in enumerate(several):
            try:
                (result,) = compute(self._engine, [prepare(image, str(position), task)], task, Clock())
                if isinstance(result, ImageError):
                    raise result
            except ImageError as error:
                name = f" ({image})" if isinstance(image, str | os.PathLike) else ""
                raise ImageError(f"image {position}{name}: {error}") from error
            results.append(result)
        return results
