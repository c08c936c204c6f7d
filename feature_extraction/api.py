"""The Python API: features of images in memory or on disk, the same numbers as the commands write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import closing
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, overload

import numpy as np
from numpy.typing import NDArray

from .class_names import Names, class_names, names_in
from .config import DECODERS, Boxes, Decoder, Engine, ExtractConfig, Grid, Precision
from .detector.build import choose_device, load_detector
from .detector.files import find_checkpoint
from .errors import ImageError, UsageError
from .features import Arrays, Computation, computation_of
from .images.decode import IMAGE_TYPES, ImageLike
from .progress import Progress
from .recipe import SIZE_DIVISOR
from .streaming import Stream

OnError = Literal["raise", "yield"]


@dataclass(frozen=True, eq=False)  # arrays have no truth value that == could give
class GridFeatures:
    """Grid features of one image."""

    features: NDArray[np.float32]
    """(G, G, F) float32: fc6 after ReLU of each cell; row 0 is the top of the image, column 0 its left."""


@dataclass(frozen=True, eq=False)
class BoxFeatures:
    """Box features of one image, best box first."""

    features: NDArray[np.float32]
    """(N, F) float32: fc6 after ReLU, pooled from the proposal."""
    boxes: NDArray[np.float32]
    """(N, 4) float32: x1, y1, x2, y2 in pixels of the original image."""
    obj_id: NDArray[np.int64]
    """(N,) int64: the best class without background, 0..1599 for Visual Genome's 1600; -1: the background, where a
    spec counts it as a class."""
    cls_prob: NDArray[np.float32]
    """(N, classes) float32: softmax over all classes, background first."""
    img_w: int
    """Pixels of the original image."""
    img_h: int
    obj_conf: NDArray[np.float32] | None = None
    """(N,) float32: the score that ranked the box; 0: it has none."""
    features_fc7: NDArray[np.float32] | None = None
    """(N, F) float32: fc7 after ReLU, of a spec that asks for both layers."""
    names: tuple[str, ...] | None = None
    """Of the class of each box, empty where it has none; None: the names are not known (``FeatureExtractor``)."""


class FeatureExtractor:
    """A detector on a device. Extractors of different precision may live in one process.

    Args:
        checkpoint_dir: folder with detectron_model.pth and detectron_config.yaml; None: ``CHECKPOINT`` of the
            environment, ./mask_rcnn_ckpt, or the checkout's.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        precision: "float32" (the published arithmetic), "tf32", "bfloat16" or "float16".
        engine: "native", or "reference" where the fork is installed (the container).
        decode: "proper", or "as_published" for the published reading of palette files.
        names: of the classes: a text file, one a line, or the names themselves; None: objects_vocab.txt beside the
            checkpoint, where there is one.

    Raises:
        CheckpointError: files missing, damaged, or of another model.
        DeviceError: a device or precision that this machine does not have.
        UsageError: an engine or decoder that is none; a file of names that cannot be read.

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
        >>> for grid in extractor.iter_grid([photograph] * 3, batch_size=2):  # any iterable, read as it is needed
        ...     print(grid.features.shape[:2])
        (8, 8)
        (8, 8)
        (8, 8)
    """

    def __init__(
        self,
        checkpoint_dir: str | os.PathLike[str] | None = ExtractConfig.checkpoint_dir,
        *,
        device: str = ExtractConfig.device,
        precision: Precision = ExtractConfig.precision,
        engine: Engine = ExtractConfig.engine,
        decode: Decoder = ExtractConfig.decode,
        names: Names | None = None,
    ) -> None:
        if decode not in DECODERS:
            raise UsageError(f"no decoder {decode!r}: known are {', '.join(DECODERS)}")
        files = find_checkpoint(None if checkpoint_dir is None else Path(checkpoint_dir))
        self._detector = load_detector(files, engine=engine, device=choose_device(device), precision=precision)
        self._decode: Decoder = decode
        self._names = names_in(files.model.parent) if names is None else class_names(names)

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
        images: ImageLike | Iterable[ImageLike],
        *,
        grid_size: int = Grid.grid_size,
        imsize: int | None = Grid.imsize,
        batch_size: int = ExtractConfig.batch_size,
        progress: bool = False,
    ) -> list[GridFeatures]:
        """Features of grid_size x grid_size cells of each image, in the order given.

        ``imsize`` (a multiple of 32) resizes every image to that many pixels squared instead of by its sides.
        ``batch_size``: images of one network size that are computed together, the last bits of a feature may depend
        on it. ``progress``: show a bar. Raises ImageError, which names the position in ``images`` and the path, for one
        that cannot be used."""
        return list(
            self.iter_grid(images, grid_size=grid_size, imsize=imsize, batch_size=batch_size, progress=progress)
        )

    def boxes(
        self,
        images: ImageLike | Iterable[ImageLike],
        num_boxes: int = Boxes.num_boxes,
        *,
        spec: Boxes | None = None,
        batch_size: int = ExtractConfig.batch_size,
        progress: bool = False,
    ) -> list[BoxFeatures]:
        """The ``num_boxes`` best boxes of each image, in the order given; or those of a ``spec``: ``Boxes`` with other
        settings, a recipe's (``RECIPES["mmf"].spec``), or ``GivenBoxes``, whose image ids are the names of the files.
        cls_prob and obj_conf are always there, with the background. The rest as for ``grid``."""
        return list(self.iter_boxes(images, num_boxes, spec=spec, batch_size=batch_size, progress=progress))

    @overload
    def iter_grid(
        self, images: ImageLike | Iterable[ImageLike], *, grid_size: int = ..., imsize: int | None = ...,
        batch_size: int = ..., progress: bool = ..., on_error: Literal["raise"] = ...,
    ) -> Iterator[GridFeatures]: ...  # fmt: skip
    @overload
    def iter_grid(
        self, images: ImageLike | Iterable[ImageLike], *, grid_size: int = ..., imsize: int | None = ...,
        batch_size: int = ..., progress: bool = ..., on_error: OnError,
    ) -> Iterator[GridFeatures | ImageError]: ...  # fmt: skip
    def iter_grid(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        grid_size: int = Grid.grid_size,
        imsize: int | None = Grid.imsize,
        batch_size: int = ExtractConfig.batch_size,
        progress: bool = False,
        on_error: OnError = "raise",
    ) -> Iterator[GridFeatures | ImageError]:
        """What ``grid`` gives, one image after the other: for more images than memory holds.

        ``images`` is any iterable and taken as it is needed; threads decode ahead. At most 8 batches of images wait,
        so that those of one size find each other. ``on_error="yield"`` gives the ImageError in the image's place and
        goes on."""
        _check_whole("grid_size", grid_size)
        if imsize is not None:
            _check_whole("imsize", imsize, SIZE_DIVISOR)
        computation = computation_of(Grid(grid_size=grid_size, imsize=imsize))
        return _each(self._stream(computation, batch_size), images, _grid_features, progress, on_error)

    @overload
    def iter_boxes(
        self, images: ImageLike | Iterable[ImageLike], num_boxes: int = ..., *, spec: Boxes | None = ...,
        batch_size: int = ..., progress: bool = ..., on_error: Literal["raise"] = ...,
    ) -> Iterator[BoxFeatures]: ...  # fmt: skip
    @overload
    def iter_boxes(
        self, images: ImageLike | Iterable[ImageLike], num_boxes: int = ..., *, spec: Boxes | None = ...,
        batch_size: int = ..., progress: bool = ..., on_error: OnError,
    ) -> Iterator[BoxFeatures | ImageError]: ...  # fmt: skip
    def iter_boxes(
        self,
        images: ImageLike | Iterable[ImageLike],
        num_boxes: int = Boxes.num_boxes,
        *,
        spec: Boxes | None = None,
        batch_size: int = ExtractConfig.batch_size,
        progress: bool = False,
        on_error: OnError = "raise",
    ) -> Iterator[BoxFeatures | ImageError]:
        """What ``boxes`` gives, one image after the other, as ``iter_grid`` does it."""
        _check_whole("num_boxes", num_boxes)
        if spec is not None and not isinstance(spec, Boxes):
            expected = "Boxes(...), GivenBoxes(...), or a recipe's: RECIPES['mmf'].spec"
            raise UsageError(f"spec is of type {type(spec).__name__}: expected {expected}")
        computation = computation_of(
            replace(Boxes(num_boxes=num_boxes) if spec is None else spec, class_probs=True, obj_conf=True)
        )
        return _each(self._stream(computation, batch_size), images, self._box_features, progress, on_error)

    def _stream(self, computation: Computation, batch_size: int) -> Stream:
        _check_whole("batch_size", batch_size)
        return Stream(detector=self._detector, computation=computation, decode=self._decode, batch_size=batch_size)

    def _box_features(self, arrays: Arrays) -> BoxFeatures:
        classes = arrays["obj_id"]
        known = self._names
        names = None if known is None else tuple(known[c] if 0 <= c < len(known) else "" for c in classes.tolist())
        return BoxFeatures(
            features=arrays["features"], boxes=arrays["boxes"], obj_id=classes, cls_prob=arrays["cls_prob"],
            img_w=int(arrays["img_w"]), img_h=int(arrays["img_h"]), obj_conf=arrays["obj_conf"],
            features_fc7=arrays.get("features_fc7"), names=names,
        )  # fmt: skip


def _check_whole(name: str, value: object, multiple: int = 1) -> None:
    """Raises UsageError for anything but a whole number above 0, or a multiple of another."""
    if not isinstance(value, Integral) or value < 1 or value % multiple:
        expected = f"a multiple of {multiple}" if multiple > 1 else "a whole number from 1"
        raise UsageError(f"{name} is {value!r}: expected {expected}")


def _grid_features(arrays: Arrays) -> GridFeatures:
    return GridFeatures(arrays["features"])


Found = TypeVar("Found", GridFeatures, BoxFeatures)


def _each(
    stream: Stream,
    images: ImageLike | Iterable[ImageLike],
    found_in: Callable[[Arrays], Found],
    progress: bool,
    on_error: OnError,
) -> Iterator[Any]:
    """What was found in each image, or in its place the ImageError, which is raised unless it is asked for."""
    if on_error not in get_args(OnError):
        raise UsageError(f"on_error={on_error!r}: expected {' or '.join(map(repr, get_args(OnError)))}")
    if not isinstance(images, (*IMAGE_TYPES, Iterable)) or isinstance(images, bytes | bytearray):
        raise TypeError(
            f"images of type {type(images).__name__}: expected a path, a PIL image, a uint8 array (H, W, 3) in RGB, or "
            "an iterable of these"
        )
    several = [images] if isinstance(images, IMAGE_TYPES) else images
    total = len(several) if isinstance(several, Sized) else None

    def results() -> Iterator[Found | ImageError]:
        with closing(stream.run(several, Progress(total, "images", bar=progress))) as outcomes:
            for outcome in outcomes:
                if not isinstance(outcome, ImageError):
                    yield found_in(outcome)
                elif on_error == "yield":
                    yield outcome
                else:
                    raise outcome

    return results()
