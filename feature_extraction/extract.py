"""The main path: images -> detector -> regions -> store. Decoding runs ahead, writing runs behind.

Shape legend: B images of one network size (H, W); G cells per side; N boxes; F = feature dimension.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .catalog import Kind
from .detector.build import Engine
from .errors import ImageError
from .images.decode import Decode, decode, read_size
from .images.listing import Failure, ImageFile
from .images.preprocess import network_size_boxes, network_size_grid, resize_for_boxes, resize_for_grid
from .progress import Clock, Progress
from .regions import choose_boxes, grid_cells
from .storage.output import Store

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Task:
    """What is computed of an image; every field decides values."""

    kind: Kind
    grid_size: int
    num_boxes: int
    imsize: int | None
    class_probs: bool
    decode: Decode
    batch_size: int

    def bytes_per_image(self, feature_dim: int, num_classes: int) -> int:
        """Size of one image's arrays in the file, with HDF5's overhead."""
        if self.kind == "grid":
            return self.grid_size**2 * feature_dim * 4 + 1024
        per_box = feature_dim * 4 + 8 + 16 + (num_classes * 4 if self.class_probs else 0)
        return self.num_boxes * per_box + 4096


@dataclass(frozen=True)
class NetworkInput:
    """One decoded and resized image."""

    id: str
    pixels: NDArray[np.float32]
    """(H, W, 3) BGR minus mean, resized (boxes: and padded)."""
    scale: float
    """Resized / original side."""
    height: int
    width: int
    """Pixels of the original image."""


def prepare(source: Any, image_id: str, task: Task) -> NetworkInput:
    """Decode and resize one image. Raises ImageError."""
    rgb = decode(source, task.decode)
    height, width = rgb.shape[:2]
    if task.kind == "grid":
        return NetworkInput(image_id, resize_for_grid(rgb, task.imsize), 1.0, height, width)
    pixels, scale = resize_for_boxes(rgb)
    return NetworkInput(image_id, pixels, scale, height, width)


def compute(engine: Engine, batch: Sequence[NetworkInput], task: Task, clock: Clock) -> list[Arrays | ImageError]:
    """Features of a batch of one network size, image by image in the published layout, or why there are none."""
    with clock("transfer"):
        # (B, H, W, 3) seen as (B, 3, H, W) is channels last, without moving a number
        images = torch.from_numpy(np.stack([i.pixels for i in batch])).permute(0, 3, 1, 2)
        if engine.device.type == "cuda":
            images = images.pin_memory().to(engine.device, non_blocking=True)
    with clock("compute"):
        if task.kind == "grid":
            cells = grid_cells(images.shape[2], images.shape[3], task.grid_size)
            fc6 = engine.detector.region_features(images, [cells] * len(batch)).cpu()
            shape = (len(batch), task.grid_size, task.grid_size, -1)
            return [_finite({"features": f}) for f in fc6.reshape(shape).numpy()]
        results: list[Arrays | ImageError] = []
        for image, found in zip(batch, engine.detector.detect(images), strict=True):
            try:
                chosen = choose_boxes(found, image.scale, task.num_boxes)
            except ImageError as error:
                results.append(error)
                continue
            arrays: Arrays = {
                "features": chosen.features,
                "obj_id": chosen.obj_id,
                "boxes": chosen.boxes,
                "img_w": np.array(image.width, np.int64),
                "img_h": np.array(image.height, np.int64),
            }
            if task.class_probs:
                arrays["cls_prob"] = chosen.cls_prob
            results.append(_finite(arrays))
        return results


def _finite(arrays: Arrays) -> Arrays | ImageError:
    if np.isfinite(arrays["features"]).all():
        return arrays
    return ImageError("features are not finite: numbers overflowed; use --precision float32 or bfloat16")


def network_size(path: Path, task: Task) -> tuple[int, int]:
    """(H, W) that the network will see, from the image's header. Raises ImageError."""
    height, width = read_size(path)
    if task.kind == "grid":
        return network_size_grid(height, width, task.imsize)
    return network_size_boxes(height, width)[1]


def plan_batches(
    images: Sequence[ImageFile], done: set[str], task: Task, index: int, count: int
) -> Iterator[tuple[list[ImageFile], int]]:
    """This process's batches that have something to do, and how many images it passed over as done before each.

    Which images share a batch depends on the list alone, not on what is done or on the number of processes: the last
    bits of a feature may depend on the batch it was computed in. Images are cut into windows; every ``count``-th window
    is ours; within one, images of the same network size are put together."""
    size = task.batch_size
    window = 1 if size == 1 else 8 * size
    skipped = 0
    for number, start in enumerate(range(0, len(images), window)):
        if number % count != index:
            continue
        part = images[start : start + window]
        if all(image.id in done for image in part):
            skipped += len(part)
            continue
        for batch in _same_size(part, task) if size > 1 else [list(part)]:
            if all(image.id in done for image in batch):
                skipped += len(batch)
                continue
            yield batch, skipped
            skipped = 0


def _same_size(images: Sequence[ImageFile], task: Task) -> Iterator[list[ImageFile]]:
    groups: dict[Any, list[ImageFile]] = {}
    for image in images:
        key: Any
        try:
            key = network_size(image.path, task)
        except ImageError:
            key = image.id  # it will fail when it is decoded, alone
        groups.setdefault(key, []).append(image)
    for group in groups.values():
        for start in range(0, len(group), task.batch_size):
            yield group[start : start + task.batch_size]


def run(
    engine: Engine,
    store: Store,
    images: Sequence[ImageFile],
    task: Task,
    workers: int,
    progress: Progress,
    stopping: threading.Event,
) -> list[Failure]:
    """Extract this process's share of ``images`` into ``store``; returns what failed.

    Ends early, with everything computed so far on the disk, when ``stopping`` is set."""
    failures: list[Failure] = []
    batches = plan_batches(images, store.done, task, store.index, store.count)
    with ThreadPoolExecutor(workers, "decode") as pool, Writer(store, progress.clock) as writer:
        for batch in _decoded_ahead(pool, batches, task, workers, progress, stopping):
            inputs: list[NetworkInput] = []
            for image, outcome in batch:
                if isinstance(outcome, NetworkInput):
                    inputs.append(outcome)
                else:
                    failures.append(Failure(image.id, str(image.path), str(outcome)))
            for same in _one_size(inputs):
                for item, result in zip(same, compute(engine, same, task, progress.clock), strict=True):
                    if isinstance(result, ImageError):
                        path = next(str(image.path) for image, _ in batch if image.id == item.id)
                        failures.append(Failure(item.id, path, str(result)))
                    elif item.id not in store.done:
                        writer.put(item.id, result)
            progress.advance(sum(image.id not in store.done for image, _ in batch), len(failures))
    return failures


def _one_size(inputs: list[NetworkInput]) -> Iterator[list[NetworkInput]]:
    # a header may lie about its image's size: what was decoded decides
    inputs.sort(key=lambda i: i.pixels.shape)
    for _, group in itertools.groupby(inputs, key=lambda i: i.pixels.shape):
        yield list(group)


def _decoded_ahead(
    pool: ThreadPoolExecutor,
    batches: Iterable[tuple[list[ImageFile], int]],
    task: Task,
    workers: int,
    progress: Progress,
    stopping: threading.Event,
) -> Iterator[list[tuple[ImageFile, NetworkInput | ImageError]]]:
    """Batches decoded by the pool, in order, at most about two images per worker and one batch ahead."""

    def load(image: ImageFile) -> NetworkInput | ImageError:
        if stopping.is_set():
            return ImageError("stopped")
        with progress.clock("decode"):
            try:
                return prepare(image.path, image.id, task)
            except ImageError as error:
                return error

    ahead: deque[list[tuple[ImageFile, Future[NetworkInput | ImageError]]]] = deque()
    pending = 0
    source = iter(batches)
    exhausted = False
    while not stopping.is_set():
        while not exhausted and (not ahead or pending < 2 * workers):
            batch, skipped = next(source, (None, 0))
            if batch is None:
                exhausted = True
                break
            progress.skip(skipped)
            ahead.append([(image, pool.submit(load, image)) for image in batch])
            pending += len(batch)
        if not ahead:
            return
        current = ahead.popleft()
        pending -= len(current)
        with progress.clock("wait for decode"):
            outcomes = [(image, future.result()) for image, future in current]
        if not stopping.is_set():
            yield outcomes


class Writer:
    """Appends features to the store in a thread of its own; what was put is on the disk when the block is left."""

    def __init__(self, store: Store, clock: Clock, depth: int = 64) -> None:
        self._store, self._clock = store, clock
        self._queue: queue.Queue[tuple[str, Arrays] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="write", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def put(self, image_id: str, arrays: Arrays) -> None:
        """Hand over one image. Raises what went wrong in the thread (a full disk, say)."""
        if self._error is not None:
            raise self._error
        self._queue.put((image_id, arrays))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _work(self) -> None:
        ended = False
        while not ended:
            # everything that is waiting shares one fsync
            items = [self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get())
            ended = None in items
            if self._error is not None:
                continue  # keep emptying the queue, so that nobody waits on it
            try:
                with self._clock("write"):
                    for item in items:
                        if item is not None:
                            self._store.part.add(*item)
                    self._store.part.sync()
            except BaseException as error:
                self._error = error
