"""Which images share a batch, and decoding ahead of the detector.

Which images share a batch depends on the list alone, not on what is done or on the number of processes: the last bits
of a feature may depend on the batch it was computed in. Images are cut into windows; every n-th window is one
process's; within one, images of the same network size are put together. Where several kinds of features are computed
at once, each has the batches that it has alone, and an image is read once for all of them.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from .errors import ImageError
from .features import Arrays, NetworkInput
from .images.listed import ListedImage
from .progress import Clock
from .storage.source import Source

WINDOW: int = 8
"""Batches per window: enough for images of one size to find each other."""


Image = TypeVar("Image")
"""What tells an image: a file of a listing, or one of a stream."""


@dataclass(frozen=True)
class Item(Generic[Image]):
    """One image on its way, with what has become of it so far."""

    image: Image
    outcome: NetworkInput | Arrays | ImageError
    source: Source | None = None
    """What was read; None where nothing could be."""

    def now(self, outcome: Arrays | ImageError) -> Item[Image]:
        """The same image, one step on."""
        return replace(self, outcome=outcome)


Loaded = TypeVar("Loaded")
"""What reading one image gives: an item, or one for each pass. An ImageError is never raised, the item carries it."""


Window = Sequence[ListedImage]
"""Images among which company is looked for."""


def windows(images: Sequence[ListedImage], batch_size: int, index: int, count: int) -> Iterator[Window]:
    """The windows of process ``index`` of ``count``."""
    size = 1 if batch_size == 1 else WINDOW * batch_size
    for number, start in enumerate(range(0, len(images), size)):
        if number % count == index:
            yield images[start : start + size]


@dataclass(frozen=True)
class Looked:
    """An image, and what its header says."""

    image: ListedImage
    """Its bytes are at hand, where fetching them is costly."""
    size: tuple[int, int] | ImageError | None = None
    """(H, W) in pixels of the original, or why there is none; None where nobody has to know."""


@dataclass(frozen=True)
class Pass:
    """One network input of the images, as far as planning needs to know."""

    todo: set[str]
    """Ids of the images that something is computed of."""
    network_size: Callable[[int, int], Any]
    """What images of one batch have in common, of the original's (H, W). Raises ImageError."""

    def lacks(self, images: Iterable[ListedImage]) -> bool:
        """Whether it has something to do in a window or batch."""
        return not self.todo.isdisjoint(image.id for image in images)


Skip = Callable[[int], None]
"""Takes the number of images that are passed over."""
Batch = tuple[int, Sequence[ListedImage]]
"""The number of its pass, and its images."""


@dataclass(frozen=True)
class Chunk:
    """Images that are read together, once, and all batches that are computed of them."""

    batches: Sequence[Batch]

    @property
    def images(self) -> list[tuple[ListedImage, list[int]]]:
        """Each with the passes that need it."""
        found: dict[str, tuple[ListedImage, list[int]]] = {}
        for number, batch in self.batches:
            for image in batch:
                found.setdefault(image.id, (image, []))[1].append(number)
        return list(found.values())


def lacking(
    mine: Iterable[Sequence[ListedImage]], passes: Sequence[Pass], skip: Skip
) -> Iterator[Sequence[ListedImage]]:
    """The windows in which a pass has something to do."""
    for window in mine:
        if any(one.lacks(window) for one in passes):
            yield window
        else:
            skip(len(window))


def look_ahead(mine: Iterable[Window], look: Callable[[ListedImage], Looked], workers: int) -> Generator[list[Looked]]:
    """The windows with what a pool of threads has seen of their images, those of the next one while this one is
    computed. An image that has no company is not looked at."""
    pool = ThreadPoolExecutor(workers, "look")
    started = ([pool.submit(look if len(window) > 1 else Looked, image) for image in window] for window in mine)
    try:
        for futures in _started_ahead(started, 1):
            yield [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def plan_batches(
    mine: Iterable[Sequence[Looked]], passes: Sequence[Pass], batch_size: int, skip: Skip
) -> Iterator[Chunk]:
    """The batches of these windows that have something to do. A pass has the batches that it has alone."""
    for window in mine:
        sizes = {looked.image.id: looked.size for looked in window}
        images = [looked.image for looked in window]
        batches = [
            (number, batch)
            for number, one in enumerate(passes)
            if one.lacks(images)
            for batch in of_network_size(images, batch_size, partial(_network_size, one, sizes))
            if one.lacks(batch)
        ]
        skip(len(images) - len({image.id for _, batch in batches for image in batch}))
        yield from map(Chunk, _connected(batches))


def _network_size(one: Pass, sizes: Mapping[str, tuple[int, int] | ImageError | None], image: ListedImage) -> Any:
    size = sizes[image.id]
    if isinstance(size, ImageError):
        raise size
    return size and one.network_size(*size)


def _connected(batches: Sequence[Batch]) -> list[list[Batch]]:
    """The batches in groups that have no image in common; those of one pass alone are groups by themselves."""
    groups: list[tuple[set[str], list[Batch]]] = []
    for number, batch in batches:
        ids, together = {image.id for image in batch}, [(number, batch)]
        for group in [g for g in groups if not g[0].isdisjoint(ids)]:
            groups.remove(group)
            ids |= group[0]
            together = group[1] + together
        groups.append((ids, together))
    return [together for _, together in groups]


def of_network_size(
    images: Sequence[Image], batch_size: int, network_size: Callable[[Image], Any]
) -> Iterator[Sequence[Image]]:
    """The images of a window in batches of one network size, as far as it is known before they are decoded."""
    groups: dict[Any, list[Image]] = {}
    for image in images:
        try:
            key = network_size(image)
        except ImageError:
            key = object()  # it will fail when it is decoded, alone
        groups.setdefault(key, []).append(image)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def of_one_size(items: Iterable[Item[Image]]) -> Iterator[list[tuple[Item[Image], NetworkInput]]]:
    """The items that were read, in groups of one network size: a header may lie, what was decoded decides."""
    read = [(item, item.outcome) for item in items if isinstance(item.outcome, NetworkInput)]
    read.sort(key=lambda pair: pair[1].pixels.shape)
    for _, group in itertools.groupby(read, key=lambda pair: pair[1].pixels.shape):
        yield list(group)


def read_ahead(
    batches: Iterable[Sequence[Image]],
    load: Callable[[Image], Loaded],
    workers: int,
    clock: Clock,
    stopping: threading.Event,
) -> Generator[list[Loaded]]:
    """Batches decoded by a pool of threads, in order, at most about two images per worker and one batch ahead.

    Ends early when ``stopping`` is set."""
    pool = ThreadPoolExecutor(workers, "decode")
    started = ([pool.submit(load, image) for image in batch] for batch in batches)
    try:
        for futures in _started_ahead(started, 2 * workers):
            with clock("wait for decode"):
                items = [future.result() for future in futures if not stopping.is_set()]
            if stopping.is_set():
                return
            yield items
    finally:
        pool.shutdown(cancel_futures=True)


def _started_ahead(started: Iterator[list[Future[Loaded]]], most: int) -> Iterator[list[Future[Loaded]]]:
    """The same, a batch and about ``most`` images before they are asked for."""
    waiting: deque[list[Future[Loaded]]] = deque()
    for futures in started:
        waiting.append(futures)
        if len(waiting) > 1 and sum(map(len, waiting)) >= most:
            yield waiting.popleft()
    yield from waiting
