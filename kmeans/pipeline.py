"""One run of run_kmeans.py: check everything, train or load the centroids, assign every target."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_extraction.errors import VocabularyError
from feature_extraction.storage import files, store

from . import former, nearest, results
from .assign import Assignment
from .blocks import Rows
from .comm import Communicator, connected
from .options import Options, feature_path, target_files
from .progress import Reporter, Silent
from .results import ResultNames
from .setting import Setting
from .train import Training
from .vectors import FeatureFile


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run made, or found made."""

    centroids: Path
    targets: dict[str, Path]
    """Target -> the published ``.pkl`` of its images' clusters."""
    rank: int
    """Of the process; those above 0 have nothing to tell."""


def run(options: Options, report: Reporter | None = None) -> Outcome:
    """Do what ``options`` say; ``report`` hears how it goes.

    Raises KitError (StoreError, VocabularyError, UsageError, ...) or OSError, before the long work where it can be
    known then. Whatever was finished stays, and the same call goes on after it.
    """
    refuse_missing(options)
    with ExitStack() as stack:
        comm = stack.enter_context(connected())
        setting = prepare(options, comm, report if report is not None and comm.rank == 0 else Silent())
        targets, training = open_files(setting, stack)
        stack.enter_context(alone(setting))
        report_device(setting)
        centroids, stats = vocabulary(setting, training)
        search = nearest.choose(options.assignment, setting.device, len(centroids))
        assignment = Assignment(setting, centroids, search, stats)
        for target, file in targets.items():
            assignment.run(target, file)
        clean_up(setting, training)
        names = setting.names
        made = {target: names.image_clusters(target) for target in targets}
        return Outcome(centroids=names.centroids, targets=made, rank=comm.rank)


def refuse_missing(options: Options) -> None:
    """Before a folder is made or a large file looked through: are all feature files there? Raises StoreError."""
    source = [] if options.assign_only else [feature_path(options.src, options)]
    for path in [*source, *target_files(options).values()]:
        if not path.exists():
            store.open_features(path)  # says what is there instead


def prepare(options: Options, comm: Communicator, report: Reporter) -> Setting:
    """What needs no feature file to be refused: names, the folder of the results."""
    names = ResultNames.of(options)
    source = feature_path(options.src, options)
    targets = target_files(options)
    if not options.assign_only:
        former.refuse_another_source(names, options, source)
    for target, path in targets.items():
        former.refuse_another_target(names, options, target, path)
    names.folder.mkdir(parents=True, exist_ok=True)
    return Setting(options=options, names=names, comm=comm, report=report)


def open_files(setting: Setting, stack: ExitStack) -> tuple[dict[str, FeatureFile], Training | None]:
    """Open and look through every feature file, before anything long begins; ``stack`` closes them."""
    options, opened = setting.options, dict[str, FeatureFile]()

    def look_through(path: Path) -> FeatureFile:
        real = os.path.realpath(path)
        file = opened.get(real)
        if file is None:
            setting.report.say(f"looking through {path}")
            file = stack.enter_context(FeatureFile(path, dim=options.feat_dim, grid_size=options.grid_size))
            opened[real] = file
        return file

    training = None
    if not options.assign_only:
        training = Training(setting, look_through(feature_path(options.src, options)))
    targets = {target: look_through(path) for target, path in target_files(options).items()}
    # of each target the index, the .npz, the .pkl and the part in work, 8 bytes a row each; the centroids and
    # checkpoints of a new and a former vocabulary
    needed = sum(4 * 8 * file.count for file in targets.values())
    needed += 0 if training is None else 4 * options.n_centroids * options.feat_dim * 4
    files.check_room(setting.names.folder, needed, "centroids, checkpoints and indices", VocabularyError)
    return targets, training


def report_device(setting: Setting) -> None:
    """Find the device, now that all is known to be there, and say which it is."""
    if setting.device != "cpu":
        what = "training and assigning" if setting.options.device == "cuda" else "assigning"
        setting.report.say(f"{what} on {setting.device}")


@contextmanager
def alone(setting: Setting) -> Iterator[None]:
    """Keep a second run of the same from writing the same files; the first process holds the lock for all."""
    work = setting.names.work
    if setting.comm.rank:
        yield
        return
    work.mkdir(parents=True, exist_ok=True)
    busy = f"another process is making {setting.names.centroids.name}: wait for it, or stop it"
    with files.exclusive(work / "lock", busy=busy, error=VocabularyError):
        yield


def vocabulary(setting: Setting, training: Training | None) -> tuple[Rows, dict[str, Any]]:
    """The centroids (k, d), trained now, trained by this same run before, or (``--assign_only``) given; and their
    statistics. What belongs to a former vocabulary of the name is moved aside first."""
    names, stats = setting.names, {} if setting.options.restart else results.load_json(setting.names.stats)
    if training is None:
        return given_vocabulary(setting, stats)
    centroids = training.finished(stats)
    if centroids is not None:
        if setting.comm.rank == 0:
            tell_moved(setting, former.keep_only_current(names, stats[results.DIGEST]))
        return centroids, stats
    centroids, stats = training.run()
    if setting.comm.rank == 0:
        tell_moved(setting, former.make_way(names, stats[results.DIGEST]))
        results.save_array(names.centroids, names.work, centroids)
        results.link(names.centroids)
        results.save_json(names.stats, names.work, stats)
    training.clean_up()
    setting.report.say(f"wrote {names.centroids}")
    return centroids, stats


def given_vocabulary(setting: Setting, stats: dict[str, Any]) -> tuple[Rows, dict[str, Any]]:
    """The centroids that are there, in either folder."""
    names, options = setting.names, setting.options
    path = names.alias if names.alias.exists() and not names.centroids.exists() else names.centroids
    centroids = results.load_centroids(path, options.n_centroids, options.feat_dim)
    digest = results.digest(centroids)
    if setting.comm.rank == 0:
        tell_moved(setting, former.keep_only_current(names, digest))
    if stats.get(results.DIGEST) != digest:
        stats = {results.DIGEST: digest, "targets": {}}
    return centroids, stats


def tell_moved(setting: Setting, folder: Path | None) -> None:
    if folder is not None:
        setting.report.warn(f"results of a former vocabulary, made with other centroids, were moved to {folder}")


def clean_up(setting: Setting, training: Training | None) -> None:
    """Remove what only an interrupted run needs; what an interrupted training left stays where none was asked for."""
    if training is not None:
        training.clean_up()
    # the others have sent what they had
    if setting.comm.rank == 0 and not setting.names.checkpoint.exists():
        shutil.rmtree(setting.names.work, ignore_errors=True)
