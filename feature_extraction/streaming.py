"""Features of a stream of images in memory or on disk: decoded ahead, batched by size, given in the order they came.

What ``extract`` is to a folder and a feature file, this is to any iterable of Python: taken lazily, in bounded memory.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from PIL import Image

from . import machine
from .batching import WINDOW, Item, of_network_size, read_ahead
from .config import Decoder
from .detector.build import Detector
from .errors import ImageError
from .extract import computed
from .features import Arrays, Computation, page_locked
from .images.decode import ImageLike, Pixels, checked_image, decode_image, size_of
from .names import printable
from .progress import Progress


@dataclass(frozen=True)
class Numbered:
    """One image of a stream."""

    position: int
    """Counted from 0."""
    image: ImageLike


@dataclass(frozen=True, kw_only=True)
class Stream:
    """How a stream of images becomes features."""

    detector: Detector
    computation: Computation
    decode: Decoder
    batch_size: int
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def run(self, images: Iterable[ImageLike], progress: Progress) -> Generator[Arrays | ImageError]:
        """Arrays of each image, or why there are none, in the order of ``images``; an error names position and path.

        No more is held than a window of ``WINDOW`` batches with its results, and what is decoded ahead: a batch and
        about two images for each decoding thread."""
        done: dict[int, Arrays | ImageError] = {}
        position = failed = 0
        reader = read_ahead(
            self._batches(images), self._load, machine.decoding_threads(), progress.clock, threading.Event()
        )
        with closing(reader), closing(progress):
            for items in reader:
                for item in computed(self.detector, self.computation, items, progress.clock):
                    failed += isinstance(item.outcome, ImageError)
                    done[item.image.position] = _named(item)
                progress.advance(len(items), failed)
                while position in done:
                    yield done.pop(position)
                    position += 1

    def _batches(self, images: Iterable[ImageLike]) -> Iterator[Sequence[Numbered]]:
        numbered = itertools.starmap(_numbered, enumerate(images))
        if self.batch_size == 1:
            yield from ([image] for image in numbered)
            return
        while window := list(itertools.islice(numbered, WINDOW * self.batch_size)):
            yield from of_network_size(window, self.batch_size, self._network_size)

    def _network_size(self, image: Numbered) -> tuple[int, int]:
        return self.computation.network_size(*size_of(image.image))

    def _load(self, image: Numbered) -> Item[Numbered]:
        try:
            image_id = Path(image.image).stem if isinstance(image.image, str | os.PathLike) else ""
            pixels = self.computation.network_input(self._decoded(image.image), image_id)
            return Item(image, page_locked(pixels, self.detector.device))
        except ImageError as error:
            return Item(image, error)

    def _decoded(self, image: ImageLike) -> Pixels:
        if not isinstance(image, Image.Image):
            return decode_image(image, self.decode)
        with self._one_at_a_time:  # the same PIL image may be in the stream twice, and loads itself when it is used
            return decode_image(image, self.decode)


def _numbered(position: int, image: ImageLike) -> Numbered:
    return Numbered(position, checked_image(image, f"image {position}"))


def _named(item: Item[Numbered]) -> Arrays | ImageError:
    """What became of the image; an error with the image's position and, where it has one, its path."""
    error, image = item.outcome, item.image.image
    if not isinstance(error, ImageError):
        return cast(Arrays, error)
    path = f" ({printable(image)})" if isinstance(image, str | os.PathLike) else ""
    named = ImageError(f"image {item.image.position}{path}: {error}")
    named.__cause__ = error
    return named
