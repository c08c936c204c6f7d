"""run_kmeans.py's flags, as published and ours, turned into ``Options``; what a user reads is printed here."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feature_extraction import catalog, machine
from feature_extraction.arguments import Parser, positive
from feature_extraction.config import EXIT_NOTHING
from feature_extraction.errors import KitError
from feature_extraction.names import printable
from feature_extraction.places import to_type
from feature_extraction.terminal import exit_code_of

from .options import ASSIGNMENTS, DEVICES, Options

if TYPE_CHECKING:
    from .pipeline import Outcome

EPILOG: Final = (
    "SRC, TGT: {names}, or the path of an .h5 file.\n"
    "Interrupted runs go on with the same command. Several processes: torchrun --nproc-per-node N {program} ...\n"
)
EXIT_CODES: Final = "Exit codes: 0 all done; 1 an error that can be mended, told in one line; 2 usage; 130 interrupted."
CLUSTERING: Final = "Cluster grid features into the visual vocabulary and assign every grid cell to its nearest word."
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


class ConsoleReporter:
    """Prints progress, unless ``--verbose false``, and warnings."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose

    def say(self, text: str) -> None:
        if self._verbose:
            print(printable(text), flush=True)

    def warn(self, text: str) -> None:
        print(f"warning: {printable(text)}", file=sys.stderr, flush=True)


def parser(prog: str = "run_kmeans.py", description: str = CLUSTERING, exit_codes: str = EXIT_CODES) -> Parser:
    """The flags of run_kmeans.py, which ``paper_vocabulary`` takes too."""
    default = Options()
    names, program = ", ".join(catalog.kmeans_sources()), "-m kmeans" if Parser.called else "run_kmeans.py"
    parser = Parser(prog=prog, description=description, epilog=EPILOG.format(names=names, program=program) + exit_codes)
    add = parser.add_argument_group("published flags").add_argument
    add("--src", default=default.src, help="features to cluster (%(default)s)")
    add("--tgt", nargs="+", default=list(default.tgt), help="features to assign (mscoco_train)")
    add("--n_centroids", type=positive, default=default.n_centroids, metavar="K", help="words (%(default)s)")
    add("--n_iter", type=positive, default=default.n_iter, metavar="N", help="iterations (%(default)s)")
    add("--feat_dim", type=positive, default=default.feat_dim, metavar="D", help="numbers in a row (%(default)s)")
    add("--grid_size", type=positive, default=default.grid_size, metavar="G", help="cells per side (%(default)s)")
    add(
        "--imsize",
        type=int,
        default=-1,
        metavar="N",
        help="use the files extracted with --imsize N (negative: without)",
    )
    add("--encoder", default=default.encoder, metavar="NAME", help="first part of all file names (%(default)s)")
    add("--datasets_dir", type=Path, metavar="DIR",
        help="folder of COCO, VG, ... and the results (../datasets/, or the checkout's)")  # fmt: skip
    add("--assign_only", action="store_true", help="use the centroids that are there; do not train")
    add("--verbose", type=boolean, default=default.verbose, metavar="true|false", help="tell progress (true)")
    add = parser.add_argument_group("further flags").add_argument
    add("--memory", type=gigabytes, metavar="GB",
        help="memory of each process (most of what is free); the rest goes to disk")  # fmt: skip
    add("--scratch", type=Path, metavar="DIR", help="folder of the scratch file (beside the results)")
    add("--device", choices=DEVICES, default=default.device,
        help="auto trains on the CPU, with the bits of faiss, and assigns on a GPU if there is one; "
        "cuda does both there (%(default)s)")  # fmt: skip
    add("--assignment", choices=ASSIGNMENTS, default=default.assignment,
        help="how nearest centroids are found; the result is the same, "
        "auto takes the faster (%(default)s)")  # fmt: skip
    add("--restart", action="store_true",
        help="make anew what an earlier run has finished; "
        "results of another source of this name are moved aside")  # fmt: skip
    return parser


def parse(arguments: Sequence[str] | None = None) -> Options:
    """``Options`` from the command line. Prints and exits for what it cannot read; raises UsageError."""
    return options_of(vars(parser().parse_args(arguments)))


def options_of(values: dict[str, Any]) -> Options:
    """``Options`` from the values of the flags of ``parser()``. Raises UsageError."""
    values["imsize"] = None if values["imsize"] < 0 else values["imsize"]
    values["tgt"] = tuple(join_names(values["tgt"]))
    return Options(**values)


def join_names(words: Sequence[str]) -> list[str]:
    """Target names from the words of ``--tgt``: the published README prints ``mscoco valid`` for
    mscoco_valid."""
    known, names = catalog.kmeans_sources(), list[str]()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word not in known and rest and f"{word}_{rest[0]}" in known:
            joined = f"{word}_{rest.pop(0)}"
            print(f"--tgt {word} {joined.removeprefix(word + '_')}: understood as {joined}", flush=True)
            word = joined
        if word not in names:
            names.append(word)
    return names


def gigabytes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of GB")
    return value


def boolean(text: str) -> bool:
    """The spellings the published script accepts."""
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""

    def work() -> int:
        options = parse(arguments)
        reporter = ConsoleReporter(options.verbose and os.environ.get("RANK", "0") == "0")
        reporter.say(use_threads())
        from .pipeline import run  # after the settings that OpenMP reads when it is loaded

        tell_next(options, run(options, reporter), reporter)
        return 0

    return guarded(work)


def guarded(work: Callable[[], int], interrupted: str = "the same command goes on where it stopped") -> int:
    """The exit status of ``work``; what a user can mend is told in one line, and so is what Ctrl-C left."""
    try:
        return work()
    except KitError as error:
        return failed(str(error), exit_code_of(error))
    except OSError as error:
        return failed(told(error))
    except MemoryError as error:
        return failed(f"not enough memory ({error or 'an array does not fit'}): give a smaller --memory")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which may not be imported for its name alone
            raise
        return failed(f"the GPU's memory does not suffice ({error}): give --device cpu, or wait until it is free")
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return 130


def use_threads() -> str:
    """Let faiss, OpenBLAS and PyTorch, loaded later, wait without spinning and take this process's share of the
    processors; says how many threads they have. A user's own settings stand."""
    machine.wait_without_spinning()
    given = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", str(machine.threads()))
    source = "OMP_NUM_THREADS" if given else f"of {machine.usable_cpus():g} usable processors; OMP_NUM_THREADS sets it"
    number = os.environ["OMP_NUM_THREADS"]
    return f"computing with {number} thread{'' if number == '1' else 's'} ({source})"


def tell_next(options: Options, made: Outcome, reporter: ConsoleReporter) -> None:
    if made.rank:
        return
    if not set(options.tgt) >= {"mscoco_train"} and options.src == "mscoco_train":
        reporter.say("next: --tgt with the other data sets; X-LXMERT's pretraining reads mscoco_train mscoco_valid vg")
    reporter.say(f"next: {to_type('report')}, a page about the vocabulary and its words; from Python:")
    reporter.say(f"next: from kmeans import load_vocabulary; words = load_vocabulary({str(made.centroids)!r})")


def told(error: OSError) -> str:
    """One line about a failing system call, with what to do."""
    where = (
        f" ({printable(os.fspath(error.filename))})" if isinstance(error.filename, str | bytes | os.PathLike) else ""
    )
    what = f"{error.strerror or error}{where}"
    if error.errno in NO_ROOM:
        return (
            f"no space left on the disk{where}: make room and run the same command again; it goes on where it stopped"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{what}: give a folder that you may write to (--datasets_dir for results, --scratch)"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return (
            f"{what}: something that is no folder is in the way of the results; move it, or give another --datasets_dir"
        )
    if error.errno == errno.ENAMETOOLONG:
        return f"{what}: give shorter names (--encoder, the name of the .h5 file)"
    return f"{what}: what was finished stays, the same command goes on"


def failed(text: str, code: int = EXIT_NOTHING) -> int:
    print(f"error: {printable(' '.join(text.split()))}", file=sys.stderr)
    return code
