#!/usr/bin/env python3
"""Own feature files against the published ones: ``make verify``. One image in memory at a time.

    python -m scripts.verify --ours datasets --published datasets/published [--sample 2000]

For every file that both folders hold: the ids, the shapes and types, and how far the features are apart, as quantiles
over the images of the largest difference relative to the image's largest feature. Boxes are matched by place first,
since near-ties of the ranking may swap neighbours. Exits 1 beyond the tolerances, or if no file could be compared.

The published files were made on another GPU, with other builds of cuDNN and libjpeg: they are not expected bit by bit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction import catalog
from feature_extraction.errors import StoreError
from feature_extraction.storage.store import image_ids, open_features

ROOT: Final = Path(__file__).resolve().parents[1]

QUANTILES: Final = (0.5, 0.9, 0.99, 1.0)
MOST_LISTED: Final = 5


@dataclass(frozen=True)
class Tolerance:
    quantile: float = 0.99
    """Share of the images that have to be within the next two."""
    features: float = 0.02
    """Largest difference, of the image's largest absolute feature."""
    matched: float = 0.9
    """Share of an image's boxes that the other file has within ``box_pixels``, with the same class."""
    box_pixels: float = 1.0


@dataclass
class Comparison:
    """What one pair of files showed."""

    problems: list[str] = field(default_factory=list)
    features: list[float] = field(default_factory=list)
    matched: list[float] = field(default_factory=list)


def match_boxes(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.floating[Any]]]:
    """For each of our boxes the nearest of theirs, and how far its farthest edge is, in pixels."""
    apart = np.abs(ours[:, None, :].astype(np.float64) - theirs[None, :, :]).max(2)
    nearest = apart.argmin(1)
    return nearest, apart[np.arange(len(ours)), nearest]


def compare_image(ours: h5py.Group, theirs: h5py.Group, tolerance: Tolerance, into: Comparison) -> None:
    """One image's arrays; problems of form go into ``into.problems`` with its id."""
    name = ours.name.lstrip("/")
    if set(ours) < set(theirs):
        into.problems.append(f"{name}: {', '.join(sorted(set(theirs) - set(ours)))} is missing")
        return
    for key in theirs:
        if (ours[key].shape, ours[key].dtype) != (theirs[key].shape, theirs[key].dtype):
            into.problems.append(
                f"{name}/{key}: {ours[key].dtype} {ours[key].shape}, published {theirs[key].dtype} {theirs[key].shape}"
            )
            return
    a, b = ours["features"][()], theirs["features"][()]
    if "boxes" in theirs:
        for key in ("img_w", "img_h"):
            if ours[key][()] != theirs[key][()]:
                into.problems.append(f"{name}/{key}: {ours[key][()]}, published {theirs[key][()]}")
                return
        nearest, apart = match_boxes(ours["boxes"][()], theirs["boxes"][()])
        same = (apart <= tolerance.box_pixels) & (ours["obj_id"][()] == theirs["obj_id"][()][nearest])
        into.matched.append(float(same.mean()))
        a, b = a[same], b[nearest[same]]
        if not len(a):
            return
    largest = float(np.abs(b).max()) or 1.0
    # a NaN anywhere makes this NaN, which no tolerance admits
    into.features.append(float(np.abs(a.astype(np.float64) - b).max()) / largest)


def compare(ours: h5py.File, theirs: h5py.File, sample: int | None, tolerance: Tolerance) -> Comparison:
    """Two feature files."""
    found = Comparison()
    mine, published = image_ids(ours), image_ids(theirs)
    for lacking, where in ((set(published) - set(mine), "ours"), (set(mine) - set(published), "the published file")):
        if lacking:
            listed = ", ".join(sorted(lacking)[:MOST_LISTED])
            found.problems.append(f"{len(lacking)} images are not in {where}: {listed}" + " ..." * (len(lacking) > 5))
    both = sorted(set(mine) & set(published), key=str.encode)
    step = max(1, len(both) // sample) if sample else 1
    for name in both[::step]:
        compare_image(ours[name], theirs[name], tolerance, found)
    return found


def beyond(found: Comparison, tolerance: Tolerance) -> list[str]:
    """What is out of tolerance, in words."""
    said = []
    if not found.features:
        said.append("no image could be compared")
    elif not np.quantile(found.features, tolerance.quantile) <= tolerance.features:
        said.append(f"features: quantile {tolerance.quantile:g} is beyond {tolerance.features:g}")
    if found.matched and not np.quantile(found.matched, 1 - tolerance.quantile) >= tolerance.matched:
        said.append(
            f"boxes: more than {1 - tolerance.quantile:.0%} of the images match in less than {tolerance.matched:g}"
        )
    return said


def pairs(ours: Path, published: Path) -> Iterator[tuple[Path, Path]]:
    """(our file, published file) for every file of the catalogue that both hold."""
    for data in catalog.DATA_SETS.values():
        for split in data.splits:
            for kind in catalog.KINDS:
                mine = data.features_file(ours / data.folder, split, kind)
                # the published downloads call NLVR2's folder so, the scripts nlvr2
                folders = (data.folder, data.published_folder)
                theirs = [data.features_file(published / f, split, kind) for f in folders]
                theirs += [published / f / mine.name for f in folders]
                there = next((p for p in theirs if p.is_file()), None)
                if there is not None and mine.is_file() and not mine.samefile(there):
                    yield mine, there


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path, default=ROOT / "datasets", help="folder with COCO, VG, ...")
    parser.add_argument("--published", type=Path, default=ROOT / "datasets" / "published")
    parser.add_argument("--sample", type=int, help="about this many images per file, evenly spread (all)")
    for name, text in (
        ("quantile", "share of images that has to be within the rest"),
        ("features", "difference, of the image's largest feature"),
        ("matched", "share of boxes found again"),
        ("box_pixels", "how far a box may be off to be found"),
    ):
        parser.add_argument(f"--{name}", type=float, default=getattr(Tolerance, name), help=f"{text} (%(default)s)")
    args = parser.parse_args(argv)
    tolerance = Tolerance(args.quantile, args.features, args.matched, args.box_pixels)
    compared = wrong = 0
    for mine, theirs in pairs(args.ours, args.published):
        compared += 1
        try:
            with open_features(mine) as a, open_features(theirs) as b:
                found = compare(a, b, args.sample, tolerance)
        except (StoreError, OSError, KeyError) as error:
            print(f"{mine}: WRONG: {error}")
            wrong += 1
            continue
        said = found.problems + beyond(found, tolerance)
        print(f"{mine}: {'WRONG' if said else 'ok'}, {len(found.features)} images compared with {theirs}")
        for title, values in (("features apart", found.features), ("boxes matched", found.matched)):
            if values:
                numbers = np.quantile(values, QUANTILES if values is found.features else [1 - q for q in QUANTILES])
                print(f"    {title}: " + ", ".join(f"{q:.0%} {v:.2g}" for q, v in zip(QUANTILES, numbers, strict=True)))
        for line in said[:MOST_LISTED]:
            print(f"    {line}")
        if len(said) > MOST_LISTED:
            print(f"    and {len(said) - MOST_LISTED} more")
        wrong += bool(said)
    if not compared:
        print(
            f"verify: no feature file is in both {args.ours} and {args.published}: make download-features, "
            "and make extract-all",
            file=sys.stderr,
        )
    return 1 if wrong or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
