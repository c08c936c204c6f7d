"""The original detector, vqa-maskrcnn-benchmark, behind the interface of ``detector.faster_rcnn``: the oracle.

It is compiled in the gpu image (docker/Dockerfile); nothing here imports it before it is asked for. Weights are read
and checked by our own loader, so that no pickle is executed; then the fork computes, as the published scripts call it.

Shapes: images (B, 3, H, W) float32 BGR minus mean, H and W multiples of 32; regions (R, 4) float32 x1, y1, x2, y2 in
pixels of the resized image.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from ..errors import CheckpointError, ReferenceMissing
from ..places import to_type
from .checkpoint import read_tensors
from .config import fork_settings, read_config
from .faster_rcnn import Detections

if TYPE_CHECKING:
    from .files import CheckpointFiles

ANCHORS: Final = "rpn.anchor_generator.cell_anchors."
"""Buffers that the fork computes by itself; a checkpoint need not hold them."""
FAT_BINARY: Final = b".nv_fatbin"
"""ELF section of compiled CUDA kernels."""


def _import_fork() -> SimpleNamespace:
    """The fork's own names. torch comes first: the extension finds its libraries through it."""
    names = {
        "cfg": ("maskrcnn_benchmark.config", "cfg"),
        "build_detection_model": ("maskrcnn_benchmark.modeling.detector", "build_detection_model"),
        "BoxList": ("maskrcnn_benchmark.structures.bounding_box", "BoxList"),
        "ImageList": ("maskrcnn_benchmark.structures.image_list", "ImageList"),
    }
    found = {}
    for short, (module, name) in names.items():
        try:
            found[short] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ReferenceMissing(
                f"the reference engine needs {name} of {module} ({error}): the original detector, compiled "
                "in the gpu image, which a checkout builds (make docker-build, then ENGINE=reference RUN=container); "
                "or use --engine native"
            ) from error
    return SimpleNamespace(**found)


def _check_cuda() -> None:
    """An extension without its CUDA part imports, and fails at the first image; say so before."""
    extension = importlib.import_module("maskrcnn_benchmark._C")
    if FAT_BINARY not in Path(str(extension.__file__)).read_bytes():
        raise ReferenceMissing(
            f"{extension.__file__} was compiled without CUDA: build it with FORCE_CUDA=1, as make docker-build does, "
            "or use --device cpu"
        )


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    """The checkpoint into the fork's model, name by name. Raises CheckpointError for a tensor it lacks."""
    tensors = read_tensors(path)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    problems = [
        f"{name} {list(shape)}: " + ("missing" if name not in tensors else f"found {list(tensors[name].shape)}")
        for name, shape in wanted.items()
        if not (name not in tensors and name.startswith(ANCHORS))
        and (name not in tensors or tuple(tensors[name].shape) != shape)
    ]
    if problems:
        raise CheckpointError(
            f"{path} does not fit the fork's model in {len(problems)} tensors: {'; '.join(problems[:10])}. "
            f"Take weights and configuration from the same place ({to_type('download')} fetches both)"
        )
    model.load_state_dict({name: tensors[name] for name in wanted if name in tensors}, strict=False)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "Not compiled with GPU support" in str(error):
            raise ReferenceMissing(
                "the fork was compiled without its CUDA part (FORCE_CUDA=1): make docker-build, or --device cpu"
            ) from error
        raise


class ReferenceDetector:
    """The fork's model, called as the published scripts call it."""

    def __init__(self, fork: SimpleNamespace, model: Any) -> None:
        self.fork = fork
        self.model = model

    @staticmethod
    def _input(images: Tensor) -> Tensor:
        # The fork's CPU RoIAlign reads (B, C, H, W) memory without asking; channels last would be silently wrong.
        return images.float().contiguous()

    def once(self, images: Tensor) -> AbstractContextManager[None]:
        """The fork keeps nothing: every call computes all."""
        return nullcontext()

    @torch.no_grad()
    def region_features(self, images: Tensor, regions: list[Tensor]) -> Tensor:
        """fc6 (sum of R_i, F) float32 of given regions, image after image."""
        fc6: Tensor = self._head(images, regions)["fc6"]
        return fc6.float()

    @torch.no_grad()
    def describe(self, images: Tensor, regions: list[Tensor]) -> list[Detections]:
        """Features and class scores of given regions, image by image."""
        there = [r.to(images.device) for r in regions]
        head = self._head(images, there)
        return self._said([(r, r.new_ones(len(r))) for r in there], head)

    def _head(self, images: Tensor, regions: list[Tensor]) -> dict[str, Any]:
        images = self._input(images)
        size = (images.shape[3], images.shape[2])  # the fork's BoxList wants (W, H)
        proposals = [self.fork.BoxList(r.to(images.device), size, mode="xyxy") for r in regions]
        with _explained():
            pyramid = [level.contiguous() for level in self.model.backbone(images)]
            head: dict[str, Any] = self.model.roi_heads(pyramid, proposals)[0]
        return head

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[Detections]:
        """Proposals, features and class scores of every image."""
        images = self._input(images)
        # the size of the padded image for every one of them, as the fork's own to_image_list records it
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        with _explained():
            found = self.model(self.fork.ImageList(images, sizes))[0]
        return self._said([(p.bbox, p.get_field("objectness")) for p in found["proposals"]], found)

    @staticmethod
    def _said(regions: list[tuple[Tensor, Tensor]], head: dict[str, Any]) -> list[Detections]:
        """Of regions (R_i, 4) with their objectness, image by image, what the fork's box head returns of all."""
        counts = [len(r) for r, _ in regions]
        said = (head[name].float().split(counts) for name in ("fc6", "fc7", "scores"))
        return [Detections(*region, *of_image) for region, *of_image in zip(regions, *said, strict=True)]


def load(files: CheckpointFiles, device: torch.device) -> ReferenceDetector:
    """The fork with these weights on ``device``. Raises ReferenceMissing (an ImportError) or CheckpointError."""
    fork = _import_fork()
    if device.type == "cuda":
        _check_cuda()
    read_config(files.config)  # what neither engine is built for is refused in the same words
    config = fork.cfg.clone()  # the fork's own is global and would remember
    try:
        config.merge_from_file(str(files.config))
        config.merge_from_list(["MODEL.DEVICE", device.type, *fork_settings()])
    except Exception as error:  # yacs raises KeyError, ValueError and AssertionError alike
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{files.config} is not a configuration the fork accepts: {reason}") from error
    model = fork.build_detection_model(config)
    _load_weights(model, files.model)
    return ReferenceDetector(fork, model.to(device).eval())
