"""The benchmark's published order of work computes what the detector computes: it compares like with like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.common import photograph

from feature_extraction import recipe
from feature_extraction.compare import compare_rows, out_of_tolerance
from feature_extraction.config import Boxes, Grid, Spec
from feature_extraction.detector.boxes import rank_by_surviving_class
from feature_extraction.detector.build import load_detector
from feature_extraction.detector.files import find_checkpoint
from feature_extraction.features import computation_of, compute
from feature_extraction.images.decode import decode_image
from feature_extraction.progress import Clock
from feature_extraction.tolerance import SAME_NETWORK
from scripts.dev.as_published import Unfolded, as_published, score_class_by_class


@pytest.mark.parametrize("spec", [Grid(), Boxes()], ids=["grid", "boxes"])
def test_the_published_order_of_work_gives_the_same_features(spec: Spec, tiny_checkpoint: Path) -> None:
    files = find_checkpoint(tiny_checkpoint)
    ours = load_detector(files, engine="native", device=torch.device("cpu"), precision="float32")
    published = as_published(ours, files)
    assert sum(isinstance(module, Unfolded) for module in published.model.modules()) > 50
    computation = computation_of(spec)
    image = computation.network_input(decode_image(photograph("coffee")))
    (found,), (expected,) = (compute(one, computation, [image], Clock()) for one in (published, ours))
    assert isinstance(found, dict)
    assert isinstance(expected, dict)
    assert not out_of_tolerance([compare_rows(found, expected)], SAME_NETWORK)


def test_the_loop_over_classes_scores_as_all_classes_at_once(tiny_checkpoint: Path) -> None:
    detector = load_detector(
        find_checkpoint(tiny_checkpoint), engine="native", device=torch.device("cpu"), precision="float32"
    )
    image = computation_of(Boxes()).network_input(decode_image(photograph("coffee")))
    (found,) = detector.detect(torch.from_numpy(image.pixels).permute(2, 0, 1)[None])
    index, score = rank_by_surviving_class(
        found.logits.softmax(-1)[:, 1:], found.proposals, recipe.CLASS_NMS_IOU, len(found.proposals)
    )
    np.testing.assert_array_equal(score_class_by_class(found)[index.numpy()], score.numpy())
