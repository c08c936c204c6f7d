"""The main path: reader -> features -> writer. Every image travels with its outcome: arrays, or why there are none."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial

from .batching import Chunk, Image, Item, Looked, Pass, lacking, look_ahead, of_one_size, plan_batches, read_ahead
from .config import Decoder
from .detector.build import Detector
from .errors import ImageError
from .features import Computation, NetworkInput, compute_all, page_locked
from .images.decode import Pixels, read_opened, size_opened
from .images.listed import Failure, ListedImage
from .progress import Clock, Progress
from .storage.output import Output
from .writing import Writer


@dataclass(frozen=True, kw_only=True)
class Target:
    """One feature file in the making."""

    computation: Computation
    output: Output
    todo: set[str]
    """Ids of the images it lacks."""
    failures: list[Failure] = field(default_factory=list)
    """Which of them gave no features, as far as the extraction has come."""


Needed = tuple[ListedImage, list[int]]
"""An image, and the numbers of the passes that it is read for."""
OfPasses = dict[int, Item[ListedImage]]
"""One image on its way in each of them."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How images become features."""

    detector: Detector
    decode: Decoder
    batch_size: int
    workers: int
    """Decoding threads."""

    def run(
        self,
        mine: Iterable[Sequence[ListedImage]],
        targets: Sequence[Target],
        progress: Progress,
        stopping: threading.Event,
    ) -> None:
        """Features of the images of the windows ``mine`` for every target. An image is read once; targets with the same
        network input share its way through the backbone.

        Ends early, with everything computed so far on the disk, when ``stopping`` is set."""
        passes, clock = _by_input(targets), progress.clock
        planned = [_planned(sharing) for sharing in passes]
        load = self._loader(passes, clock)
        with ExitStack() as stack:
            writers = [stack.enter_context(Writer(target.output, clock)) for target in targets]
            write = {id(target): writer for target, writer in zip(targets, writers, strict=True)}
            looked = look_ahead(lacking(mine, planned, progress.skip), partial(look, clock, stopping), self.workers)
            looked = stack.enter_context(closing(looked))
            chunks, to_read = itertools.tee(plan_batches(looked, planned, self.batch_size, progress.skip))
            images = (chunk.images for chunk in to_read)
            reader = stack.enter_context(closing(read_ahead(images, load, self.workers, clock, stopping)))
            for read, chunk in zip(reader, chunks, strict=False):  # the reader ends early when it is stopped
                through = set()
                for target, item in self._computed(passes, chunk, read, clock):
                    through.add(item.image.id)
                    if isinstance(item.outcome, ImageError):
                        target.failures.append(Failure.of(item.image, str(item.outcome)))
                    else:
                        write[id(target)].put(item)
                progress.advance(len(through), sum(len(target.failures) for target in targets))

    def _loader(self, passes: Sequence[Sequence[Target]], clock: Clock) -> Callable[[Needed], OfPasses]:
        """Reads one image and resizes it for each pass."""

        def load(needed: Needed) -> OfPasses:
            image, numbers = needed
            source = None
            try:
                with clock("decode"):
                    rgb, source = read_opened(image.opened_for_good(), self.decode)
            except ImageError as error:
                return {number: Item(image, error, source) for number in numbers}
            return {number: Item(image, resized(image.id, passes[number][0], rgb), source) for number in numbers}

        def resized(image_id: str, target: Target, rgb: Pixels) -> NetworkInput | ImageError:
            try:
                with clock("resize"):
                    return page_locked(target.computation.network_input(rgb, image_id), self.detector.device)
            except ImageError as error:
                return error

        return load

    def _computed(
        self, passes: Sequence[Sequence[Target]], chunk: Chunk, read: Sequence[OfPasses], clock: Clock
    ) -> Iterator[tuple[Target, Item[ListedImage]]]:
        """What became of the images of a chunk, for each target that lacks them."""
        of_image = {image.id: items for (image, _), items in zip(chunk.images, read, strict=True)}
        for number, batch in chunk.batches:
            ids = {image.id for image in batch}
            lacking = [target for target in passes[number] if not target.todo.isdisjoint(ids)]
            items = [of_image[image.id][number] for image in batch]
            done = computed_all(self.detector, [target.computation for target in lacking], items, clock)
            yield from ((lacking[n], item) for n, item in done if item.image.id in lacking[n].todo)


def _by_input(targets: Sequence[Target]) -> list[list[Target]]:
    """The targets in groups that have the same network input."""
    groups: dict[Hashable, list[Target]] = {}
    for target in targets:
        groups.setdefault(target.computation.input_key, []).append(target)
    return list(groups.values())


def _planned(sharing: Sequence[Target]) -> Pass:
    return Pass(set().union(*(target.todo for target in sharing)), sharing[0].computation.network_size)


def look(clock: Clock, stopping: threading.Event, image: ListedImage) -> Looked:
    """What an image's header says; nothing where nobody will ask any more."""
    if stopping.is_set():
        return Looked(image)
    with clock("look ahead"):
        at_hand = image.at_hand()
        try:
            return Looked(at_hand, size_opened(at_hand.opened()))
        except ImageError as error:
            return Looked(at_hand, error)


def computed(
    detector: Detector, computation: Computation, items: list[Item[Image]], clock: Clock
) -> Iterator[Item[Image]]:
    """The items of a batch with their features, those that could not be read as they are; in any order."""
    yield from (item for _, item in computed_all(detector, [computation], items, clock))


def computed_all(
    detector: Detector, computations: Sequence[Computation], items: list[Item[Image]], clock: Clock
) -> Iterator[tuple[int, Item[Image]]]:
    """The same for several computations of one network input, each item with the place of its computation."""
    yield from ((n, item) for item in items for n in range(len(computations)) if isinstance(item.outcome, ImageError))
    for same in of_one_size(items):
        of_each = compute_all(detector, computations, [pixels for _, pixels in same], clock)
        for n, results in enumerate(of_each):
            yield from ((n, item.now(result)) for (item, _), result in zip(same, results, strict=True))
