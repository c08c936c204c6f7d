"""What there is to download, where it comes from and where it belongs. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from feature_extraction import catalog
from feature_extraction.errors import DownloadError
from feature_extraction.names import printable
from feature_extraction.places import to_give, to_type

from .annotations import ANNOTATIONS
from .fetch import Download

# archive -> the folder in it that holds the images, and where that folder belongs below the data set's root
UNPACKED: Final = {
    **{f"COCO/{s.folder}.zip": (s.folder, f"images/{s.folder}") for s in catalog.COCO.splits},
    "VG/images.zip": ("VG_100K", "images/VG_100K"),
    "VG/images2.zip": ("VG_100K_2", "images/VG_100K_2"),
    "GQA/images.zip": ("images", "images"),
}
PUBLISHED: Final = "x-152"
"""The detector of the paper."""
NLVR2_HELP: Final = """\
NLVR2's images cannot be downloaded by a program: the NLVR project gives them to whoever fills in its form, which its
page at https://lil.nlp.cornell.edu/nlvr/ links to. With the link that comes by mail:
  1. download train_img.zip, dev_img.zip and test1_img.zip and unpack them
  2. bring the PNG files below {images}/train, {images}/dev and {images}/test1 (sub-folders are fine),
     or leave them where they are, in folders train, dev and test1, and say where:
     {command}"""


def address(url: str, names: Sequence[str], base_url: str | None) -> str:
    """The address of a file; its place at a mirror; or in a local folder, by the first of its names that is there."""
    if base_url is None:
        return url
    if "://" in base_url:
        return f"{base_url.rstrip('/')}/{names[0]}"
    places = [Path(base_url).resolve() / name for name in names]
    return next((place for place in places if place.is_file()), places[0]).as_uri()


class Plan:
    """Every file that the command line asks for. Raises DownloadError."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.sums: dict[str, str] = dict(args.sha256)
        self.downloads = list(self._downloads())
        if self.sums:
            names = ", ".join(map(printable, self.sums))
            raise DownloadError(f"--sha256 names {names}, which is not among the files asked for")

    def _downloads(self) -> Iterator[Download]:
        args = self.args
        if args.what == "checkpoint":
            for detector in args.detectors:
                # the published detector's files have their bare names, in the lock file and at mirrors
                below = Path() if detector == PUBLISHED else Path(detector)
                for name, url in catalog.CHECKPOINT_URLS[detector].items():
                    yield self._download(str(below / name), url, args.checkpoint_dir / below / name)
        elif args.what == "pretrained":
            for key, url in catalog.PRETRAINED_URLS.items():
                yield self._download(key, url, args.datasets / "x-lxmert" / Path(key).name)
        elif args.what == "annotations":
            for file in ANNOTATIONS:
                yield self._download(file.path, file.url, args.datasets / file.path, sha256=file.sha256)
        for data in map(catalog.data_set, args.sets):
            yield from self._features(data) if args.what == "features" else self._images(data)

    def _features(self, data: catalog.DataSet) -> Iterator[Download]:
        for file in (f for f in catalog.feature_files() if f.data is data):
            url = f"{catalog.FEATURES_BASE_URL}/{file.published_name}"
            yield self._download(file.published_name, url, file.path(self.args.published))

    def _images(self, data: catalog.DataSet) -> Iterator[Download]:
        root = self.args.datasets / data.folder
        if data.name not in catalog.IMAGE_ARCHIVE_URLS:
            raise DownloadError(
                f"{data.title}: no address of its images is known (catalog.IMAGE_ARCHIVE_URLS); bring them to "
                f"{printable(root / 'images')}"
            )
        for url in catalog.IMAGE_ARCHIVE_URLS[data.name]:
            key = f"{data.folder}/{url.rpartition('/')[2]}"
            top, below = UNPACKED[key]
            yield self._download(key, url, root / "archives" / Path(key).name, top=top, destination=root / below)

    def _download(self, key: str, url: str, path: Path, **more: Any) -> Download:
        """``more``: as ``Download`` has it. What --sha256 says of the file comes first."""
        # annotations have the same names in different folders: one of them alone says nothing
        names = (key,) if self.args.what == "annotations" else (key, Path(key).name)
        given = next((self.sums.pop(name) for name in names if name in self.sums), more.pop("sha256", None))
        return Download(key, address(url, names, self.args.base_url), path, given, **more)


def nlvr2(datasets: Path, given: Path | None) -> str | None:
    """Check NLVR2's images, or accept a folder of them; returns what is lacking."""
    data = catalog.NLVR2
    images = datasets / data.folder / "images"
    if given is not None:
        given = given.resolve()
        missing = [s.folder for s in data.splits if not (given / s.folder).is_dir()]
        if missing:
            return f"{printable(given)} has no folder {', '.join(missing)}; it should hold train, dev and test1"
        if images.exists() and images.resolve() != given:
            return f"{printable(images)} is there already: move it away, or leave --nlvr2 out"
        if not images.exists():
            images.parent.mkdir(parents=True, exist_ok=True)
            images.symlink_to(given)
    lacking = []
    for split in data.splits:
        found = sum(1 for _ in data.images_dir(images.parent, split).rglob(data.pattern))
        print(f"nlvr2 {split.name}: {found} of {split.images} images in {printable(images / split.folder)}")
        if found < split.images:
            lacking.append(f"{split.name}: {found} of {split.images}")
    where = to_give("--nlvr2 FOLDER", 'DOWNLOAD_FLAGS="--nlvr2 FOLDER"')
    command = f"{to_type('download-images-nlvr2')} {where}"
    help_text = NLVR2_HELP.format(images=printable(images), command=command)
    return f"nlvr2: images are lacking ({'; '.join(lacking)})\n{help_text}" if lacking else None
