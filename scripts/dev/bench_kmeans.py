"""Benchmark of the k-means half against plain faiss and plain h5py, both sides in the same run.

    python -m scripts.dev.bench_kmeans                    all three parts, about five minutes on two cores
    python -m scripts.dev.bench_kmeans assign --rows 16384 --repeats 9
    python -m scripts.dev.bench_kmeans assign train --device cuda --rows 262144 --train_centroids 10000   on a GPU

Workload: the paper's shapes, 10,000 centroids of dimension 2048, on synthetic non-negative features around
that many centres. ``spread`` is the noise in units of the centres' own deviation: 1 is well clustered, 3 is
diffuse; "none" is noise without any centres, where no two centroids are clearly apart: the worst case for a
bound.

    read    MB/s of a feature file, by h5py's f[id]["features"][:] and by ours; in the page cache and,
            where the kernel lets go, out of it
    train   seconds and GFLOP/s (2 n k d operations) per iteration: faiss.Kmeans, ours in memory, ours from
            a scratch file
    assign  ms per 1,000 rows and GFLOP/s: faiss's IndexFlatL2 ("plain"), ours by faiss, one thread a product, ours in
            bfloat16; keeping the nearest cells; rows that differ

Sides take turns; each figure is the median over the turns, with the smallest and largest. Results are
compared: centroids bit for bit, assignments row by row. The last line of each part is the one to quote.
On a machine that others use too, take ``OMP_NUM_THREADS=1 ... assign --clock cpu``: processor time of one
thread, which company disturbs little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np

from kmeans.blocks import Blocks, Rows, read_blocks
from kmeans.comm import SingleProcess
from kmeans.lloyd import Run, State, draw_sample, initial_centroids, train
from kmeans.memory import BLOCK_ROWS
from kmeans.nearest import CertifiedSearch, FaissSearch
from kmeans.nearest_cells import NearestRows
from kmeans.samples import InMemory, OnCard, Sample, Scratch
from kmeans.vectors import FeatureFile

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def turns(
    sides: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each side, in ``repeats`` turns after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            began = clock()
            side()
            if turn:
                seconds[name].append(clock() - began)
    return seconds


def spread(values: Iterable[float], digits: int = 1) -> str:
    """median (smallest - largest)."""
    values = sorted(values)
    return f"{statistics.median(values):.{digits}f} ({values[0]:.{digits}f} - {values[-1]:.{digits}f})"


def ratio(ours: list[float], theirs: list[float]) -> str:
    """How much faster, turn by turn: both sides of a turn met the same machine."""
    return spread((b / a for a, b in zip(ours, theirs, strict=True)), 2)


def clustered(rows: int, k: int, dim: int, noise: float, seed: int = 0) -> tuple[Rows, Rows]:
    """Rows (n, d) and centroids (k, d), both non-negative; ``noise`` < 0: rows without centres, k of them
    centroids."""
    rng = np.random.default_rng(seed)
    centroids = np.maximum(rng.standard_normal((k, dim), dtype=np.float32), 0)
    values = np.empty((rows, dim), np.float32)
    for at in range(0, rows, 4096):
        part = rng.standard_normal((min(4096, rows - at), dim), dtype=np.float32)
        if noise >= 0:
            part = centroids[rng.integers(0, k, len(part))] + np.float32(noise) * part
        np.maximum(part, 0, out=values[at : at + len(part)])
    return values, centroids


class PlainFaiss:
    """faiss as the published script calls it: ``IndexFlatL2``, its threads inside each product."""

    def set_centroids(self, centroids: Rows) -> None:
        self._index = faiss.IndexFlatL2(centroids.shape[1])
        self._index.add(centroids)

    def assign(self, rows: Rows) -> Any:
        return self._index.search(rows, 1)[1].ravel()


def bench_assign(args: argparse.Namespace) -> None:
    for name, noise in (("1", 1.0), ("3", 3.0), ("none", -1.0)):
        rows, centroids = clustered(args.rows, args.centroids, args.dim, noise)
        plain, certified, kept = PlainFaiss(), CertifiedSearch(args.device), NearestRows(len(centroids))
        searches: dict[str, Any] = {"plain": plain, "faiss": FaissSearch(), "bf16": certified}
        found = {}
        for side, search in searches.items():
            search.set_centroids(centroids)
            found[side] = search.assign(rows)
        stats = asdict(certified.stats) if certified.stats else {}
        sides = {side: partial(search.assign, rows) for side, search in searches.items()}
        sides["cells"] = partial(kept.see, 0, rows, found["faiss"], centroids)
        seconds = turns(sides, args.repeats, CLOCKS[args.clock])
        work = 2 * args.rows * args.centroids * args.dim / 1e9
        print(f"assign, spread {name}: {args.centroids} centroids, d {args.dim}, {args.device}; {stats}")
        for side, values in seconds.items():
            per_thousand = [v / args.rows * 1e6 for v in values]
            rate = f", {work / statistics.median(values):.0f} GFLOP/s" if side != "cells" else ""
            print(f"  {side:6} {spread(per_thousand)} ms per 1,000 rows{rate}")
        times = ratio(seconds["bf16"], seconds["plain"])
        different = {side: int((found[side] != found["faiss"]).sum()) for side in ("plain", "bf16")}
        cost = statistics.median(seconds["cells"]) / min(statistics.median(seconds[s]) for s in ("faiss", "bf16"))
        print(
            f"  assignment: {times} times as fast as plain faiss (ours by faiss:"
            f" {ratio(seconds['faiss'], seconds['plain'])}); of {args.rows} rows differ from ours by faiss:"
            f" {different}; the nearest cells cost {cost:.1%}",
            flush=True,
        )


def bench_train(args: argparse.Namespace) -> None:
    k = args.train_centroids
    values, _ = clustered(k * 256, k, args.dim, 2.0)
    blocks = Blocks.of(args.dim, BLOCK_ROWS)
    comm = SingleProcess()
    found: dict[str, Any] = {}

    def theirs() -> None:
        kmeans = faiss.Kmeans(args.dim, k, niter=args.iterations)
        kmeans.train(values)
        found["faiss"] = kmeans.centroids

    def ours(name: str, sample: Sample, search: Any) -> None:
        start = State(initial_centroids(sample, sample.count, 0, k, comm))
        run = Run(sample=sample, total=sample.count, blocks=blocks, nearest=search, comm=comm)
        found[name] = train(run, start, args.iterations, lambda _: None).centroids

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        assert len(draw_sample(len(values), k)) == len(values)
        scratch = Scratch(Path(folder) / "sample", *values.shape)
        scratch.place(np.arange(len(values)), values)
        sides: dict[str, Callable[[], Any]] = {
            "faiss": theirs,
            "memory": lambda: ours("memory", InMemory(values), FaissSearch()),
            "scratch": lambda: ours("scratch", scratch, FaissSearch()),
        }
        if args.device != "cpu":
            import torch

            on_card = OnCard(torch.from_numpy(values).to(args.device))
            sides["card"] = lambda: ours("card", on_card, CertifiedSearch(args.device))
        seconds = turns(sides, max(1, args.repeats // 2))
        scratch.close()
    work = 2 * len(values) * k * args.dim * args.iterations / 1e9
    print(f"train: {len(values)} rows, {k} centroids, d {args.dim}, {args.iterations} iterations")
    for side, times in seconds.items():
        per_iteration = [v / args.iterations for v in times]
        rate = work / statistics.median(times)
        print(f"  {side:8} {spread(per_iteration, 2)} s per iteration, {rate:.0f} GFLOP/s")
    different = [side for side in sides if not np.array_equal(found["memory"], found[side])]
    in_memory = ratio(seconds["faiss"], seconds["memory"])
    print(
        f"  training takes {in_memory} times as long as faiss in memory,"
        f" {ratio(seconds['faiss'], seconds['scratch'])} from disk;"
        f" centroids {'identical' if not different else f'DIFFER: {different}'}"
    )


def bench_read(args: argparse.Namespace) -> None:
    images = max(1, int(args.file_gb * 1e9) // (64 * args.dim * 4))
    size = images * 64 * args.dim * 4
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "features.h5"
        write_features(path, images, args.dim)
        opened = FeatureFile(path, dim=args.dim, grid_size=8)

        def by_us() -> None:
            for _ in read_blocks(opened, Blocks.of(args.dim, BLOCK_ROWS).cut(0, opened.count)):
                pass

        def opening() -> None:
            FeatureFile(path, dim=args.dim, grid_size=8).close()

        sides: dict[str, Callable[[], None]] = {"h5py": partial(read_by_h5py, path), "ours": by_us, "opening": opening}
        print(f"read: {size / 1e9:.2f} GB in {images} images")
        tell_rates("page cache", turns(sides, args.repeats), size, images)
        cold = {name: partial(from_disk, path, side) for name, side in sides.items()}
        tell_rates("disk", turns(cold, args.repeats), size, images)
        opened.close()


def write_features(path: Path, images: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    some = rng.standard_normal((16, 8, 8, dim), dtype=np.float32)
    with h5py.File(path, "w") as file:
        for i in range(images):
            file.create_group(f"{i:08}").create_dataset("features", data=some[i % 16])
    os.sync()


def read_by_h5py(path: Path) -> None:
    with h5py.File(path) as file:
        for name in sorted(file):
            file[name]["features"][:]


def from_disk(path: Path, side: Callable[[], None]) -> None:
    """``side()``, after the system has forgotten the file."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    side()


def tell_rates(where: str, seconds: dict[str, list[float]], size: int, images: int) -> None:
    took = statistics.median(seconds.pop("opening"))
    print(
        f"  {where}, opening and checking all of it, once a run (not in ours): {took:.3f} s,"
        f" {took / images * 1e6:.0f} us per image"
    )
    for side, values in seconds.items():
        print(f"  {where}, {side}: {spread([size / 1e6 / v for v in values], 0)} MB/s")
    print(f"  reading from {where}: {ratio(seconds['ours'], seconds['h5py'])} times as fast as h5py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"read": bench_read, "train": bench_train, "assign": bench_assign}
    parser.add_argument("parts", nargs="*", default=list(parts), metavar="read|train|assign")
    parser.add_argument("--rows", type=int, default=8192, help="rows assigned in one turn")
    parser.add_argument("--centroids", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--train_centroids", type=int, default=256, help="256 rows each are trained on")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--file_gb", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="PyTorch device of the bfloat16 product, and of training")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for assign on a busy machine"
    )
    parser.add_argument("--folder", type=Path, help="where scratch files go (default: the system's)")
    args = parser.parse_args()
    for part in args.parts:
        parts[part](args)


if __name__ == "__main__":
    main()
