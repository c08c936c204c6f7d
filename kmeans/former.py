"""Results of a former vocabulary, which must not lie beside a new one of the same name as if they belonged to it.

When other centroids take a name, everything that was made with the former ones (centroids, statistics, the indices of
all targets) moves to ``cluster_centroids/former_XXXXXXXX``, X the digest of those centroids. It stays whole there:
``load_vocabulary`` reads it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from feature_extraction.errors import UsageError, VocabularyError
from feature_extraction.storage import files

from .options import Options, is_path
from .results import ALIAS, DIGEST, ResultNames, digest_of_centroids, load_checkpoint, load_image_clusters, load_json

FORMER: Final = "former_"
UNKNOWN: Final = "unknown"


def make_way(names: ResultNames, new: str) -> Path | None:
    """Before the centroids with the digest ``new`` are written: move what belongs to others aside.

    Returns the folder it went to; None where there was nothing. Raises OSError. Killed at any instant, the next call
    ends it: the centroids, which name the folder, move last."""
    recorded = str(load_json(names.stats).get(DIGEST, ""))
    old = digest_of_centroids(names.centroids)
    if new == (recorded if old is None else old):
        return _targets_aside(names, new)
    paths = [path for target in names.targets_there() for path in names.of_target(target)]
    return _move(names, [*paths, names.compared, names.stats, names.centroids], old or recorded or UNKNOWN)


def _targets_aside(names: ResultNames, current: str) -> Path | None:
    """Move the targets aside that are known to be of other centroids than the current ones."""
    stats, moved = load_json(names.stats), None
    for target in names.targets_there():
        other = _digest_of_target(names, stats, target)
        if other not in (None, current):
            moved = _move(names, names.of_target(target), other or UNKNOWN) or moved
    return moved


def keep_only_current(names: ResultNames, current: str) -> Path | None:
    """``--assign_only``: the centroids are given. Move the targets aside that were made with others.

    Where nothing says what a target was made with, as the published script leaves it, it stays."""
    stats = load_json(names.stats)
    if stats and stats.get(DIGEST) != current:
        moved = _targets_aside(names, current)
        return _move(names, [names.stats], str(stats.get(DIGEST) or UNKNOWN)) or moved
    return _targets_aside(names, current)


def _digest_of_target(names: ResultNames, stats: dict[str, Any], target: str) -> str | None:
    """Digest of the centroids that a target's files were made with; None where nothing says."""
    with suppress(VocabularyError):
        if said := load_image_clusters(names.image_clusters(target).with_suffix(".npz"))[2]:
            return said
    recorded = stats.get("targets", {}).get(target, {}).get(DIGEST)
    # statistics list what was made with their centroids: what they do not list was not
    return recorded or ("" if stats else None)


def _move(names: ResultNames, paths: list[Path], digest: str) -> Path | None:
    there = [path for path in paths if path.exists() or path.is_symlink()]
    if not there:
        return None
    aside = names.folder / f"{FORMER}{digest[:8]}"
    aside.mkdir(exist_ok=True)
    alias = names.datasets_dir / ALIAS
    for path in there:
        if alias.is_dir() and alias.resolve() != names.folder.resolve():
            _alias_aside(path, alias / path.name, alias / aside.name)
        path.replace(_free(aside / path.name))
    files.sync_folder(aside)
    files.sync_folder(names.folder)
    return aside


def _alias_aside(path: Path, alias: Path, aside: Path) -> None:
    """The same for the other folder, where it is one of its own: our link goes, a copy moves."""
    if alias.is_symlink() and os.readlink(alias) == os.path.join("..", path.parent.name, path.name):
        alias.unlink()
    elif alias.is_file() and not alias.is_symlink():
        aside.mkdir(exist_ok=True)
        alias.replace(_free(aside / alias.name))


def _free(path: Path) -> Path:
    """``path``, or the like where another file, moved earlier, has it."""
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{number}_{path.name}")
    return free


def refuse_another_source(names: ResultNames, options: Options, source: Path) -> None:
    """Raise UsageError where results of this name were made, or are being made, of another file that is still there.

    Paths name results by their stem, so two files can ask for one name. ``--restart`` lets the new one take it."""
    if options.restart or not is_path(options.src):
        return
    checkpoint = load_checkpoint(names.checkpoint)
    keys = [load_json(names.stats).get("training"), checkpoint[2] if checkpoint else None]
    for key in keys:
        other = Path(str((key or {}).get("source", {}).get("path", "")))
        if key and other.is_file() and not _same(other, source):
            raise UsageError(
                f"{names.centroids.name} is of {other}, and {source} would get the same name: give another"
                " --datasets_dir, or --restart to move the former results aside"
            )


def refuse_another_target(names: ResultNames, options: Options, target: str, path: Path) -> None:
    """The same for a target: the same name, another file, with the same vocabulary."""
    done = load_json(names.stats).get("targets", {}).get(target, {})
    other = Path(str(done.get("file", {}).get("path", "")))
    given = any(is_path(name) for name in options.tgt if Path(name).stem == target or name == target)
    if done and given and not options.restart and other.is_file() and not _same(other, path):
        raise UsageError(
            f"the results for {target} are of {other}, and {path} would get the same name: give another"
            " --datasets_dir, or --restart to replace them"
        )


def _same(a: Path, b: Path) -> bool:
    with suppress(OSError):
        return a.samefile(b)
    return os.path.abspath(a) == os.path.abspath(b)
