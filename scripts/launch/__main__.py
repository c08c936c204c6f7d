"""One job, here or in the container: what it reads and writes, and from that its checks, mounts, folders and command.

    python3 -m scripts.launch extract-coco-train-grid RUN=container PRECISION=tf32
    python3 -m scripts.launch --dry-run kmeans          one line to paste and change
    python3 -m scripts.launch --slurm extract-all       to Slurm, as job arrays; with --dry-run: the scripts alone
    python3 -m scripts.launch --list                    the 16 files and all variables

This is what the Makefile's targets call; variables are given as words or in the environment. Standard library only.
Exit codes: that of the job; of several jobs, 1 if a file is missing; 1 where something needed is lacking; 2 for a
wrong word.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from feature_extraction import catalog
from feature_extraction.arguments import nearest_of_many
from feature_extraction.config import EXIT_NOTHING, EXIT_USAGE
from feature_extraction.errors import KitError, UsageError
from feature_extraction.terminal import run_main

from . import features, host, slurm, vocabulary
from .container import COMPOSE
from .jobs import Command, Launcher
from .settings import CHECKOUT, Settings, listing
from .several import run_all

USAGE: Final = "usage: python3 -m scripts.launch [--dry-run] [--slurm] JOB [NAME=value ...]   (or --list)"
GROUPS: Final = (
    "all",
    "grid",
    "boxes",
    "coco",
    "vg",
    "gqa",
    "nlvr2",
    "coco-grid",
    "coco-boxes",
    "nlvr2-grid",
    "nlvr2-boxes",
)
"""What several files are called after ``extract-``: words that all their names have."""
LISTED: Final = "make help lists all"
JOBS: Final[Mapping[str, Callable[[Launcher], Command]]] = {
    "kmeans": lambda here: here.command(vocabulary.kmeans(here)),
    "paper-vocabulary": lambda here: here.command(vocabulary.paper_vocabulary(here)),
    "verify-kmeans": lambda here: here.command(vocabulary.verify_kmeans(here)),
    "verify": lambda here: here.command(features.verify(here)),
    "parity": lambda here: here.command(features.parity(here)),
    "check": lambda here: here.command(features.check(here)),
    "shell": lambda here: here.command(features.shell(here)),
    "report": host.report,
    "xlxmert": host.xlxmert,
    "gpu-test": host.gpu_test,
    "test-faults": host.test_faults,
    "setup": host.setup,
    "docker-build": host.docker_build,
    "image-archive": host.image_archive,
}


def files_called(target: str, others: Sequence[str] = ()) -> list[catalog.FeatureFile]:
    """The feature files that ``extract-...`` names: one by its whole name, several by words that their names share.
    Raises UsageError, with what was probably meant, of these or ``others``."""
    words = set(target.removeprefix("extract-").split("-")) - {"all"}
    files = [f for f in catalog.feature_files() if words <= set(f.name.split("-"))]
    if not target.startswith("extract-") or not files:
        names = [f"extract-{name}" for name in (*GROUPS, *(f.name for f in catalog.feature_files()))]
        raise UsageError(f"no file is called {target}: {nearest_of_many(target, [*names, *others], LISTED)}")
    return files


def make_targets() -> list[str]:
    """What ``make help`` lists."""
    return re.findall(r"^([a-z][a-z-]*):.*## ", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.M)


def commands(target: str, here: Launcher) -> Mapping[str, Callable[[], Command]]:
    """Name -> how its command is found, for everything that a target stands for. Raises UsageError if it is none."""
    if target.startswith("extract-"):
        return {file.name: partial(_extract, here, file) for file in files_called(target)}
    if target == "download" or target.startswith("download-"):
        wanted = host.downloads(target)
        return {target: lambda: host.download(here, wanted)}
    if target not in JOBS:
        raise UsageError(f"there is no {target}; {nearest_of_many(target, make_targets(), LISTED)}")
    return {target: lambda: JOBS[target](here)}


def _extract(here: Launcher, file: catalog.FeatureFile) -> Command:
    return here.command(features.extract(here, file))


def _make_all(here: Launcher, target: str, found: Mapping[str, Callable[[], Command]]) -> int:
    """Several files. What is wrong with all of them is said once. Raises UsageError."""
    for file in files_called(target):
        features.require_flags(here, file)
    here.require_detector()
    return run_all(here, found)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    dry_run, to_slurm = "--dry-run" in arguments, "--slurm" in arguments
    try:
        if arguments == ["compose"]:
            print(COMPOSE, end="")
            return 0
        if "--help" in arguments:
            print(f"{USAGE}\n\n{__doc__}")
            return 0
        if "--list" in arguments:
            print("\n".join(["\nEach feature file (16)", *(f"  extract-{f.name}" for f in catalog.feature_files())]))
            print(f"\nVariables (make NAME=value, or in the environment)\n{listing()}")
            return 0
        words = [a for a in arguments if not a.startswith("--")]
        targets = [w for w in words if "=" not in w]
        unknown = [a for a in arguments if a.startswith("--") and a not in ("--dry-run", "--slurm")]
        if len(targets) != 1 or unknown:
            print(USAGE, file=sys.stderr)
            return EXIT_USAGE
        here = Launcher(Settings(os.environ, [w for w in words if "=" in w]), dry_run=dry_run)
        if to_slurm:
            files = files_called(targets[0], [slurm.KMEANS]) if targets[0] != slurm.KMEANS else []
            return slurm.submit(here, targets[0], files)
        found = commands(targets[0], here)
    except UsageError as error:
        print(f"launch: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        if dry_run:
            lines = [command().shown() for command in found.values()]
            print(lines[0] if len(lines) == 1 else "; ".join(f"({line})" for line in lines))
            return 0
        if len(found) > 1:
            return _make_all(here, targets[0], found)
        (command,) = found.values()
        command().replace_this_process()
    except KitError as error:
        print(f"launch: {error}", file=sys.stderr)
    return EXIT_NOTHING


if __name__ == "__main__":
    run_main(main)
