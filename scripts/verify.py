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
from typing import Final

import h5py

from feature_extraction import catalog
from feature_extraction.compare import (
    PUBLISHED,
    Difference,
    Tolerance,
    compare_matched,
    out_of_tolerance,
    problems_of_form,
    quantiles,
)
from feature_extraction.errors import StoreError
from feature_extraction.names import printable
from feature_extraction.storage.store import array_names, array_of, image_ids, open_features, read_array

ROOT: Final = Path(__file__).resolve().parents[1]

SHARES: Final = (0.5, 0.9, 0.99, 1.0)
"""Of the images, for which the worst difference is printed."""
MOST_LISTED: Final = 5
FLAGS: Final = {
    "quantile": ("quantile", "share of images that has to be within the rest"),
    "features": ("features", "difference, of the image's largest feature"),
    "matched": ("matched", "share of boxes found again"),
    "box_pixels": ("boxes", "how far a box may be off to be found"),
}
"""Flag -> field of Tolerance, help."""


@dataclass
class Findings:
    """What one pair of files showed."""

    problems: list[str] = field(default_factory=list)
    """Of form: what cannot be compared."""
    differences: list[Difference] = field(default_factory=list)

    def compared(self) -> int:
        return sum(d.features is not None for d in self.differences)


def compare_image(ours: h5py.File, theirs: h5py.File, name: str, tolerance: Tolerance, into: Findings) -> None:
    """One image's arrays; problems of form go into ``into.problems`` with its id. Raises StoreError, OSError."""
    mine, published = ({a: array_of(file, name, a) for a in array_names(file, name)} for file in (ours, theirs))
    if problems := problems_of_form(mine, published):
        into.problems.append(f"{printable(name)}: {problems[0].replace('expected', 'published')}")
        return
    found, expected = ({key: read_array(arrays[key]) for key in published} for arrays in (mine, published))
    for key in ("img_w", "img_h"):
        if key in expected and found[key] != expected[key]:
            into.problems.append(f"{printable(name)}/{key}: {found[key]}, published {expected[key]}")
            return
    into.differences.append(compare_matched(found, expected, tolerance.boxes))


def compare_files(ours: h5py.File, theirs: h5py.File, sample: int | None, tolerance: Tolerance) -> Findings:
    """Two feature files."""
    found = Findings()
    mine, published = image_ids(ours), image_ids(theirs)
    for lacking, where in ((set(published) - set(mine), "ours"), (set(mine) - set(published), "the published file")):
        if lacking:
            listed = ", ".join(map(printable, sorted(lacking)[:MOST_LISTED]))
            more = " ..." if len(lacking) > MOST_LISTED else ""
            found.problems.append(f"{len(lacking)} images are not in {where}: {listed}{more}")
    both = sorted(set(mine) & set(published), key=str.encode)
    step = max(1, len(both) // sample) if sample else 1
    for name in both[::step]:
        compare_image(ours, theirs, name, tolerance, found)
    return found


def pairs(ours: Path, published: Path) -> Iterator[tuple[Path, Path]]:
    """(our file, published file) for every file of the catalogue that both hold."""
    for file in catalog.feature_files():
        mine = file.path(ours)
        # the published downloads call NLVR2's folder so, the scripts nlvr2
        folders = [published / folder for folder in (file.data.folder, file.data.published_folder)]
        theirs = [place / mine.name for folder in folders for place in (folder / "features", folder)]
        there = next((path for path in theirs if path.is_file()), None)
        if there is not None and mine.is_file() and not mine.samefile(there):
            yield mine, there


def report(mine: Path, theirs: Path, sample: int | None, tolerance: Tolerance) -> bool:
    """Compare two files and print what was found; whether they are within the tolerance."""
    try:
        with open_features(mine) as a, open_features(theirs) as b:
            found = compare_files(a, b, sample, tolerance)
    except (StoreError, OSError, KeyError, IndexError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else printable(str(error))
        print(f"{printable(mine)}: WRONG: {reason}")
        return False
    said = found.problems + out_of_tolerance(found.differences, tolerance)
    verdict = "WRONG" if said else "ok"
    print(f"{printable(mine)}: {verdict}, {found.compared()} images compared with {printable(theirs)}")
    for title, name in (("features apart", "features"), ("boxes matched", "matched")):
        if values := quantiles(found.differences, name, SHARES):
            print(f"    {title}: " + ", ".join(f"{share:.0%} {value:.2g}" for share, value in values))
    for line in said[:MOST_LISTED]:
        print(f"    {line}")
    if len(said) > MOST_LISTED:
        print(f"    and {len(said) - MOST_LISTED} more")
    return not said


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path, default=ROOT / "datasets", help="folder with COCO, VG, ...")
    parser.add_argument("--published", type=Path, default=ROOT / "datasets" / "published")
    parser.add_argument("--sample", type=int, help="about this many images per file, evenly spread (all)")
    for flag, (name, text) in FLAGS.items():
        parser.add_argument(f"--{flag}", type=float, default=getattr(PUBLISHED, name), help=f"{text} (%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    tolerance = Tolerance(**{name: getattr(args, flag) for flag, (name, _) in FLAGS.items()})
    verdicts = [report(mine, theirs, args.sample, tolerance) for mine, theirs in pairs(args.ours, args.published)]
    if not verdicts:
        print(
            f"verify: no feature file is in both {printable(args.ours)} and {printable(args.published)}: "
            "make download-features, and make extract-all",
            file=sys.stderr,
        )
    return 0 if verdicts and all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
