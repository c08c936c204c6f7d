"""The Python API: its documented example, what it accepts, and that it gives what the commands write."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.common import DATA, ROOT, photograph
from PIL import Image

from feature_extraction import RECIPES, FeatureExtractor, GivenBoxes, ImageError, UsageError, api
from feature_extraction.config import Grid


@pytest.fixture(scope="module")
def extractor(tiny_checkpoint: Path) -> FeatureExtractor:
    return FeatureExtractor(tiny_checkpoint, device="cpu")


def test_the_documented_example(tiny_checkpoint: Path) -> None:
    known = {"checkpoint_dir": tiny_checkpoint, "photograph": photograph("coffee")}
    (example,) = doctest.DocTestFinder(recurse=False).find(api.FeatureExtractor, globs=known)
    assert len(example.examples) >= 6
    assert doctest.DocTestRunner().run(example).failed == 0


def test_paths_images_and_arrays_are_the_same(extractor: FeatureExtractor, tmp_path: Path) -> None:
    array = photograph("coffee")
    path = tmp_path / "coffee.png"
    Image.fromarray(array).save(path)
    golden = np.load(DATA / "tiny/coffee.npz")
    results = extractor.grid([array, Image.fromarray(array), path, str(path)])
    for result in results:
        np.testing.assert_array_equal(result.features, results[0].features)
    assert np.abs(results[0].features - golden["grid"]).max() <= 2e-4 * np.abs(golden["grid"]).max()
    np.testing.assert_array_equal(extractor.boxes(array)[0].obj_id, golden["obj_id"])
    np.testing.assert_array_equal(extractor.boxes([path], num_boxes=100)[0].obj_id, golden["obj_id_100"])


def test_grid_size_and_imsize(extractor: FeatureExtractor) -> None:
    (result,) = extractor.grid(photograph("camera"), grid_size=7, imsize=224)
    assert result.features.shape == (7, 7, extractor.feature_dim)


def test_a_bad_image_is_named_by_position(extractor: FeatureExtractor, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"image 1 \(.*x\.jpg\): empty file"):
        extractor.grid([photograph("coffee"), tmp_path / "x.jpg"], imsize=64)
    with pytest.raises(ImageError, match="float64"):
        extractor.grid([np.zeros((4, 4, 3))])


@pytest.mark.parametrize("kind", ["grid", "boxes"])
def test_overflow_is_not_written_silently(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    overflowing = FeatureExtractor(tiny_checkpoint, device="cpu")
    monkeypatch.setattr(overflowing._detector.model.head, "fc6_bias", torch.full((64,), torch.inf))
    with pytest.raises(ImageError, match="not finite"):
        getattr(overflowing, kind)([photograph("coffee")])


def test_more_boxes_than_proposals(extractor: FeatureExtractor) -> None:
    with pytest.raises(ImageError, match="fewer than the 2000 boxes"):
        extractor.boxes(photograph("coffee"), num_boxes=2000)


def test_a_grid_finer_than_one_image_leaves_the_others(extractor: FeatureExtractor) -> None:
    """1312 x 32 pixels, as it is resized, have no 40 columns."""
    narrow = np.zeros((1300, 40, 3), np.uint8)
    found = list(extractor.iter_grid([photograph("coffee"), narrow], grid_size=40, on_error="yield"))
    assert found[0].features.shape[:2] == (40, 40)
    assert str(found[1]) == "image 1: resized to 1312 x 32 pixels, too small for a 40 x 40 grid"


@pytest.mark.parametrize("images", [None, 3, b"photo.jpg"])
def test_what_is_no_image_is_told_before_anything_is_read(extractor: FeatureExtractor, images: Any) -> None:
    with pytest.raises(TypeError, match=rf"images of type {type(images).__name__}: expected a path"):
        extractor.iter_grid(images)


@pytest.mark.parametrize("spec", ["mmf", RECIPES["mmf"], Grid()])
def test_a_spec_is_boxes(extractor: FeatureExtractor, spec: Any) -> None:
    with pytest.raises(UsageError, match=rf"spec is of type {type(spec).__name__}: expected .*\['mmf'\]\.spec"):
        extractor.iter_boxes([], spec=spec)


def test_a_decoder_is_one_of_those_known(tiny_checkpoint: Path) -> None:
    unknown: Any = "x"
    with pytest.raises(UsageError, match="no decoder 'x': known are proper, as_published"):
        FeatureExtractor(tiny_checkpoint, decode=unknown)


def test_features_compare_and_hash_as_objects(extractor: FeatureExtractor) -> None:
    """== over arrays would raise where someone asks whether a list holds one."""
    first, second = extractor.boxes([photograph("coffee")] * 2)
    assert first in [second, first]
    assert len({first, second}) == 2


def test_importing_the_packages_does_not_import_torch() -> None:
    program = (
        "import sys, feature_extraction, kmeans, feature_extraction.catalog, feature_extraction.recipe\n"
        "import feature_extraction.storage.output, feature_extraction.cli\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_boxes_of_another_recipe_and_of_a_file(extractor: FeatureExtractor, tmp_path: Path) -> None:
    image = photograph("astronaut_crop33")
    path = tmp_path / "crop.png"
    Image.fromarray(image).save(path)
    (few,) = extractor.boxes(path, spec=RECIPES["bottom-up-10-100"].spec)
    (hundred,) = extractor.boxes(path, spec=RECIPES["mmf"].spec)
    assert 10 <= len(few.features) < 100
    assert few.obj_conf.min() >= 0.2
    np.testing.assert_array_equal(few.features, hundred.features[: len(few.features)])
    assert hundred.cls_prob.shape == (100, few.cls_prob.shape[1])
    assert hundred.features_fc7 is None

    given = tmp_path / "boxes.json"
    given.write_text(json.dumps({"crop": few.boxes.astype(float).tolist()}))
    (again,) = extractor.boxes(path, spec=GivenBoxes(boxes_from=given, layer="both"))
    np.testing.assert_allclose(again.features, few.features, atol=1e-4 * few.features.max())
    assert again.features_fc7.shape == again.features.shape
    with pytest.raises(ImageError, match=r"boxes.json gives no boxes for it"):
        extractor.boxes(image, spec=GivenBoxes(boxes_from=given))
