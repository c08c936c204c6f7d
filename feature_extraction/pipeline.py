"""One extraction from start to finish: prepare (all that can be refused) / extract what is missing / report.

Nothing is printed here: ``say`` takes a line before each wait, the ``Report`` tells how it ended.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import catalog, machine
from .config import EXIT_ALL, EXIT_NOTHING, EXIT_SOME_FAILED, ExtractConfig
from .detector.files import find_checkpoint
from .errors import StoreError, UsageError, reason_of
from .images.address import Origin, is_tar, shown
from .images.listed import Failure, ListedImage, Listing
from .images.sources import list_source
from .names import counted
from .storage.assemble import Outcome
from .storage.output import Output
from .storage.source import FileStamp

if TYPE_CHECKING:
    from .loading import DetectorOnce

Say = Callable[[str], None]


def _silent(_: str) -> None:
    pass


def said_once(say: Say) -> Say:
    """``say`` in the first of several processes that one command started; silence in the others."""
    return _silent if machine.rank_and_world()[0] else say


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that was checked before anything was computed."""

    config: ExtractConfig
    listing: Listing[ListedImage]
    detector: DetectorOnce
    index: int
    """This process's share of the images, counted from 0 ..."""
    count: int
    """... of so many."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """How one process's extraction ended."""

    output: Path
    share: tuple[int, int]
    outcome: Outcome | None = None
    """What the file holds; None while other processes still work, or when stopped."""
    failures: Sequence[Failure] = ()
    """This process's images without features."""
    stopped: bool = False
    published: int | None = None
    """Images of the published split, where the output is one."""
    synthetic: bool = False
    stages: str = ""
    """Seconds per stage; empty where nothing was computed."""

    @property
    def exit_code(self) -> int:
        """0: all images; 3: some failed; 1: nothing done, or stopped."""
        if self.stopped:
            return EXIT_NOTHING
        if self.outcome is None:
            # torchrun stops the other ranks when one exits with anything but 0; the last one speaks for all
            return EXIT_SOME_FAILED if self.failures and "TORCHELASTIC_RUN_ID" not in os.environ else EXIT_ALL
        if not self.outcome.images:
            return EXIT_NOTHING
        return EXIT_SOME_FAILED if self.outcome.failed else EXIT_ALL


@dataclass(frozen=True, kw_only=True)
class Made:
    """What came of the images that one output missed."""

    failures: Sequence[Failure] = ()
    stages: str = ""
    """Seconds per stage."""
    images_per_second: float | None = None


def extract(
    config: ExtractConfig,
    stopping: threading.Event,
    say: Say = _silent,
    *,
    share: tuple[int, int] | None = None,
    detector: DetectorOnce | None = None,
) -> Report:
    """Run one process's share of the extraction into one output.

    ``share``: which, of how many; None: as the config and the launcher of this process say. ``detector``: that of
    earlier extractions of the same command. Raises a KitError for whatever a user can mend; what was computed so far is
    kept."""
    (report,) = extract_together([config], stopping, say, share=share, detector=detector)
    return report


def extract_together(
    configs: Sequence[ExtractConfig],
    stopping: threading.Event,
    say: Say = _silent,
    *,
    share: tuple[int, int] | None = None,
    detector: DetectorOnce | None = None,
) -> list[Report]:
    """Several extractions, which differ in spec and output alone, in one: every image is read once.

    Each output is what its own extraction makes; it resumes and is finished by itself. The rest as for ``extract``."""
    say = said_once(say)
    first = prepare(configs, say, share or process_share(configs[0]), detector)
    each = [replace(first, config=config) for config in configs]
    try:
        with closing(first.listing), ExitStack() as stack:
            outputs = [stack.enter_context(closing(_open_output(prepared, say))) for prepared in each]
            todo = [missing(prepared, output, say) for prepared, output in zip(each, outputs, strict=True)]
            made = [Made() for _ in each]
            if any(todo):
                made = _extract_missing(each, outputs, todo, stopping, say)
            stopped = any(todo) and stopping.is_set()
            return [_report(*of_one, stopped=stopped) for of_one in zip(each, outputs, made, strict=True)]
    except OSError as error:
        outputs_at = ", ".join(str(config.output) for config in configs)
        raise StoreError(
            f"{reason_of(error)}. Every image computed so far is kept beside {outputs_at}; mend the cause and run the "
            "same command again"
        ) from error


def _report(prepared: Prepared, output: Output, made: Made, *, stopped: bool) -> Report:
    """Finish the file, unless the run was stopped, and say how it ended."""
    listing = prepared.listing
    failures = [*(listing.failures if prepared.index == 0 else ()), *made.failures]
    now, outcome = _Stamps(listing.images), None
    if not stopped:
        failed = [asdict(failure) for failure in failures]
        outcome = output.finish(now, failed, now.sha256, images_per_second=made.images_per_second)
    return Report(
        output=prepared.config.output, share=(prepared.index, prepared.count), outcome=outcome, failures=failures,
        stopped=stopped, published=_published_images(prepared.config), synthetic=prepared.detector.synthetic,
        stages=made.stages,
    )  # fmt: skip


def process_share(config: ExtractConfig) -> tuple[int, int]:
    """(which, of how many) shares of the command this process does: ``--shard`` and the launcher's ranks together."""
    rank, world = machine.rank_and_world()
    shard, shards = config.shard
    return shard * world + rank, shards * world


def prepare(
    configs: Sequence[ExtractConfig], say: Say, share: tuple[int, int], detector: DetectorOnce | None = None
) -> Prepared:
    """List, check and look up everything; the cheapest refusals first, those that need PyTorch last. Of several the
    first stands for all."""
    config = configs[0]
    for one in configs:
        if one.output.suffix != ".h5":
            raise UsageError(f"--output {one.output}: expected a file name that ends in .h5")
    if detector is None:
        find_checkpoint(config.checkpoint_dir)
    say(f"reading the names in {shown(config.images)}")
    listing = list_source(
        config.images, config.pattern, config.recursive, scratch=_scratch(config.images, config.output.parent), say=say
    )

    from .loading import DetectorOnce

    detector = detector or DetectorOnce(config, say)
    detector.check()
    return Prepared(config=config, listing=listing, detector=detector, index=share[0], count=share[1])


def _scratch(images: Origin, folder: Path) -> Path:
    """The output's folder, made where something will be copied into it."""
    if is_tar(images):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _open_output(prepared: Prepared, say: Say) -> Output:
    from .provenance import decoder_identity, notes_of

    config, detector = prepared.config, prepared.detector
    config.output.parent.mkdir(parents=True, exist_ok=True)
    return Output(
        config.output,
        {**config.identity, **detector.identity, **decoder_identity()},
        {**notes_of(detector.device_name, detector.synthetic), **prepared.listing.notes},
        prepared.index,
        prepared.count,
        say=say,
    )


def missing(prepared: Prepared, output: Output, say: Say) -> set[str]:
    """Ids of this process's images whose features are not stored, or are those of other bytes."""
    from .batching import windows

    config, listing = prepared.config, prepared.listing
    todo, mine, replaced = set(), 0, 0
    for window in windows(listing.images, config.batch_size, prepared.index, prepared.count):
        mine += len(window)
        for image in window:
            known = output.known(image.id)
            if not known or not _is_current(output, image):
                todo.add(image.id)
                replaced += known
    beside = f", {listing.ignored:,} other members" if listing.ignored else ""
    say(
        f"{counted(mine)} in {shown(config.images)}"
        + (f", share {prepared.index + 1} of {prepared.count}" if prepared.count > 1 else "")
        + f" ({len(listing.failures):,} files passed over{beside}), {mine - len(todo):,} done before -> {config.output}"
    )
    if replaced:
        say(f"{replaced:,} images have changed since their features were made: computed again")
    return todo


def _is_current(output: Output, image: ListedImage) -> bool:
    return output.is_current(image.id, *image.stamp(), image.sha256)


def _extract_missing(
    each: Sequence[Prepared], outputs: Sequence[Output], todo: Sequence[set[str]], stopping: threading.Event, say: Say
) -> list[Made]:
    """Compute what is ``todo`` of each output; the first has the stages of all."""
    from .batching import windows
    from .extract import Extraction, Target
    from .features import computation_of
    from .progress import Progress

    prepared, config, share = each[0], each[0].config, (each[0].index, each[0].count)
    architecture, targets = prepared.detector.architecture, []
    for one, output, ids in zip(each, outputs, todo, strict=True):
        size = one.config.spec.bytes_per_image(architecture.feature_dim, architecture.num_classes)
        output.check_room(len(prepared.listing.images), size)
        targets.append(Target(computation=computation_of(one.config.spec), output=output, todo=ids))
    threads = use_threads(config.threads)
    workers = config.workers or machine.decoding_threads()
    say(f"{workers} decoding threads, {threads} computing threads")
    extraction = Extraction(
        detector=prepared.detector.detector, decode=config.decode, batch_size=config.batch_size, workers=workers
    )
    mine = list(windows(prepared.listing.images, config.batch_size, *share))
    label = " + ".join(one.config.output.stem for one in each)
    label += f" {share[0] + 1}/{share[1]}" if share[1] > 1 else ""
    with closing(Progress(sum(map(len, mine)), label)) as progress:
        extraction.run(mine, targets, progress, stopping)
    stages = progress.line() if stopping.is_set() else progress.stages()
    return [
        Made(
            failures=target.failures,
            stages="" if number else stages,
            images_per_second=progress.rate if target.todo else None,
        )
        for number, target in enumerate(targets)
    ]


def use_threads(wanted: int) -> int:
    """Set PyTorch's threads of a CPU computation; returns how many. 0: this process's share of the processors, unless
    the user has set OMP_NUM_THREADS (torchrun sets it to 1 for every process by itself, which is not meant)."""
    import torch

    by_user = os.environ.get("OMP_NUM_THREADS")
    if wanted:
        torch.set_num_threads(wanted)
    elif machine.processes_here() > 1:
        if by_user in (None, "1"):
            torch.set_num_threads(machine.threads())
    elif not by_user:
        torch.set_num_threads(min(machine.threads(), torch.get_num_threads()))
    return torch.get_num_threads()


def _published_images(config: ExtractConfig) -> int | None:
    data = catalog.DATA_SETS.get(config.dataset)
    return data.split(config.split).images if data is not None else None


class _Stamps(Mapping[str, FileStamp]):
    """Id -> what the file is now, looked up when asked for: the assembling process alone has to know all."""

    def __init__(self, images: Sequence[ListedImage]) -> None:
        self._images = {image.id: image for image in images}

    def __getitem__(self, image_id: str) -> FileStamp:
        return self._images[image_id].stamp()

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def sha256(self, image_id: str) -> str:
        """Digest of what the file is now; empty where it cannot be read."""
        return self._images[image_id].sha256()
