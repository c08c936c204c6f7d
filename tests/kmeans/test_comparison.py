"""Two vocabularies on the same rows, against the same worked out in float64."""

import numpy as np
import pytest
from helpers.kmeans_cases import features, write_features

from feature_extraction.errors import StoreError, VocabularyError
from kmeans import comparison
from kmeans.comparison import cells_of, compare
from kmeans.vectors import FeatureFile

DIM = 16


@pytest.fixture
def path(tmp_path):
    return write_features(tmp_path / "f.h5", features(9, 4, DIM, clusters=6))


def run(path, ours, theirs, images=None, ticks=None):
    with FeatureFile(path, dim=DIM, grid_size=4) as file:
        chosen = np.arange(len(file.ids)) if images is None else np.array(images)
        found = compare(ours, theirs, file, chosen, device="cpu", tick=(ticks if ticks is not None else []).append)
        return found, [cells_of(found.ours, word, file, "f") for word in range(len(ours))]


def rows_of(images=range(9)):
    return features(9, 4, DIM, clusters=6)[list(images)].reshape(-1, DIM)


def centroids(k, seed):
    rng = np.random.default_rng(seed)
    return rows_of()[rng.choice(144, k, replace=False)] + rng.random((k, DIM), np.float32)


def squares(rows, words):
    return ((rows[:, None].astype(np.float64) - words[None]) ** 2).sum(-1)


@pytest.mark.parametrize("images", [range(9), [0, 3, 8]])
@pytest.mark.parametrize("at_once", [16, 40, 1 << 14])
def test_as_worked_out_one_row_after_the_other(path, images, at_once, monkeypatch):
    monkeypatch.setattr(comparison, "BLOCK_ROWS", at_once)
    ours, theirs, ticks = centroids(7, 1), centroids(5, 2), []
    found, cells = run(path, ours, theirs, images, ticks)
    rows = rows_of(images)
    a, b = squares(rows, ours), squares(rows, theirs)
    assert found.ours.objective == pytest.approx(a.min(1).sum(), rel=1e-5)
    assert found.theirs.objective == pytest.approx(b.min(1).sum(), rel=1e-5)
    assert found.rows == len(rows) == sum(ticks)
    assert found.ours.sizes.tolist() == np.bincount(a.argmin(1), minlength=7).tolist()
    agree = found.matching.partner[a.argmin(1)] == b.argmin(1)
    assert found.share == agree.mean()
    assert found.common.tolist() == np.bincount(a.argmin(1)[agree], minlength=7).tolist()
    assert found.excess == pytest.approx(a.min(1).sum() / b.min(1).sum() - 1, rel=1e-4)
    assert found.radius == pytest.approx(np.sqrt(b.min(1).mean()), rel=1e-5)
    for word, near in enumerate(cells):
        of_word = np.flatnonzero(a.argmin(1) == word)
        expected = of_word[np.argsort(a[of_word, word], kind="stable")][:12]
        place = [(f"{list(images)[row // 16] + 1:06}", row % 16) for row in expected.tolist()]
        assert [(cell.image_id, cell.cell) for cell in near] == place


def test_a_permuted_copy_has_every_row_in_matched_words(path):
    ours = centroids(8, 3)
    order = np.random.default_rng(0).permutation(8)
    found, _ = run(path, ours, ours[order])
    assert found.share == 1
    assert found.same_numbers == (order == np.arange(8)).sum()
    assert found.excess == pytest.approx(0, abs=1e-6)


def test_rows_that_are_not_finite_are_refused_with_the_image(tmp_path):
    values = features(3, 4, DIM)
    values[2, 1, 1, 5] = np.nan
    path = write_features(tmp_path / "f.h5", values)
    with pytest.raises(StoreError, match=r"image '000003' contain NaN \(row 5 of 16\)"):
        run(path, centroids(2, 0), centroids(2, 1))


def test_centroids_beyond_all_measure_are_refused(path):
    huge = np.full((2, DIM), 1e30, np.float32)
    with pytest.raises(VocabularyError, match="beyond float32"):
        run(path, huge, centroids(2, 1))
