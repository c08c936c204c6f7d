#!/usr/bin/env python3
"""Download checkpoint, published features, images, annotations. Interrupted, the same command continues.

    python -m scripts.download checkpoint
    python -m scripts.download checkpoint x-101     # Pythia's detector, into a folder x-101 of its own
    python -m scripts.download features coco vg
    python -m scripts.download images gqa --base-url https://mirror.example/x-lxmert
    python -m scripts.download images nlvr2 --nlvr2 /data/nlvr2-images
    python -m scripts.download annotations

Several files come at once; each is verified before it appears under its name. SHA-256 sums are recorded in
downloads.lock.json when a file is first seen, and demanded from then on. Needs curl; no Python packages.
Exit codes: 0 everything is there (NLVR2's images, which take a form, only where they are named), 1 something is not
(each reason is printed), 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from feature_extraction import catalog
from feature_extraction.arguments import Parser, choose
from feature_extraction.errors import DownloadError, UsageError
from feature_extraction.names import printable
from feature_extraction.places import IS_CHECKOUT, PUBLISHED_CHECKPOINT, WORK, to_give, to_type
from feature_extraction.terminal import run_main, signals_to

from .ensure import ensure
from .fetch import Download, ask
from .files import existing, remove_left, room
from .part import remove_leftovers
from .plan import PUBLISHED, Plan, nlvr2
from .policy import RetryPolicy, Run, Stopped
from .record import LockFile
from .unpack import lock_of
from .version import Version

CHECKPOINT_DIR: Final = WORK / ("feature_extraction" if IS_CHECKOUT else "") / PUBLISHED_CHECKPOINT


class Progress:
    """One line of totals: rewritten on a terminal, once a minute in a log. Other lines go through ``say``."""

    def __init__(self) -> None:
        self.downloads: Sequence[Download] = ()
        self.total: int | None = None
        self.terminal = sys.stderr.isatty()
        self._ended = threading.Event()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def begin(self, downloads: Sequence[Download], total: int | None) -> None:
        self.downloads, self.total = downloads, total
        self._thread.start()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def say(self, text: str) -> None:
        """A line on stderr, where the line of totals makes room for it."""
        with self._guard:
            print(("\r\033[K" if self.terminal else "") + text, file=sys.stderr, flush=True)

    def result(self, text: str) -> None:
        """A line on stdout."""
        with self._guard:
            if self.terminal:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            print(text, flush=True)

    def line(self, begin: int, now: int, seconds: float) -> str:
        rate = (now - begin) / max(seconds, 1e-9)
        of_total = f" of {self.total / 1e9:.2f}" if self.total else ""
        text = f"{now / 1e9:.2f}{of_total} GB, {rate / 1e6:.1f} MB/s"
        if self.total and rate > 0:
            left = max(self.total - now, 0) / rate
            text += f", {left // 3600:.0f} h {left % 3600 // 60:02.0f} min left"
        return text

    def _show(self) -> None:
        begin, start = self._arrived(), time.monotonic()
        while not self._ended.wait(1 if self.terminal else 60):
            text = self.line(begin, self._arrived(), time.monotonic() - start)
            with self._guard:
                print(f"\r\033[K{text}" if self.terminal else text, end="" if self.terminal else "\n", file=sys.stderr)
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr)

    def _arrived(self) -> int:
        return sum(download.arrived() for download in self.downloads)


def sizes_and_room(downloads: Sequence[Download], run: Run, jobs: int) -> int | None:
    """Ask every server for its file's size; the total, or None where one does not say. Raises DownloadError if there
    is no room for what is to come."""
    if downloads:
        run.say(f"asking for the size of {len(downloads)} file{'s' * (len(downloads) > 1)}")
    with ThreadPoolExecutor(jobs) as pool:
        answers = list(pool.map(lambda download: asked(download, run), downloads))
    run.check("download")
    need: dict[int, int] = {}
    where: dict[int, Path] = {}
    for download, (version, why) in zip(downloads, answers, strict=True):
        size = "size unknown" + (f" ({why})" if why else "")
        if version.size is not None:
            size = f"{version.size / 1e9:.3f} GB"
        print(f"{printable(download.key)}: {size} from {download.source}", flush=True)
        folder = existing(download.path.parent)
        device = folder.stat().st_dev
        where[device] = folder
        # an archive and what it unpacks to lie side by side for a while
        to_come = (2 if download.destination else 1) * (version.size or 0) - download.arrived()
        need[device] = need.get(device, 0) + max(to_come, 0)
    for device, bytes_needed in need.items():
        if bytes_needed > (free := room(where[device])):
            raise DownloadError(
                f"{bytes_needed / 1e9:.1f} GB are needed in {printable(where[device])}, {free / 1e9:.1f} GB are free: "
                "make room, or choose another folder: " + to_give("--datasets FOLDER", "DATASETS=folder")
            )
    sizes = [version.size for version, _ in answers]
    return None if None in sizes else sum(size or 0 for size in sizes)


def asked(download: Download, run: Run) -> tuple[Version, str]:
    """As ``ask``; a file that a local folder lacks fails later, alone."""
    try:
        return ask(download.url, run)
    except DownloadError as error:
        return Version(), str(error)


def sum_of(text: str) -> tuple[str, str]:
    name, _, digest = text.partition("=")
    if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SHA-256 (64 hexadecimal digits)")
    return name, digest.lower()


def seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 86400 seconds")
    return value


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, prog="python -m scripts.download")
    parser.add_argument("what", choices=["checkpoint", "pretrained", "annotations", "features", "images"])
    parser.add_argument("sets", nargs="*", metavar="SET",
        help=f"of {', '.join(catalog.DATA_SETS)}; all without. Of checkpoint: "
        f"{', '.join(catalog.CHECKPOINT_URLS)}; {PUBLISHED} without")  # fmt: skip
    parser.add_argument("--datasets", type=Path, default=WORK / "datasets", help="folder of the data (%(default)s)")
    parser.add_argument(
        "--checkpoint_dir", type=Path, default=CHECKPOINT_DIR, help="folder of the detector's files (%(default)s)"
    )
    parser.add_argument("--published", type=Path, help="where published features go (DATASETS/published)")
    parser.add_argument("--base-url", help="a mirror's address or a local folder, with the names that are printed")
    parser.add_argument(
        "--sha256",
        type=sum_of,
        action="append",
        default=[],
        metavar="NAME=HEX",
        help="demand this sum of a file; repeat for several",
    )
    parser.add_argument(
        "--lock", type=Path, default=WORK / "downloads.lock.json", help="where sums are recorded (%(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=4, help="files at once (%(default)s)")
    parser.add_argument("--tries", type=int, default=RetryPolicy.tries, help="without a new byte (%(default)s)")
    parser.add_argument("--first-wait", type=float, default=RetryPolicy.first_wait, help="seconds (%(default)s)")
    parser.add_argument(
        "--timeout", type=seconds, default=RetryPolicy.silence,
        help="seconds after which a server that says nothing is given up, all tries together (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--keep-archives", action="store_true", help="leave the .zip files after unpacking")
    parser.add_argument("--nlvr2", type=Path, metavar="FOLDER", help="NLVR2's images: folders train, dev, test1")
    args = parser.parse_args(argv)
    args.detectors = [PUBLISHED]
    if args.what == "checkpoint":
        args.detectors, args.sets = args.sets or args.detectors, []
    try:
        for name in args.detectors:
            choose("detector", name, list(catalog.CHECKPOINT_URLS))
        for name in args.sets:
            catalog.data_set(name)
    except UsageError as error:
        parser.error(str(error))
    args.named = bool(args.sets)
    if args.what in ("features", "images"):
        args.sets = args.sets or list(catalog.DATA_SETS)
    elif args.sets:
        parser.error(f"{args.what} has no data sets")
    args.published = args.published or args.datasets / "published"
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    run = Run(RetryPolicy(tries=args.tries, first_wait=args.first_wait, silence=args.timeout))
    problems: list[str] = []
    try:
        with signals_to(lambda *_: run.stopping.set(), signal.SIGINT, signal.SIGTERM), Progress() as progress:
            run.say = progress.say
            problems += download_all(Plan(args).downloads, args, run, progress)
    except Stopped:
        pass
    except (DownloadError, OSError) as error:
        problems.append(str(error))
    if args.what == "images" and "nlvr2" in args.sets and (lacking := nlvr2(args.datasets, args.nlvr2)):
        if args.named:
            problems.append(lacking)
        else:  # all images that can be had without a form are there: what comes next may begin
            args.sets.remove("nlvr2")
            print(f"not downloaded: {lacking}")
    for problem in problems:
        print(f"download: {problem}", file=sys.stderr)
    if run.stopping.is_set():
        print("download: stopped; what has arrived is kept, the same command continues", file=sys.stderr)
        return 130
    if not problems and (following := next_step(args)):
        print(f"next: {following}")
    return 1 if problems else 0


def download_all(downloads: Sequence[Download], args: argparse.Namespace, run: Run, progress: Progress) -> list[str]:
    """Have them all; returns why some are not there. Raises DownloadError."""
    lock = LockFile(args.lock)
    todo = [download for download in downloads if not is_accepted(download, lock)]
    for download in downloads:
        if download not in todo:
            clean(download)
            progress.result(f"{printable(download.destination or download.path)}: is there")
    total = sizes_and_room([download for download in todo if not download.path.is_file()], run, args.jobs)
    progress.begin(todo, total)
    problems: list[str] = []
    with ThreadPoolExecutor(args.jobs) as pool:
        futures: list[Future[str]] = [
            pool.submit(ensure, download, lock, run, keep=args.keep_archives) for download in todo
        ]
        for future in futures:
            try:
                progress.result(future.result())
            except Stopped:
                pass
            except DownloadError as error:
                problems.append(str(error))
    return problems


def clean(download: Download) -> None:
    """Remove what a process that was killed in its last step has left of a file that is there."""
    remove_leftovers(download.path)
    remove_left(download.busy)
    if download.destination is not None:
        remove_left(lock_of(download.destination))


def is_accepted(download: Download, lock: LockFile) -> bool:
    """Whether it is there, and, where it is one file, is the one that the lock file knows, as far as its size tells,
    and no other is asked for by --sha256."""
    if not download.there() or download.destination is not None:
        return download.there()
    entry = lock.entry(download.key)
    return entry is not None and download.sha256 is None and download.path.stat().st_size == entry.size


def next_step(args: argparse.Namespace) -> str:
    """What one may want to do with what is there now."""
    if args.what == "checkpoint":
        others = [f"--checkpoint_dir {args.checkpoint_dir / name}" for name in args.detectors if name != PUBLISHED]
        return ", ".join(others) or f"{to_type('download-images-coco')}, then {to_type('extract-coco')}"
    if args.what == "features":
        return to_type("verify")
    if args.what in ("annotations", "pretrained"):
        return f"{to_type('xlxmert')} puts them where x-lxmert reads them"
    return ", ".join(to_type(f"extract-{name}") for name in args.sets)


if __name__ == "__main__":
    run_main(main)
