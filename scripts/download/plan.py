"""What there is to download, where it comes from and where it belongs. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from feature_extraction import catalog
from feature_extraction.errors import DownloadError
from feature_extraction.names import printable

from .fetch import Download

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


def address(url: str, key: str, base_url: str | None) -> str:
    """The address of a file, or its place at a mirror or in a local folder."""
    if base_url is None:
        return url
    if "://" in base_url:
        return f"{base_url.rstrip('/')}/{key}"
    folder = Path(base_url).resolve()
    found = next((p for p in (folder / key, folder / Path(key).name) if p.is_file()), folder / key)
    return found.as_uri()


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
            for name, url in catalog.CHECKPOINT_URLS.items():
                yield self._download(name, url, args.checkpoint_dir / name)
        elif args.what == "pretrained":
            name = catalog.PRETRAINED_URL.rpartition("/")[2]
            yield self._download(f"x-lxmert/{name}", catalog.PRETRAINED_URL, args.datasets / "x-lxmert" / name)
        for data in map(catalog.data_set, args.sets):
            yield from self._features(data) if args.what == "features" else self._images(data)

    def _features(self, data: catalog.DataSet) -> Iterator[Download]:
        for file in (f for f in catalog.feature_files() if f.data is data):
            url = f"{catalog.FEATURES_BASE_URL}/{file.published_name}"
            yield self._download(file.published_name, url, file.path(self.args.published))

    def _images(self, data: catalog.DataSet) -> Iterator[Download]:
        root = self.args.datasets / data.folder
        for url in catalog.IMAGE_ARCHIVE_URLS[data.name]:
            key = f"{data.folder}/{url.rpartition('/')[2]}"
            top, below = UNPACKED[key]
            yield self._download(key, url, root / "archives" / Path(key).name, top, root / below)

    def _download(self, key: str, url: str, path: Path, top: str = "", destination: Path | None = None) -> Download:
        sha256 = self.sums.pop(key, None) or self.sums.pop(Path(key).name, None)
        return Download(key, address(url, key, self.args.base_url), path, sha256, top, destination)


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
    help_text = NLVR2_HELP.format(images=printable(images))
    return f"nlvr2: images are lacking ({'; '.join(lacking)})\n{help_text}" if lacking else None
