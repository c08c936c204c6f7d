"""Each recipe of the family on the golden images, against values worked out here from the stored logits and proposals.

The arithmetic below is written from the recipes' description alone, in float64 and class by class; nothing of the
package computes what is expected."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.common import DATA, photograph
from numpy.typing import NDArray

from feature_extraction.config import Boxes, Grid
from feature_extraction.detector.build import Detector
from feature_extraction.detector.checkpoint import read_tensors
from feature_extraction.detector.faster_rcnn import Detections
from feature_extraction.errors import ImageError, UsageError
from feature_extraction.features import NetworkInput, computation_of, compute, compute_all
from feature_extraction.images.decode import decode_image
from feature_extraction.progress import Clock
from feature_extraction.recipes import RECIPES, listed
from scripts.gpu_test.golden import FEATURE_BOUND, relative

IMAGES = tuple(sorted(path.stem for path in (DATA / "tiny").glob("*.npz")))


@dataclass(frozen=True)
class Stored:
    """What the original program left of one image, and which proposals survive in which class."""

    golden: dict[str, NDArray[Any]]
    scale: float
    prob: NDArray[np.float64]
    survives: NDArray[np.bool_]
    """(R, C): the proposal survives the suppression at IoU 0.5 of this class, in pixels of the original image."""

    @property
    def found(self) -> Detections:
        """As a detector that computed exactly this would say it; fc7 stands in by fc6 + 1."""
        tensors = (torch.from_numpy(self.golden[n]) for n in ("proposals", "objectness", "fc6", "scores"))
        proposals, objectness, fc6, scores = tensors
        return Detections(proposals, objectness, fc6, fc6 + 1, scores)

    @property
    def input(self) -> NetworkInput:
        width, height = int(self.golden["img_w"]), int(self.golden["img_h"])
        return NetworkInput(np.zeros((32, 32, 3), np.float32), self.scale, height, width)


@cache
def stored(image: str) -> Stored:
    golden = dict(np.load(DATA / "tiny" / f"{image}.npz"))
    short, long = sorted((int(golden["img_h"]), int(golden["img_w"])))
    scale = 1333 / long if round(800 / short * long) > 1333 else 800 / short
    logits = golden["scores"].astype(np.float64)
    prob = np.exp(logits - logits.max(1, keepdims=True))
    prob /= prob.sum(1, keepdims=True)
    return Stored(golden, scale, prob, survivors(golden["proposals"] / np.float32(scale), prob))


def survivors(boxes: NDArray[Any], prob: NDArray[Any], threshold: float = 0.5) -> NDArray[np.bool_]:
    """Greedy suppression of every class by itself, best first; a pixel belongs to a box at both of its ends."""
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    w = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1) + 1
    h = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1) + 1
    common = w.clip(0) * h.clip(0)
    apart = common / (area[:, None] + area - common) <= threshold
    classes = np.arange(prob.shape[1])
    alive, kept = np.ones_like(prob.T, bool), np.zeros_like(prob, bool)
    for best in np.argsort(-prob, axis=0, kind="stable"):  # of each class the next best
        standing = alive[classes, best]
        kept[best[standing], classes[standing]] = True
        alive[standing] &= apart[best[standing]]
    return kept


def confidences(of: Stored, *, first: int = 1, threshold: float = 0.0) -> NDArray[np.float64]:
    """The best probability of a class, from ``first``, in which the proposal survives and which is above it."""
    counts = of.survives & (of.prob > threshold)
    return np.where(counts, of.prob, 0)[:, first:].max(1)


def best(conf: NDArray[Any], rows: int) -> NDArray[np.int64]:
    """The rows of the highest scores; those without a score by objectness, which is their order."""
    return np.argsort(-conf, kind="stable")[:rows]


def from_10_to_100(conf: NDArray[Any]) -> int:
    return int(min(max((conf >= 0.2).sum(), 10), 100))


# name -> (rows of an image's scores, classes of cls_prob (None: not stored), whether scores are stored)
EXPECTED: dict[str, tuple[Any, slice | None, bool]] = {
    "x-lxmert": (lambda conf: 36, None, False),
    "vilbert-mt": (lambda conf: 100, slice(0, None), True),
    "mmf": (lambda conf: 100, slice(1, None), True),
    "visualbert": (lambda conf: 100, slice(1, None), True),
    "hateful-memes": (lambda conf: 100, slice(1, None), True),
    "fga": (lambda conf: 36, None, True),
    "bottom-up-10-100": (from_10_to_100, None, True),
}


def arrays_of(spec: Boxes, of: Stored) -> dict[str, NDArray[Any]]:
    arrays = computation_of(spec)._of_one(of.input, of.found)
    assert not isinstance(arrays, ImageError)
    return arrays


def assert_rows(arrays: dict[str, NDArray[Any]], of: Stored, index: NDArray[Any], first: int = 1) -> None:
    """The rows are these proposals, in this order."""
    np.testing.assert_array_equal(arrays["features"], of.golden["fc6"][index])
    np.testing.assert_allclose(arrays["boxes"], of.golden["proposals"][index] / of.scale, rtol=1e-6, atol=1e-4)
    np.testing.assert_array_equal(arrays["obj_id"], of.prob[index][:, first:].argmax(1) + first - 1)
    assert (arrays["img_w"], arrays["img_h"]) == (of.golden["img_w"], of.golden["img_h"])


def test_every_recipe_is_expected_here_and_has_a_source() -> None:
    assert RECIPES.keys() == EXPECTED.keys()
    assert all(name in listed() for name in RECIPES)
    assert all("/" in recipe.source for recipe in RECIPES.values())


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_gives_what_follows_from_the_stored_logits_and_proposals(name: str, image: str) -> None:
    of, (rows, classes, scores) = stored(image), EXPECTED[name]
    conf = confidences(of)
    index = best(conf, rows(conf))
    arrays = arrays_of(RECIPES[name].spec, of)
    assert_rows(arrays, of, index)
    published = {"features", "obj_id", "boxes", "img_w", "img_h"}
    assert arrays.keys() == published | ({"cls_prob"} if classes else set()) | ({"obj_conf"} if scores else set())
    if classes:
        np.testing.assert_allclose(arrays["cls_prob"], of.prob[index][:, classes], atol=1e-6)
    if scores:
        np.testing.assert_allclose(arrays["obj_conf"], conf[index], atol=1e-6)


def test_the_number_of_boxes_varies_with_the_image() -> None:
    assert len({from_10_to_100(confidences(stored(image))) for image in IMAGES}) > 1


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_at_least_the_minimum_is_kept_whatever_it_scores(threshold: float) -> None:
    of = stored("astronaut_crop33")
    conf = confidences(of)
    rows = max(10, int((conf >= threshold).sum()))
    arrays = arrays_of(Boxes(num_boxes=100, min_boxes=10, threshold=threshold, obj_conf=True), of)
    assert_rows(arrays, of, best(conf, rows))
    np.testing.assert_allclose(arrays["obj_conf"], conf[best(conf, rows)], atol=1e-6)


@pytest.mark.parametrize("image", IMAGES)
def test_what_was_published_of_the_36_is_what_is_worked_out_here(image: str) -> None:
    """The expectation itself, against what the original program chose."""
    of = stored(image)
    conf = confidences(of)
    np.testing.assert_array_equal(best(conf, 36), of.golden["keep"])
    np.testing.assert_allclose(conf[of.golden["keep"]], of.golden["obj_conf"], atol=1e-6)


@pytest.mark.parametrize("image", ["astronaut", "coins"])
@pytest.mark.parametrize("threshold", [0.02, 0.05])
def test_a_score_counts_above_the_threshold_and_the_rest_comes_by_objectness(image: str, threshold: float) -> None:
    of = stored(image)
    conf = confidences(of, threshold=threshold)
    assert (conf > 0).any()
    arrays = arrays_of(Boxes(num_boxes=100, threshold=threshold, obj_conf=True), of)
    assert_rows(arrays, of, best(conf, 100))
    np.testing.assert_allclose(arrays["obj_conf"], conf[best(conf, 100)], atol=1e-6)


@pytest.mark.parametrize("image", ["astronaut", "coins"])
def test_the_background_may_be_one_of_the_classes(image: str) -> None:
    of = stored(image)
    conf = confidences(of, first=0)
    arrays = arrays_of(Boxes(background=True, obj_conf=True), of)
    assert_rows(arrays, of, best(conf, 36), first=0)
    np.testing.assert_allclose(arrays["obj_conf"], conf[best(conf, 36)], atol=1e-6)


def test_a_box_whose_best_class_is_the_background_is_of_class_minus_1() -> None:
    of = stored("astronaut")
    golden = {**of.golden, "scores": np.roll(of.golden["scores"], -7, 1)}
    golden["scores"][:, 0] = golden["scores"].max(1) + 1
    arrays = arrays_of(Boxes(background=True), Stored(golden, of.scale, of.prob, of.survives))
    assert (arrays["obj_id"] == -1).all()
    assert (arrays_of(Boxes(), Stored(golden, of.scale, of.prob, of.survives))["obj_id"] >= 0).all()


@pytest.mark.parametrize("layer", ["fc6", "fc7", "both"])
def test_the_layer_that_is_stored(layer: Any) -> None:
    of = stored("coins")
    arrays = arrays_of(Boxes(layer=layer), of)
    fc6 = of.golden["fc6"][best(confidences(of), 36)]
    np.testing.assert_array_equal(arrays["features"], fc6 + 1 if layer == "fc7" else fc6)
    assert ("features_fc7" in arrays) == (layer == "both")
    if layer == "both":
        np.testing.assert_array_equal(arrays["features_fc7"], fc6 + 1)


def test_clipped_boxes_lie_in_the_image_and_the_others_stay() -> None:
    of = stored("astronaut_crop33")
    as_found, clipped = (arrays_of(Boxes(num_boxes=100, clip=clip), of) for clip in (False, True))
    height, width = int(of.golden["img_h"]), int(of.golden["img_w"])
    limits = np.array([width - 1, height - 1] * 2, np.float32)
    assert (as_found["boxes"] > limits).any(), "otherwise nothing is shown"
    np.testing.assert_array_equal(clipped["boxes"], as_found["boxes"].clip(0, limits))
    np.testing.assert_array_equal(clipped["features"], as_found["features"])


# --- fc7, from the whole detector -----------------------------------------------------------------------


@pytest.mark.parametrize("image", ["astronaut", "coins", "chelsea_tall"])
def test_fc7_follows_from_the_stored_fc6(tiny: Detector, tiny_checkpoint: Path, image: str) -> None:
    of = stored(image)
    weights = read_tensors(tiny_checkpoint / "detectron_model.pth")
    w = {name: tensor.double().numpy() for name, tensor in weights.items() if "roi_heads.box." in name}
    head, predictor = "roi_heads.box.feature_extractor.fc7", "roi_heads.box.predictor.cls_score"
    fc7 = np.maximum(of.golden["fc6"] @ w[f"{head}.weight"].T + w[f"{head}.bias"], 0)
    logits = fc7 @ w[f"{predictor}.weight"].T + w[f"{predictor}.bias"]
    assert relative(logits, of.golden["scores"]) < FEATURE_BOUND, "the stored scores follow from it"

    computation = computation_of(Boxes(layer="both"))
    (arrays,) = compute(tiny, computation, [computation.network_input(decode_image(photograph(image)))], Clock())
    assert not isinstance(arrays, ImageError)
    apart = np.abs(arrays["boxes"][:, None] - of.golden["proposals"][None] / of.scale).max(2)
    nearest = apart.argmin(1)
    assert apart.min(1).max() < 1e-2
    assert relative(arrays["features"], of.golden["fc6"][nearest]) < FEATURE_BOUND
    assert relative(arrays["features_fc7"], fc7[nearest]) < FEATURE_BOUND


def test_several_computations_of_one_input_give_the_bits_of_each_alone(tiny: Detector) -> None:
    specs = [Grid(grid_size=8), Grid(grid_size=14), Grid(grid_size=1)]
    computations = [computation_of(spec) for spec in specs]
    assert len({c.input_key for c in computations}) == 1
    inputs = [computations[0].network_input(decode_image(photograph("coffee")))] * 2
    for together, computation in zip(compute_all(tiny, computations, inputs, Clock()), computations, strict=True):
        alone = compute(tiny, computation, inputs, Clock())
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_array_equal(one["features"], other["features"])


def test_the_backbone_runs_once_for_several_computations(tiny: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    forward = type(tiny.model.body).forward
    monkeypatch.setattr(type(tiny.model.body), "forward", lambda self, x: ran.append(1) or forward(self, x))
    computations = [computation_of(Grid(grid_size=size)) for size in (2, 4, 8)]
    inputs = [computations[0].network_input(decode_image(photograph("astronaut_crop33")))]
    compute_all(tiny, computations, inputs, Clock())
    assert len(ran) == 1
    compute(tiny, computations[0], inputs, Clock())
    assert len(ran) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_boxes": 0}, "min_boxes is 0"),
        ({"min_boxes": 37}, "1 to num_boxes, which is 36"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": -0.1}, "a probability"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Boxes(**settings)


def test_the_published_settings_write_what_they_always_wrote() -> None:
    assert Boxes().identity == {"kind": "boxes", "num_boxes": 36, "class_probs": False}
    assert Boxes(num_boxes=100, class_probs=True).identity == {"kind": "boxes", "num_boxes": 100, "class_probs": True}
    assert Boxes().bytes_per_image(2048, 1601) == 36 * (2048 * 4 + 8 + 16) + 5120
    assert Boxes(min_boxes=10, num_boxes=100, threshold=0.2).identity == {
        "kind": "boxes", "num_boxes": 100, "class_probs": False, "option_min_boxes": 10, "option_threshold": 0.2,
    }  # fmt: skip
