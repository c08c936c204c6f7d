"""The choice of boxes where it is not the ordinary one. (The ordinary one: test_golden, test_detector.)"""

from __future__ import annotations

import pytest
import torch

from feature_extraction.detector.faster_rcnn import Detections
from feature_extraction.errors import ImageError
from feature_extraction.regions import choose_boxes, grid_cells


def detections(boxes: list[list[float]], logits: list[list[float]]) -> Detections:
    n = len(boxes)
    fc6 = torch.arange(n * 3.0).reshape(n, 3)
    return Detections(torch.tensor(boxes), torch.linspace(1, 0, n), fc6, fc6 + 100, torch.tensor(logits))


def test_scores_boxes_and_classes_by_hand() -> None:
    # background, cat, dog; proposals 0 and 1 are the same box, so one of them is suppressed in each class
    found = detections(
        [[0, 0, 20, 20], [0, 0, 20, 20], [40, 40, 60, 60]], [[0, 3.0, 1.0], [0, 2.0, 4.0], [5.0, 1.0, 0.0]]
    )
    chosen = choose_boxes(found, scale=2.0, num_boxes=3)
    prob = torch.softmax(found.logits, 1)
    assert chosen.features[:, 0].tolist() == [3, 0, 6]  # dog of 1, cat of 0, cat of 2
    assert chosen.obj_id.tolist() == [1, 0, 0]
    assert chosen.obj_conf.tolist() == pytest.approx([prob[1, 2].item(), prob[0, 1].item(), prob[2, 1].item()])
    assert chosen.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]]  # original pixels
    assert chosen.cls_prob.shape == (3, 3)


def test_suppressed_proposals_fill_up_in_order_of_objectness() -> None:
    same = [[0, 0, 20, 20]] * 3
    found = detections(same, [[0.0, 1.0], [0.0, 3.0], [0.0, 2.0]])  # one class: two of three are suppressed
    chosen = choose_boxes(found, 1.0, num_boxes=3)
    assert chosen.features[:, 0].tolist() == [3, 0, 6]
    assert chosen.obj_conf.tolist()[1:] == [0, 0]


def test_fewer_proposals_than_boxes_is_an_error() -> None:
    with pytest.raises(ImageError, match="only 1 region proposals, fewer than the 36"):
        choose_boxes(detections([[0, 0, 5, 5]], [[0.0, 1.0]]), 1.0)


def test_an_image_too_small_for_the_grid() -> None:
    with pytest.raises(ImageError, match="too small for a 40 x 40 grid"):
        grid_cells(32, 64, 40)
