"""Many outputs by one command: of a series of tars a feature file each, and which process makes which.

A tar is the unit of work and of resuming. Processes (``--shard``, ranks) take every n-th tar; where they are more than
the tars, several share one, window by window as of a folder. A folder is a series of one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from . import machine
from .config import EXIT_ALL, EXIT_NOTHING, EXIT_SOME_FAILED, ExtractConfig
from .errors import ImageFolderError, KitError, StoreError, UsageError
from .images.address import Origin, expand, is_address, is_tar, path_of, shown
from .names import printable
from .pipeline import Report, Say, extract, process_share


@dataclass(frozen=True)
class Refused:
    """A tar of a series of which no file could be made."""

    images: str
    """Which, printable."""
    error: KitError


@dataclass
class Summary:
    """What became of a series, added up."""

    results: int = 0
    refused: int = 0
    images: int = 0
    failed: int = 0
    stopped: bool = False
    codes: set[int] = field(default_factory=set)

    def add(self, result: Report | Refused) -> None:
        self.results += 1
        if isinstance(result, Refused):
            self.refused += 1
            self.codes.add(EXIT_NOTHING)
            return
        self.stopped |= result.stopped
        self.codes.add(result.exit_code)
        self.images += result.outcome.images if result.outcome else 0
        self.failed += len(result.outcome.failed if result.outcome else result.failures)

    @property
    def exit_code(self) -> int:
        """That of one output; of several: 1 where none was made, or stopped; 3 where something failed."""
        if self.stopped or self.codes <= {EXIT_NOTHING}:
            return EXIT_NOTHING
        return EXIT_ALL if self.codes == {EXIT_ALL} else EXIT_SOME_FAILED

    def line(self) -> str:
        refused = f", {self.refused:,} tars could not be done" if self.refused else ""
        return f"{self.results - self.refused:,} files of {self.images:,} images, {self.failed:,} failed{refused}"


def outputs(config: ExtractConfig) -> list[tuple[Origin, Path]]:
    """(images, feature file) of every file that ``config`` asks for. Raises UsageError."""
    sources = expand(config.images)
    if config.output.suffix == ".h5":
        if len(sources) > 1:
            raise UsageError(
                f"--output {config.output}: one file, where {shown(config.images)} names {len(sources):,} tars; "
                "give a folder"
            )
        return [(sources[0], config.output)]
    if not all(map(is_tar, sources)):
        raise UsageError(f"--output {config.output}: expected a file name that ends in .h5")
    tar_of: dict[str, Origin] = {}
    for tar in sources:
        other = tar_of.setdefault(_stem(tar), tar)
        if other is not tar:
            raise UsageError(
                f"{shown(other)} and {shown(tar)} would make one file: extract each series into a folder of its own"
            )
    return [(tar, config.output / f"{stem}_{config.spec.suffix}.h5") for stem, tar in tar_of.items()]


def _stem(tar: Origin) -> str:
    return PurePosixPath(unquote(path_of(str(tar))) if is_address(tar) else tar).stem


def shares(files: int, index: int, count: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """(number of a file, (which, of how many) shares of it) that process ``index`` of ``count`` does."""
    if count <= files:
        yield from ((number, (0, 1)) for number in range(index, files, count))
    else:
        number = index % files
        yield number, (index // files, len(range(number, count, files)))


def extract_series(config: ExtractConfig, stopping: threading.Event, say: Say) -> Iterator[Report | Refused]:
    """Run this process's part of ``config``, a file at a time. A tar that cannot be read, or whose output cannot be
    made, holds nothing up. Raises a KitError as ``extract`` for what concerns all of them, and for a series of one."""
    if machine.rank_and_world()[0]:
        say = _silent  # of several processes that one command started, the first speaks
    todo = outputs(config)
    index, count = process_share(config)
    if len(todo) == 1:
        images, output = todo[0]
        yield extract(replace(config, images=images, output=output), stopping, say)
        return
    from .loading import DetectorOnce

    detector = DetectorOnce(config, say)
    detector.check()
    for number, share in shares(len(todo), index, count):
        if stopping.is_set():
            return
        images, output = todo[number]
        one = replace(config, images=images, output=output)
        try:
            yield extract(one, stopping, say, share=share, detector=detector)
        except (ImageFolderError, StoreError) as error:
            yield Refused(printable(shown(images)), error)
    if not stopping.is_set():
        _wait_for_other_ranks()


def _silent(_: str) -> None:
    pass


def _wait_for_other_ranks() -> None:
    """torchrun stops all ranks as soon as one ends with anything but 0: those of a series end together."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or machine.rank_and_world()[1] == 1:
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
