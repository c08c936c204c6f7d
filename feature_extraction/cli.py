"""The published flags and ours -> one dataclass -> the run. What a user reads is printed here."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import catalog, machine, places
from .arguments import Parser, positive, share, typed
from .catalog import DataSet
from .config import (
    DECODERS,
    ENGINES,
    EXIT_ALL,
    EXIT_NOTHING,
    EXIT_SOME_FAILED,
    PRECISIONS,
    SPECS,
    Boxes,
    ExtractConfig,
    Grid,
    Spec,
)
from .errors import ImageFolderError, KitError, UnknownName, reason_of
from .flags import add_spec_flags, kinds, parse, specs_of
from .images.address import is_address
from .names import counted, printable
from .terminal import exit_code_of, signals_to

if TYPE_CHECKING:
    from .pipeline import Report
    from .storage.check import Finding

EPILOG: Final = (
    "Interrupted runs resume with the same command. Several GPUs: torchrun --nproc-per-node N {program} ...\n"
    "Exit codes: 0 all images; 1 nothing done; 2 usage; 3 some failed (see the .report.json beside the output);\n"
    "130 interrupted, 143 terminated."
)
SEVERITY: Final = (EXIT_ALL, EXIT_SOME_FAILED, EXIT_NOTHING)
"""Exit codes of several files, the worst last."""
DEFAULTS: Final = {f.name: f.default for f in fields(ExtractConfig)}


def origin(text: str) -> str | Path:
    """What ``--images`` names: a path, or an address as it is."""
    return text if is_address(text) else Path(text)


def _add_flags(parser: argparse.ArgumentParser, kinds: Sequence[str]) -> None:
    published = parser.add_argument_group("published flags")
    ours = parser.add_argument_group("further flags")
    add_spec_flags(kinds, published, ours)
    published.add_argument("--batch_size", type=positive, default=DEFAULTS["batch_size"],
        help="images of one size per batch (%(default)s)")  # fmt: skip
    published.add_argument("--backbone", choices=["maskrcnn"], default="maskrcnn", help="the only one")
    add = ours.add_argument
    add("--checkpoint_dir", type=Path, help="folder of the detector's files (./mask_rcnn_ckpt, or the checkout's)")
    add("--device", default=DEFAULTS["device"], help="auto, cpu, cuda or cuda:N (%(default)s)")
    add("--precision", choices=PRECISIONS, default=DEFAULTS["precision"],
        help="%(default)s is the published arithmetic; the others are faster and drift")  # fmt: skip
    add(
        "--engine",
        choices=ENGINES,
        default=DEFAULTS["engine"],
        help="native: this kit's own; reference: the original, in the gpu image (%(default)s)",
    )
    add("--decode", choices=DECODERS, default=DEFAULTS["decode"],
        help="how palette images and such are read (%(default)s)")  # fmt: skip
    add("--workers", type=int, default=DEFAULTS["workers"], help="decoding threads (by the processors, at most 4)")
    add("--threads", type=int, default=DEFAULTS["threads"], help="computing threads on a CPU (the same)")
    add(
        "--shard",
        type=share,
        default=DEFAULTS["shard"],
        metavar="i/n",
        help="do the i-th of n shares (job arrays); of a series of tars every n-th",
    )
    add("--output", type=Path, help="another .h5 file than the published one; of tars a folder")


def main_for(dataset: str, kind: str, argv: Sequence[str] | None = None) -> int:
    """One of the eight published scripts."""
    return execute(configs_for(dataset, kind, argv))


def configs_for(
    dataset: str, kind: str, argv: Sequence[str] | None = None, script: str | None = None
) -> list[ExtractConfig]:
    """What the flags of a published script ask for. Exits with the mistake, told by the name of ``script``, where they
    are wrong."""
    data = catalog.data_set(dataset)
    parser = Parser(
        prog=script,
        description=f"Extract {kind.removesuffix('es')} features of {data.title} with the ResNeXt-152 Faster R-CNN.",
        epilog=EPILOG.format(program="SCRIPT"),
    )
    parser.add_argument(f"--{data.root_flag}", dest="root", type=Path, help=f"root folder ({data.default_root})")
    if data.split_names:
        parser.add_argument("--split", choices=data.split_names, default="valid", help="(%(default)s)")
    _add_flags(parser, [kind])
    args = parse(parser, argv)
    return _of_data_set(data, specs_of(parser, args, [kind]), args)


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m feature_extraction``: extract any data set or images; or one of the ``COMMANDS`` by its name."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    parser = Parser(
        prog="python -m feature_extraction",
        description="Extract grid or box features of a data set of the catalogue or of any images.\n"
        f"Further commands, each with its own --help: {', '.join(COMMANDS)}.",
        epilog=EPILOG.format(program="-m feature_extraction"),
    )
    parser.add_argument(
        "--dataset", choices=list(catalog.DATA_SETS), help="with --root and, where it has some, --split"
    )
    parser.add_argument("--split", help="train, valid or test")
    parser.add_argument("--root", type=Path, help="root folder of the data set (datasets/NAME)")
    parser.add_argument(
        "--images",
        type=origin,
        help="with --output: a folder of images, searched recursively; one image; a list.txt; a .tar, or a series of "
        "them ('cc3m/{00000..00331}.tar'), a file for each; or the address of any of these (s3://, gs://, https://)",
    )
    parser.add_argument("--kinds", "--kind", type=kinds, default=[Grid.name], metavar=",".join(SPECS),
        help=f"one, or several that are made in one pass, a file each ({Grid.name})")  # fmt: skip
    _add_flags(parser, list(SPECS))
    args = parse(parser, argv)
    specs = specs_of(parser, args, args.kinds)
    if (args.dataset is None) == (args.images is None):
        parser.error("give either --dataset NAME or --images DIR --output FILE.h5")
    if args.images is not None:
        if args.output is None or args.split or args.root:
            parser.error("--images DIR goes with --output FILE.h5, not with --split or --root")
        return execute([ExtractConfig(**_common(args, spec, len(specs) > 1)) for spec in specs])
    data = catalog.data_set(args.dataset)
    if args.split is None:
        args.split = "valid" if data.split_names else ""
    try:
        return execute(_of_data_set(data, specs, args))
    except UnknownName as error:
        parser.error(str(error))


def _common(args: argparse.Namespace, spec: Spec, several: bool) -> dict[str, Any]:
    """What the flags say of ExtractConfig, without what follows from a data set. One of several files has the end of
    its published name at the end of the name that was given."""
    known = DEFAULTS.keys() - {"dataset", "split", "spec"}
    values = {name: value for name, value in vars(args).items() if name in known}
    if several and args.output is not None and args.output.suffix == ".h5":
        values["output"] = args.output.with_name(f"{args.output.stem}_{spec.suffix}{args.output.suffix}")
    return {**values, "spec": spec}


def _of_data_set(data: DataSet, specs: Sequence[Spec], args: argparse.Namespace) -> list[ExtractConfig]:
    split = data.split(getattr(args, "split", ""))
    root = (args.root or places.first_existing(places.dataset_roots(data.folder))).resolve()
    configs = []
    for spec in specs:
        values = _common(args, spec, len(specs) > 1)
        if values["output"] is None:
            suffix = spec.suffix + ("_test" if spec.name == Boxes.name and args.test else "")
            values["output"] = data.features_file(root, split, suffix, encoder=args.backbone)
        configs.append(
            ExtractConfig(
                **{**values, "images": data.images_dir(root, split)},
                pattern=data.pattern,
                recursive=data.recursive,
                dataset=data.name,
                split=split.name,
            )
        )
    return configs


def execute(configs: Sequence[ExtractConfig]) -> int:
    """Run extractions of the same images, in one pass; returns the exit code. Errors a user can mend are printed in one
    paragraph."""
    machine.wait_without_spinning()
    with explained(), told_how_images_are_had(configs[0]), stopped_by_signals() as (stopping, by):
        from .series import Refused, Summary, extract_series

        summary, made = Summary(), []
        for result in extract_series(configs, stopping, say):
            summary.add(result)
            if isinstance(result, Refused):
                say(f"{result.images}: no features: {result.error}")
            else:
                _print_report(result)
                made += [result.output] if result.outcome and result.outcome.images else []
        if summary.results > 1:
            say(summary.line())
        if made:
            files = (
                shlex.join(map(str, made)) if len(made) <= len(configs) else f"{shlex.quote(str(made[0].parent))}/*.h5"
            )
            then = (
                f", or {places.to_type('kmeans')} once the grids are there"
                if configs[0].dataset in catalog.DATA_SETS
                else ""
            )
            say(f"next: {typed('check')} {files}{then}")
        return 128 + by[0] if by and summary.exit_code == EXIT_NOTHING else summary.exit_code
    return EXIT_NOTHING


@contextmanager
def told_how_images_are_had(config: ExtractConfig) -> Iterator[None]:
    """Images of the catalogue that are missing: what brings them."""
    try:
        yield
    except ImageFolderError as error:
        if config.dataset not in catalog.DATA_SETS:
            raise
        way_out = places.to_type(f"download-images-{config.dataset}")
        raise ImageFolderError(f"{error} ({way_out} brings them)") from error


def say(line: str) -> None:
    """One line for the user, at once."""
    print(printable(line), flush=True)


@contextmanager
def explained() -> Iterator[None]:
    """Around a command: errors that a user can mend are printed in one paragraph, not raised; a command line that is
    wrong, wherever that is seen, ends it as the parser would."""
    try:
        yield
    except KitError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        if (code := exit_code_of(error)) != EXIT_NOTHING:
            raise SystemExit(code) from error
    except MemoryError as error:
        print(f"error: out of memory ({error}): take a smaller --batch_size or fewer --workers", file=sys.stderr)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which may not be imported for its name alone
            raise
        print(f"error: out of memory ({error}): take a smaller --batch_size or fewer --workers", file=sys.stderr)
    except OSError as error:
        kept = "What was computed is kept; mend the cause and run the same command again"
        print(f"error: {printable(reason_of(error))}. {kept}", file=sys.stderr)


@contextmanager
def stopped_by_signals() -> Iterator[tuple[threading.Event, list[int]]]:
    """An event that SIGINT and SIGTERM set, and which of them came. The same one twice ends the process at once."""
    stopping = threading.Event()
    stopped_by: list[int] = []

    def stop(number: int, _frame: object) -> None:
        if number in stopped_by:  # the same twice: at once (torchrun sends SIGTERM after a Ctrl-C of its own)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stopped_by.append(number)
        stopping.set()
        print("\nstopping after the images in flight; once more to stop at once", file=sys.stderr, flush=True)

    with signals_to(stop, signal.SIGINT, signal.SIGTERM):
        yield stopping, stopped_by


def _print_report(report: Report) -> None:
    index, count = report.share
    if report.stages and not report.stopped:
        say(report.stages)
    if report.stopped:
        say(f"stopped: {report.stages}. The same command goes on from here")
        return
    outcome = report.outcome
    if outcome is None:
        say(f"share {index + 1} of {count} is done; the one that ends last writes {report.output}")
        return
    of_published = f" of the {report.published:,} of the published split" if report.published else ""
    synthetic = ", SYNTHETIC weights" if report.synthetic else ""
    say(
        f"{report.output}: features of {counted(outcome.images)}{of_published}, {len(outcome.failed)} failed{synthetic}"
    )
    if outcome.dropped:
        say(f"  {len(outcome.dropped):,} images are no longer in the folder and were dropped: {_some(outcome.dropped)}")
    for failure in outcome.failed[:20]:
        say(f"  {failure['path']}: {failure['reason']}")
    if outcome.failed:
        from .storage.store import report_path

        say(f"  every one with its reason: {report_path(report.output)}")


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def check(argv: Sequence[str]) -> int:
    """``python -m feature_extraction check``."""
    parser = Parser(
        prog="python -m feature_extraction check",
        description="Read finished feature files bit by bit: flipped bits, missing images, unfinished sets.",
        epilog="Exit codes: 0 all sound; 1 something is wrong; 2 usage.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.h5")
    args = parser.parse_args(argv)
    with explained():
        from .storage.check import check_file

        return max(_print_findings(path, check_file(path, progress=_tell_checked)) for path in args.files)
    return EXIT_NOTHING


def _tell_checked(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done:,} of {total:,} images", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _print_findings(path: Path, findings: Sequence[Finding]) -> int:
    for finding in findings:
        say(f"{path}: {finding.level}: {finding.text}")
    wrong = any(finding.level == "error" for finding in findings)
    if not wrong:
        say(f"{path}: sound")
    return EXIT_NOTHING if wrong else 0


def assemble(argv: Sequence[str]) -> int:
    """``python -m feature_extraction assemble``."""
    parser = Parser(
        prog="python -m feature_extraction assemble",
        description="Write a feature file from what its shares have computed, and say what is missing.",
        epilog="Exit codes: 0 all images; 1 not written; 2 usage; 3 written, and some images failed.",
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT.h5")
    args = parser.parse_args(argv)
    with explained():
        from .storage.by_hand import assemble_by_hand

        outcome = assemble_by_hand(args.output)
        say(f"{args.output}: features of {counted(outcome.images)}, {len(outcome.failed)} failed")
        return EXIT_SOME_FAILED if outcome.failed else EXIT_ALL
    return EXIT_NOTHING


def _tool(name: str) -> Callable[[Sequence[str]], int]:
    """A command of ``tools_cli``, which stands on this module."""
    return lambda argv: int(getattr(import_module(".tools_cli", __package__), name)(argv))


TOOLS: Final = ("info", "subset", "merge", "split", "repack", "export")
COMMANDS: Final[dict[str, Callable[[Sequence[str]], int]]] = {
    "check": check, "assemble": assemble, **{name: _tool(name) for name in TOOLS}
}  # fmt: skip
