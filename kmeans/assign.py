"""The assignment of one target: the nearest centroid of every row, written under the published names."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from feature_extraction.errors import StoreError
from feature_extraction.names import printable

from . import memory, nearest_cells, results
from .blocks import Indices, Rows, query_block, read_blocks
from .comm import anywhere, split_rows
from .nearest import NearestSearch
from .nearest_cells import NearestRows
from .partial import PartialIndex
from .progress import Ticker, duration
from .setting import Setting
from .vectors import FeatureFile

MANY_UNSURE: Final = 0.5
"""Share of rows that only faiss's own rounding decides, from which on a user should know."""
TRIES: Final = 3
"""Times that a target is assigned which changes meanwhile."""


class Assignment:
    """Targets, one after the other, assigned to the same centroids."""

    def __init__(self, setting: Setting, centroids: Rows, search: NearestSearch, stats: dict[str, Any]) -> None:
        """``stats``: the vocabulary's statistics; what is assigned is recorded there."""
        self._setting, self._centroids, self._search, self._stats = setting, centroids, search, stats

    def run(self, target: str, file: FeatureFile) -> bool:
        """Assign ``file``. Returns whether anything was to be done. Raises StoreError."""
        report, comm = self._setting.report, self._setting.comm
        for _ in range(TRIES):
            if anywhere(comm, bool(what := file.changed())):
                report.warn(f"{file.path} {what or 'changed'} since this run began: reading it as it is now")
                file.reopen()
            key = {"file": file.fingerprint(), results.DIGEST: self._stats[results.DIGEST]}
            if self._is_done(target, key):
                report.say(f"{target} is assigned already, by this same run; --restart would do it anew")
                return False
            if self._assign(target, file, key):
                return True
        raise StoreError(
            f"{file.path} changed {TRIES} times while it was read: wait until it is finished, then run again"
        )

    def _is_done(self, target: str, key: dict[str, Any]) -> bool:
        """Whether this run, or one like it, has finished this target."""
        done = self._stats["targets"].get(target, {})
        published = self._setting.names.of_target(target)[:3]  # earlier versions kept no nearest cells
        return all(path.exists() for path in published) and all(done.get(name) == value for name, value in key.items())

    def _assign(self, target: str, file: FeatureFile, key: dict[str, Any]) -> bool:
        """Assign all rows and write the results; False if the file changed meanwhile: then nothing is kept."""
        comm, names = self._setting.comm, self._setting.names
        slices = split_rows(file.count, comm.size, multiple=query_block())
        start, stop = slices[comm.rank]
        began = time.perf_counter()
        with PartialIndex(names.work / f"{target}.{comm.rank}of{comm.size}", key, query_block()) as part:
            if part.cut_off:
                self._setting.report.warn(
                    f"{part.path}: {part.cut_off:,} bytes at its end were torn or damaged; they are computed again"
                )
            before = part.rows
            near = self._fill(part, target, file, start, stop)
            changed = file.changed()
            if anywhere(comm, bool(changed)):
                self._setting.report.warn(f"{file.path} {changed or 'changed'} while it was read: assigning it again")
                part.discard()
                return False
            ids = comm.gather(part.ids(), [b - a for a, b in slices])
            self._merge(near)
            if ids is not None:
                seconds = time.perf_counter() - began
                self._write(target, file, ids, near)
                self._record(target, file, key, ids, seconds)
            part.discard()
        self._tell(target, file, stop - start - before, time.perf_counter() - began)
        return True

    def _fill(self, part: PartialIndex, target: str, file: FeatureFile, start: int, stop: int) -> NearestRows:
        """Append the ids of the rows start..stop that ``part`` does not have, block by block; the nearest of all."""
        import faiss

        k, d = self._centroids.shape
        threads = faiss.omp_get_max_threads()
        budget = memory.budget(self._setting.options.memory)
        blocks = memory.plan(budget, sample_rows=0, k=k, dim=d, threads=threads).blocks
        near = NearestRows(k)
        for frame in part.frames:
            near.replay(start, frame)
            start += len(frame.ids)
        self._search.set_centroids(self._centroids)
        ticker = Ticker(self._setting.report.say, f"assigning {target}", stop - start)
        for at, block in read_blocks(file, blocks.cut(start, stop), self._search.empty):
            norms = np.einsum("nd,nd->n", block, block)
            if not np.isfinite(norms).all():
                file.refuse_if_changed()
                file.check_finite(at, block, norms)
            part.append(near.see(at, block, self._search.assign(block), self._centroids))
            ticker.advance(len(block))
        return near

    def _merge(self, near: NearestRows) -> None:
        """On the root: the nearest rows of all processes."""
        comm = self._setting.comm
        counts = [len(near.rows)] * comm.size
        rows, distances = comm.gather(near.rows, counts), comm.gather(near.distances, counts)
        if rows is None or distances is None:
            return
        k = len(near.rows)
        words = np.repeat(np.arange(k), nearest_cells.KEPT)
        for rank in range(1, comm.size):
            theirs = slice(rank * k, (rank + 1) * k)
            near.merge(words, rows[theirs].ravel(), distances[theirs].ravel())

    def _write(self, target: str, file: FeatureFile, ids: Indices, near: NearestRows) -> None:
        names, digest = self._setting.names, self._stats[results.DIGEST]
        if self._stats["targets"].pop(target, None):  # what it says is not true from here on
            results.save_json(names.stats, names.work, self._stats)
        index, images, *_ = names.of_target(target)
        results.save_array(index, names.work, ids[:, None])
        results.save_image_clusters(images, names.work, file.ids, ids.reshape(len(file.ids), -1), digest)
        nearest_cells.save(names.nearest_cells(target), names.work, near, file, digest)
        for path in names.of_target(target):
            results.link(path)

    def _record(self, target: str, file: FeatureFile, key: dict[str, Any], ids: Indices, seconds: float) -> None:
        decided = self._search.stats
        self._stats["targets"][target] = {
            **key,
            "rows": file.count,
            "images": len(file.ids),
            "clusters_used": len(np.unique(ids)),
            "provenance": file.provenance,
            "method": self._search.name,
            "seconds": seconds,
            **({"rows_decided": asdict(decided)} if decided is not None else {}),
        }
        results.save_json(self._setting.names.stats, self._setting.names.work, self._stats)

    def _tell(self, target: str, file: FeatureFile, rows: int, seconds: float) -> None:
        report, decided = self._setting.report, self._search.stats
        if decided is not None and decided.settled_by_faiss > MANY_UNSURE * max(1, decided.rows):
            report.warn(
                f"{target}: {decided.settled_by_faiss / decided.rows:.0%} of rows have two centroids closer together"
                " than float32 can tell for certain (norms large against distances); faiss decided, as published"
            )
        rate = rows * file.dim * 4 / 1e6 / max(seconds, 1e-9)
        report.say(f"{printable(target)}: {file.count} rows assigned in {duration(seconds)} ({rate:.0f} MB/s)")
