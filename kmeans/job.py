"""One run of run_kmeans.py: check everything, train or load the centroids, assign every target."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feature_extraction import catalog, recipe
from kmeans import assign, cluster, memory, outputs
from kmeans.ranks import Solo, connect, share
from kmeans.vectors import FeatureFile, InMemory, Rows, Scratch, Vectors, read_blocks


class UsageError(ValueError):
    """A run that was asked for in a way that cannot work."""


@dataclass(frozen=True)
class Options:
    """What run_kmeans.py is asked to do; the defaults are the published ones."""

    n_centroids: int = recipe.KMEANS_CENTROIDS
    n_iter: int = recipe.KMEANS_ITERATIONS
    feat_dim: int = recipe.FEATURE_DIM
    grid_size: int = recipe.GRID_SIZE
    imsize: int | None = None
    """Pixels: use the feature files that were extracted with ``--imsize``, and name the results after it."""
    verbose: bool = True
    encoder: str = "maskrcnn"
    assign_only: bool = False
    src: str = "mscoco_train"
    """A name of the catalogue, or the path of a feature file."""
    tgt: tuple[str, ...] = ("mscoco_train",)
    datasets_dir: Path = Path("../datasets/")
    memory: float | None = None
    """GB (1e9 bytes) that may be used; None: most of what is free."""
    scratch: Path | None = None
    """Folder of the scratch file, where one is needed; None: beside the results."""
    device: str = "auto"
    """cpu; cuda: train and assign there; auto: train on the CPU, assign on a GPU if there is one."""
    assignment: str = "auto"
    """faiss, bfloat16 (the same result, see assign.py) or auto: the faster of the two."""
    restart: bool = False
    """Train and assign anew even where results of the same run exist."""


def feature_path(name: str, options: Options) -> Path:
    """The feature file called ``name``: of the catalogue, or a path. Raises UnknownName."""
    if name.endswith(".h5") or os.sep in name:
        return Path(name)
    known = catalog.kmeans_sources()
    if name not in known:
        raise catalog.UnknownName(
            f"no feature file is called {name!r}; known: {', '.join(known)}; or give the path of an .h5 file"
        )
    data_set, split = known[name]
    paths = [
        data_set.features_file(
            options.datasets_dir / folder,
            split,
            "grid",
            encoder=options.encoder,
            grid_size=options.grid_size,
            imsize=options.imsize,
        )
        for folder in dict.fromkeys((data_set.folder, data_set.published_folder))
    ]
    return next((p for p in paths if p.exists()), paths[0])


def label(name: str) -> str:
    """What stands for ``name`` in the names of the results: a catalogue name itself, or a path's stem."""
    return Path(name).stem if name.endswith(".h5") or os.sep in name else name


def run(options: Options) -> None:
    """Do what ``options`` say. Raises StoreError, OutputError, UnknownName or UsageError, all before long
    work where they can be known before; whatever was finished stays, and the same call continues after
    it."""
    ranks = connect()
    files: dict[Path, FeatureFile] = {}
    try:
        Job(options, ranks, files).run()
    finally:
        for file in files.values():
            file.close()
        ranks.close()


class Job:
    """The steps of one run, with what they share."""

    def __init__(self, options: Options, ranks: Solo, files: dict[Path, FeatureFile]) -> None:
        self.options, self.ranks = options, ranks
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
        paths = {name: feature_path(name, options) for name in (options.src, *options.tgt)}
        self.targets = {label(name): paths[name] for name in options.tgt}
        if len({paths[n].resolve() for n in options.tgt}) != len(self.targets):
            raise UsageError(f"two targets would have the same name in the results: {' '.join(options.tgt)}")
        needed = list(self.targets.values()) + ([] if options.assign_only else [paths[options.src]])
        for path in needed:  # all of them, before the long work
            if path not in files:
                files[path] = FeatureFile(path, dim=options.feat_dim, grid_size=options.grid_size)
        self.files, self.source_path = files, paths[options.src]
        self.stats: dict[str, Any] = {} if options.restart else outputs.load_json(self.names.stats)

    def run(self) -> None:
        for name, file in ((n, self.files[p]) for n, p in self.targets.items()):
            outputs.require_space(
                self.names.folder, 4 * 8 * file.count, f"the result for {name}"
            )  # index, .npz, .pkl and the part in work
        centroids = self._load() if self.options.assign_only else self._train()
        nearest = assign.choose(self.options.assignment, self._assign_device(), len(centroids))
        nearest.set_centroids(centroids)
        for target, path in self.targets.items():
            self._assign(target, self.files[path], nearest)
        if self.ranks.rank == 0 and self.names.work.is_dir() and not any(self.names.work.iterdir()):
            self.names.work.rmdir()

    # --- centroids ---------------------------------------------------------------------------------

    def _load(self) -> Rows:
        path = self.names.centroids
        if not path.exists():
            other = path.parent.with_name(outputs.ALIAS) / path.name
            path = other if other.exists() else path
        centroids = outputs.load_centroids(path, self.options.n_centroids, self.options.feat_dim)
        digest = outputs.digest(centroids)
        if self.stats.get("centroids_sha256") != digest:
            self.stats = {"centroids_sha256": digest, "targets": {}}
        return centroids

    def _train(self) -> Rows:
        import faiss

        o, source = self.options, self.files[self.source_path]
        if source.count < o.n_centroids:
            raise UsageError(
                f"{source.path} has {source.count} rows ({len(source.ids)} images x {source.rows_per_image}),"
                f" fewer than --n_centroids {o.n_centroids}: ask for fewer, or cluster a larger file"
            )
        least = recipe.KMEANS_MIN_POINTS_PER_CENTROID * o.n_centroids
        if source.count < least:
            self._warn(
                f"{source.count} rows for {o.n_centroids} centroids: at least {least}"
                f" ({recipe.KMEANS_MIN_POINTS_PER_CENTROID} per centroid) make a stable vocabulary"
            )
        key = {
            "source": source.fingerprint(),
            "n_centroids": o.n_centroids,
            "n_iter": o.n_iter,
            "feat_dim": o.feat_dim,
            "seed": recipe.KMEANS_SEED,
            "faiss": faiss.__version__,
        }
        centroids = self._finished(key)
        if centroids is None:
            centroids = self._run_training(source, key)
        return centroids

    def _finished(self, key: dict[str, Any]) -> Rows | None:
        """The centroids of an earlier run that was the same, if it got that far."""
        if self.stats.get("training") != key or not self.names.centroids.exists():
            return None
        centroids = outputs.load_centroids(self.names.centroids)
        if outputs.digest(centroids) != self.stats.get("centroids_sha256"):
            return None
        self._say(f"{self.names.centroids} is there already, made by this same run (--restart makes it anew)")
        return centroids

    def _run_training(self, source: FeatureFile, key: dict[str, Any]) -> Rows:
        o, ranks = self.options, self.ranks
        rows = cluster.draw_sample(source.count, o.n_centroids)
        first, last = share(len(rows), ranks)[ranks.rank]
        budget = memory.free_bytes() * memory.SHARE if o.memory is None else o.memory * 1e9
        plan = memory.plan(int(budget), sample_rows=last - first, k=o.n_centroids, dim=o.feat_dim)
        self._say(
            f"clustering {len(rows)} of {source.count} rows of {source.path} into {o.n_centroids} centroids;"
            f" the sample ({len(rows) * o.feat_dim * 4 / 1e9:.2f} GB) lies"
            f" {'in memory' if plan.in_memory else 'on disk'}"
        )
        outputs.require_space(self.names.folder, 4 * o.n_centroids * o.feat_dim * 4, "the centroids")
        checkpoint = self.names.work / "checkpoint.npz"
        sample = self._sample(source, rows[first:last], key, plan.in_memory)
        state = self._resume(checkpoint, key)
        if state is None:
            state = cluster.State(cluster.initial_centroids(sample, len(rows), first, o.n_centroids, ranks))

        def on_iteration(state: cluster.State) -> None:
            if ranks.rank == 0:
                rest = {"history": state.figures(), "converged": state.converged}
                outputs.save_checkpoint(checkpoint, key, state.centroids, rest)
            self._say(progress_line(state, o.n_iter))

        nearest: cluster.Nearest = assign.Faiss()
        if o.device == "cuda":
            nearest = assign.choose(o.assignment, self._assign_device(), o.n_centroids)
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
        self._save_training(state, source, key, len(rows), plan.in_memory)
        if isinstance(sample, Scratch):
            sample.close()
            sample.discard()
        if ranks.rank == 0:
            checkpoint.unlink(missing_ok=True)
        return state.centroids

    def _sample(
        self, source: FeatureFile, rows: np.ndarray[Any, Any], key: dict[str, Any], in_memory: bool
    ) -> Vectors:
        """This rank's rows of the sample, in drawn order, in memory or in a scratch file."""
        began = time.perf_counter()
        if in_memory:
            values = np.empty((len(rows), source.dim), np.float32)
            source.gather(rows, values.__setitem__)
            norms = np.einsum("nd,nd->n", values, values)
            bad = np.flatnonzero(~np.isfinite(norms))
            if len(bad):
                source.refuse(int(rows[bad[0]]), values[bad[0]])
            self._report_read(len(rows) * source.dim * 4, began)
            return InMemory(values)
        folder = self.options.scratch or self.names.work
        path = folder / f"{self.names.centroids.name}.sample{self.ranks.rank}of{self.ranks.size}"
        note = path.with_name(path.name + ".json")
        have = path.exists() and outputs.load_json(note) == key
        if not have:
            note.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            outputs.require_space(folder, len(rows) * source.dim * 4, "the scratch file of the sample")
        scratch = Scratch(path, len(rows), source.dim)
        if not have:

            def place(where: np.ndarray[Any, Any], values: Rows) -> None:
                norms = np.einsum("nd,nd->n", values, values)
                bad = np.flatnonzero(~np.isfinite(norms))
                if len(bad):
                    source.refuse(int(rows[where[bad[0]]]), values[bad[0]])
                scratch.place(where, values)

            source.gather(rows, place)
            scratch.flush()
            outputs.save_json(note, key)
            self._report_read(len(rows) * source.dim * 4, began)
        return scratch

    def _resume(self, checkpoint: Path, key: dict[str, Any]) -> cluster.State | None:
        """The state that an interrupted run left, the same on all ranks."""
        found = None
        if self.ranks.rank == 0 and not self.options.restart:
            found = outputs.load_checkpoint(checkpoint, key)
        history = [] if found is None else found[1]["history"]
        done, converged = self.ranks.from_root(
            np.array([-1 if found is None else len(history), found is not None and found[1]["converged"]])
        ).tolist()
        if done < 0:
            return None
        shape = (self.options.n_centroids, self.options.feat_dim)
        centroids = self.ranks.from_root(np.zeros(shape, np.float32) if found is None else found[0])
        figures = self.ranks.from_root(
            np.array([list(h.values()) for h in history] or np.zeros((done, 4)), np.float64).reshape(done, 4)
        )
        self._say(f"resuming after iteration {done} of {self.options.n_iter}")
        past = tuple(cluster.Iteration(f[0], f[1], int(f[2]), f[3]) for f in figures.tolist())
        return cluster.State(centroids, past, bool(converged))

    def _save_training(
        self, state: cluster.State, source: FeatureFile, key: dict[str, Any], rows: int, in_memory: bool
    ) -> None:
        import faiss

        self.stats = {
            "training": key,
            "centroids_sha256": outputs.digest(state.centroids),
            "rows": source.count,
            "rows_used": rows,
            "source_provenance": source.provenance,
            "iterations": state.figures(),
            "stopped_early": state.converged,
            "sample_in_memory": in_memory,
            "ranks": self.ranks.size,
            "threads": faiss.omp_get_max_threads(),
            "device": "cuda" if self.options.device == "cuda" else "cpu",
            "numpy": np.__version__,
            "targets": {},
        }
        if self.ranks.rank == 0:
            outputs.save_array(self.names.centroids, state.centroids)
            outputs.link(self.names.centroids)
            outputs.save_json(self.names.stats, self.stats)
        self._say(f"wrote {self.names.centroids}")

    # --- targets -----------------------------------------------------------------------------------

    def _assign(self, target: str, file: FeatureFile, nearest: assign.Faiss | assign.BFloat16) -> None:
        """Nearest centroid of every row of ``file``, written under the published names."""
        o, ranks = self.options, self.ranks
        key = {"file": file.fingerprint(), "centroids_sha256": self.stats["centroids_sha256"]}
        index, images = self.names.cluster_index(target), self.names.image_clusters(target)
        done = self.stats["targets"].get(target, {})
        present = index.exists() and images.exists() and images.with_suffix(".npz").exists()
        if present and all(done.get(k) == v for k, v in key.items()):
            self._say(f"{target}: assigned already, by this same run (--restart does it anew)")
            return
        slices = share(file.count, ranks, multiple=cluster.query_block())
        start, stop = slices[ranks.rank]
        budget = memory.free_bytes() * memory.SHARE if o.memory is None else o.memory * 1e9
        plan = memory.plan(int(budget), sample_rows=0, k=o.n_centroids, dim=o.feat_dim)
        part = outputs.PartialIndex(
            self.names.work / f"{target}.{ranks.rank}of{ranks.size}", key, cluster.query_block()
        )
        began, first = time.perf_counter(), start + part.rows
        spoke = began
        for at, block in read_blocks(file, plan.blocks.cut(first, stop)):
            file.check_finite(at, block, np.einsum("nd,nd->n", block, block))
            part.append(nearest.search(block)[0])
            if time.perf_counter() - spoke > 10:
                spoke = time.perf_counter()
                share_done = (at + len(block) - first) / (stop - first)
                left = (spoke - began) * (1 - share_done) / share_done
                self._say(f"{target}: {share_done:.0%} assigned, {duration(left)} left")
        seconds = time.perf_counter() - began
        ids = ranks.to_root(part.close(), [b - a for a, b in slices])
        if ids is not None:
            outputs.save_array(index, ids[:, None])
            outputs.save_image_clusters(images, file.ids, ids.reshape(len(file.ids), file.rows_per_image))
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
                **({"tally": asdict(nearest.tally)} if isinstance(nearest, assign.BFloat16) else {}),
            }
            outputs.save_json(self.names.stats, self.stats)
        part.discard()
        rate = (stop - first) * file.dim * 4 / 1e6 / max(seconds, 1e-9)
        self._say(f"{target}: {file.count} rows assigned in {duration(seconds)} ({rate:.0f} MB/s)")

    # --- around ------------------------------------------------------------------------------------

    def _assign_device(self) -> str:
        """The device of the low-precision product."""
        if self.options.device == "cpu":
            return "cpu"
        try:
            import torch
        except ImportError:
            torch = None  # type: ignore[assignment]
        if torch is None or not torch.cuda.is_available():
            if self.options.device == "cuda":
                raise UsageError("--device cuda: PyTorch finds no GPU here; use --device cpu")
            return "cpu"
        return f"cuda:{self.ranks.local_rank % torch.cuda.device_count()}"

    def _report_read(self, size: int, began: float) -> None:
        seconds = time.perf_counter() - began
        self._say(f"read the sample in {duration(seconds)} ({size / 1e6 / max(seconds, 1e-9):.0f} MB/s)")

    def _say(self, text: str) -> None:
        if self.options.verbose and self.ranks.rank == 0:
            print(text, flush=True)

    def _warn(self, text: str) -> None:
        if self.ranks.rank == 0:
            print(f"warning: {text}", file=sys.stderr, flush=True)


def progress_line(state: cluster.State, iterations: int) -> str:
    """One line on the last iteration: objective, change, empty clusters split, seconds, time left."""
    now = state.history[-1]
    before = state.history[-2].objective if len(state.history) > 1 else 0.0
    change = f" ({100 * (now.objective - before) / before:+.3f} %)" if before else ""
    left = (iterations - len(state.history)) * now.seconds
    end = "objective stands still: done" if state.converged else f"{duration(left)} left"
    return (
        f"iteration {len(state.history)}/{iterations}: objective {now.objective:.6g}{change},"
        f" {now.empty_split} empty clusters split, {duration(now.seconds)}, {end}"
    )


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
