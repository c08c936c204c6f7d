"""run_kmeans.py's flags, as published and ours, turned into ``Options``; user errors are printed here,
once."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path

from feature_extraction import catalog
from feature_extraction.errors import StoreError, UnknownName
from kmeans.job import run
from kmeans.options import Options, UsageError
from kmeans.outputs import OutputError


def parse(arguments: Sequence[str] | None = None) -> Options:
    """``Options`` from the command line. Prints and exits, as argparse does, for what it cannot read."""
    defaults = Options()
    parser = argparse.ArgumentParser(
        "run_kmeans.py",
        description="Cluster grid features into the visual vocabulary and assign every grid cell to it.",
        epilog=f"Sources and targets: {', '.join(catalog.kmeans_sources())}, or the path of an .h5 file.",
    )
    published = parser.add_argument_group("published flags")
    published.add_argument("--n_centroids", type=positive, default=defaults.n_centroids)
    published.add_argument("--n_iter", type=positive, default=defaults.n_iter)
    published.add_argument("--feat_dim", type=positive, default=defaults.feat_dim)
    published.add_argument("--grid_size", type=positive, default=defaults.grid_size)
    published.add_argument(
        "--imsize",
        type=int,
        default=-1,
        help="use the files extracted with this --imsize (negative: without)",
    )
    published.add_argument("--verbose", type=str2bool, default=defaults.verbose, metavar="true|false")
    published.add_argument("--encoder", default=defaults.encoder, help="first part of all file names")
    published.add_argument("--assign_only", action="store_true", help="use the centroids that are there; do not train")
    published.add_argument("--src", default=defaults.src, help="features to cluster")
    published.add_argument("--tgt", nargs="+", default=list(defaults.tgt), help="features to assign")
    published.add_argument("--datasets_dir", type=Path, default=defaults.datasets_dir)
    ours = parser.add_argument_group("further flags")
    ours.add_argument(
        "--memory",
        type=gigabytes,
        help="GB each process may use (default: most of what is free); the rest goes to disk",
    )
    ours.add_argument("--scratch", type=Path, help="folder for the scratch file (default: beside the results)")
    ours.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default=defaults.device,
        help="auto: train on the CPU (the bits of faiss), assign on a GPU if there is one; cuda: both there",
    )
    ours.add_argument(
        "--assignment",
        choices=("auto", "faiss", "bfloat16"),
        default=defaults.assignment,
        help="how nearest centroids are found; the result is the same",
    )
    ours.add_argument("--restart", action="store_true", help="make anew what an earlier run has finished")
    values = vars(parser.parse_args(arguments))
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


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def gigabytes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of GB")
    return value


def str2bool(text: str) -> bool:
    """The spellings the published script accepts."""
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status: 0, 1 after an error that a user can mend, 130 after Ctrl-C."""
    try:
        run(parse(arguments))
    except (StoreError, OutputError, UsageError, UnknownName) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: no space left on the disk ({error}): make room and run the same command again;"
            " it goes on where it stopped",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0
