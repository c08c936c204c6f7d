"""The bfloat16 assignment equals faiss's, also where rows were made to fool it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kmeans import nearest
from kmeans.nearest import CertifiedSearch, FaissSearch, pair_distances
from kmeans.nearest.by_bfloat16 import ON_CPU, Tiling
from scripts.gpu_test import waits


def both(rows, centroids):
    """Ids by faiss and by bfloat16, and how the latter decided."""
    found = []
    for method in (FaissSearch(), CertifiedSearch()):
        method.set_centroids(centroids)
        found.append(method.assign(rows))
    return *found, method.stats


def assert_equal_beyond_ties(rows, centroids):
    """The same ids, unless float32 cannot tell the two: D of both within faiss's own rounding (``F``)."""
    by_faiss, ours, stats = both(rows, centroids)
    other = np.flatnonzero(by_faiss != ours)
    exact = [((rows[other].astype(np.float64) - centroids[ids[other]]) ** 2).sum(1) for ids in (by_faiss, ours)]
    size = np.linalg.norm(rows[other].astype(np.float64), axis=1) + np.linalg.norm(centroids, axis=1).max()
    roundings = rows.shape[1] + 4
    assert (np.abs(exact[0] - exact[1]) <= 2 * roundings * 2.0**-24 * size**2 + roundings * 2.0**-126).all()
    return len(other), stats


def clustered(rows, k, dim, noise, seed=0):
    rng = np.random.default_rng(seed)
    centroids = np.maximum(rng.standard_normal((k, dim), dtype=np.float32), 0)
    values = centroids[rng.integers(0, k, rows)] + noise * rng.standard_normal((rows, dim), dtype=np.float32)
    return np.maximum(values, 0), centroids


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_features_of_the_papers_dimension(noise):
    rows, centroids = clustered(1500, 700, 2048, noise)
    different, stats = assert_equal_beyond_ties(rows, centroids)
    assert different == 0
    assert stats.rows == 1500
    assert stats.settled_by_faiss < 150  # the bound decides nearly all of them


def test_a_large_common_part_costs_nothing():
    """Centring takes it away before rounding; bfloat16 alone would lose most of the rest."""
    rows, centroids = clustered(600, 520, 256, 0.3)
    low = torch.from_numpy(rows + 30).bfloat16().float().numpy()
    assert np.abs(low - 30 - rows).mean() > 0.02
    by_faiss, ours, stats = both(rows + 30, centroids + 30)
    assert np.array_equal(by_faiss, ours)
    assert stats.compared < 60


def test_where_float32_cannot_be_sure_faiss_decides():
    """The same rows: |x|^2 is 2.6e8, so the expanded form in float32 is sure of a difference of 1e5 only."""
    rows, centroids = clustered(600, 520, 256, 1.0)
    by_faiss, ours, stats = both(rows + 1000, centroids + 1000)
    assert np.array_equal(by_faiss, ours)
    assert stats.settled_by_faiss == 600


def test_gaps_far_below_bfloat16_are_settled():
    """Centroids in pairs that differ by 1e-3 in one value: bfloat16 cannot tell them, the result can."""
    rng = np.random.default_rng(3)
    half = rng.standard_normal((300, 128), dtype=np.float32)
    centroids = np.concatenate([half, half])
    centroids[300:, 5] += np.float32(1e-3)
    assert (torch.from_numpy(centroids[:300]).bfloat16() == torch.from_numpy(half).bfloat16()).all()
    which = rng.integers(0, 600, 2000)
    rows = centroids[which] + np.float32(1e-5) * rng.standard_normal((2000, 128), dtype=np.float32)
    by_faiss, ours, stats = both(rows, centroids)
    assert stats.compared == 2000
    assert stats.settled_by_faiss == 2000  # the gap, 1e-6, is below faiss's proven precision
    assert np.array_equal(by_faiss, ours)


def test_gaps_above_float32_are_settled_without_faiss():
    rng = np.random.default_rng(3)
    half = rng.standard_normal((300, 128), dtype=np.float32)
    centroids = np.concatenate([half, half])
    centroids[300:, 5] += np.float32(0.3)
    which = rng.integers(0, 600, 2000)
    by_faiss, ours, stats = both(centroids[which], centroids)
    assert stats.compared > 1500
    assert stats.settled_by_faiss == 0
    assert np.array_equal(ours, which)
    assert np.array_equal(by_faiss, which)


def test_exact_ties_and_copies_go_to_faiss():
    rng = np.random.default_rng(4)
    centroids = np.repeat(rng.standard_normal((10, 64), dtype=np.float32), 60, 0)
    rows = np.concatenate([centroids[::7], np.zeros((50, 64), np.float32)])
    by_faiss, ours, stats = both(rows, centroids)
    assert np.array_equal(by_faiss, ours)
    assert stats.settled_by_faiss == len(rows)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 300), st.integers(1, 700), st.integers(1, 70), st.integers(0, 2**20),
    st.sampled_from([1e-18, 1e-3, 1.0, 1e3, 1e15]), st.sampled_from([0.0, 1.0, 100.0]),
)  # fmt: skip
def test_any_data_at_any_scale(rows, k, dim, seed, scale, offset):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows + k, dim)) * rng.exponential(1, (rows + k, 1)) + offset
    values[rng.integers(0, rows + k, 5)] = values[rng.integers(0, rows + k)]
    values = (values * scale).astype(np.float32)
    assert_equal_beyond_ties(values[:rows], values[rows:])


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 200), st.integers(0, 2**20), st.floats(-3, 6))
def test_the_bound_holds(dim, seed, magnitude):
    """The candidates include the nearest centroid in exact arithmetic, for rows halfway between two."""
    rng = np.random.default_rng(seed)
    centroids = (rng.standard_normal((80, dim)) + 10.0**magnitude * rng.random()).astype(np.float32)
    pairs = rng.integers(0, 80, (100, 2))
    weight = 0.5 + rng.standard_normal((100, 1)) * 1e-4
    rows = (weight * centroids[pairs[:, 0]] + (1 - weight) * centroids[pairs[:, 1]]).astype(np.float32)
    method = CertifiedSearch()
    method.set_centroids(centroids)
    found_rows, found, *_ = method._candidates(torch.from_numpy(rows), 0)
    distances = ((rows[:, None].astype(np.float64) - centroids[None]) ** 2).sum(2)
    candidates = {(int(r), int(c)) for r, c in zip(found_rows, found, strict=True)}
    assert {(r, int(c)) for r, c in enumerate(distances.argmin(1))} <= candidates


def test_the_test_of_the_bound_can_fail(monkeypatch):
    """Without the bound the candidates miss nearest centroids: the data of the test above are hard enough."""
    rng = np.random.default_rng(0)
    centroids = (rng.standard_normal((80, 100)) + 3).astype(np.float32)
    pairs = rng.integers(0, 80, (300, 2))
    rows = ((centroids[pairs[:, 0]] + centroids[pairs[:, 1]]) / 2).astype(np.float32)
    nearest = ((rows[:, None].astype(np.float64) - centroids[None]) ** 2).sum(2).argmin(1)
    low = [torch.from_numpy(v).bfloat16().double().numpy() for v in (rows, centroids)]
    assert (((low[0][:, None] - low[1][None]) ** 2).sum(2).argmin(1) != nearest).any()


def test_search_returns_the_direct_distance():
    rows, centroids = clustered(100, 600, 32, 1.0)
    method = CertifiedSearch()
    method.set_centroids(centroids)
    ids, distances = method.search(rows)
    exact = ((rows.astype(np.float64) - centroids[ids]) ** 2).sum(1)
    assert np.allclose(distances, exact, rtol=1e-5)


def test_pair_distances_by_hand():
    x = np.array([[1, 2], [3, 4]], np.float32)
    c = np.array([[1, 2], [0, 0], [3, 5]], np.float32)
    found = pair_distances(x, np.array([0, 0, 1, 1]), c, np.array([0, 1, 2, 1]))
    assert found.tolist() == [0, 5, 1, 25]


def far_away(rows, k, dim, seed=0):
    """Rows and centroids so close together, so far from the origin, that only faiss's own rounding decides; exact
    copies among them."""
    rng = np.random.default_rng(seed)
    base = 30 * rng.standard_normal(dim)
    values, centroids = ((base + 0.01 * rng.standard_normal((n, dim))).astype(np.float32) for n in (rows, k))
    centroids[rng.integers(0, k, k // 4)] = centroids[rng.integers(0, k, k // 4)]
    values[rng.integers(0, rows, rows // 8 + 1)] = centroids[rng.integers(0, k, rows // 8 + 1)]
    return values, centroids


TILINGS = {"cpu": ON_CPU, "card": Tiling(rows=2048, room=8, most=8), "narrow": Tiling(rows=256, room=2, most=2)}


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize(
    ("rows", "k", "dim"),
    [(1, 3, 5), (64, 700, 16), (256, 5, 16), (63, 100, 2048), (130, 600, 1024), (4097, 1030, 100), (9001, 100, 33)],
)
def test_few_rows_and_many_are_those_of_faiss_whatever_the_data(rows, k, dim, tiling):
    """Few rows take another formula of faiss, the rest behind the last whole product another shape of it."""
    values, centroids = far_away(rows, k, dim)
    by_faiss, ours = FaissSearch(), CertifiedSearch("cpu", TILINGS[tiling])
    for method in (by_faiss, ours):
        method.set_centroids(centroids)
    expected = by_faiss.assign(values)
    assert np.array_equal(ours.assign(values), expected)
    ids, distances = ours.search(values)
    assert np.array_equal(ids, expected)
    assert np.allclose(distances, ((values.astype(np.float64) - centroids[ids]) ** 2).sum(1), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("tiling", TILINGS)
def test_where_bfloat16_suffices_every_tiling_finds_the_same_without_faiss(tiling):
    rows, centroids = clustered(3000, 700, 256, 1.0)
    expected, _, _ = both(rows, centroids)
    method = CertifiedSearch("cpu", TILINGS[tiling])
    method.set_centroids(centroids)
    assert np.array_equal(method.assign(rows), expected)
    assert method.stats.settled_by_faiss < (3000 if tiling == "narrow" else 60)


def test_the_method_is_chosen_by_what_gains(monkeypatch):
    monkeypatch.setattr(nearest, "has_fast_bfloat16", lambda: True)
    assert nearest.choose("auto", "cpu", 10_000).name == "bfloat16"
    assert nearest.choose("auto", "cpu", 8).name == "faiss"
    assert nearest.choose("faiss", "cpu", 10_000).name == "faiss"
    monkeypatch.setattr(nearest, "has_fast_bfloat16", lambda: False)
    assert nearest.choose("auto", "cpu", 10_000).name == "faiss"
    assert nearest.choose("auto", "cuda:0", 10_000).name == "bfloat16"
    assert nearest.choose("bfloat16", "cpu", 8).name == "bfloat16"


def as_on_a_card(centroids, tiling):
    """A search whose tensors are taken for a card's: what asks them for a value is counted."""
    method = CertifiedSearch("cpu", tiling)
    method.set_centroids(centroids)
    for name in ("_centroids", "_mean", "_low", "_tile"):
        setattr(method, name, waits.mark(getattr(method, name)))
    return method


@pytest.mark.parametrize("tiles", [1, 3, 8])
def test_a_card_is_waited_for_twice_in_a_block_however_many_tiles_it_has(tiles):
    rows, centroids = clustered(1024 * tiles, 700, 256, 0.5)
    method = as_on_a_card(centroids, Tiling(rows=1024, room=8, most=8))
    with waits.counting() as counted:
        ids = method.assign(waits.mark(torch.from_numpy(rows)))
    assert dict(counted) == {"tolist": 1, "cpu": 1}
    with waits.counting() as counted:
        same, _ = method.search(waits.mark(torch.from_numpy(rows)))
    assert dict(counted) == {"tolist": 1, "cpu": 1}
    assert np.array_equal(ids, same)
    assert np.array_equal(ids, both(rows, centroids)[0])


def test_a_card_hands_the_rows_that_only_faiss_can_tell_over_together():
    rows, centroids = clustered(2048, 700, 256, 0.5)
    centroids[300] = centroids[301]  # the rows of these two
    rows[::16] = centroids[300]
    method = as_on_a_card(centroids, Tiling(rows=256, room=8, most=8))
    with waits.counting() as counted:
        ids = method.assign(waits.mark(torch.from_numpy(rows)))
    assert np.array_equal(ids, both(rows, centroids)[0])
    assert method.stats.settled_by_faiss >= 128
    assert sum(counted.values()) <= 8


@pytest.mark.parametrize("number", [5, 3000])
def test_a_tensor_and_an_array_are_searched_alike(number):
    """Also so few rows that faiss, which takes no tensors of a card, searches them."""
    rows, centroids = clustered(number, 700, 256, 1.0)
    method = as_on_a_card(centroids, Tiling(rows=1024, room=8, most=8))
    with waits.counting() as counted:
        found = method.assign(waits.mark(torch.from_numpy(rows)))
        ids, distances = method.search(waits.mark(torch.from_numpy(rows)))
    assert counted["cpu"] >= 2
    plain = CertifiedSearch()
    plain.set_centroids(centroids)
    assert np.array_equal(plain.assign(rows), found)
    assert np.array_equal(plain.assign(rows), ids)
    assert np.allclose(plain.search(rows)[1], distances, rtol=1e-5)


@pytest.mark.parametrize("locked", [True, False])
def test_blocks_are_read_into_page_locked_memory_for_a_card(monkeypatch, locked):
    real, asked = torch.empty, []

    def empty(*shape, pin_memory):
        asked.append(pin_memory)
        if not locked:
            raise RuntimeError("no more memory can be locked")
        return real(*shape)

    method = CertifiedSearch()
    assert method.empty(4, 8).shape == (4, 8)
    assert not asked
    method.device = "cuda:0"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        array = method.empty(4, 8)
    assert asked == [True]
    assert (array.shape, array.dtype) == ((4, 8), np.float32)
    assert array.flags.writeable


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    rows, centroids = clustered(3000, 1000, 2048, 2.0)
    by_faiss, _, _ = both(rows, centroids)
    method = CertifiedSearch("cuda")
    method.set_centroids(centroids)
    assert np.array_equal(method.assign(rows), by_faiss)
