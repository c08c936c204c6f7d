"""One page about what has been made: how things stand, images with their boxes and visual words, the vocabulary.

    python -m scripts.report --datasets datasets --output report.html

The page is one file, pictures included; it opens from the disk and needs no network. Only what is shown is read.
Exit codes: 0 the page is written; 1 it is not, the reason in one line; 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from feature_extraction.arguments import Parser, positive
from feature_extraction.config import EXIT_ALL
from feature_extraction.errors import KitError, StoreError, reason, reason_of
from feature_extraction.names import printable
from feature_extraction.storage.files import atomic_write
from feature_extraction.terminal import exit_code_of, run_main

from .options import PageOptions


def numbers(text: str) -> tuple[int, ...]:
    """``17,905`` -> (17, 905)."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers and commas, for example 17,905") from None


def write(options: PageOptions, output: Path) -> None:
    """Write the page to ``output``: the former one or the new, whole. Raises KitError."""
    from .page import page_of  # it imports what --help does without

    page = page_of(options).encode("utf-8", "backslashreplace")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists() and not output.is_file():  # a pipe, or /dev/stdout
            with output.open("wb") as file:
                file.write(page)
        else:
            atomic_write(output.resolve(), page)
    except OSError as error:
        raise StoreError(f"{output} cannot be written: {reason(error)}") from error


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, prog="python -m scripts.report")
    default = PageOptions(datasets=Path("datasets"))
    add = parser.add_argument
    add("--datasets", type=Path, default=default.datasets, help="(./%(default)s)")
    add("--output", type=Path, default=Path("report.html"), help="(./%(default)s)")
    add("--per_file", "--per-file", type=positive, default=default.per_file, help="images of each file (%(default)s)")
    add("--words", type=numbers, default=(), metavar="N,N", help="words to show besides the largest, median and rarest")
    add("--rows", type=positive, default=default.rows, help="words whose nearest cells are shown (%(default)s)")
    add("--images", type=Path, action="append", default=[], metavar="DIR",
        help="images that lie elsewhere; repeat for several folders")  # fmt: skip
    add("--names", type=Path, help="names of the classes, one a line (objects_vocab.txt in the data folder)")
    add("--vocabulary", metavar="NAME", help="file name of the centroids, where there are several")
    args = parser.parse_args(argv)
    options = PageOptions(
        datasets=args.datasets, per_file=args.per_file, words=args.words, rows=args.rows, images=tuple(args.images),
        names=args.names, vocabulary=args.vocabulary,
    )  # fmt: skip
    try:
        write(options, args.output)
    except (KitError, OSError) as error:
        print(f"error: {printable(reason_of(error) if isinstance(error, OSError) else str(error))}", file=sys.stderr)
        return exit_code_of(error)
    print(f"{printable(args.output)}: open it in a browser")
    return EXIT_ALL


if __name__ == "__main__":
    run_main(main)
