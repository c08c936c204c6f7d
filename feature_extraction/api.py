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

from .config import Boxes, Decoder, Engine, ExtractConfig, Grid, Precision, Spec
from .detector.build import choose_device, load_detector
from .detector.files import find_checkpoint
from .errors import ImageError
from .features import Arrays, computation_of, compute
from .images.decode import decode_image
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
    """A detector on a device. Extractors of different precision may live in one process.

    Args:
        checkpoint_dir: folder with detectron_model.pth and detectron_config.yaml; None: ``CHECKPOINT`` of the
            environment, ./mask_rcnn_ckpt, or the checkout's.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        precision: "float32" (the published arithmetic), "tf32", "bfloat16" or "float16".
        engine: "native", or "reference" where the fork is installed (the container).
        decode: "proper", or "as_published" for the published reading of palette files.

    Raises:
        CheckpointError: files missing, damaged, or of another model.
        DeviceError: a device or precision that this machine does not have.

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
        checkpoint_dir: str | os.PathLike[str] | None = ExtractConfig.checkpoint_dir,
        *,
        device: str = ExtractConfig.device,
        precision: Precision = ExtractConfig.precision,
        engine: Engine = ExtractConfig.engine,
        decode: Decoder = ExtractConfig.decode,
    ) -> None:
        files = find_checkpoint(None if checkpoint_dir is None else Path(checkpoint_dir))
        self._detector = load_detector(files, engine=engine, device=choose_device(device), precision=precision)
        self._decode: Decoder = decode

    @property
    def feature_dim(self) -> int:
        """F, the length of a feature: 2048 for the published checkpoint."""
        return self._detector.config.feature_dim

    @property
    def synthetic(self) -> bool:
        """Whether the weights are the seeded stand-in: the features then have no meaning."""
        return self._detector.synthetic

    def grid(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        grid_size: int = Grid.grid_size,
        imsize: int | None = Grid.imsize,
    ) -> list[GridFeatures]:
        """Features of grid_size x grid_size cells of each image, in the order given.

        ``imsize`` (a multiple of 32) resizes every image to that many pixels squared instead of by its sides. Raises
        ImageError, which names the position in ``images``, for one that cannot be used."""
        spec = Grid(grid_size=grid_size, imsize=imsize)
        return [GridFeatures(arrays["features"]) for arrays in self._each(images, spec)]

    def boxes(self, images: ImageLike | Sequence[ImageLike], num_boxes: int = Boxes.num_boxes) -> list[BoxFeatures]:
        """The ``num_boxes`` best boxes of each image, in the order given. Raises ImageError as ``grid``."""
        return [
            BoxFeatures(a["features"], a["boxes"], a["obj_id"], a["cls_prob"], int(a["img_w"]), int(a["img_h"]))
            for a in self._each(images, Boxes(num_boxes=num_boxes, class_probs=True))
        ]

    def _each(self, images: ImageLike | Sequence[ImageLike], spec: Spec) -> list[Arrays]:
        several: Sequence[ImageLike]
        several = [images] if isinstance(images, str | os.PathLike | Image.Image | np.ndarray) else images
        computation = computation_of(spec)
        results = []
        for position, image in enumerate(several):
            try:
                network_input = computation.network_input(decode_image(image, self._decode))
                (result,) = compute(self._detector, computation, [network_input], Clock())
                if isinstance(result, ImageError):
                    raise result
            except ImageError as error:
                name = f" ({image})" if isinstance(image, str | os.PathLike) else ""
                raise ImageError(f"image {position}{name}: {error}") from error
            results.append(result)
        return results
