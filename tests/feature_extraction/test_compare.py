"""How far results are apart: what each bound lets pass, and what it does not."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from feature_extraction.compare import (
    Arrays,
    compare_matched,
    compare_rows,
    level_of,
    match_boxes,
    out_of_tolerance,
    overlap,
    problems_of_form,
    quantiles,
    relative,
)
from feature_extraction.tolerance import BATCHED, LADDER, PUBLISHED, SAME_NETWORK, Difference, Level, Tolerance


def boxes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    corners = (rng.random((36, 4)) * 500).astype(np.float32)
    return {"features": np.ones((36, 4), np.float32), "boxes": corners, "obj_id": np.arange(36)}


def moved(key: str, by: float) -> dict[str, np.ndarray]:
    arrays = boxes()
    arrays[key] = arrays[key] + arrays[key].dtype.type(by)
    return arrays


@pytest.mark.parametrize(
    ("key", "by", "bad"),
    [("features", 1e-4, ""), ("features", 3e-4, "features"), ("features", np.nan, "features"),
     ("features", np.inf, "features"), ("boxes", 5e-3, ""), ("boxes", 2e-2, "boxes"), ("boxes", np.nan, "boxes"),
     ("obj_id", 1, "classes")],
)  # fmt: skip
def test_row_against_row(key: str, by: float, bad: str) -> None:
    said = out_of_tolerance([compare_rows(moved(key, by), boxes())], SAME_NETWORK)
    assert [line.partition(":")[0] for line in said] == ([bad] if bad else [])


def test_the_figures_are_told() -> None:
    found = {**boxes(), "features": 1.5 * boxes()["features"]}
    found["boxes"] = boxes()["boxes"].copy()
    found["boxes"][7, 2] += 3
    found["obj_id"] = boxes()["obj_id"].copy()
    found["obj_id"][[1, 2]] = 99
    assert compare_rows(found, boxes()) == Difference(features=0.5, boxes=3.0, classes=2)
    assert out_of_tolerance([compare_rows(found, boxes())], SAME_NETWORK) == [
        "features: 0.5 of the largest, beyond 0.0002",
        "boxes: 3 pixels off, beyond 0.01",
        "classes: 2 boxes of another class, beyond 0",
    ]


def test_a_grid_has_features_alone() -> None:
    grid: Arrays = {"features": np.full((8, 8, 4), 2, np.float32)}
    assert compare_rows({"features": grid["features"] + np.float32(0.5)}, grid) == Difference(features=0.25)


@pytest.mark.parametrize("change", ["missing", "shape", "type"])
def test_arrays_of_another_form_are_not_compared(change: str) -> None:
    found = boxes()
    if change == "missing":
        del found["obj_id"]
    else:
        found["features"] = found["features"][:35] if change == "shape" else found["features"].astype(np.float64)
    assert len(problems_of_form(found, boxes())) == 1
    with pytest.raises(ValueError, match=r"without obj_id|features: float(32|64) \(3[56], 4\), expected float32"):
        compare_rows(found, boxes())
    assert problems_of_form({**boxes(), "more": np.zeros(1)}, boxes()) == [], "a further array is no problem"


def test_swapped_neighbours_match_by_place_and_not_by_row() -> None:
    found = {key: array.copy() for key, array in boxes().items()}
    for array in found.values():
        array[[4, 5]] = array[[5, 4]]
    assert compare_matched(found, boxes(), 1.0) == Difference(features=0.0, boxes=0.0, matched=1.0)
    assert len(out_of_tolerance([compare_rows(found, boxes())], SAME_NETWORK)) == 2


@pytest.mark.parametrize(("key", "by", "matched"), [("boxes", 0.9, 1.0), ("boxes", 3, 0.0), ("obj_id", 1, 0.0)])
def test_what_counts_as_found_again(key: str, by: float, matched: float) -> None:
    found = compare_matched(moved(key, by), boxes(), 1.0)
    assert found.matched == pytest.approx(matched, abs=0.06)
    assert (found.features is None) == (found.matched == 0)


def test_features_of_boxes_that_were_not_found_again_do_not_count() -> None:
    found = boxes()
    found["boxes"] = found["boxes"].copy()
    found["boxes"][0] += 100
    found["features"] = found["features"].copy()
    found["features"][0] = 50
    assert compare_matched(found, boxes(), 1.0) == Difference(features=0.0, boxes=0.0, matched=35 / 36)


def test_quantiles_of_many_images() -> None:
    """Of 100 images one may be off where 99 % have to be within; two may not."""
    good, bad = Difference(features=0.0, matched=1.0), Difference(features=0.5, matched=0.1)
    assert out_of_tolerance([good] * 200 + [bad], PUBLISHED) == []
    said = out_of_tolerance([good] * 97 + [bad] * 3, PUBLISHED)
    assert [line.partition(":")[0] for line in said] == ["features", "boxes"]
    assert out_of_tolerance([good] * 200 + [bad], dataclasses.replace(PUBLISHED, quantile=1.0)) != []


def test_one_image_that_is_not_a_number_among_many() -> None:
    nan = Difference(features=relative(np.array([np.nan]), np.array([1.0])))
    assert nan.features == np.inf
    many = [Difference(features=0.0)] * 30
    assert "features: inf of the largest" in out_of_tolerance([*many, nan], PUBLISHED)[0]
    assert quantiles([*many, nan], "features", (0.5, 1.0)) == [(0.5, 0.0), (1.0, np.inf)]


def test_nothing_compared_is_out_of_tolerance() -> None:
    assert out_of_tolerance([], PUBLISHED) == ["no image could be compared"]
    assert out_of_tolerance([Difference(features=None, matched=0.0)], PUBLISHED)[0] == "no box is found again"
    empty: Arrays = {k: v[:0] for k, v in boxes().items()}
    assert compare_matched(empty, empty, 1.0) == Difference(features=None)
    assert quantiles([], "features", (1.0,)) == []


def test_zero_features_are_comparable() -> None:
    assert relative(np.zeros(3), np.zeros(3)) == 0
    assert relative(np.full(3, 0.5), np.zeros(3)) == 0.5


def test_the_bounds_of_the_golden_outputs() -> None:
    """tests/data/README.md: boxes 1e-2 pixel, features 2e-4 of the largest, the same classes."""
    assert Tolerance(features=2e-4, boxes=1e-2, classes=0, matched=1.0, quantile=1.0) == SAME_NETWORK
    assert BATCHED.features < SAME_NETWORK.features < PUBLISHED.features


# --- the ladder -----------------------------------------------------------------------------------------


def test_overlap_is_that_of_pixels() -> None:
    a = np.array([[0, 0, 2, 2], [5, 5, 5, 5], [3, 3, 1, 1]], np.float32)
    b = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 5, 5], [np.nan, 0, 1, 1]], np.float32)
    expected = [[1, 1 / 2, 0, 0], [0, 0, 1, 0], [2 / 7, 1 / 2, 0, 0]]
    assert overlap(a, b) == pytest.approx(np.array(expected)), "corners in any order, one point, no number"


def test_a_box_is_matched_once_and_by_the_largest_overlap() -> None:
    """Two of ours overlap the expected one: the nearer of them has it, the other none."""
    expected: Arrays = {"boxes": np.array([[0, 0, 10, 10]], np.float32), "obj_id": np.array([7])}
    found: Arrays = {"boxes": np.array([[0, 0, 10, 12], [0, 0, 10, 11]], np.float32), "obj_id": np.array([7, 7])}
    pairs = match_boxes(found, expected)
    assert (pairs.found.tolist(), pairs.expected.tolist(), pairs.apart.tolist()) == ([1], [0], [1.0])
    other_class = match_boxes({**found, "obj_id": np.array([7, 8])}, expected)
    assert other_class.found.tolist() == [0], "its own class before a larger overlap"


def test_a_box_without_width_is_found_again() -> None:
    """Proposals are clipped: one may be all edge."""
    expected: Arrays = {"boxes": np.array([[599, 10, 599, 80]], np.float32), "obj_id": np.array([7])}
    found = {**expected, "boxes": expected["boxes"] + np.float32(1e-4)}
    assert match_boxes(found, expected).found.tolist() == [0]


RUNGS = [
    (0, 0, Level.EQUAL), (1e-4, 0, Level.ROUNDING), (1e-4, 5e-3, Level.ROUNDING), (3e-3, 0, Level.TF32),
    (1e-4, 0.5, Level.TF32), (0.1, 0, Level.DECODER), (1e-4, 1.9, Level.DECODER), (0.5, 0, Level.DIFFERENT),
    (0, 5, Level.DIFFERENT), (np.nan, 0, Level.DIFFERENT), (0, np.nan, Level.DIFFERENT),
]  # fmt: skip


@pytest.mark.parametrize(("features", "pixels", "level"), RUNGS)
def test_the_rungs(features: float, pixels: float, level: Level) -> None:
    expected = boxes()
    corners = np.sort(expected["boxes"].reshape(36, 2, 2), 1)
    corners[:, 1] += 60
    expected["boxes"] = corners.reshape(36, 4)
    found = {
        **expected,
        "features": expected["features"] + np.float32(features),
        "boxes": expected["boxes"] + np.float32(pixels),
    }
    assert level_of(found, expected) is level
    assert str(level) in ("equal", "float32 rounding", "TF32", "other decoder", "different")


def test_a_rung_holds_all_that_is_nearer() -> None:
    rungs = list(LADDER.values())
    for nearer, farther in pairwise(rungs):
        assert nearer.features < farther.features
        assert nearer.boxes < farther.boxes
        assert nearer.matched > farther.matched
    assert rungs[0] is SAME_NETWORK


def test_one_other_box_is_a_tie_at_the_end_of_the_list_only() -> None:
    for row, matched in ((35, 1.0), (34, 1.0), (33, 35 / 36), (0, 35 / 36)):
        found = boxes()
        found["obj_id"] = found["obj_id"].copy()
        found["obj_id"][row] = 1599
        assert compare_matched(found, boxes(), 1.0).matched == pytest.approx(matched), row
