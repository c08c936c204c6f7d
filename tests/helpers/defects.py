"""Published files made with one thing wrong, each by lines of its own: what ``scripts.verify`` has to recognise.

They share the detector with the program, and nothing of its table of hypotheses.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from feature_extraction import recipe
from feature_extraction.config import Boxes, Grid, Spec
from feature_extraction.detector import boxes as box_ops
from feature_extraction.detector.build import Detector, load_detector
from feature_extraction.detector.checkpoint import expected_tensors
from feature_extraction.detector.config import read_config
from feature_extraction.detector.files import find_checkpoint
from feature_extraction.detector.layers import Conv
from feature_extraction.detector.synthetic import tensor
from feature_extraction.features import computation_of
from feature_extraction.images.decode import decode_image
from feature_extraction.regions import choose_boxes, grid_cells

from .common import photograph

Arrays = dict[str, NDArray[Any]]
MEAN = np.array((102.9801, 115.9465, 122.7717), np.float32)
IMAGES = {
    "1_cat": ("chelsea", np.s_[90:180], "jpg", 6),
    "2_cup": ("coffee", np.s_[150:270], "jpg", 1),
    "3_tripod": ("camera", np.s_[:, 180:290], "png", 1),
    "4_table": ("coffee", np.s_[:100], "png", 1),
    "5_ear": ("chelsea", np.s_[:, 100:190], "jpg", 8),
    "6_coins": ("coins", np.s_[60:150], "jpg", 1),
}
"""Id -> photograph, which part of it, format, EXIF orientation. Narrow ones, which the network sees small."""


def write_images(folder: Path) -> dict[str, Path]:
    """The photographs as files; id -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for image_id, (name, part, suffix, orientation) in IMAGES.items():
        paths[image_id] = folder / f"{image_id}.{suffix}"
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(np.ascontiguousarray(photograph(name)[part]))
        image.save(paths[image_id], **({"exif": exif, "quality": 88} if suffix == "jpg" else {}))
    return paths


@functools.cache
def detector(checkpoint: Path, precision: str = "float32") -> Detector:
    return load_detector(find_checkpoint(checkpoint), engine="native", device=torch.device("cpu"), precision=precision)


def write_other_checkpoint(folder: Path, config: Path) -> Path:
    """Weights of the same shapes, drawn from other names."""
    folder.mkdir(parents=True)
    (folder / "detectron_config.yaml").write_text(config.read_text())
    shapes = expected_tensors(read_config(config))
    model = {name: torch.from_numpy(tensor(f"another.{name}", shape)) for name, shape in shapes.items()}
    torch.save({"model": model}, folder / "detectron_model.pth")
    return folder


def rgb_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@dataclasses.dataclass
class Published:
    """One way of computing features; what is wrong is another value of one of its fields."""

    checkpoint: Path
    precision: str = "float32"
    decode: Callable[[Path], NDArray[np.uint8]] = rgb_of
    colours: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda rgb: rgb[..., ::-1] - MEAN
    """RGB 0..255, original size -> what is resized."""
    interpolation: int = cv2.INTER_LINEAR
    floored: bool = True
    batch: tuple[int, int] = (0, 0)
    model: Callable[[Any], Any] = lambda model: model
    own_limits: bool = False
    """Proposals clipped to the resized image."""

    def compute(self, path: Path, spec: Spec) -> Arrays:
        rgb = self.decode(path)
        network_input, size, scale = self.network_input(rgb, spec)
        there = detector(self.checkpoint, self.precision)
        there = dataclasses.replace(there, model=self.model(there.model))
        if isinstance(spec, Grid):
            cells = grid_cells(*self._multiples(size, up=not self.floored), spec.grid_size)
            features = there.region_features(network_input, [cells])
            return {"features": features.numpy().reshape(8, 8, -1)}
        limits = size if self.own_limits else self._multiples(size, up=True)
        with _clipping_to(limits):
            chosen = choose_boxes(there.detect(network_input)[0], scale, spec.num_boxes)
        height, width = rgb.shape[:2]
        return {
            "features": chosen.features, "boxes": chosen.boxes, "obj_id": chosen.obj_id,
            "img_w": np.array(width, np.int64), "img_h": np.array(height, np.int64),
        }  # fmt: skip

    @staticmethod
    def _multiples(size: tuple[int, int], *, up: bool) -> tuple[int, int]:
        return tuple(-(-side // 32) * 32 if up else side // 32 * 32 for side in size)

    def network_input(self, rgb: NDArray[np.uint8], spec: Spec) -> tuple[torch.Tensor, tuple[int, int], float]:
        height, width = rgb.shape[:2]
        scale = 800 / min(height, width)
        if round(scale * max(height, width)) > 1333:
            scale = 1333 / max(height, width)
        pixels = np.ascontiguousarray(self.colours(rgb.astype(np.float32)))
        if isinstance(spec, Grid) and self.floored:
            size = self._multiples((int(scale * height), int(scale * width)), up=False)
            resized = cv2.resize(pixels, size[::-1], interpolation=self.interpolation)
        else:
            resized = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=self.interpolation)
            size = resized.shape[:2]
        room = np.maximum(self._multiples(size, up=True), self.batch)
        padded = np.zeros((*room, 3), np.float32)
        padded[: size[0], : size[1]] = resized
        return torch.from_numpy(padded[None]).permute(0, 3, 1, 2), size, scale


@contextmanager
def _clipping_to(size: tuple[int, int]) -> Iterator[None]:
    before = box_ops.clip
    box_ops.clip = lambda boxes, _: before(boxes, size)
    try:
        yield
    finally:
        box_ops.clip = before


# --- what is wrong ---------------------------------------------------------------------------------------------


def imagenet(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    return ((rgb / 255 - np.array((0.485, 0.456, 0.406))) / np.array((0.229, 0.224, 0.225))).astype(np.float32)


def turned(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def repeated_chroma(path: Path) -> NDArray[np.uint8]:
    """JPEG as a decoder without smooth enlarging of the colours has it, in whole numbers."""
    if path.suffix != ".jpg" or Image.open(path).mode != "RGB":
        return rgb_of(path)
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image.draft("YCbCr", image.size)
        width, height = image.size
        y = np.asarray(image)[..., 0].astype(np.int64)
    with Image.open(io.BytesIO(content)) as image:
        image.draft("YCbCr", (-(-width // 2), -(-height // 2)))
        cb, cr = (np.kron(np.asarray(image)[..., c].astype(np.int64) - 128, np.ones((2, 2), int))[:height, :width]
                  for c in (1, 2))  # fmt: skip
    red, blue = (91881 * cr + 32768) >> 16, (116130 * cb + 32768) >> 16
    green = (-22554 * cb - 46802 * cr + 32768) >> 16
    return np.stack([y + red, y + green, y + blue], -1).clip(0, 255).astype(np.uint8)


def to_ten_bits(x: torch.Tensor) -> torch.Tensor:
    """A float32's mantissa rounded to 10 bits, by adding and taking away 2^13 units of the last place."""
    big = x * (2.0**13 + 1)
    return big - (big - x)


def in_tf32(model: Any) -> Any:
    """All factors of all convolutions and products have 10 bits."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, Conv):
            module.weight = to_ten_bits(module.weight).to(memory_format=torch.channels_last)
            module.register_forward_pre_hook(lambda _, x: (to_ten_bits(x[0]), *x[1:]))
    head = model.head
    for name in ("fc6_weight", "fc7_weight", "cls_weight"):
        setattr(head, name, to_ten_bits(getattr(head, name)))
    fc6, logits = head.fc6, head.class_logits
    head.fc6 = lambda pooled: fc6(to_ten_bits(pooled))
    head.class_logits = lambda x: logits(to_ten_bits(x))
    return model


def as_unfolded(model: Any) -> Any:
    """``in_tf32`` of a program that scales the sums of its convolutions afterwards, and so rounds other weights."""
    scales = []
    model = copy.deepcopy(model)
    convolutions = [module for module in model.modules() if isinstance(module, Conv)]
    for seed, conv in enumerate(convolutions):
        draw = torch.Generator().manual_seed(seed)
        scales.append(1 + torch.rand((len(conv.weight), 1, 1, 1), generator=draw))
        conv.weight = conv.weight * scales[-1]
    rounded = in_tf32(model)
    convolutions = [module for module in rounded.modules() if isinstance(module, Conv)]
    for conv, scale in zip(convolutions, scales, strict=True):
        conv.weight = (conv.weight / scale).contiguous(memory_format=torch.channels_last)
    return rounded


def of_fc7(model: Any) -> Any:
    """A model whose features are the next layer's; its classes are as ever."""
    model = copy.copy(model)

    def fc7(features: torch.Tensor) -> torch.Tensor:
        return (features @ model.head.fc7_weight.T + model.head.fc7_bias).relu()

    region_features, detect = model.region_features, model.detect
    model.region_features = lambda *a: fc7(region_features(*a))
    model.detect = lambda *a: [dataclasses.replace(found, fc6=fc7(found.fc6)) for found in detect(*a)]
    return model


@contextmanager
def inclusive() -> Iterator[None]:
    """Boxes go at IoU >= threshold."""
    before = box_ops.overlaps
    box_ops.overlaps = lambda boxes, threshold: before(boxes, threshold) | before(boxes, np.nextafter(
        np.float32(threshold), np.float32(-1)).item())  # fmt: skip
    try:
        yield
    finally:
        box_ops.overlaps = before


def tying_threshold(checkpoint: Path, path: Path) -> float:
    """An overlap of a chosen box with one that is better in its class: as a threshold it decides by > or >= whether
    the box is among the best. To the bit, so that the program's own input is what it is computed of."""
    spec = Boxes()
    image = computation_of(spec).network_input(decode_image(path))
    network_input, scale = torch.from_numpy(image.pixels[None]).permute(0, 3, 1, 2), image.scale
    found = detector(checkpoint).detect(network_input)[0]
    boxes, prob = found.proposals / scale, found.logits.softmax(-1)[:, 1:]
    best, overlap = prob.argmax(1), _ious(boxes)
    before = recipe.CLASS_NMS_IOU
    try:
        for row in torch.from_numpy(choose_boxes(found, scale, 36).boxes)[5:25]:
            index = int((boxes == row).all(1).nonzero()[0])
            better = prob[:, best[index]] > prob[index, best[index]]
            for value in overlap[index][better & (overlap[index] > 0.3) & (overlap[index] < 0.7)].tolist():
                recipe.CLASS_NMS_IOU = value
                more = choose_boxes(found, scale, spec.num_boxes).boxes
                with inclusive():
                    fewer = choose_boxes(found, scale, spec.num_boxes).boxes
                if (more == row.numpy()).all(1).any() and not (fewer == row.numpy()).all(1).any():
                    return value
    finally:
        recipe.CLASS_NMS_IOU = before
    raise AssertionError("no two proposals whose tie matters")


def _ious(boxes: torch.Tensor) -> torch.Tensor:
    a, b = boxes[:, None], boxes[None]
    w = (torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0]) + 1).clamp(min=0)
    h = (torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1]) + 1).clamp(min=0)
    area = box_ops.area(boxes)
    return w * h / (area[:, None] + area[None, :] - w * h)


def write_features(path: Path, images: Mapping[str, Arrays]) -> None:
    """A file of the published layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for image_id, arrays in images.items():
            for name, array in arrays.items():
                file[f"{image_id}/{name}"] = array
