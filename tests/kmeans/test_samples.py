"""The sums of a cluster's rows, wherever the rows lie: the same bits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kmeans import lloyd, samples
from kmeans.blocks import Blocks
from kmeans.comm import SingleProcess
from kmeans.nearest import CertifiedSearch, FaissSearch
from kmeans.nearest.by_bfloat16 import Tiling
from kmeans.samples import CardSums, HostSums, InMemory, OnCard, Scratch


def both(values, ids, k):
    host, card = HostSums(k, values.shape[1]), CardSums(k, torch.from_numpy(values))
    for at in range(0, len(ids), 100):
        for sums in (host, card):
            sums.add(ids[at : at + 100], values[at : at + 100])
    return host.result(), card.result()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 700), st.integers(1, 40), st.integers(1, 9), st.floats(0.1, 8), st.integers(0, 2**20))
def test_a_card_adds_in_the_order_of_the_rows(rows, k, dim, skew, seed):
    """Values of all sizes, so that another order would round differently; clusters of all sizes, empty ones too."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((rows, dim)) * 10 ** rng.uniform(-6, 6, (rows, 1))).astype(np.float32)
    ids = np.minimum(k - 1, (k * rng.random(rows) ** skew)).astype(np.int64)
    on_host, on_card = both(values, ids, k)
    assert np.array_equal(on_host, on_card)


def test_another_order_would_show():
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((500, 8)) * 10 ** rng.uniform(-6, 6, (500, 1))).astype(np.float32)
    ids = rng.integers(0, 5, 500)
    assert not np.array_equal(both(values, ids, 5)[0], both(values[::-1].copy(), ids[::-1].copy(), 5)[0])


@pytest.mark.parametrize("rounds", [0.0, 1.0])
def test_one_cluster_of_nearly_everything_is_added_by_the_processor(monkeypatch, rounds):
    monkeypatch.setattr(samples, "ROUNDS_PER_ROW", rounds)
    called = []
    real = CardSums._on_host
    monkeypatch.setattr(CardSums, "_on_host", lambda self, ids: called.append(1) or real(self, ids))
    values = np.random.default_rng(0).standard_normal((400, 6), np.float32)
    on_host, on_card = both(values, np.where(np.arange(400) % 50 == 0, 1, 0), 3)
    assert np.array_equal(on_host, on_card)
    assert bool(called) == (rounds == 0.0)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_training_on_a_card_ends_in_the_centroids_of_training_in_memory(tmp_path, kind):
    """The card's steps, on tensors of the processor."""
    rng = np.random.default_rng(1)
    centres = 4 * rng.standard_normal((30, 48), dtype=np.float32)
    values = centres[rng.integers(0, 30, 9000)] + rng.standard_normal((9000, 48), dtype=np.float32)
    sample = InMemory(values)
    if kind == "disk":
        sample = Scratch(tmp_path / "sample", *values.shape)
        sample.place(np.arange(len(values)), values)
    blocks = Blocks.of(48, 0)

    def trained(sample, search):
        comm = SingleProcess()
        run = lloyd.Run(sample=sample, total=9000, blocks=blocks, nearest=search, comm=comm)
        start = lloyd.State(lloyd.initial_centroids(sample, 9000, 0, 40, comm))
        return lloyd.train(run, start, 8, lambda state: None)

    expected = trained(InMemory(values), FaissSearch())
    on_card = OnCard.copy_of(sample, "cpu", blocks)
    found = trained(on_card, CertifiedSearch("cpu", Tiling(rows=1024, room=8, most=8)))
    assert np.array_equal(found.centroids, expected.centroids)
    assert [i.empty_split for i in found.history] == [i.empty_split for i in expected.history]
    assert np.allclose([i.objective for i in found.history], [i.objective for i in expected.history], rtol=1e-4)


def test_a_scratch_file_that_is_not_whole_is_known(tmp_path):
    sample = Scratch(tmp_path / "sample", 4, 3)
    sample.place(np.arange(3), np.ones((3, 3), np.float32))
    assert not sample.whole
    sample.place(np.array([3]), np.ones((1, 3), np.float32))
    assert sample.whole
    sample.close()


def test_a_disk_that_takes_a_part_of_a_row_gets_the_rest(tmp_path, monkeypatch):
    real = samples.os.pwrite
    monkeypatch.setattr(samples.os, "pwrite", lambda fd, data, at: real(fd, data[:5], at))
    sample = Scratch(tmp_path / "sample", 4, 3)
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    sample.place(np.array([2, 0, 3, 1]), values)
    assert np.array_equal(sample.read(0, 4, np.empty((4, 3), np.float32)), values[[1, 3, 0, 2]])
    sample.close()
