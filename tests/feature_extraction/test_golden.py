"""The original program's outputs, matched. Arrays in tests/data are never adjusted; bounds are those of the reference.

Figures reached on two AVX-512 cores, 2026-11-23: tiny: grid features within 5e-6 of the largest value, box features
2.4e-5, boxes 4e-4 pixel; x152: 5e-6, 1.1e-4, 2.1e-3 pixel; all 1000 proposals the same in all 13 cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.common import DATA, photograph
from numpy.typing import NDArray

from feature_extraction.detector import build as engines
from feature_extraction.detector.build import Engine
from feature_extraction.extract import Task, compute, prepare
from feature_extraction.progress import Clock
from feature_extraction.regions import choose_boxes

CASES = [(s, path.stem) for s in ("tiny", "x152") for path in sorted((DATA / s).glob("*.npz"))]
GRID = Task("grid", 8, 36, None, False, "proper", 1)
BOXES = Task("boxes", 8, 36, None, True, "proper", 1)

# Where two neighbours of the 100 are nearer than float32 rounding of 160 convolutions leaves certain (scores 2e-5 and
# 6e-5 apart, our scores within 8e-5 of the reference's), their order is not decided: positions of such pairs.
UNDECIDED_OF_100 = {("x152", "coffee"): [(86, 87)], ("x152", "coffee_strip"): [(70, 71)]}


@pytest.fixture(scope="module")
def load(request: pytest.FixtureRequest):
    loaded: dict[str, Engine] = {}

    def get(name: str) -> Engine:
        if name not in loaded:
            loaded.clear()  # one model in memory at a time
            folder: Path = request.getfixturevalue(f"{name}_checkpoint")
            loaded[name] = engines.load(engines.find_checkpoint(folder), "native", torch.device("cpu"), "float32")
        return loaded[name]

    return get


def relative(found: NDArray, expected: NDArray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_there_are_ten_tiny_and_three_real_cases() -> None:
    assert [s for s, _ in CASES].count("tiny") == 10
    assert [s for s, _ in CASES].count("x152") == 3


@pytest.mark.parametrize(("name", "image"), CASES)
def test_grid_features(load, name: str, image: str) -> None:
    golden = np.load(DATA / name / f"{image}.npz")
    (arrays,) = compute(load(name), [prepare(photograph(image), image, GRID)], GRID, Clock())
    assert arrays["features"].shape == golden["grid"].shape
    assert arrays["features"].dtype == np.float32
    assert relative(arrays["features"], golden["grid"]) < 2e-4


@pytest.mark.parametrize(("name", "image"), CASES)
def test_box_features(load, name: str, image: str) -> None:
    golden = np.load(DATA / name / f"{image}.npz")
    engine = load(name)
    network_input = prepare(photograph(image), image, BOXES)
    pixels = torch.from_numpy(network_input.pixels[None]).permute(0, 3, 1, 2)
    (found,) = engine.detector.detect(pixels)

    proposals = found.proposals.numpy()
    nearest = np.abs(proposals[:, None] - golden["proposals"][None]).max(2)
    assert len(proposals) == len(golden["proposals"])
    assert (nearest.min(1) > 1e-2).sum() <= 2
    assert (nearest.min(0) > 1e-2).sum() <= 2

    chosen = choose_boxes(found, network_input.scale, 36)
    np.testing.assert_array_equal(chosen.obj_id, golden["obj_id"])
    np.testing.assert_allclose(chosen.boxes, golden["boxes"], atol=1e-2, rtol=0)
    assert relative(chosen.features, golden["box_features"]) < 2e-4
    np.testing.assert_allclose(chosen.obj_conf, golden["obj_conf"], atol=2e-4, rtol=0)
    np.testing.assert_allclose(chosen.cls_prob[:, 1:].max(1), golden["cls_prob"], atol=2e-4, rtol=0)
    assert (network_input.width, network_input.height) == (golden["img_w"], golden["img_h"])

    hundred = choose_boxes(found, network_input.scale, 100)
    order = np.arange(100)
    for first, second in UNDECIDED_OF_100.get((name, image), []):
        assert hundred.obj_conf[first] - hundred.obj_conf[second] < 2e-4
        if hundred.obj_id[first] != golden["obj_id_100"][first]:
            order[[first, second]] = second, first
    np.testing.assert_array_equal(hundred.obj_id[order], golden["obj_id_100"])
    np.testing.assert_allclose(hundred.boxes[order], golden["boxes_100"], atol=1e-2, rtol=0)


@pytest.mark.parametrize("image", ["astronaut", "coins"])
def test_intermediate_values(load, image: str) -> None:
    golden = np.load(DATA / "tiny" / f"{image}.npz")
    detector = load("tiny").detector
    pixels = torch.from_numpy(prepare(photograph(image), image, GRID).pixels[None]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        pyramid = detector._pyramid(pixels, range(2, 6))
        means = [float(pyramid[level].mean()) for level in range(2, 6)]
        deviations = [float(pyramid[level].std()) for level in range(2, 6)]
    np.testing.assert_allclose(means, golden["fpn_mean"][:4], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(deviations, golden["fpn_std"][:4], rtol=1e-3)
    pixels = torch.from_numpy(prepare(photograph(image), image, BOXES).pixels[None]).permute(0, 3, 1, 2)
    (found,) = detector.detect(pixels)
    order = [int(np.abs(golden["proposals"] - p).max(1).argmin()) for p in found.proposals.numpy()]
    assert relative(found.fc6.numpy(), golden["fc6"][order]) < 2e-4
    assert relative(found.logits.numpy(), golden["scores"][order]) < 2e-4


@pytest.mark.parametrize("name", ["tiny", "x152"])
def test_synthetic_weights_are_the_ones_of_the_golden_outputs(request: pytest.FixtureRequest, name: str) -> None:
    import hashlib

    from feature_extraction.detector.checkpoint import read_tensors

    folder: Path = request.getfixturevalue(f"{name}_checkpoint")
    digest = hashlib.sha256()
    for key, tensor in sorted(read_tensors(folder / "detectron_model.pth").items()):
        digest.update(key.encode())
        digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest() == json.loads((DATA / name / "state.json").read_text())["sha256"]
