"""What ``Grid`` and ``Boxes`` compute: an image's network input, and the features of a batch of them.

A kind of features is a spec in config.py and its computing half here. Shape legend: B images of one network size
(H, W); G cells per side; N boxes; F = feature dimension.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .config import Boxes, GivenBoxes, Grid, Layer, Spec
from .detector.boxes import clip
from .detector.build import Detector
from .errors import ImageError
from .given import open_boxes, refuse_beside
from .images.decode import Pixels
from .images.preprocess import network_size_boxes, network_size_grid, resize_for_boxes, resize_for_grid
from .progress import Clock
from .regions import ChosenBoxes, choose_boxes, given_boxes, grid_cells

if TYPE_CHECKING:
    from .detector.faster_rcnn import Detections

Arrays = dict[str, NDArray[Any]]
"""One image's arrays by name, in the published layout (``storage.store``)."""


@dataclass(frozen=True)
class NetworkInput:
    """One decoded and resized image."""

    pixels: NDArray[np.float32]
    """(H, W, 3) BGR minus mean, resized (boxes: and padded)."""
    scale: float
    """Resized / original side."""
    height: int
    width: int
    """Pixels of the original image."""
    given: NDArray[np.float32] | None = None
    """(N, 4) x1, y1, x2, y2 in pixels of the original image: the boxes to describe. None: they are proposed."""


class Computation(Protocol):
    """The computing half of a spec."""

    @property
    def input_key(self) -> Hashable:
        """Computations with equal ones have the same network input, so that one of them can make it for all."""

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) that the network sees of an original of (height, width). Raises ImageError."""

    def network_input(self, rgb: Pixels, image_id: str = "") -> NetworkInput:
        """The image resized, and what is known of it by its id. Raises ImageError."""

    def features(self, detector: Detector, images: Tensor, batch: Sequence[NetworkInput]) -> list[Arrays | ImageError]:
        """Arrays of every image, or why there are none; ``images`` (B, 3, H, W) on the detector's device."""


class ComputeGrid:
    """Features of G x G cells."""

    def __init__(self, spec: Grid) -> None:
        self.spec = spec

    @property
    def input_key(self) -> Hashable:
        return "grid", self.spec.imsize

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        return network_size_grid(height, width, self.spec.imsize)

    def network_input(self, rgb: Pixels, image_id: str = "") -> NetworkInput:
        height, width = rgb.shape[:2]
        return NetworkInput(resize_for_grid(rgb, self.spec.imsize), 1.0, height, width)

    def features(self, detector: Detector, images: Tensor, batch: Sequence[NetworkInput]) -> list[Arrays | ImageError]:
        size = self.spec.grid_size
        try:
            cells = grid_cells(images.shape[2], images.shape[3], size)
        except ImageError as error:  # of these images, which have one size; others may be wide enough
            return [error for _ in batch]
        fc6 = detector.region_features(images, [cells] * len(batch)).cpu()
        return [{"features": f} for f in fc6.reshape(len(batch), size, size, -1).numpy()]


STORED: Final[dict[Layer, dict[str, str]]] = {
    "fc6": {"features": "features"},
    "fc7": {"features": "fc7"},
    "both": {"features": "features", "features_fc7": "fc7"},
}
"""What is stored of each choice of layers: array -> attribute of ChosenBoxes."""


class ComputeBoxes:
    """Features of the N best region proposals."""

    def __init__(self, spec: Boxes) -> None:
        self.spec = spec

    @property
    def input_key(self) -> Hashable:
        return "boxes"

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        return network_size_boxes(height, width)[1]

    def network_input(self, rgb: Pixels, image_id: str = "") -> NetworkInput:
        height, width = rgb.shape[:2]
        pixels, scale = resize_for_boxes(rgb)
        return NetworkInput(pixels, scale, height, width)

    def features(self, detector: Detector, images: Tensor, batch: Sequence[NetworkInput]) -> list[Arrays | ImageError]:
        found = detector.detect(images)
        return [self._of_one(image, of_image) for image, of_image in zip(batch, found, strict=True)]

    def _of_one(self, image: NetworkInput, found: Detections) -> Arrays | ImageError:
        spec = self.spec
        try:
            chosen = choose_boxes(
                found, image.scale, spec.num_boxes,
                min_boxes=spec.min_boxes, threshold=spec.threshold, background=spec.background,
            )  # fmt: skip
        except ImageError as error:
            return error
        return self._arrays(image, chosen)

    def _arrays(self, image: NetworkInput, chosen: ChosenBoxes) -> Arrays:
        spec = self.spec
        boxes = chosen.boxes
        if spec.clip:
            boxes = clip(torch.from_numpy(boxes), (image.height, image.width)).numpy()
        layers = {name: getattr(chosen, of) for name, of in STORED[spec.layer].items()}
        arrays: Arrays = {
            "features": layers.pop("features"),
            "obj_id": chosen.obj_id,
            "boxes": boxes,
            "img_w": np.array(image.width, np.int64),
            "img_h": np.array(image.height, np.int64),
        }
        if spec.class_probs:
            first = 1 if spec.class_probs == "foreground" else 0
            arrays["cls_prob"] = np.ascontiguousarray(chosen.cls_prob[:, first:])
        if spec.obj_conf:
            arrays["obj_conf"] = chosen.obj_conf
        return {**arrays, **layers}


class ComputeGivenBoxes(ComputeBoxes):
    """Features of the boxes that a file gives."""

    spec: GivenBoxes

    def __init__(self, spec: GivenBoxes) -> None:
        super().__init__(spec)
        self._boxes_of = open_boxes(spec.boxes_from, spec.boxes_format)

    @property
    def input_key(self) -> Hashable:
        return "boxes", self.spec.boxes_from, self.spec.boxes_format

    def network_input(self, rgb: Pixels, image_id: str = "") -> NetworkInput:
        given = self._boxes_of(image_id)  # before the image is resized for nothing
        image = super().network_input(rgb, image_id)
        height, width = image.pixels.shape[:2]
        refuse_beside(given, height / image.scale, width / image.scale)
        return replace(image, given=given)

    def features(self, detector: Detector, images: Tensor, batch: Sequence[NetworkInput]) -> list[Arrays | ImageError]:
        regions = [self._in_network(image) for image in batch]
        found = detector.describe(images, regions)
        return [
            self._arrays(image, given_boxes(of_image, _given(image), background=self.spec.background))
            for image, of_image in zip(batch, found, strict=True)
        ]

    def _in_network(self, image: NetworkInput) -> Tensor:
        """The given boxes (N, 4) in pixels of the resized, padded image."""
        height, width = image.pixels.shape[:2]
        factors = {
            "image": (image.scale, image.scale),
            "vilbert-mt": (width / image.width, height / image.height),
        }[self.spec.boxes_scaling]
        return torch.from_numpy(_given(image)) * torch.tensor([*factors, *factors], dtype=torch.float32)


def _given(image: NetworkInput) -> NDArray[np.float32]:
    assert image.given is not None, "made by ComputeGivenBoxes.network_input"
    return image.given


COMPUTATIONS: Final[dict[type[Spec], type[Any]]] = {
    Grid: ComputeGrid,
    Boxes: ComputeBoxes,
    GivenBoxes: ComputeGivenBoxes,
}


def computation_of(spec: Spec) -> Computation:
    """The computing half of a spec."""
    half: Computation = COMPUTATIONS[type(spec)](spec)
    return half


def page_locked(image: NetworkInput, device: torch.device) -> NetworkInput:
    """The image where ``device`` can fetch it by itself while the host goes on: for decoding threads, that it costs the
    main path nothing."""
    if device.type != "cuda":
        return image
    return replace(image, pixels=torch.from_numpy(image.pixels).pin_memory().numpy())


def compute(
    detector: Detector, computation: Computation, batch: Sequence[NetworkInput], clock: Clock
) -> list[Arrays | ImageError]:
    """Features of a batch of one network size, image by image, or why there are none."""
    (results,) = compute_all(detector, [computation], batch, clock)
    return results


def compute_all(
    detector: Detector, computations: Sequence[Computation], batch: Sequence[NetworkInput], clock: Clock
) -> list[list[Arrays | ImageError]]:
    """What each of several computations of one network input gives of a batch, the same bits as ``compute``: the
    backbone runs once."""
    with clock("transfer"):
        # each image goes to the device by itself, so that nothing is copied here where they lie in page-locked memory
        there = [torch.from_numpy(i.pixels).to(detector.device, non_blocking=True) for i in batch]
        # (B, H, W, 3) seen as (B, 3, H, W) is channels last, without moving a number
        images = torch.stack(there).permute(0, 3, 1, 2)
    # maps that nobody asks for again are not kept
    with clock("compute"), detector.once(images) if len(computations) > 1 else nullcontext():
        return [[_finite(result) for result in c.features(detector, images, batch)] for c in computations]


def _finite(result: Arrays | ImageError) -> Arrays | ImageError:
    if isinstance(result, ImageError) or all(np.isfinite(a).all() for n, a in result.items() if "features" in n):
        return result
    return ImageError("features are not finite: numbers overflowed; use --precision float32 or bfloat16")
