"""The commands about finished feature files: export, info, subset, merge, split, repack. What a user reads is here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .arguments import Parser, positive
from .cli import explained, say, stopped_by_signals
from .config import EXIT_ALL, EXIT_NOTHING
from .errors import UsageError
from .exports.spec import DTYPES, FORMATS, KEYS, ExportConfig, Row
from .exports.spec import check as check_export
from .names import counted, json_printable

if TYPE_CHECKING:
    from .storage.derive import Made, Tell


def _parser(command: str, description: str, epilog: str) -> Parser:
    return Parser(prog=f"python -m feature_extraction {command}", description=description, epilog=epilog)


WHOLE: Final = (
    "A file appears at its name when it is whole and has been read back. Killed, the same command begins anew and\n"
    "removes what was left. Exit codes: 0 written; 1 not; 2 usage."
)


def _described(name: str, row: Row) -> str:
    return f"  {name:13} {row.holds}\n                  for {row.readers}" + (
        f"; --quirks {' '.join(row.quirks)}" if row.quirks else ""
    )


def export(argv: Sequence[str]) -> int:
    """``python -m feature_extraction export``."""
    parser = _parser(
        "export",
        "Write a feature file in the layout that another program reads.",
        "Formats:\n" + "\n".join(_described(*item) for item in FORMATS.items()) + "\n"
        "A killed export goes on with the same command. OUT appears when it is whole and has been read back;\n"
        "OUT.export.json beside it says what it was made of. Exit codes: 0 written; 1 not; 2 usage.",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="FILE.h5")
    add("--to", dest="format", choices=list(FORMATS), required=True, metavar="FORMAT", help="one of those below")
    add("output", type=Path, metavar="OUT")
    add("--dtype", choices=DTYPES, help="of the features; float16 measures its loss (%(default)s)")
    add("--keys", choices=KEYS, help="number: COCO_val2014_000000000042 becomes 42 (%(default)s)")
    add("--ids", type=Path, metavar="LIST.txt", help="only these images, in this order, one id a line")
    add("--features", metavar="ARRAY", help="what becomes the features, as features_fc7 (%(default)s)")
    add("--split", help="fga-h5: train, val or test")
    add("--quirks", action="append", metavar="QUIRK", help="an older form or slip of a published program")
    add("--per_file", type=positive, help="images a file of safetensors, webdataset (%(default)s)")
    parser.set_defaults(
        **{f.name: f.default for f in fields(ExportConfig) if f.default is not MISSING} | {"quirks": []}
    )
    args = parser.parse_args(argv)
    config = ExportConfig(**{**vars(args), "quirks": tuple(args.quirks)})
    try:
        check_export(config)
    except UsageError as error:
        parser.error(str(error))
    with explained(), stopped_by_signals() as (stopping, by):
        from .exports.run import Stopped
        from .exports.run import export as run

        try:
            done = run(config, stopping, _tell)
        except Stopped as stopped:
            say(str(stopped))
            return 128 + by[0]
        rate = (
            f", {done.written / 1e6 / max(done.seconds, 1e-9):,.0f} MB/s" if done.seconds >= 1 and done.written else ""
        )
        how = "was there already" if done.already else f"read back and equal, {done.seconds:.1f} s{rate}"
        say(f"{config.output}: {counted(done.images)}, {done.size / 1e6:,.1f} MB, {how}")
        for note in done.notes:
            say(f"  {note}")
        return 0
    return EXIT_NOTHING


def _tell(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done:,} of {total:,} images", end="" if done < total else "\n", file=sys.stderr, flush=True)


class _Stopped(Exception):
    """The run was asked to stop."""


def _deriving(run: Callable[[Tell], int]) -> int:
    """Let ``run`` make files, given what to tell its progress; asked to stop, it leaves nothing half made."""
    with explained(), stopped_by_signals() as (stopping, by):

        def tell(done: int, total: int) -> None:
            _tell(done, total)
            if stopping.is_set() and done < total:
                raise _Stopped

        try:
            return run(tell)
        except _Stopped:
            say("stopped: nothing of the file is left. The same command begins anew")
            return 128 + by[0]
    return EXIT_NOTHING


def info(argv: Sequence[str]) -> int:
    """``python -m feature_extraction info``."""
    parser = _parser(
        "info",
        "What feature files hold and what made them, without reading their features.",
        "Exit codes: 0 all are told; 1 one cannot be read; 2 usage.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.h5")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="a line of JSON for each file")
    how.add_argument("--ids", action="store_true", help="the ids of all images, one a line: a list for subset, export")
    args = parser.parse_args(argv)
    told = 0
    for path in args.files:
        with explained():  # the others are told whatever one is
            _tell_of(path, ids=args.ids, as_json=args.json)
            told += 1
    return EXIT_ALL if told == len(args.files) else EXIT_NOTHING


def _tell_of(path: Path, *, ids: bool, as_json: bool) -> None:
    from .storage.info import describe
    from .storage.store import image_ids, open_features

    if ids:
        with open_features(path) as file:
            print("\n".join(image_ids(file)))
    elif as_json:
        print(json_printable(json.dumps(describe(path), ensure_ascii=False)))
    else:
        _print_info(path, describe(path))


def _print_info(path: Path, found: dict[str, Any]) -> None:
    say(f"{path}: {counted(found['images'])}, {found['bytes'] / 1e6:,.1f} MB, {found['first']} to {found['last']}")
    for name, array in found["arrays"].items():
        stored = f", compressed to {array['stored'] / array['bytes']:.0%}" if "stored" in array else ""
        say(f"  {name:12} {array['dtype']:8} {tuple(array['shape'])}{stored}")
    if not found["checksums"]:
        say("  no checksums: a published file, or one of an earlier version")
    for name, value in found["made"].items():
        say(f"  {name} = {json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value}")


def subset(argv: Sequence[str]) -> int:
    """``python -m feature_extraction subset``."""
    parser = _parser("subset", "Write some images of a feature file as a file of their own.", WHOLE)
    parser.add_argument("source", type=Path, metavar="FILE.h5")
    parser.add_argument("ids", type=Path, metavar="LIST.txt", help="ids, one a line; every one has to be there")
    parser.add_argument("output", type=Path, metavar="OUT.h5")
    args = parser.parse_args(argv)

    def run(tell: Tell) -> int:
        from .exports.keys import read_ids
        from .storage import derive

        return _made(derive.subset(args.source, read_ids(args.ids), args.output, tell))

    return _deriving(run)


def merge(argv: Sequence[str]) -> int:
    """``python -m feature_extraction merge``."""
    parser = _parser("merge", "Write the images of several feature files of one recipe as one file.", WHOLE)
    parser.add_argument("sources", nargs="+", type=Path, metavar="FILE.h5")
    parser.add_argument("output", type=Path, metavar="OUT.h5")
    parser.add_argument("--any_split", action="store_true", help="of several data sets or splits: COCO train and valid")
    args = parser.parse_args(argv)
    if len(args.sources) < 2:
        parser.error("give at least two files and the name of the new one")

    def run(tell: Tell) -> int:
        from .storage import derive

        return _made(derive.merge(args.sources, args.output, tell, any_split=args.any_split))

    return _deriving(run)


def split(argv: Sequence[str]) -> int:
    """``python -m feature_extraction split``."""
    parser = _parser(
        "split",
        "Write a feature file as several: as many as asked for, of almost as many images each, or one for each list.",
        "The files are called FILE-00001-of-00004.h5, or FILE-LIST.h5. Images in no list are left out, and counted;\n"
        "files that are there, made by the same command, are kept.\n" + WHOLE,
    )
    parser.add_argument("source", type=Path, metavar="FILE.h5")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--parts", type=positive, metavar="N")
    how.add_argument(
        "--ids", action="append", type=Path, metavar="LIST.txt", help="ids, one a line; once for each file"
    )
    args = parser.parse_args(argv)
    lists = {path.stem: path for path in args.ids or ()}
    if len(lists) < len(args.ids or ()):
        parser.error("two lists have the same name")

    def run(tell: Tell) -> int:
        from .exports.keys import read_ids
        from .storage import derive
        from .storage.info import describe

        if args.parts:
            made = derive.split_evenly(args.source, args.parts, args.folder, tell)
        else:
            ids = {name: read_ids(path) for name, path in lists.items()}
            made = derive.split_by_lists(args.source, ids, args.folder, tell)
        left = describe(args.source)["images"] - sum(one.images for one in made)
        if left:
            say(f"{left:,} images of {args.source} stand in no list and were left out")
        return _made(*made)

    return _deriving(run)


def repack(argv: Sequence[str]) -> int:
    """``python -m feature_extraction repack``."""
    parser = _parser(
        "repack",
        "Write a feature file in fewer bytes: compressed without loss, or with features in float16.",
        "The published loaders read either; without --gzip and --dtype the plain layout is written.\n" + WHOLE,
    )
    parser.add_argument("source", type=Path, metavar="FILE.h5")
    parser.add_argument("output", type=Path, metavar="OUT.h5")
    add = parser.add_argument
    add("--gzip", type=int, choices=range(10), default=0, metavar="0..9", help="level; 1 is fast, 0 none (%(default)s)")
    add("--dtype", choices=["float16"], help="of the features; what it loses is written down")
    args = parser.parse_args(argv)

    def run(tell: Tell) -> int:
        from .storage import derive

        half = args.dtype is not None
        made, loss = derive.repack(args.source, args.output, tell, gzip=args.gzip, half=half)
        code = _made(made)
        if loss is not None and not made.already:
            say(f"  {loss}")
        return code

    return _deriving(run)


def _made(*files: Made) -> int:
    for one in files:
        size = one.path.stat().st_size / 1e6
        how = "was there already" if one.already else "read back and equal"
        say(f"{one.path}: {counted(one.images)}, {size:,.1f} MB, {how}")
    return 0
