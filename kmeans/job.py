"""One run of run_kmeans.py: check everything, train or load the centroids, assign every target."""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kmeans import assign, cluster, memory, outputs
from kmeans.options import Options, UsageError, feature_path, label
from kmeans.ranks import Solo, connect, share
from kmeans.report import Reporter, duration
from kmeans.training import Training
from kmeans.vectors import FeatureFile, Rows, read_blocks

MANY_UNSURE = 0.1
"""Share of rows that only faiss's own rounding decides, from which on a user should know."""
SPEAK_EVERY = 10.0
"""Seconds between lines of progress while a target is assigned."""


def run(options: Options) -> None:
    """Do what ``options`` say.

    Raises StoreError, OutputError, UnknownName or UsageError, before the long work where it can be known
    then. Whatever was finished stays, and the same call goes on after it.
    """
    ranks = connect()
    files: dict[Path, FeatureFile] = {}
    try:
        Job(options, ranks, files).run()
    finally:
        for file in files.values():
            file.close()
        ranks.close()


class Job:
    """The steps of one run, with what they share. ``files`` is filled with what was opened."""

    def __init__(self, options: Options, ranks: Solo, files: dict[Path, FeatureFile]) -> None:
        self.options, self.ranks = options, ranks
        self.report = Reporter(options.verbose, ranks)
        self.names = outputs.Names(
            options.datasets_dir,
            options.encoder,
            label(options.src),
            options.n_centroids,
            options.n_iter,
            options.feat_dim,
            options.grid_size,
            options.imsize,
        )
        source = feature_path(options.src, options)
        targets = [(label(name), feature_path(name, options)) for name in dict.fromkeys(options.tgt)]
        if len(dict(targets)) < len(targets):
            raise UsageError(
                f"two targets would get the same name in the results: {' '.join(options.tgt)};"
                " give them in separate runs, with another --datasets_dir"
            )
        for path in dict.fromkeys([*([] if options.assign_only else [source]), *dict(targets).values()]):
            files[path] = FeatureFile(path, dim=options.feat_dim, grid_size=options.grid_size)
        self.targets = {name: files[path] for name, path in targets}
        self.device = assign.device(options.device, ranks.local_rank)
        self.training = None
        if not options.assign_only:
            self.training = Training(options, self.names, files[source], ranks, self.report)
        for name, file in self.targets.items():
            # the index, the .npz, the .pkl and the part in work, 8 bytes a row each
            outputs.require_space(self.names.folder, 4 * 8 * file.count, f"the result for {name}")
        self.stats: dict[str, Any] = {} if options.restart else outputs.load_json(self.names.stats)

    def run(self) -> None:
        """Do it all, alone: a second run of the same would write the same files."""
        with outputs.locked(self.names.work) if self.ranks.rank == 0 else nullcontext():
            self._run()
            if self.training is not None:
                self.training.clean_up()
            if self.ranks.rank == 0:  # the others have sent what they had
                shutil.rmtree(self.names.work, ignore_errors=True)

    def _run(self) -> None:
        centroids = self._centroids()
        nearest = assign.choose(self.options.assignment, self.device, len(centroids))
        for name, file in self.targets.items():
            self._assign(name, file, centroids, nearest)

    def _centroids(self) -> Rows:
        """The centroids (k, d): trained now, trained by this same run before, or (``--assign_only``)
        given."""
        if self.training is not None:
            centroids = self.training.finished(self.stats)
            if centroids is None:
                centroids, self.stats = self.training.run()
            return centroids
        path = self.names.centroids
        other = path.parent.with_name(outputs.ALIAS) / path.name
        path = other if other.exists() and not path.exists() else path
        centroids = outputs.load_centroids(path, self.options.n_centroids, self.options.feat_dim)
        digest = outputs.digest(centroids)
        if self.stats.get("centroids_sha256") != digest:
            self.stats = {"centroids_sha256": digest, "targets": {}}
        return centroids

    def _assign(self, target: str, file: FeatureFile, centroids: Rows, nearest: assign.Faiss | assign.BFloat16) -> None:
        """Nearest centroid of every row of ``file``, written under the published names."""
        ranks, names = self.ranks, self.names
        key = {"file": file.fingerprint(), "centroids_sha256": self.stats["centroids_sha256"]}
        if self._assigned(target, key):
            self.report.say(f"{target} is assigned already, by this same run; --restart would do it anew")
            return
        slices = share(file.count, ranks, multiple=cluster.query_block())
        start, stop = slices[ranks.rank]
        part = outputs.PartialIndex(names.work / f"{target}.{ranks.rank}of{ranks.size}", key, cluster.query_block())
        began = time.perf_counter()
        first = start + part.rows
        self._fill(part, target, file, first, stop, centroids, nearest)
        seconds = time.perf_counter() - began
        ids = ranks.to_root(part.close(), [b - a for a, b in slices])
        if ids is not None:
            index, images = names.cluster_index(target), names.image_clusters(target)
            outputs.save_array(index, ids[:, None])
            outputs.save_image_clusters(images, file.ids, ids.reshape(len(file.ids), -1))
            for path in (index, images, images.with_suffix(".npz")):
                outputs.link(path)
            self.stats["targets"][target] = {
                **key,
                "rows": file.count,
                "images": len(file.ids),
                "clusters_used": len(np.unique(ids)),
                "provenance": file.provenance,
                "method": nearest.name,
                "seconds": seconds,
                **({"rows_decided": asdict(nearest.tally)} if isinstance(nearest, assign.BFloat16) else {}),
            }
            outputs.save_json(names.stats, self.stats)
        part.discard()
        if isinstance(nearest, assign.BFloat16):
            unsure = nearest.tally.settled_by_faiss / max(1, nearest.tally.rows)
            if unsure > MANY_UNSURE:
                self.report.warn(
                    f"{target}: {unsure:.0%} of the rows have two centroids closer together than float32 can"
                    " tell for certain (norms large against distances); faiss decided, as published"
                )
        rate = (stop - first) * file.dim * 4 / 1e6 / max(seconds, 1e-9)
        self.report.say(f"{target}: {file.count} rows assigned in {duration(seconds)} ({rate:.0f} MB/s)")

    def _fill(
        self,
        part: outputs.PartialIndex,
        target: str,
        file: FeatureFile,
        first: int,
        stop: int,
        centroids: Rows,
        nearest: assign.Faiss | assign.BFloat16,
    ) -> None:
        """Append the ids of rows first..stop to ``part``, block by block."""
        k, d = centroids.shape
        plan = memory.plan(memory.budget(self.options.memory), sample_rows=0, k=k, dim=d)
        nearest.set_centroids(centroids)
        began = spoke = time.perf_counter()
        for at, block in read_blocks(file, plan.blocks.cut(first, stop)):
            file.check_finite(at, block, np.einsum("nd,nd->n", block, block))
            part.append(nearest.assign(block))
            now = time.perf_counter()
            if now - spoke > SPEAK_EVERY:
                spoke, done = now, (at + len(block) - first) / (stop - first)
                self.report.say(f"{target}: {done:.0%} assigned, {duration((now - began) * (1 / done - 1))} left")

    def _assigned(self, target: str, key: dict[str, Any]) -> bool:
        """Whether this run, or one like it, has finished this target."""
        done = self.stats["targets"].get(target, {})
        index, images = self.names.cluster_index(target), self.names.image_clusters(target)
        present = index.exists() and images.exists() and images.with_suffix(".npz").exists()
        return present and all(done.get(name) == value for name, value in key.items())
