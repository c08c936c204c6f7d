"""The training run: the sample, the checkpoints and the statistics around ``lloyd.train``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extraction import recipe
from feature_extraction.errors import StoreError, UsageError, VocabularyError
from feature_extraction.storage import files

from . import lloyd, memory
from .blocks import Blocks, Indices, Rows
from .comm import anywhere, split_rows
from .nearest import FaissSearch, NearestSearch, choose
from .progress import Ticker, duration, iteration_line
from .results import digest, load_centroids, load_checkpoint, load_json, save_checkpoint, save_json
from .samples import InMemory, OnCard, Sample, Scratch, fits_on_card
from .setting import Setting
from .vectors import FeatureFile

TRIES: Final = 3
"""Times that a sample is read of a source that changes meanwhile."""
CARD_BLOCK: Final = 65_536
"""Rows that a card searches at a time: it waits for the processor twice in each."""


class Training:
    """Everything between the source file and the finished centroids."""

    def __init__(self, setting: Setting, source: FeatureFile) -> None:
        """Raises UsageError where the source cannot give that many centroids."""
        self.setting, self.source = setting, source
        o, names, comm = setting.options, setting.names, setting.comm
        self._checkpoint = names.checkpoint
        self._scratch = (o.scratch or names.work) / f"{names.centroids.name}.sample{comm.rank}of{comm.size}"
        if source.count < o.n_centroids:
            raise UsageError(
                f"{source.path} has {source.count} rows ({len(source.ids)} images x {source.rows_per_image}),"
                f" fewer than --n_centroids {o.n_centroids}: ask for fewer, or cluster a larger file"
            )

    @property
    def key(self) -> dict[str, Any]:
        """What decides the result; an interrupted or finished run is continued only if all of it is the same."""
        import faiss

        o = self.setting.options
        return {
            "source": self.source.fingerprint(),
            "n_centroids": o.n_centroids,
            "n_iter": o.n_iter,
            "feat_dim": o.feat_dim,
            "seed": recipe.KMEANS_SEED,
            "faiss": faiss.__version__,
            "device": "cuda" if o.device == "cuda" else "cpu",
        }

    def finished(self, stats: dict[str, Any]) -> Rows | None:
        """The centroids (k, d) of an earlier run that was the same, if it got that far."""
        path = self.setting.names.centroids
        if stats.get("training") != self.key or not path.exists():
            return None
        try:
            centroids = load_centroids(path)
        except VocabularyError:
            return None
        if digest(centroids) != stats.get("centroids_sha256"):
            return None
        self.setting.report.say(f"{path} is there, made by this same run; --restart would make it anew")
        return centroids

    def run(self) -> tuple[Rows, dict[str, Any]]:
        """Train, or go on training; returns the centroids (k, d) and their statistics."""
        setting, o = self.setting, self.setting.options
        self._warn()
        with ExitStack() as stack:
            sample, total, first, blocks, in_memory = self._sample()
            nearest: NearestSearch = FaissSearch()
            if o.device == "cuda":
                nearest = choose(o.assignment, setting.device, o.n_centroids)
                sample, blocks = self._to_card(sample, nearest, blocks)
            stack.callback(sample.close)
            run = lloyd.Run(sample=sample, total=total, blocks=blocks, nearest=nearest, comm=setting.comm)
            state = self._resume()
            if state is None:
                state = lloyd.State(lloyd.initial_centroids(sample, total, first, o.n_centroids, setting.comm))
            state = lloyd.train(run, state, o.n_iter, self._after_iteration)
        return state.centroids, self._statistics(state, total, in_memory)

    def clean_up(self) -> None:
        """Remove what only an interrupted run needs."""
        for path in (self._checkpoint, self._scratch, note_of(self._scratch)):
            path.unlink(missing_ok=True)

    def _warn(self) -> None:
        import faiss

        setting, k = self.setting, self.setting.options.n_centroids
        if self.source.count < (least := recipe.KMEANS_MIN_POINTS_PER_CENTROID * k):
            setting.report.warn(
                f"{self.source.count} rows for {k} centroids; a stable vocabulary takes at least {least}"
                f" ({recipe.KMEANS_MIN_POINTS_PER_CENTROID} per centroid): ask for fewer, or cluster more"
            )
        if setting.comm.size > 1 and faiss.omp_get_max_threads() == 1:
            setting.report.warn(
                "each process computes with one thread, as torchrun sets it; with OMP_NUM_THREADS=<cores per process>"
                " before torchrun it uses more"
            )

    # --- the sample -------------------------------------------------------------------------------

    def _sample(self) -> tuple[Sample, int, int, Blocks, bool]:
        """This process's slice of the sample, the rows of all, the slice's first, how it is read, whether in memory.

        A source that changes while it is read is read again: half of one file and half of another is neither."""
        import faiss

        setting, o = self.setting, self.setting.options
        for _ in range(TRIES):
            rows = lloyd.draw_sample(self.source.count, o.n_centroids)
            first, last = split_rows(len(rows), setting.comm.size)[setting.comm.rank]
            plan = memory.plan(
                memory.budget(o.memory),
                sample_rows=last - first,
                k=o.n_centroids,
                dim=o.feat_dim,
                threads=faiss.omp_get_max_threads(),
            )
            setting.report.say(
                f"clustering {len(rows)} of {self.source.count} rows of {self.source.path} into {o.n_centroids}"
                f" centroids; the sample ({len(rows) * o.feat_dim * 4 / 1e9:.2f} GB) lies"
                f" {'in memory' if plan.in_memory else 'on disk'}"
            )
            read = self._in_memory if plan.in_memory else self._on_disk
            sample = read(rows[first:last])
            what = self.source.changed()
            if not anywhere(setting.comm, bool(what)):
                return sample, len(rows), first, plan.blocks, plan.in_memory
            setting.report.warn(f"{self.source.path} {what or 'changed'} while it was read: reading it again")
            sample.close()
            self._forget_scratch()
            self.source.reopen()
        raise StoreError(f"{self.source.path} changed {TRIES} times while it was read: wait until it is finished")

    def _to_card(self, sample: Sample, nearest: NearestSearch, blocks: Blocks) -> tuple[Sample, Blocks]:
        """The sample on the GPU, where there is room and the search takes it from there."""
        setting, o = self.setting, self.setting.options
        work = 4 * CARD_BLOCK * (o.feat_dim * 4 + 1024) + 8192 * 8 * o.n_centroids
        if nearest.name != "bfloat16" or not fits_on_card(setting.device, sample.count * o.feat_dim * 4, work):
            return sample, blocks
        setting.report.say("moving the sample to the GPU")
        on_card = OnCard.copy_of(sample, setting.device, blocks)
        return on_card, Blocks.of(o.feat_dim, CARD_BLOCK)

    def _in_memory(self, rows: Indices) -> InMemory:
        """The rows in drawn order, in memory."""
        values = np.empty((len(rows), self.source.dim), np.float32)
        self._gather(rows, values.__setitem__)
        return InMemory(values)

    def _on_disk(self, rows: Indices) -> Scratch:
        """The rows in drawn order, in a scratch file; the one an interrupted run left, if it was finished."""
        path = self._scratch
        if path.exists() and load_json(note_of(path)) == self.key:
            scratch = Scratch(path, len(rows), self.source.dim)
            if scratch.whole:
                return scratch
            scratch.close()
        self._forget_scratch()
        path.parent.mkdir(parents=True, exist_ok=True)
        what = "the scratch file of the sample; --scratch gives another folder"
        files.check_room(path.parent, len(rows) * self.source.dim * 4, what, VocabularyError)
        scratch = Scratch(path, len(rows), self.source.dim)
        self._gather(rows, scratch.place)
        scratch.flush()
        save_json(note_of(path), path.parent, self.key)
        return scratch

    def _forget_scratch(self) -> None:
        note_of(self._scratch).unlink(missing_ok=True)
        self._scratch.unlink(missing_ok=True)

    def _gather(self, rows: Indices, keep: Any) -> None:
        """Read ``rows`` of the source; ``keep(where, values)`` stores them."""
        ticker = Ticker(self.setting.report.say, "reading the sample", len(rows))

        def place(where: Indices, read: Rows) -> None:
            bad = np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", read, read)))
            if len(bad):
                self.source.refuse_if_changed()
                self.source.refuse(int(rows[where[bad[0]]]), read[bad[0]])
            keep(where, read)
            ticker.advance(len(where))

        self.source.gather(rows, place)
        rate = len(rows) * self.source.dim * 4 / 1e6 / max(ticker.seconds, 1e-9)
        self.setting.report.say(f"read the sample in {duration(ticker.seconds)} ({rate:.0f} MB/s)")

    # --- checkpoints and statistics ---------------------------------------------------------------

    def _after_iteration(self, state: lloyd.State) -> None:
        if self.setting.comm.rank == 0:
            rest = {"history": state.figures(), "converged": state.converged}
            save_checkpoint(self._checkpoint, self.key, state.centroids, rest)
        self.setting.report.say(iteration_line(state, self.setting.options.n_iter))

    def _resume(self) -> lloyd.State | None:
        """The state that an interrupted run left, the same in all processes."""
        comm, o = self.setting.comm, self.setting.options
        found = None
        if comm.rank == 0 and not o.restart:
            found = self._usable(load_checkpoint(self._checkpoint))
        centroids, state = found or (np.empty((o.n_centroids, o.feat_dim), np.float32), {})
        history = state.get("history", [])
        done, converged, exists = comm.broadcast(
            np.array([len(history), state.get("converged", False), found is not None], np.int64)
        ).tolist()
        if not exists:
            return None
        figures: NDArray[np.float64] = np.zeros((done, 4))
        for i, past in enumerate(history):
            figures[i] = list(past.values())
        centroids, figures = comm.broadcast(centroids), comm.broadcast(figures)
        self.setting.report.say(f"resuming after iteration {done} of {o.n_iter}")
        iterations = tuple(lloyd.Iteration(f[0], f[1], int(f[2]), f[3]) for f in figures.tolist())
        return lloyd.State(centroids, iterations, bool(converged))

    def _usable(self, found: tuple[Rows, dict[str, Any], dict[str, Any]] | None) -> tuple[Rows, dict[str, Any]] | None:
        """The checkpoint, if it is of this very run; says why not, as hours of work may be in it."""
        if found is None:
            if self._checkpoint.exists():
                self.setting.report.warn(f"{self._checkpoint} is damaged: training starts anew")
            return None
        centroids, state, key = found
        if key != self.key:
            different = [name for name in self.key if key.get(name) != self.key[name]]
            self.setting.report.warn(
                f"an interrupted run of another {', '.join(different)} left {self._checkpoint}: training starts anew"
            )
            return None
        return centroids, state

    def _statistics(self, state: lloyd.State, rows_used: int, in_memory: bool) -> dict[str, Any]:
        import faiss

        return {
            "training": self.key,
            "centroids_sha256": digest(state.centroids),
            "rows": self.source.count,
            "rows_used": rows_used,
            "source_provenance": self.source.provenance,
            "iterations": state.figures(),
            "stopped_early": state.converged,
            "sample_in_memory": in_memory,
            "ranks": self.setting.comm.size,
            "threads": faiss.omp_get_max_threads(),
            "numpy": np.__version__,
            "targets": {},
        }


def note_of(path: Path) -> Path:
    """Beside a scratch file: what it holds, written when it is whole."""
    return path.with_name(path.name + ".json")
