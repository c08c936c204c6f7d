"""Training as a job: the sample, the checkpoints, the statistics around ``cluster.train``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_extraction import recipe
from kmeans import assign, cluster, memory, outputs
from kmeans.options import Options, UsageError
from kmeans.ranks import Solo, share
from kmeans.report import Reporter, duration, progress_line
from kmeans.vectors import FeatureFile, Indices, InMemory, Rows, Scratch


def note_of(path: Path) -> Path:
    """Beside a scratch file: what it holds, written when it is whole."""
    return path.with_name(path.name + ".json")


class Training:
    """Everything between the source file and the finished centroids."""

    def __init__(
        self, options: Options, names: outputs.Names, source: FeatureFile, ranks: Solo, report: Reporter
    ) -> None:
        """Raises UsageError where the source cannot give that many centroids."""
        import faiss

        self.options, self.names, self.source = options, names, source
        self.ranks, self.report = ranks, report
        self.key: dict[str, Any] = {
            "source": source.fingerprint(),
            "n_centroids": options.n_centroids,
            "n_iter": options.n_iter,
            "feat_dim": options.feat_dim,
            "seed": recipe.KMEANS_SEED,
            "faiss": faiss.__version__,
            "device": "cuda" if options.device == "cuda" else "cpu",
        }
        """What decides the result; an interrupted or finished run is continued only if all of it is the
        same."""
        self._checkpoint = names.work / "checkpoint.npz"
        self._scratch = (options.scratch or names.work) / f"{names.centroids.name}.sample{ranks.rank}of{ranks.size}"
        k = options.n_centroids
        if source.count < k:
            raise UsageError(
                f"{source.path} has {source.count} rows ({len(source.ids)} images x {source.rows_per_image}),"
                f" fewer than --n_centroids {k}: ask for fewer, or cluster a larger file"
            )

    def finished(self, stats: dict[str, Any]) -> Rows | None:
        """The centroids (k, d) of an earlier run that was the same, if it got that far."""
        if stats.get("training") != self.key or not self.names.centroids.exists():
            return None
        centroids = outputs.load_centroids(self.names.centroids)
        if outputs.digest(centroids) != stats.get("centroids_sha256"):
            return None
        self.report.say(f"{self.names.centroids} is there, made by this same run; --restart would make it anew")
        return centroids

    def run(self) -> tuple[Rows, dict[str, Any]]:
        """Train, or go on training; returns the centroids (k, d), written and linked, and their
        statistics."""
        import faiss

        o, ranks, source = self.options, self.ranks, self.source
        k = o.n_centroids
        if source.count < (least := recipe.KMEANS_MIN_POINTS_PER_CENTROID * k):
            self.report.warn(
                f"{source.count} rows for {k} centroids; a stable vocabulary takes at least {least}"
                f" ({recipe.KMEANS_MIN_POINTS_PER_CENTROID} per centroid): ask for fewer, or cluster more"
            )
        if ranks.size > 1 and faiss.omp_get_max_threads() == 1:
            self.report.warn(
                "each process computes with one thread, as torchrun sets it; with OMP_NUM_THREADS=<cores per process>"
                " before torchrun it uses more"
            )
        nearest: cluster.Nearest = assign.Faiss()
        if o.device == "cuda":
            nearest = assign.choose(o.assignment, assign.device(o.device, ranks.local_rank), k)
        rows = cluster.draw_sample(source.count, k)
        first, last = share(len(rows), ranks)[ranks.rank]
        plan = memory.plan(memory.budget(o.memory), sample_rows=last - first, k=k, dim=o.feat_dim)
        self.report.say(
            f"clustering {len(rows)} of {source.count} rows of {source.path} into {k} centroids;"
            f" the sample ({len(rows) * o.feat_dim * 4 / 1e9:.2f} GB) lies"
            f" {'in memory' if plan.in_memory else 'on disk'}"
        )
        outputs.require_space(self.names.folder, 4 * k * o.feat_dim * 4, "the centroids and checkpoints")
        sample = self._in_memory(rows[first:last]) if plan.in_memory else self._on_disk(rows[first:last])
        state = self._resume()
        if state is None:
            state = cluster.State(cluster.initial_centroids(sample, len(rows), first, k, ranks))

        def on_iteration(state: cluster.State) -> None:
            if ranks.rank == 0:
                rest = {"history": state.figures(), "converged": state.converged}
                outputs.save_checkpoint(self._checkpoint, self.key, state.centroids, rest)
            self.report.say(progress_line(state, o.n_iter))

        state = cluster.train(
            sample,
            state,
            o.n_iter,
            nearest,
            total=len(rows),
            blocks=plan.blocks,
            ranks=ranks,
            on_iteration=on_iteration,
        )
        stats = self._statistics(state, len(rows), plan.in_memory)
        if ranks.rank == 0:
            outputs.save_array(self.names.centroids, state.centroids)
            outputs.link(self.names.centroids)
            outputs.save_json(self.names.stats, stats)
        if isinstance(sample, Scratch):
            sample.close()
        self.clean_up()
        self.report.say(f"wrote {self.names.centroids}")
        return state.centroids, stats

    def clean_up(self) -> None:
        """Remove what only an interrupted run needs."""
        for path in (self._checkpoint, self._scratch, note_of(self._scratch)):
            path.unlink(missing_ok=True)

    def _in_memory(self, rows: Indices) -> InMemory:
        """The rows in drawn order, in memory."""
        began = time.perf_counter()
        values = np.empty((len(rows), self.source.dim), np.float32)

        def place(where: Indices, read: Rows) -> None:
            self._check(rows, where, read)
            values[where] = read

        self.source.gather(rows, place)
        self._report_read(values.nbytes, began)
        return InMemory(values)

    def _on_disk(self, rows: Indices) -> Scratch:
        """The rows in drawn order, in a scratch file; the one an interrupted run left, if it was finished."""
        began = time.perf_counter()
        path, note = self._scratch, note_of(self._scratch)
        if path.exists() and outputs.load_json(note) == self.key:
            return Scratch(path, len(rows), self.source.dim)
        note.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        size = len(rows) * self.source.dim * 4
        outputs.require_space(path.parent, size, "the scratch file of the sample")
        scratch = Scratch(path, len(rows), self.source.dim)

        def place(where: Indices, read: Rows) -> None:
            self._check(rows, where, read)
            scratch.place(where, read)

        self.source.gather(rows, place)
        scratch.flush()
        outputs.save_json(note, self.key)
        self._report_read(size, began)
        return scratch

    def _check(self, rows: Indices, where: Indices, read: Rows) -> None:
        bad = np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", read, read)))
        if len(bad):
            self.source.refuse(int(rows[where[bad[0]]]), read[bad[0]])

    def _resume(self) -> cluster.State | None:
        """The state that an interrupted run left, the same on all ranks."""
        found = None
        if self.ranks.rank == 0 and not self.options.restart:
            found = outputs.load_checkpoint(self._checkpoint, self.key)
        centroids, state = found or (None, {"history": [], "converged": False})
        head = np.array([len(state["history"]), state["converged"], found is not None], np.int64)
        done, converged, exists = self.ranks.from_root(head).tolist()
        if not exists:
            return None
        if centroids is None:
            centroids = np.empty((self.options.n_centroids, self.options.feat_dim), np.float32)
        figures: NDArray[np.float64] = np.zeros((done, 4))
        for i, past in enumerate(state["history"]):
            figures[i] = list(past.values())
        centroids, figures = self.ranks.from_root(centroids), self.ranks.from_root(figures)
        self.report.say(f"resuming after iteration {done} of {self.options.n_iter}")
        history = tuple(cluster.Iteration(f[0], f[1], int(f[2]), f[3]) for f in figures.tolist())
        return cluster.State(centroids, history, bool(converged))

    def _statistics(self, state: cluster.State, rows_used: int, in_memory: bool) -> dict[str, Any]:
        import faiss

        return {
            "training": self.key,
            "centroids_sha256": outputs.digest(state.centroids),
            "rows": self.source.count,
            "rows_used": rows_used,
            "source_provenance": self.source.provenance,
            "iterations": state.figures(),
            "stopped_early": state.converged,
            "sample_in_memory": in_memory,
            "ranks": self.ranks.size,
            "threads": faiss.omp_get_max_threads(),
            "numpy": np.__version__,
            "targets": {},
        }

    def _report_read(self, size: int, began: float) -> None:
        seconds = time.perf_counter() - began
        rate = size / 1e6 / max(seconds, 1e-9)
        self.report.say(f"read the sample in {duration(seconds)} ({rate:.0f} MB/s)")
