"""The main path: reader -> features -> writer. Every image travels with its outcome: arrays, or why there are none."""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from .batching import Item, Load, Pass, of_one_size, plan_batches, read_ahead
from .config import Decoder
from .detector.build import Detector
from .errors import ImageError
from .features import Computation, NetworkInput, compute_all, page_locked
from .images.decode import Pixels, read_image, read_size
from .images.listing import Failure, ImageFile
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
        mine: Iterable[Sequence[ImageFile]],
        targets: Sequence[Target],
        progress: Progress,
        stopping: threading.Event,
    ) -> None:
        """Features of the images of the windows ``mine`` for every target. An image is read once; targets with the same
        network input share its way through the backbone.

        Ends early, with everything computed so far on the disk, when ``stopping`` is set."""
        passes = _by_input(targets)
        chunks = plan_batches(mine, [_planned(sharing) for sharing in passes], self.batch_size)
        with ExitStack() as stack:
            writers = [stack.enter_context(Writer(target.output, progress.clock)) for target in targets]
            write = {id(target): writer for target, writer in zip(targets, writers, strict=True)}
            for batches in read_ahead(chunks, self._loader(passes, progress.clock), self.workers, progress, stopping):
                through = set()
                for number, items in batches:
                    for target, item in self._computed(passes[number], items, progress.clock):
                        through.add(item.image.id)
                        if isinstance(item.outcome, ImageError):
                            target.failures.append(Failure.of(item.image, str(item.outcome)))
                        else:
                            write[id(target)].put(item)
                progress.advance(len(through), sum(len(target.failures) for target in targets))

    def _loader(self, passes: Sequence[Sequence[Target]], clock: Clock) -> Load:
        """Reads one image and resizes it for each pass."""

        def load(image: ImageFile, numbers: Collection[int]) -> dict[int, Item]:
            source = None
            try:
                with clock("decode"):
                    rgb, source = read_image(image.path, self.decode)
            except ImageError as error:
                return dict.fromkeys(numbers, Item(image, error, source))
            return {number: Item(image, resized(image, passes[number], rgb), source) for number in numbers}

        def resized(image: ImageFile, sharing: Sequence[Target], rgb: Pixels) -> NetworkInput | ImageError:
            try:
                with clock("resize"):
                    pixels = sharing[0].computation.network_input(rgb, image.id)
                    return page_locked(pixels, self.detector.device)
            except ImageError as error:
                return error

        return load

    def _computed(self, sharing: Sequence[Target], items: list[Item], clock: Clock) -> Iterator[tuple[Target, Item]]:
        """What became of the items of one batch, for each target that lacks them."""
        ids = {item.image.id for item in items}
        lacking = [target for target in sharing if not target.todo.isdisjoint(ids)]
        done = [(target, item) for item in items if isinstance(item.outcome, ImageError) for target in lacking]
        for same in of_one_size(items):
            of_each = compute_all(
                self.detector, [t.computation for t in lacking], [pixels for _, pixels in same], clock
            )
            for target, results in zip(lacking, of_each, strict=True):
                done += [(target, item.now(result)) for (item, _), result in zip(same, results, strict=True)]
        yield from ((target, item) for target, item in done if item.image.id in target.todo)


def _by_input(targets: Sequence[Target]) -> list[list[Target]]:
    """The targets in groups that have the same network input."""
    groups: dict[Hashable, list[Target]] = {}
    for target in targets:
        groups.setdefault(target.computation.input_key, []).append(target)
    return list(groups.values())


def _planned(sharing: Sequence[Target]) -> Pass:
    network_size = sharing[0].computation.network_size
    return Pass(set().union(*(target.todo for target in sharing)), lambda image: network_size(*read_size(image.path)))
