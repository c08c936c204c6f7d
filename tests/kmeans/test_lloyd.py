"""Bit for bit the centroids of faiss.Kmeans on all rows in one array, however the rows are read."""

from contextlib import contextmanager

import faiss
import numpy as np
import pytest
from helpers.kmeans_cases import cluster, features, write_features
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extraction import recipe
from kmeans.blocks import Blocks, block_ranges
from kmeans.comm import SingleProcess
from kmeans.lloyd import Run, State, draw_sample, initial_centroids, train, update
from kmeans.nearest import FaissSearch
from kmeans.samples import HostSums, InMemory, Scratch


@contextmanager
def one_thread():
    """faiss's bits depend on the number of its threads where two centroids are nearly equally near: of the 200,000 rows
    below one changes its centroid with two threads. Ours are those of one thread, with any number."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


def by_faiss(rows, k, iterations=20):
    kmeans = faiss.Kmeans(rows.shape[1], k, niter=iterations)
    with one_thread():
        kmeans.train(rows)
    return kmeans


def by_us(rows, k, iterations=20, wanted=0, scratch=None):
    """Train on an array, with blocks as small as faiss's arithmetic allows."""
    drawn = draw_sample(len(rows), k)
    sample = InMemory(rows[drawn])
    if scratch is not None:
        sample = Scratch(scratch, len(drawn), rows.shape[1])
        order = np.random.default_rng(0).permutation(len(drawn))
        sample.place(order, rows[drawn][order])
    start = State(initial_centroids(sample, len(drawn), 0, k, SingleProcess()))
    run = Run(
        sample=sample,
        total=len(drawn),
        blocks=Blocks.of(rows.shape[1], wanted),
        nearest=FaissSearch(),
        comm=SingleProcess(),
    )
    return train(run, start, iterations, lambda state: None)


def assert_same(state, kmeans):
    assert np.array_equal(state.centroids, kmeans.centroids)
    assert [i.objective for i in state.history] == kmeans.obj.tolist()
    assert [i.empty_split for i in state.history] == [s["nsplit"] for s in kmeans.iteration_stats]
    expected = [s["imbalance_factor"] for s in kmeans.iteration_stats]
    assert np.allclose([i.imbalance for i in state.history], expected, rtol=1e-12)


def test_every_default_of_faiss_that_decides_the_result_is_in_the_recipe():
    parameters = faiss.ClusteringParameters()
    assert parameters.seed == recipe.KMEANS_SEED
    assert parameters.max_points_per_centroid == recipe.KMEANS_MAX_POINTS_PER_CENTROID
    assert parameters.min_points_per_centroid == recipe.KMEANS_MIN_POINTS_PER_CENTROID
    assert parameters.nredo == recipe.KMEANS_RUNS
    assert not parameters.use_faster_subsampling
    assert not parameters.spherical
    assert not parameters.int_centroids
    assert parameters.init_method == 0  # random rows
    assert parameters.early_stop_threshold == 0


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize(("images", "grid", "dim", "k"), [(3125, 8, 64, 100), (469, 8, 2048, 64)])
def test_the_same_bits_as_faiss_on_all_rows(tmp_path, images, grid, dim, k, scratch):
    """200,000 x 64 rows, of which 25,600 are drawn; and 30,016 x 2048, of which 16,384 are."""
    values = features(images, grid, dim, clusters=k)
    rows = values.reshape(-1, dim)
    path = write_features(tmp_path / "features.h5", values)
    found = cluster(path, tmp_path, k, memory=0.001 if scratch else 8)
    kmeans = by_faiss(rows, k)
    assert np.array_equal(found["centroids"], kmeans.centroids)
    index = faiss.IndexFlatL2(dim)
    index.add(kmeans.centroids)
    with one_thread():
        assert np.array_equal(found["index"], index.search(rows, 1)[1])


def test_rows_that_are_not_drawn_are_not_needed():
    """What the sample does not hold cannot change the result, so it is not read."""
    rows = features(1, 100, 8, seed=3).reshape(-1, 8)
    drawn = draw_sample(len(rows), 4)
    assert len(drawn) == 4 * 256 < len(rows)
    other = np.zeros_like(rows)
    other[drawn] = rows[drawn]
    assert np.array_equal(by_faiss(rows, 4).centroids, by_faiss(other, 4).centroids)


@pytest.mark.parametrize("iterations", [1, 3, 20])
@pytest.mark.parametrize(
    ("rows", "dim", "k"),
    [
        (9000, 16, 40),
        (5000, 64, 20),
        (8200, 32, 30),
        (8200, 33, 30),
        (4096, 64, 20),
        (9001, 1, 40),
        (4097, 128, 3),
    ],
)
def test_blocks_round_as_one_search_does(tmp_path, rows, dim, k, iterations):
    """Sizes around faiss's own blocks and thresholds, where a careless cut changes the last bits."""
    values = np.random.default_rng(1).standard_normal((rows, dim), dtype=np.float32)
    kmeans = by_faiss(values, k, iterations)
    assert_same(by_us(values, k, iterations), kmeans)
    assert_same(by_us(values, k, iterations, wanted=10**6), kmeans)
    assert_same(by_us(values, k, iterations, scratch=tmp_path / "scratch"), kmeans)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 300), st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**20), st.sampled_from("nzid")
)  # fmt: skip
def test_small_and_degenerate_data(rows, dim, k, seed, kind):
    """Noise, zeros, few distinct values, duplicates: empty clusters are split as faiss splits them."""
    rng = np.random.default_rng(seed)
    k = min(k, rows)
    values = rng.standard_normal((rows, dim))
    if kind == "z":
        values[:] = 0
    elif kind == "i":
        values = rng.integers(0, 2, (rows, dim))
    elif kind == "d":
        values = values[rng.integers(0, max(1, rows // 20), rows)]
    values = values.astype(np.float32)
    assert_same(by_us(values, k), by_faiss(values, k))


def test_as_many_rows_as_centroids_are_copied():
    rows = features(1, 5, 7).reshape(-1, 7)
    state = by_us(rows, 25)
    assert np.array_equal(state.centroids, rows)
    assert np.array_equal(state.centroids, by_faiss(rows, 25).centroids)


def test_sums_by_hand():
    sums = HostSums(3, 2)
    sums.add(np.array([0, 2, 0]), np.array([[1, 2], [5, 7], [3, 4]], np.float32))
    assert sums.result().tolist() == [[4, 6], [0, 0], [5, 7]]


def test_an_empty_cluster_is_split_from_a_full_one_by_hand():
    """Cluster 1 is empty and cluster 0 holds all rows: both become its mean, moved apart by 1 / 1024."""
    sums = np.array([[4096, 8192], [0, 0]], np.float32)
    assert update(sums, np.array([4, 0]), 6) == 1
    assert sums.tolist() == [[1023, 2050], [1025, 2046]]


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 100), st.integers(1, 100))
def test_blocks_cover_everything_once_and_none_is_short(start, length, rows, least):
    least = min(least, rows)
    ranges = block_ranges(start, start + length, rows, least)
    assert [i for a, b in ranges for i in range(a, b)] == list(range(start, start + length))
    if len(ranges) > 1:
        assert min(b - a for a, b in ranges) >= least
        assert max(b - a for a, b in ranges) < rows + least
        assert all((a - start) % rows == 0 for a, _ in ranges)
