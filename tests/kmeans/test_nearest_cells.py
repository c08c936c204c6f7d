"""The cells nearest to each word, kept while a target is assigned."""

import numpy as np
import pytest
from helpers.kmeans_cases import cluster, features, interrupted_after, write_features
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extraction.errors import VocabularyError
from kmeans import load_vocabulary, memory, nearest_cells
from kmeans.nearest_cells import KEPT, NearestRows
from kmeans.partial import Frame, PartialIndex

K = 6


def plainly(words, distances, k):
    """Rows of each word by distance, then row: at most KEPT."""
    order = np.lexsort((np.arange(len(words)), distances))
    return [[int(r) for r in order if words[r] == word][:KEPT] for word in range(k)]


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 300), st.integers(1, 8), st.integers(1, 60), st.integers(0, 2**20))
def test_block_by_block_they_are_those_of_all_rows(rows, k, block, seed):
    """With many equal distances, which the earlier row wins."""
    rng = np.random.default_rng(seed)
    words, distances = rng.integers(0, k, rows), rng.integers(0, 9, rows).astype(np.float32)
    found = NearestRows(k)
    for at in range(0, rows, block):
        part = slice(at, at + block)
        ids, near = words[part], distances[part]
        noted = np.flatnonzero(near < found.distances[ids, -1]).astype(np.uint32)
        found.replay(at, Frame(ids, noted, near[noted]))
    expected = plainly(words, distances, k)
    assert [[r for r in row if r >= 0] for row in found.rows.tolist()] == expected
    for word, there in enumerate(expected):
        assert np.array_equal(found.distances[word, : len(there)], distances[there])


@pytest.fixture
def case(tmp_path):
    values = features(40, 8, 24, clusters=K)
    return values, write_features(tmp_path / "some.h5", values)


def vocabulary_of(folder):
    (path,) = folder.glob("cluster_centroids/*_some_centroids*.npy")
    return load_vocabulary(path)


def test_the_vocabulary_tells_them(case, tmp_path):
    values, path = case
    cluster(path, tmp_path, K)
    vocabulary = vocabulary_of(tmp_path)
    rows = values.reshape(-1, 24)
    for word in range(K):
        distances = ((rows.astype(np.float64) - vocabulary.centroids[word]) ** 2).sum(1)
        own = np.flatnonzero(vocabulary.assign(rows) == word)
        nearest = own[np.argsort(distances[own])][:KEPT]
        cells = vocabulary.nearest_cells(word)
        assert [(c.image_id, c.cell) for c in cells] == [(f"{r // 64 + 1:06}", r % 64) for r in nearest.tolist()]
        assert np.allclose([c.distance for c in cells], distances[nearest], rtol=1e-5)
        assert {c.target for c in cells} == {"some"}
        assert vocabulary.nearest_cells(word, "some") == cells
    with pytest.raises(IndexError, match="from 0"):
        vocabulary.nearest_cells(K)
    with pytest.raises(TypeError, match="integer"):
        vocabulary.nearest_cells(3.0)
    with pytest.raises(KeyError, match="loaded: some"):
        vocabulary.nearest_cells(0, "vg")


@pytest.mark.parametrize("how", ["faiss", "bfloat16"])
def test_they_do_not_depend_on_how_nearest_centroids_are_found_nor_on_a_death_in_between(
    case, tmp_path, monkeypatch, how
):
    _, path = case
    cluster(path, tmp_path / "clean", K)
    expected = vocabulary_of(tmp_path / "clean")
    monkeypatch.setattr(memory, "BLOCK_ROWS", 1)
    values = features(400, 8, 24, clusters=K)
    large = write_features(tmp_path / "large.h5", values)
    expected = cluster(large, tmp_path / "a", K)
    whole = load_vocabulary(next((tmp_path / "a").glob("cluster_centroids/*_large_centroids*.npy")))
    with interrupted_after(PartialIndex, "append", 2):
        cluster(large, tmp_path / "b", K, assignment=how)
    again = cluster(large, tmp_path / "b", K, assignment=how)
    assert np.array_equal(again["index"], expected["index"])
    found = load_vocabulary(next((tmp_path / "b").glob("cluster_centroids/*_large_centroids*.npy")))
    assert [found.nearest_cells(w) for w in range(K)] == [whole.nearest_cells(w) for w in range(K)]


def test_two_processes_keep_those_of_one(case, tmp_path):
    """What the second one saw is merged into what the root saw."""
    values, _ = case
    rows = values.reshape(-1, 24)
    words, distances = np.random.default_rng(0).integers(0, K, len(rows)), rows.sum(1)
    whole, halves = NearestRows(K), [NearestRows(K), NearestRows(K)]
    whole.merge(words, np.arange(len(rows)), distances)
    for half, part in zip(halves, np.array_split(np.arange(len(rows)), 2), strict=True):
        half.merge(words[part], part, distances[part])
    theirs = halves[1]
    halves[0].merge(np.repeat(np.arange(K), KEPT), theirs.rows.ravel(), theirs.distances.ravel())
    assert np.array_equal(halves[0].rows, whole.rows)


def test_those_of_other_centroids_and_damaged_ones_are_not_served(case, tmp_path):
    _, path = case
    cluster(path, tmp_path, K)
    (file,) = (tmp_path / "cluster_centroids").glob("*_nearest_cells_*.npz")
    with np.load(file) as there:
        arrays = dict(there)
    np.savez(file, **{**arrays, "centroids_sha256": np.array("another")})
    assert vocabulary_of(tmp_path).cells == {}
    np.savez(file, **{**arrays, "image": arrays["image"] + 1000})
    with pytest.raises(VocabularyError, match="does not list"):
        vocabulary_of(tmp_path)
    file.write_bytes(b"PK")
    with pytest.raises(VocabularyError, match="nearest cells"):
        nearest_cells.load(file, "some", K)
    file.unlink()  # as earlier versions left it
    assert vocabulary_of(tmp_path).nearest_cells(0) == []
