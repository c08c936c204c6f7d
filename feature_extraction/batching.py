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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from .errors import ImageError
from .features import Arrays, NetworkInput
from .images.listing import ImageFile
from .progress import Progress
from .storage.source import Source

WINDOW: int = 8
"""Batches per window: enough for images of one size to find each other."""


@dataclass(frozen=True)
class Item:
    """One image on its way, with what has become of it so far."""

    image: ImageFile
    outcome: NetworkInput | Arrays | ImageError
    source: Source | None = None
    """What was read; None where nothing could be."""

    def now(self, outcome: Arrays | ImageError) -> Item:
        """The same image, one step on."""
        return replace(self, outcome=outcome)


Load = Callable[[ImageFile, Collection[int]], dict[int, Item]]
"""Reads one image for the passes of these numbers; never raises ImageError, the items carry it."""


def windows(images: Sequence[ImageFile], batch_size: int, index: int, count: int) -> Iterator[Sequence[ImageFile]]:
    """The windows of process ``index`` of ``count``."""
    size = 1 if batch_size == 1 else WINDOW * batch_size
    for number, start in enumerate(range(0, len(images), size)):
        if number % count == index:
            yield images[start : start + size]


@dataclass(frozen=True)
class Pass:
    """One network input of the images, as far as planning needs to know."""

    todo: set[str]
    """Ids of the images that something is computed of."""
    network_size: Callable[[ImageFile], Any]


@dataclass(frozen=True)
class Chunk:
    """Images that are read together, once, and all batches that are computed of them."""

    batches: Sequence[tuple[int, Sequence[ImageFile]]]
    """Each with the number of its pass."""
    skipped: int = 0
    """Images that were passed over before it."""

    @property
    def images(self) -> dict[str, tuple[ImageFile, list[int]]]:
        """By id, each with the passes that need it."""
        found: dict[str, tuple[ImageFile, list[int]]] = {}
        for number, batch in self.batches:
            for image in batch:
                found.setdefault(image.id, (image, []))[1].append(number)
        return found


def plan_batches(mine: Iterable[Sequence[ImageFile]], passes: Sequence[Pass], batch_size: int) -> Iterator[Chunk]:
    """The batches of these windows that have something to do. A pass has the batches that it has alone."""
    skipped = 0
    for window in mine:
        batches = [
            (number, batch)
            for number, one in enumerate(passes)
            if not one.todo.isdisjoint(image.id for image in window)
            for batch in (_same_size(window, batch_size, one.network_size) if batch_size > 1 else [window])
            if not one.todo.isdisjoint(image.id for image in batch)
        ]
        skipped += len(window) - len({image.id for _, batch in batches for image in batch})
        for together in _connected(batches):
            yield Chunk(together, skipped)
            skipped = 0


def _connected(batches: Sequence[tuple[int, Sequence[ImageFile]]]) -> list[list[tuple[int, Sequence[ImageFile]]]]:
    """The batches in groups that have no image in common; those of one pass alone are groups by themselves."""
    groups: list[tuple[set[str], list[tuple[int, Sequence[ImageFile]]]]] = []
    for number, batch in batches:
        ids, together = {image.id for image in batch}, [(number, batch)]
        for group in [g for g in groups if not g[0].isdisjoint(ids)]:
            groups.remove(group)
            ids |= group[0]
            together = group[1] + together
        groups.append((ids, together))
    return [together for _, together in groups]


def _same_size(
    window: Sequence[ImageFile], batch_size: int, network_size: Callable[[ImageFile], Any]
) -> Iterator[Sequence[ImageFile]]:
    groups: dict[Any, list[ImageFile]] = {}
    for image in window:
        try:
            key = network_size(image)
        except ImageError:
            key = image.id  # it will fail when it is decoded, alone
        groups.setdefault(key, []).append(image)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def of_one_size(items: Iterable[Item]) -> Iterator[list[tuple[Item, NetworkInput]]]:
    """The items that were read, in groups of one network size: a header may lie, what was decoded decides."""
    read = [(item, item.outcome) for item in items if isinstance(item.outcome, NetworkInput)]
    read.sort(key=lambda pair: pair[1].pixels.shape)
    for _, group in itertools.groupby(read, key=lambda pair: pair[1].pixels.shape):
        yield list(group)


def read_ahead(
    chunks: Iterable[Chunk], load: Load, workers: int, progress: Progress, stopping: threading.Event
) -> Iterator[list[tuple[int, list[Item]]]]:
    """The batches of each chunk, each with the number of its pass, read by a pool of threads: in order, at most about
    two images per worker and one chunk ahead.

    Ends early when ``stopping`` is set."""
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        for chunk, futures in _started_ahead(_started(pool, load, chunks, progress), 2 * workers):
            with progress.clock("wait for decode"):
                items = {image_id: future.result() for image_id, future in futures.items() if not stopping.is_set()}
            if stopping.is_set():
                return
            yield [(number, [items[image.id][number] for image in batch]) for number, batch in chunk.batches]
    finally:
        pool.shutdown(cancel_futures=True)


Started = tuple[Chunk, dict[str, Future[dict[int, Item]]]]


def _started(pool: ThreadPoolExecutor, load: Load, chunks: Iterable[Chunk], progress: Progress) -> Iterator[Started]:
    for chunk in chunks:
        progress.skip(chunk.skipped)
        yield chunk, {image_id: pool.submit(load, *needed) for image_id, needed in chunk.images.items()}


def _started_ahead(started: Iterator[Started], most: int) -> Iterator[Started]:
    """The same, a chunk and about ``most`` images before they are asked for."""
    waiting: deque[Started] = deque()
    for chunk in started:
        waiting.append(chunk)
        if len(waiting) > 1 and sum(len(futures) for _, futures in waiting) >= most:
            yield waiting.popleft()
    yield from waiting
