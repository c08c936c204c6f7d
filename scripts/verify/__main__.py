"""Own feature files against the published ones, and why they differ. One image in memory at a time.

    python -m scripts.verify --ours datasets --published datasets/published        folders, every file that both hold
    python -m scripts.verify --remote                                              100 images of each file of ours,
                                                                                   read where the published ones lie
    python -m scripts.verify --ours FILE.h5 --published FILE.h5|https://.../FILE.h5 --explain

Each image stands on a ladder: equal, float32 rounding, TF32, other decoder, different. Boxes are matched by overlap
first, since near-ties of the ranking swap neighbours. The verdict names the likely cause; --explain recomputes the
worst images under every known hypothesis and says which one gives the published numbers: some 40 extractions of one
image, and Ctrl-C leaves the verdict of the files alone.

Exit codes: 0 within the tolerances; 1 beyond them, a file cannot be read, or nothing could be compared; 2 usage;
130 interrupted.

The published files were made on another GPU, with other builds of cuDNN and libjpeg: they are not expected bit by bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from feature_extraction import catalog
from feature_extraction.arguments import Parser, positive
from feature_extraction.errors import KitError
from feature_extraction.names import printable
from feature_extraction.places import WORK
from feature_extraction.terminal import exit_code_of, run_main
from feature_extraction.tolerance import PUBLISHED, Tolerance


def bound(text: str) -> float:
    """A number from 0."""
    if not (value := float(text)) >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0")
    return value


def part(text: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a part from 0 to 1")
    return value


FLAGS: Final = {
    "quantile": ("quantile", part, "share of images that has to be within the rest"),
    "features": ("features", bound, "difference, of the image's largest feature"),
    "matched": ("matched", part, "share of boxes found again"),
    "box_pixels": ("boxes", bound, "how far a box may be off to be found"),
}
"""Flag -> field of Tolerance, what it may be, help."""


def arguments() -> argparse.ArgumentParser:
    parser = Parser(
        description=__doc__, prog="python -m scripts.verify", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    # fmt: off
    add("--ours", type=Path, default=WORK / "datasets", metavar="PATH", help="folder with COCO, VG, ..., or one file")
    add("--published", default=str(WORK / "datasets" / "published"), metavar="PLACE",
        help="folder, one file, or an address: of a file where --ours is one, else of what holds COCO, VG, ...")
    add("--remote", action="store_true", help=f"--published {catalog.FEATURES_BASE_URL}")
    add("--sample", type=positive, metavar="N",
        help="images of each file, evenly spread (all; 100 of a file behind an address)")
    add("--explain", nargs="?", const="", metavar="IMAGES",
        help="recompute the worst images under every hypothesis; IMAGES: their folder (where our file says)")
    add("--checkpoint_dir", type=Path, help="for --explain (where the extraction looks for it)")
    add("--device", default="auto", help="for --explain: auto, cpu, cuda or cuda:N")
    add("--worst", type=positive, default=5, metavar="N", help="images listed (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="write everything that was found to FILE")
    # fmt: on
    for flag, (name, kind, text) in FLAGS.items():
        add(f"--{flag}", type=kind, default=getattr(PUBLISHED, name), help=f"{text} (%(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = parsed(argv)
    from .run import EXIT_INTERRUPTED, complain, run  # --help needs no packages

    try:
        return run(args)
    except KitError as error:
        complain(printable(str(error)))
        return exit_code_of(error)
    except KeyboardInterrupt:
        complain("interrupted; of files that are told above the verdict holds")
        return EXIT_INTERRUPTED


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """What can be refused before anything is read is refused."""
    parser = arguments()
    args = parser.parse_args(argv)
    args.tolerance = Tolerance(**{name: getattr(args, flag) for flag, (name, *_) in FLAGS.items()})
    if args.remote:
        args.published = catalog.FEATURES_BASE_URL
    if args.json is not None and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {printable(args.json)}: its folder does not exist")
    return args


if __name__ == "__main__":
    run_main(main)
