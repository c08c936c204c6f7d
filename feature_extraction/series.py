"""Many outputs by one command: of a series of tars a feature file each, and which process makes which.

A tar is the unit of work and of resuming. Processes (``--shard``, ranks) take every n-th tar; where they are more than
the tars, several share one, window by window as of a folder. A folder is a series of one.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from . import machine
from .config import EXIT_ALL, EXIT_NOTHING, EXIT_SOME_FAILED, ExtractConfig
from .errors import ImageFolderError, KitError, StoreError, UsageError
from .images.address import Origin, expand, file_name, is_address, is_tar, shown
from .names import counted
from .pipeline import Report, Say, extract_together, process_share, said_once
from .storage.assemble import Outcome
from .storage.store import open_features, provenance, work_dir

if TYPE_CHECKING:
    from .loading import DetectorOnce


MOST_NAMED: Final = 20
"""Tars in the last line."""


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
    refused: list[str] = field(default_factory=list)
    """Tars of which no file could be made, printable."""
    images: int = 0
    failed: int = 0
    stopped: bool = False
    codes: set[int] = field(default_factory=set)

    def add(self, result: Report | Refused) -> None:
        self.results += 1
        if isinstance(result, Refused):
            self.refused.append(result.images)
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
        files, some = self.results - len(self.refused), ", ".join(self.refused[:MOST_NAMED])
        more = ", ..." if len(self.refused) > MOST_NAMED else ""
        refused = f"; no file of {len(self.refused):,} tars: {some}{more}" if self.refused else ""
        return f"in all {files:,} files, features of {counted(self.images)}, {self.failed:,} failed{refused}"


def outputs(configs: Sequence[ExtractConfig]) -> list[list[ExtractConfig]]:
    """What the configs, which differ in spec and output alone, ask for, tar by tar: each a file. Raises UsageError."""
    sources = expand(configs[0].images)
    tars = all(map(is_tar, sources))
    for config in configs:
        if config.output.suffix == ".h5" and len(sources) > 1:
            raise UsageError(
                f"--output {config.output}: one file, where {shown(config.images)} names {len(sources):,} tars; "
                "give a folder"
            )
        if config.output.suffix != ".h5" and not tars:
            raise UsageError(f"--output {config.output}: expected a file name that ends in .h5")
    stems = [_stem(source) if tars else "" for source in sources]
    stem, times = Counter(stems).most_common(1)[0]
    if times > 1:
        raise UsageError(
            f"{shown(configs[0].images)} names {times:,} tars called {stem}, which would make one file: extract each "
            "series into a folder of its own"
        )
    return [
        [replace(config, images=source, output=_output(config, stem)) for config in configs]
        for source, stem in zip(sources, stems, strict=True)
    ]


def _output(config: ExtractConfig, stem: str) -> Path:
    if config.output.suffix == ".h5":
        return config.output
    return config.output / f"{stem}_{config.spec.suffix}.h5"


def _stem(tar: Origin) -> str:
    return PurePosixPath(file_name(str(tar)) if is_address(tar) else tar).stem


def shares(files: int, index: int, count: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """(number of a file, (which, of how many) shares of it) that process ``index`` of ``count`` does."""
    if count <= files:
        yield from ((number, (0, 1)) for number in range(index, files, count))
    else:
        number = index % files
        yield number, (index // files, len(range(number, count, files)))


def extract_series(configs: Sequence[ExtractConfig], stopping: threading.Event, say: Say) -> Iterator[Report | Refused]:
    """Run this process's part of the configs, which differ in spec and output alone, a tar at a time. A tar that cannot
    be read, or whose output cannot be made, holds nothing up. Raises a KitError as ``extract`` for what concerns all of
    them, and for a series of one."""
    say = said_once(say)
    todo = outputs(configs)
    if len(todo) == 1:
        yield from extract_together(todo[0], stopping, say)
        return
    from .loading import DetectorOnce

    detector = DetectorOnce(configs[0], say)
    detector.check()
    for number, share in shares(len(todo), *process_share(configs[0])):
        name = shown(todo[number][0].images)
        if stopping.is_set():
            yield Report(output=todo[number][0].output, share=share, stopped=True, stages=f"before {name}")
            return
        try:
            if before := _made_before(todo[number], detector):
                say(f"{name}: done before")
                yield from before
            else:
                yield from extract_together(todo[number], stopping, say, share=share, detector=detector)
        except (ImageFolderError, StoreError) as error:
            yield Refused(name, error)
    _wait_for_other_ranks()


def _made_before(configs: Sequence[ExtractConfig], detector: DetectorOnce) -> list[Report]:
    """The reports of whole outputs that were made, without a failure, of the very tar that is there now: nothing of it
    has to be read to know that nothing is to be done. Empty where there is one that is not."""
    if any(work_dir(config.output).exists() or not config.output.exists() for config in configs):
        return []
    from .images.sources import notes_of
    from .provenance import decoder_identity

    made_by = {**detector.identity, **decoder_identity(), **notes_of(configs[0].images), "failed": 0}
    reports = []
    for config in configs:
        with open_features(config.output) as file:
            found = provenance(file)
        if any(found.get(key) != value for key, value in {**config.identity, **made_by}.items()):
            return []
        outcome = Outcome(int(found["images"]), [], [])
        reports.append(Report(output=config.output, share=(0, 1), outcome=outcome, synthetic=detector.synthetic))
    return reports


def _wait_for_other_ranks() -> None:
    """torchrun stops all ranks as soon as one ends with anything but 0: those of a series end together."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or machine.rank_and_world()[1] == 1:
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
