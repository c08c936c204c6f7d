#!/usr/bin/env python3
"""Download the checkpoint, the published features, the images. Interrupted, the same command continues.

    python -m scripts.download checkpoint
    python -m scripts.download features coco vg
    python -m scripts.download images gqa --base-url https://mirror.example/x-lxmert
    python -m scripts.download images nlvr2 --nlvr2 /data/nlvr2-images

Several files come at once; each is verified before it appears under its name. SHA-256 sums are recorded in
downloads.lock.json when a file is first seen, and demanded from then on. Needs curl; no Python packages.
Exit codes: 0 everything is there, 1 something is not (each reason is printed), 2 wrong usage, 130 stopped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_extraction import catalog
from feature_extraction.errors import UnknownName
from scripts.download.fetch import FetchError, Item, LockFile, Patience, Stopped, fetch, remote_version, size_in
from scripts.download.unpack import ArchiveError, unpack

ROOT: Final = Path(__file__).resolve().parents[2]

# archive -> the folder in it that holds the images, and where that folder belongs below the data set's root
UNPACKED: Final = {
    **{f"COCO/{s.folder}.zip": (s.folder, f"images/{s.folder}") for s in catalog.COCO.splits},
    "VG/images.zip": ("VG_100K", "images/VG_100K"),
    "VG/images2.zip": ("VG_100K_2", "images/VG_100K_2"),
    "GQA/images.zip": ("images", "images"),
}
NLVR2_HELP: Final = """\
NLVR2's images cannot be downloaded by a program: the NLVR project gives them to whoever fills in its form, which its
page at https://lil.nlp.cornell.edu/nlvr/ links to. With the link that comes by mail:
  1. download train_img.zip, dev_img.zip and test1_img.zip and unpack them
  2. bring the PNG files below {images}/train, {images}/dev and {images}/test1 (sub-folders are fine),
     or leave them where they are, in folders train, dev and test1, and say where:
     python -m scripts.download images nlvr2 --nlvr2 FOLDER"""


@dataclass(frozen=True)
class Wanted:
    """One file to have, and for an archive where its content belongs."""

    item: Item
    top: str = ""
    destination: Path | None = None

    def there(self) -> bool:
        if self.destination is not None:
            return self.destination.is_dir() and any(self.destination.iterdir())
        return self.item.path.is_file()


def source(url: str, key: str, base_url: str | None) -> str:
    """The address of a file, or its place at a mirror or in a local folder."""
    if base_url is None:
        return url
    if "://" in base_url:
        return f"{base_url.rstrip('/')}/{key}"
    folder = Path(base_url).resolve()
    found = next((p for p in (folder / key, folder / Path(key).name) if p.is_file()), folder / key)
    return found.as_uri()


def plan(args: argparse.Namespace) -> Iterator[Wanted]:
    """Every file that the command line asks for."""
    sums = dict(args.sha256)

    def item(key: str, url: str, path: Path) -> Item:
        return Item(key, source(url, key, args.base_url), path, sums.pop(key, None) or sums.pop(Path(key).name, None))

    if args.what == "checkpoint":
        for name, url in catalog.CHECKPOINT_URLS.items():
            yield Wanted(item(name, url, args.checkpoint_dir / name))
    elif args.what == "pretrained":
        name = catalog.PRETRAINED_URL.rpartition("/")[2]
        yield Wanted(item(f"x-lxmert/{name}", catalog.PRETRAINED_URL, args.datasets / "x-lxmert" / name))
    for data in (catalog.data_set(name) for name in args.sets):
        if args.what == "features":
            for split in data.splits:
                for kind in catalog.KINDS:
                    path = data.features_file(args.published / data.folder, split, kind)
                    key = f"{data.published_folder}/{path.name}"
                    yield Wanted(item(key, f"{catalog.FEATURES_BASE_URL}/{key}", path))
        elif args.what == "images":
            for url in catalog.IMAGE_ARCHIVE_URLS[data.name]:
                key = f"{data.folder}/{url.rpartition('/')[2]}"
                top, below = UNPACKED[key]
                root = args.datasets / data.folder
                yield Wanted(item(key, url, root / "archives" / Path(key).name), top, root / below)
    if sums:
        raise FetchError(f"--sha256 names {', '.join(sums)}, which is not among the files asked for")


def nlvr2(args: argparse.Namespace) -> str | None:
    """Check NLVR2's images, or accept a folder of them; returns what is lacking."""
    data = catalog.NLVR2
    images = args.datasets / data.folder / "images"
    if args.nlvr2 is not None:
        given = args.nlvr2.resolve()
        missing = [s.folder for s in data.splits if not (given / s.folder).is_dir()]
        if missing:
            return f"{given} has no folder {', '.join(missing)}; it should hold train, dev and test1"
        if images.exists() and images.resolve() != given:
            return f"{images} is there already: move it away, or leave --nlvr2 out"
        if not images.exists():
            images.parent.mkdir(parents=True, exist_ok=True)
            images.symlink_to(given)
    lacking = []
    for split in data.splits:
        found = sum(1 for _ in data.images_dir(images.parent, split).rglob(data.pattern))
        print(f"nlvr2 {split.name}: {found} of {split.images} images in {images / split.folder}")
        if found < split.images:
            lacking.append(f"{split.name}: {found} of {split.images}")
    return f"nlvr2: images are lacking ({'; '.join(lacking)})\n{NLVR2_HELP.format(images=images)}" if lacking else None


class Progress:
    """One line of totals: rewritten on a terminal, once a minute in a log."""

    def __init__(self, wanted: Sequence[Wanted], total: int | None) -> None:
        self.wanted, self.total = wanted, total
        self.ended = threading.Event()
        self.terminal = sys.stderr.isatty()
        self.thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Progress:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def line(self, begin: int, now: int, seconds: float) -> str:
        rate = (now - begin) / max(seconds, 1e-9)
        text = (
            f"{now / 1e9:.2f}" + (f" of {self.total / 1e9:.2f}" if self.total else "") + f" GB, {rate / 1e6:.1f} MB/s"
        )
        if self.total and rate > 0:
            left = max(self.total - now, 0) / rate
            text += f", {left // 3600:.0f} h {left % 3600 // 60:02.0f} min left"
        return text

    def _show(self) -> None:
        begin, start = sum(w.item.arrived() for w in self.wanted), time.monotonic()
        while not self.ended.wait(1 if self.terminal else 60):
            text = self.line(begin, sum(w.item.arrived() for w in self.wanted), time.monotonic() - start)
            print(f"\r{text:<70}" if self.terminal else text, end="" if self.terminal else "\n", file=sys.stderr)
        if self.terminal:
            print("\r" + " " * 70 + "\r", end="", file=sys.stderr)


def sizes_and_room(wanted: Sequence[Wanted], patience: Patience, jobs: int) -> int | None:
    """Ask every server for its file's size; the total, or None where one does not say. Raises FetchError if there
    is no room for what is to come."""
    with ThreadPoolExecutor(jobs) as pool:
        sizes = list(pool.map(lambda w: size_in(remote_version(w.item.url, patience)), wanted))
    need: dict[int, int] = {}
    where: dict[int, Path] = {}
    for w, size in zip(wanted, sizes, strict=True):
        print(f"{w.item.key}: {'size unknown' if size is None else f'{size / 1e9:.3f} GB'} from {w.item.url}")
        folder = next(p for p in w.item.path.parents if p.is_dir())
        device = folder.stat().st_dev
        where[device] = folder
        # an archive and what it unpacks to lie side by side for a while
        need[device] = need.get(device, 0) + ((2 if w.destination else 1) * (size or 0) - w.item.arrived())
    for device, bytes_needed in need.items():
        room = shutil.disk_usage(where[device]).free
        if bytes_needed > room:
            raise FetchError(
                f"{bytes_needed / 1e9:.1f} GB are needed in {where[device]}, {room / 1e9:.1f} GB are free: "
                "make room, or DATASETS=folder"
            )
    return None if None in sizes else sum(size or 0 for size in sizes)


def have(wanted: Wanted, lock: LockFile, patience: Patience, keep: bool, stopping: threading.Event) -> str:
    """Have one file, or the content of one archive. Raises FetchError or ArchiveError."""
    done = fetch(wanted.item, lock, patience, stopping)
    if wanted.destination is None:
        return f"{wanted.item.path}: {done}"
    wanted.destination.parent.mkdir(parents=True, exist_ok=True)
    files = unpack(wanted.item.path, wanted.top, wanted.destination)
    if not keep:
        wanted.item.path.unlink()
    return f"{wanted.destination}: {files} files unpacked ({done})"


def sum_of(text: str) -> tuple[str, str]:
    name, _, digest = text.partition("=")
    if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SHA-256 (64 hexadecimal digits)")
    return name, digest.lower()


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["checkpoint", "pretrained", "features", "images"])
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(catalog.DATA_SETS)}; all without")
    parser.add_argument("--datasets", type=Path, default=ROOT / "datasets")
    parser.add_argument("--checkpoint_dir", type=Path, default=ROOT / "feature_extraction" / "mask_rcnn_ckpt")
    parser.add_argument("--published", type=Path, help="where published features go (DATASETS/published)")
    parser.add_argument("--base-url", help="a mirror's address or a local folder, with the names that are printed")
    parser.add_argument("--sha256", type=sum_of, action="append", default=[], metavar="NAME=HEX")
    parser.add_argument("--lock", type=Path, default=ROOT / "downloads.lock.json")
    parser.add_argument("--jobs", type=int, default=4, help="files at once (%(default)s)")
    parser.add_argument("--tries", type=int, default=Patience.tries, help="without a new byte (%(default)s)")
    parser.add_argument("--first-wait", type=float, default=Patience.first_wait, help="seconds (%(default)s)")
    parser.add_argument("--keep-archives", action="store_true", help="leave the .zip files after unpacking")
    parser.add_argument("--nlvr2", type=Path, metavar="FOLDER", help="NLVR2's images: folders train, dev, test1")
    args = parser.parse_args(argv)
    try:
        for name in args.sets:
            catalog.data_set(name)
    except UnknownName as error:
        parser.error(str(error))
    if args.what in ("features", "images"):
        args.sets = args.sets or list(catalog.DATA_SETS)
    elif args.sets:
        parser.error(f"{args.what} has no data sets")
    args.published = args.published or args.datasets / "published"
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    patience = Patience(tries=args.tries, first_wait=args.first_wait)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    problems: list[str] = []
    try:
        wanted = list(plan(args))
        todo = [w for w in wanted if not w.there() or (w.destination is None and not is_accepted(w, args.lock))]
        for w in wanted:
            if w not in todo:
                print(f"{w.destination or w.item.path}: is there")
        lock = LockFile(args.lock)
        total = sizes_and_room([w for w in todo if not w.item.path.is_file()], patience, args.jobs)
        with Progress(todo, total), ThreadPoolExecutor(args.jobs) as pool:
            for future in [pool.submit(have, w, lock, patience, args.keep_archives, stopping) for w in todo]:
                try:
                    print(future.result(), flush=True)
                except Stopped:
                    pass
                except (FetchError, ArchiveError, OSError) as error:
                    problems.append(str(error))
    except FetchError as error:
        problems.append(str(error))
    if args.what == "images" and "nlvr2" in args.sets and (lacking := nlvr2(args)):
        problems.append(lacking)
    for problem in problems:
        print(f"download: {problem}", file=sys.stderr)
    if stopping.is_set():
        print("download: stopped; what has arrived is kept, the same command continues", file=sys.stderr)
        return 130
    return 1 if problems else 0


def is_accepted(wanted: Wanted, lock: Path) -> bool:
    """Whether a file that is there is the one the lock file knows, as far as its size tells, and no other is asked
    for by --sha256."""
    entry = LockFile(lock).entry(wanted.item.key)
    return entry is not None and wanted.item.sha256 is None and wanted.item.path.stat().st_size == entry["size"]


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C")  # curl's messages in one language
    sys.exit(main())
