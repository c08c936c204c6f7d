"""The jobs that make and compare visual vocabularies. Standard library only.

X-LXMERT's programs look for a vocabulary under two names, cluster_centroids and clustering; the second is a link.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kmeans import cli

from . import checks
from .jobs import Job, Launcher, paths_after


def kmeans(here: Launcher) -> Job:
    """Train it, and assign the targets."""
    flags = here.settings.words("KMEANS_FLAGS")
    command = ["python", "run_kmeans.py", *_published_flags(here), *flags]
    if not here.dry_run:
        require_flags(here)
    return _job(here, "kmeans", command, _features_named(here), paths_after("--scratch", flags))


def require_flags(here: Launcher) -> None:
    """Exit with the mistake if KMEANS_FLAGS are none of run_kmeans.py's: before the hours that it may wait."""
    cli.parser().parse_args(here.settings.words("KMEANS_FLAGS"))


def paper_vocabulary(here: Launcher) -> Job:
    """Take the paper's out of X-LXMERT's weights, and assign the targets."""
    flags = here.settings.words("PAPER_FLAGS")
    command = ["python", "-m", "scripts.paper_vocabulary", *_published_flags(here), *flags]
    reads = [*_features_named(here), *_folders(flags, "--weights")]
    return _job(here, "paper-vocabulary", command, reads, _folders(flags, "--output"))


def verify_kmeans(here: Launcher) -> Job:
    """Compare ours with the paper's; what is found lies beside ours."""
    flags = here.settings.words("VERIFY_KMEANS_FLAGS")
    command = ["python", "-m", "scripts.verify_kmeans", "--datasets_dir", str(here.settings.datasets), *flags]
    own = _folders(flags, "--output") or _folders(flags, "--ours")
    return _job(here, "verify-kmeans", command, _folders(flags, "--theirs", "--rows", "--ours"), own)


def _published_flags(here: Launcher) -> list[str]:
    settings = here.settings
    source, targets = settings["KMEANS_SRC"], settings.words("KMEANS_TGT")
    return [f"--src={source}", "--tgt", *targets, "--datasets_dir", str(settings.datasets)]


def _features_named(here: Launcher) -> list[Path]:
    """Folders of the feature files that are given by path."""
    settings = here.settings
    return [Path(w).parent for w in (settings["KMEANS_SRC"], *settings.words("KMEANS_TGT")) if w.endswith(".h5")]


def _folders(flags: Sequence[str], *names: str) -> list[Path]:
    """Folders of the files that are given to these flags."""
    return [path.parent for name in names for path in paths_after(name, flags)]


def _job(here: Launcher, name: str, command: Sequence[str], reads: Sequence[Path], writes: Sequence[Path]) -> Job:
    datasets = here.settings.datasets
    folder, alias = datasets / "cluster_centroids", datasets / "clustering"
    own = [alias] if alias.is_dir() and not alias.is_symlink() else []

    def check() -> list[Path]:
        checks.require_folder(datasets, "make extract-grid, or DATASETS=folder")
        return here.linked_features()

    def finish() -> None:
        if here.in_image and not alias.exists() and not alias.is_symlink():
            alias.symlink_to(folder.name)  # the container may not write beside it
            if os.geteuid() == 0:
                status = folder.stat()
                os.chown(alias, status.st_uid, status.st_gid, follow_symlinks=False)

    return Job(
        folder="kmeans" if name == "kmeans" else "", command=command, reads=(datasets, *reads),
        writes=(folder, *writes, *own), check=check, finish=finish,
        says=f"{name}: {here.settings['KMEANS_SRC']} -> {folder}",
    )  # fmt: skip
