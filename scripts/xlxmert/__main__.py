"""Put every path in place that x-lxmert, its image generator and its sampler read, from what is there.

    python -m scripts.xlxmert --checkout ../x-lxmert
    python -m scripts.xlxmert --check                     only look
    python -m scripts.xlxmert --for vl-t5                 VL-T5's names, and boxes clipped to the image

Files are never overwritten, links that lead nowhere are mended, everything else is said: which path which program
reads, whether it is there, and what puts it there. Running it again changes nothing.
Exit codes: 0 everything is there, 1 something is missing or could not be made, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from feature_extraction.arguments import Parser
from feature_extraction.config import EXIT_ALL, EXIT_NOTHING
from feature_extraction.names import printable
from feature_extraction.places import WORK
from feature_extraction.terminal import run_main

from .place import CHECKOUT, Found, Roots, look, put
from .rows import Reader
from .table import summary, table
from .vl_t5 import VL_T5
from .x_lxmert import X_LXMERT

READERS: Final = {reader.name: reader for reader in (X_LXMERT, VL_T5)}


def parser() -> Parser:
    parser = Parser(description=__doc__, prog="python -m scripts.xlxmert")
    add = parser.add_argument
    add("--datasets", type=Path, default=WORK / "datasets", help="folder of the data (%(default)s)")
    add("--for", dest="reader", choices=READERS, default="x-lxmert", help="the program that reads (%(default)s)")
    add(
        "--checkout",
        type=Path,
        help="where that program's sources lie (the folder that holds the data's, if it is one)",
    )
    add("--only", metavar="NAME,NAME", help="only what these programs read, as the last lines of the table name them")
    add("--check", action="store_true", help="only look, make nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parse = parser()
    args = parse.parse_args(argv)
    reader = READERS[args.reader]
    programs = args.only.split(",") if args.only else reader.programs
    if unknown := [name for name in programs if name not in reader.programs]:
        parse.error(f"--only: no program {unknown[0]!r}; known: {', '.join(reader.programs)}")
    if args.datasets.exists() and not args.datasets.is_dir():
        parse.error(f"--datasets: {printable(args.datasets)} is no folder")
    checkout = args.checkout or beside(args.datasets, reader)
    if checkout is not None and not (checkout / reader.mark).is_dir():
        parse.error(f"--checkout: {printable(checkout)} is no checkout of {reader.name}: it has no {reader.mark}")
    try:
        found = go_through(reader, Roots(args.datasets, checkout), programs, check=args.check)
    except KeyboardInterrupt:
        print("stopped: what has its name is whole; the same command goes on from here")
        return 128 + signal.SIGINT
    absent = "" if args.datasets.is_dir() else " (no such folder)"
    print(printable(f"{reader.name}, below {args.datasets}{absent} and {CHECKOUT}={checkout or '?'}"))
    for line in table(found, CHECKOUT):
        print(line)
    print()
    for line in summary(found, programs):
        print(line)
    return EXIT_ALL if all(one.there for one in found) else EXIT_NOTHING


def beside(datasets: Path, reader: Reader) -> Path | None:
    """The checkout whose folder of data it is, where it lies as x-lxmert's README has it."""
    above = datasets.absolute().parent
    return above if (above / reader.mark).is_dir() else None


def go_through(reader: Reader, roots: Roots, programs: Sequence[str], *, check: bool) -> list[Found]:
    """Look at all rows that these programs read, or put them in place."""
    rows = [row for row in reader.rows if set(row.readers) & set(programs)]
    return [look(row, roots) if check else put(row, roots) for row in rows]


if __name__ == "__main__":
    run_main(main)
