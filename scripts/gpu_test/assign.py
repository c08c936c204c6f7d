"""Rows about k-means: the assignment on the device against exact distances, and its product by tile."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np
import torch

from .bench import Bench
from .table import Finding, NotRun


def certified_search(device: str) -> Any:
    """The kit's nearest centroid on a PyTorch device, with ``set_centroids`` and ``assign``."""
    for module, name in (("kmeans.nearest.by_bfloat16", "CertifiedSearch"), ("kmeans.assign", "BFloat16")):
        try:
            return getattr(importlib.import_module(module), name)(device)
        except ModuleNotFoundError as error:
            if not str(error.name).startswith("kmeans"):
                raise NotRun(f"{error.name} is not installed here: pip install faiss-cpu") from error
    raise NotRun("the nearest-centroid search is not where it was")


def data(centroids: int, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Non-negative features around as many centres, the centroids near them: float32 (k, 2048), (rows, 2048)."""
    rng = np.random.default_rng(7)
    centres = np.maximum(rng.standard_normal((centroids, 2048), np.float32), 0)
    noisy = centres[rng.integers(0, centroids, rows)] + 0.8 * rng.standard_normal((rows, 2048), np.float32)
    return centres, np.maximum(noisy, 0).astype(np.float32)


def exact(centroids: Any, rows: Any, device: torch.device) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Nearest centroid (m,) in float64, and how much nearer it is than the second (m,), relative."""
    c = torch.from_numpy(centroids).to(device).double()
    ids, gaps = [], []
    for start in range(0, len(rows), 2048):
        x = torch.from_numpy(rows[start : start + 2048]).to(device).double()
        distance = (x * x).sum(1)[:, None] + (c * c).sum(1)[None] - 2 * (x @ c.T)
        two, index = distance.topk(2, largest=False)
        ids.append(index[:, 0].cpu().numpy())
        gaps.append(((two[:, 1] - two[:, 0]) / two[:, 1]).cpu().numpy())
    return np.concatenate(ids), np.concatenate(gaps)


def assignment(bench: Bench) -> Finding:
    """Ids against float64; where faiss is installed its ids, rows that float32 cannot decide included."""
    k, m = bench.sizes.centroids, bench.sizes.rows
    centroids, rows = data(k, m)
    search = certified_search(str(bench.device) if bench.device.type == "cuda" else "cpu")
    try:
        search.set_centroids(centroids)
    except ModuleNotFoundError as error:
        raise NotRun(f"{error.name} is not installed here: pip install faiss-cpu") from error
    found = search.assign(rows)
    locked = search.empty(*rows.shape)
    locked[:] = rows
    places = {"in memory": rows, "page-locked": locked, "on the device": torch.from_numpy(rows).to(bench.device)}
    times = {
        name: min(bench.seconds(partial(search.assign, block)) for _ in range(3)) for name, block in places.items()
    }
    speeds = ", ".join(f"{m / took:,.0f} rows/s {name}" for name, took in times.items())
    differ = sum(int((search.assign(block) != found).sum()) for block in places.values())
    seconds = times["on the device"]
    expected, gaps = exact(centroids, rows, bench.device)
    clear = gaps > 1e-5
    wrong = int((found != expected)[clear].sum())
    import faiss

    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    faiss.omp_set_num_threads(1)  # the bits that are promised: faiss with one thread
    some = rows[:4096]
    differ += int((index.search(some, 1)[1].ravel() != found[: len(some)]).sum())
    rate = 2.0 * m * k * 2048 / seconds / 1e12
    share = rate / bench.figures["rate bfloat16"] if "rate bfloat16" in bench.figures else 0
    text = (
        f"{m} rows, {k} centroids: {wrong} of {int(clear.sum())} clear rows differ from float64, {differ} of "
        f"{len(some)} from faiss; {speeds}; {rate:.3g} TFLOP/s on the device, "
        f"{100 * share:.0f} % of the matrix rate; {search.stats.settled_by_faiss} rows left to faiss"
    )
    problems = [f"{wrong} rows differ from float64"] if wrong else []
    problems += [f"{differ} rows differ from faiss"] if differ else []
    return Finding(text, tuple(problems), {"rows/s": m / seconds, "TFLOP/s": rate, "share": share})


def tiles(bench: Bench) -> Finding:
    """The product alone, bfloat16 in and float32 out, by rows per tile: how many a card needs to be busy."""
    if bench.device.type != "cuda":
        raise NotRun("a product of bfloat16 with float32 results is a GPU's")
    k = -(-bench.sizes.centroids // 64) * 64
    c = torch.randn(k, 2080, device=bench.device).bfloat16()
    parts, found = [], {}
    for m in (512, 2048, 8192, 32_768):
        x = torch.randn(m, 2080, device=bench.device).bfloat16()

        def product(x: torch.Tensor = x) -> None:
            for _ in range(8):
                torch.mm(x, c.t(), out_dtype=torch.float32)

        product()
        seconds = bench.seconds(product) / 8
        rate = 2.0 * m * k * 2080 / seconds / 1e12
        found[str(m)] = rate
        parts.append(f"{m} rows {1e6 * seconds:.0f} us, {rate:.0f} TFLOP/s")
    return Finding("; ".join(parts), (), found)
