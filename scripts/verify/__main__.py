"""Own feature files against the published ones, and why they differ: ``make verify``. One image in memory at a time.

    python -m scripts.verify --ours datasets --published datasets/published        folders, every file that both hold
    python -m scripts.verify --remote                                              100 images of each file of ours,
                                                                                   read where the published ones lie
    python -m scripts.verify --ours FILE.h5 --published FILE.h5|https://.../FILE.h5 --explain

Each image stands on a ladder: equal, float32 rounding, TF32, other decoder, different. Boxes are matched by overlap
first, since near-ties of the ranking swap neighbours. The verdict names the likely cause; --explain recomputes the
worst images under every known hypothesis and says which one gives the published numbers. Exits 1 beyond the tolerances,
if a file cannot be read, or if nothing could be compared.

The published files were made on another GPU, with other builds of cuDNN and libjpeg: they are not expected bit by bit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import h5py

from feature_extraction import catalog, places
from feature_extraction.arguments import Parser, positive
from feature_extraction.compare import PUBLISHED, Tolerance
from feature_extraction.config import EXIT_ALL, EXIT_NOTHING, EXIT_USAGE
from feature_extraction.errors import KitError
from feature_extraction.images.address import is_address, shown
from feature_extraction.names import json_printable, printable
from feature_extraction.storage import store
from feature_extraction.storage.files import atomic_write
from feature_extraction.terminal import run_main

from .evidence import Findings
from .files import ERRORS, Pair, compare_files, opened, pairs, told
from .report import Result, json_of, text_of
from .verdict import Verdict, judge

if TYPE_CHECKING:  # it needs torch
    from .explain import Explanation

ROOT: Final = places.WORK
FLAGS: Final = {
    "quantile": ("quantile", "share of images that has to be within the rest"),
    "features": ("features", "difference, of the image's largest feature"),
    "matched": ("matched", "share of boxes found again"),
    "box_pixels": ("boxes", "how far a box may be off to be found"),
}
"""Flag -> field of Tolerance, help."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked of every pair."""

    tolerance: Tolerance = PUBLISHED
    sample: int | None = None
    explain: bool = False
    images: Path | None = None
    """Where the images lie that are recomputed; None: where our file says that they lay."""
    checkpoint_dir: Path | None = None
    device: str = "auto"


def verify(pair: Pair, options: Options) -> Result:
    """Compare one pair of files."""
    try:
        with store.open_features(pair.ours) as ours, opened(pair.published) as theirs:
            found = compare_files(ours, theirs, options.sample, options.tolerance)
            explanation = explained(ours, theirs.file, found, options)
            return Result(pair, found, judge(found, explanation, options.tolerance), explanation, theirs.traffic)
    except (KitError, *ERRORS) as error:
        reason = told(error)
        return Result(pair, Findings(), Verdict(False, f"Not compared: {reason}", problems=(reason,)), error=reason)


def explained(ours: h5py.File, theirs: h5py.File, found: Findings, options: Options) -> Explanation | None:
    """What recomputing says; None where nothing differs, it is not wanted, or it cannot be done, which is said."""
    if not options.explain or not found.differing:
        return None
    from .recompute import recompute  # it imports torch

    try:
        return recompute(ours, theirs, found, options.images, options.checkpoint_dir, options.device)
    except KitError as error:
        print(f"verify: nothing is recomputed: {printable(str(error))}", file=sys.stderr)
        return None


def arguments() -> argparse.ArgumentParser:
    parser = Parser(
        description=__doc__, prog="python -m scripts.verify", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    # fmt: off
    add("--ours", type=Path, default=ROOT / "datasets", metavar="PATH", help="folder with COCO, VG, ..., or one file")
    add("--published", default=str(ROOT / "datasets" / "published"), metavar="PLACE",
        help="folder, one file, or an address: of a file where --ours is one, else of what holds COCO, VG, ...")
    add("--remote", action="store_true", help=f"--published {catalog.FEATURES_BASE_URL}")
    add("--sample", type=positive, metavar="N",
        help="images of each file, evenly spread (all; 100 of a file behind an address)")
    add("--explain", nargs="?", const="", metavar="IMAGES",
        help="recompute the worst images under every hypothesis; IMAGES: their folder (where our file says)")
    add("--checkpoint_dir", type=Path, help="for --explain (where the extraction looks for it)")
    add("--device", default="auto", help="for --explain: auto, cpu or cuda")
    add("--worst", type=int, default=5, metavar="N", help="images listed (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="write everything that was found to FILE")
    # fmt: on
    for flag, (name, text) in FLAGS.items():
        add(f"--{flag}", type=float, default=getattr(PUBLISHED, name), help=f"{text} (%(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    published = catalog.FEATURES_BASE_URL if args.remote else args.published
    options = Options(
        tolerance=Tolerance(**{name: getattr(args, flag) for flag, (name, _) in FLAGS.items()}),
        sample=args.sample,
        explain=args.explain is not None,
        images=Path(args.explain) if args.explain else None,
        checkpoint_dir=args.checkpoint_dir,
        device=args.device,
    )
    found = pairs(args.ours, published)
    if not found:
        way_out = "make extract-all" if is_address(published) else "make download-features, and make extract-all"
        print(
            f"verify: no feature file is in both {printable(args.ours)} and {shown(published)}: {way_out}; or "
            "--ours FILE --published FILE",
            file=sys.stderr,
        )
        return EXIT_NOTHING
    results = []
    for pair in found:
        results.append(verify(pair, options))
        print(text_of(results[-1], args.worst), flush=True)
    if args.json is not None:
        try:
            atomic_write(args.json, json_printable(json.dumps(json_of(results), indent=2, allow_nan=False)) + "\n")
        except OSError as error:
            print(f"verify: {printable(args.json)} cannot be written: {error.strerror}", file=sys.stderr)
            return EXIT_USAGE
    return EXIT_ALL if all(result.ok for result in results) else EXIT_NOTHING


if __name__ == "__main__":
    run_main(main)
