"""Which word is which: found exactly where there is an answer, and as the definition says elsewhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment  # comes with scikit-image

from kmeans.matching import distances, match


def words(*rows):
    return np.array(rows, np.float32)


def by_definition(a, b):
    """Through all pairs from the nearest on, each word once."""
    table = distances(a, b)
    partner = np.full(len(a), -1)
    for _, i, j in sorted((d, i, j) for (i, j), d in np.ndenumerate(table)):
        if partner[i] < 0 and j not in partner:
            partner[i] = j
    return partner


def test_by_hand():
    """0 and 9 are nearest to each other; 5 would rather have 4, which 4.2 has; 30 is left."""
    found = match(words([0], [5], [4.2], [30]), words([4], [9], [0.5]))
    assert found.partner.tolist() == [2, 1, 0, -1]
    assert found.distance == pytest.approx([0.5, 4, 0.2, np.inf], rel=1e-6)
    assert found.matched.tolist() == [0, 1, 2]
    assert found.without(3).tolist() == []


def test_words_of_the_larger_side_are_left():
    found = match(words([0], [10]), words([11], [5], [1], [10]))
    assert found.partner.tolist() == [2, 3]
    assert found.without(4).tolist() == [0, 1]


def test_a_permuted_copy_is_found_exactly():
    rng = np.random.default_rng(1)
    a = rng.standard_normal((500, 32)).astype(np.float32)
    order = rng.permutation(500)
    found = match(a, a[order])
    assert np.array_equal(order[found.partner], np.arange(500))
    assert not found.distance.any()
    assert found.least_mean == 0


def test_words_that_are_there_twice_are_matched_in_their_order():
    """A row of such a word is given the first of them in either vocabulary."""
    rng = np.random.default_rng(2)
    a = rng.standard_normal((50, 8)).astype(np.float32)
    a[[3, 20, 41]] = a[7]
    order = rng.permutation(50)
    found = match(a, a[order])
    assert np.array_equal(a[order][found.partner], a)
    same = found.partner[[3, 7, 20, 41]]
    assert same.tolist() == sorted(same)


def test_words_that_differ_in_the_last_bit_find_each_other():
    """Far from the origin the expanded form in float32 could not tell them from their neighbours."""
    rng = np.random.default_rng(3)
    a = (1000 + rng.standard_normal((200, 64))).astype(np.float32)
    b = np.nextafter(a, np.float32(0))
    assert np.array_equal(match(a, b).partner, np.arange(200))


@settings(deadline=None)  # a shared machine
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.booleans())
def test_as_by_the_definition(m, n, seed, many_ties):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 4, (k, 2)) if many_ties else rng.standard_normal((k, 3)) for k in (m, n))
    a, b = a.astype(np.float32), b.astype(np.float32)
    found = match(a, b)
    table = distances(a, b)
    assert len(found.matched) == min(m, n) == len(set(found.partner[found.matched].tolist()))
    theirs = np.full(n, np.inf)
    theirs[found.partner[found.matched]] = found.distance[found.matched]
    # no two words are nearer to each other than both are to their partners
    assert (table >= np.minimum(found.distance[:, None], theirs)).all()
    if not many_ties:
        assert np.array_equal(found.partner, by_definition(a, b))


@settings(deadline=None)  # a shared machine
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_no_assignment_is_below_the_bound(m, n, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal((k, 3)).astype(np.float32) for k in (m, n))
    if seed % 2:
        b[0] = a[-1]
    # by differences, which are 0 where words are equal: a square root of a rounded 0 is 1e-8
    table = np.linalg.norm(a[:, None].astype(np.float64) - b, axis=2)
    least = table[linear_sum_assignment(table)].mean()
    found = match(a, b)
    assert found.least_mean <= least * (1 + 1e-6) + 1e-7
    assert least <= found.distance[found.matched].mean() * (1 + 1e-6) + 1e-7
