"""The main path: reader -> features -> writer. Every image travels with its outcome: arrays, or why there are none."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .batching import Image, Item, Load, of_one_size, plan_batches, read_ahead
from .config import Decoder
from .detector.build import Detector
from .errors import ImageError
from .features import Computation, compute, page_locked
from .images.decode import read_opened, size_opened
from .images.listed import Failure, ListedImage
from .progress import Clock, Progress
from .storage.output import Output
from .writing import Writer


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How images become features."""

    detector: Detector
    computation: Computation
    decode: Decoder
    batch_size: int
    workers: int
    """Decoding threads."""

    def run(
        self,
        mine: Iterable[Sequence[ListedImage]],
        todo: set[str],
        output: Output,
        progress: Progress,
        stopping: threading.Event,
    ) -> list[Failure]:
        """Features of the images of the windows ``mine`` with ids in ``todo``, into ``output``; returns what failed.

        Ends early, with everything computed so far on the disk, when ``stopping`` is set."""
        failures: list[Failure] = []
        batches = plan_batches(mine, todo, self.batch_size, self._network_size)
        with Writer(output, progress.clock) as writer:
            for items in read_ahead(batches, self._loader(progress.clock), self.workers, progress, stopping):
                done = computed(self.detector, self.computation, items, progress.clock)
                wanted = [item for item in done if item.image.id in todo]
                for item in wanted:
                    if isinstance(item.outcome, ImageError):
                        failures.append(Failure.of(item.image, str(item.outcome)))
                    else:
                        writer.put(item)
                progress.advance(len(wanted), len(failures))
        return failures

    def _network_size(self, image: ListedImage) -> tuple[int, int]:
        return self.computation.network_size(*size_opened(image.opened()))

    def _loader(self, clock: Clock) -> Load[ListedImage]:
        def load(image: ListedImage) -> Item[ListedImage]:
            source = None
            try:
                with clock("decode"):
                    rgb, source = read_opened(image.opened_for_good(), self.decode)
                with clock("resize"):
                    pixels = page_locked(self.computation.network_input(rgb), self.detector.device)
                    return Item(image, pixels, source)
            except ImageError as error:
                return Item(image, error, source)

        return load


def computed(
    detector: Detector, computation: Computation, items: list[Item[Image]], clock: Clock
) -> Iterator[Item[Image]]:
    """The items of a batch with their features, those that could not be read as they are; in any order."""
    yield from (item for item in items if isinstance(item.outcome, ImageError))
    for same in of_one_size(items):
        results = compute(detector, computation, [pixels for _, pixels in same], clock)
        for (item, _), result in zip(same, results, strict=True):
            yield item.now(result)
