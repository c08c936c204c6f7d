"""faiss's answers, with bits that depend on nothing but the numbers."""

import os
import subprocess
import sys

import faiss
import numpy as np
import pytest
from helpers.kmeans_cases import environment

from kmeans.blocks import query_block
from kmeans.nearest import FaissSearch, by_faiss


def near_ties(rows, k, dim, seed=0):
    """Rows and centroids so close together, so far from the origin, that another rounding changes the answer."""
    rng = np.random.default_rng(seed)
    base = 30 * rng.standard_normal(dim)
    return [(base + 0.01 * rng.standard_normal((n, dim))).astype(np.float32) for n in (rows, k)]


def plainly(values, centroids):
    """``IndexFlatL2`` with one thread, on all rows at once."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    distances, ids = index.search(values, 1)
    faiss.omp_set_num_threads(threads)
    return ids.ravel(), distances.ravel()


# few rows; around faiss's threshold and its products of 4096 rows and 1024 centroids; its kernels for d <= 32
SHAPES = [
    (3, 10_240, 64), (200, 50, 300), (427, 50, 300), (256, 5, 16), (20_001, 10, 16), (9001, 1500, 33),
    (12_300, 2500, 100), (8192, 64, 257), (4500, 100, 2048), (70_000, 3, 2),
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize(("rows", "k", "dim"), SHAPES)
def test_the_bits_of_faiss_with_one_thread_whatever_the_number(rows, k, dim, threads):
    values, centroids = near_ties(rows, k, dim)
    search = FaissSearch(threads)
    search.set_centroids(centroids)
    for found, expected in zip(search.search(values), plainly(values, centroids), strict=True):
        assert np.array_equal(found, expected)


def test_the_callers_own_number_of_threads_stays():
    before = faiss.omp_get_max_threads()
    values, centroids = near_ties(5000, 50, 100)
    search = FaissSearch(3)
    search.set_centroids(centroids)
    search.assign(values)
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("where", ["gathered", "in place", "as tried"])
@pytest.mark.parametrize(("rows", "k", "dim"), SHAPES[1:])
def test_single_rows_are_settled_as_all_of_them_would_be(rows, k, dim, where, monkeypatch):
    values, centroids = near_ties(rows, k, dim)
    search = FaissSearch(2)
    search.set_centroids(centroids)
    expected = search.assign(values)
    if where != "as tried":
        if where == "gathered" and not by_faiss._position_does_not_matter(k, dim):
            pytest.skip("this processor's products round a row by its position: rows are never gathered here")
        monkeypatch.setattr(by_faiss, "_position_does_not_matter", lambda *_: where == "gathered")
    rng = np.random.default_rng(1)
    for number in (1, rows // 20 + 1, rows // 3 + 1):
        some = np.unique(np.append(rng.integers(0, rows, number), rows - 1))
        assert np.array_equal(search.settle(values, some), expected[some])
    assert len(search.settle(values, np.empty(0, np.int64))) == 0


def test_rows_of_one_position_take_turns():
    size = query_block()
    block = np.arange(4 * size, dtype=np.float32).repeat(40).reshape(-1, 40)
    rows = np.array([5, 7, size + 5, 3 * size + 5, 3 * size + 9])
    seen = []
    for part, batch, position in by_faiss._in_place(block, rows):
        assert np.array_equal(batch[position], block[rows[part]])
        assert np.array_equal(position, rows[part] % size)
        seen.extend(part.tolist())
    assert sorted(seen) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kernels", ["Haswell", "Nehalem"])
def test_with_the_kernels_of_other_processors(kernels):
    """OpenBLAS takes another processor's kernels by name; with those for AVX2 a row's position matters."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "settled or one_thread"],
        env=environment(OPENBLAS_CORETYPE=kernels, OMP_NUM_THREADS="2"),
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__)))),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
