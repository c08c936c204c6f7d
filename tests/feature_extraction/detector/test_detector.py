"""Boxes, anchors, suppression, RoIAlign: worked by hand, or against the plainest loop that does the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extraction.detector import boxes as box_ops
from feature_extraction.detector import layers
from feature_extraction.detector.anchors import anchor_boxes, base_anchors
from feature_extraction.detector.build import Detector, identity, is_synthetic, load_detector
from feature_extraction.detector.checkpoint import read_tensors
from feature_extraction.detector.faster_rcnn import ALL_LEVELS
from feature_extraction.detector.files import CheckpointFiles, find_checkpoint
from feature_extraction.detector.roi_heads import pyramid_level, roi_align
from feature_extraction.errors import KitError
from feature_extraction.regions import grid_cells


def as_boxes(*rows: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


# --- the convention ------------------------------------------------------------------------------------


def test_a_box_is_one_wider_than_its_coordinates_differ() -> None:
    w, h = box_ops.sides(as_boxes((0, 0, 9, 4)))
    assert (w.item(), h.item()) == (10, 5)
    assert box_ops.area(as_boxes((3, 3, 3, 3))).item() == 1


def test_overlap_by_hand() -> None:
    # 10 x 10 and 10 x 10 shifted by 5: 50 shared of 150: IoU 1/3
    pair = as_boxes((0, 0, 9, 9), (5, 0, 14, 9))
    assert box_ops.overlaps(pair, 0.33)[0, 1]
    assert not box_ops.overlaps(pair, 0.34)[0, 1]


def test_suppression_needs_more_than_the_threshold() -> None:
    # 4 x 1 and 2 x 1 inside it: IoU exactly 0.5, kept at 0.5 (CUDA's >), gone just below
    pair = as_boxes((0, 0, 3, 0), (0, 0, 1, 0))
    assert not box_ops.overlaps(pair, 0.5)[0, 1]
    assert box_ops.overlaps(pair, 0.4999)[0, 1]


def test_touching_boxes_share_pixels_but_neighbours_do_not() -> None:
    assert box_ops.overlaps(as_boxes((0, 0, 4, 4), (4, 0, 8, 4)), 0.1)[0, 1]  # column 4: 5 of 45
    assert not box_ops.overlaps(as_boxes((0, 0, 4, 4), (5, 0, 9, 4)), 0.0)[0, 1]


def test_decoding_by_hand() -> None:
    anchor = as_boxes((0, 0, 9, 19))  # 10 x 20 around (5, 10)
    assert box_ops.decode_deltas(torch.zeros(1, 4), anchor).tolist() == [[0, 0, 9, 19]]
    moved = box_ops.decode_deltas(torch.tensor([[0.5, -0.25, 0.0, 0.0]]), anchor)
    assert moved.tolist() == [[5, -5, 14, 14]]
    grown = box_ops.decode_deltas(torch.tensor([[0.0, 0.0, 100.0, 0.0]]), anchor)  # at most 62.5 times as wide
    assert grown[0, 2].item() - grown[0, 0].item() + 1 == pytest.approx(625)


def test_clipping_is_to_the_last_pixel() -> None:
    assert box_ops.clip(as_boxes((-3, -4, 100, 50)), (40, 60)).tolist() == [[0, 0, 59, 39]]


def test_classic_anchors() -> None:
    # Detectron's well-known anchors of stride 16 and size 128
    expected = [[-84, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]]
    assert base_anchors(16, 128, (0.5, 1.0, 2.0)).tolist() == expected


def test_anchor_order_is_location_major() -> None:
    base = base_anchors(16, 128, (0.5, 1.0, 2.0))
    # map of width 5: index 22 is anchor 1 of cell 7 = row 1, column 2
    (box,) = anchor_boxes(torch.tensor([22]), base, 16, 5)
    assert box.tolist() == [-56 + 32, -56 + 16, 71 + 32, 71 + 16]


# --- suppression -----------------------------------------------------------------------------------------

boxes_strategy = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=40
).map(lambda rows: as_boxes(*[(x, y, x + w, y + h) for x, y, w, h in rows]))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    inter = max(w, 0) * max(h, 0)
    area_a, area_b = ((r[2] - r[0] + 1) * (r[3] - r[1] + 1) for r in (a, b))
    return inter / (area_a + area_b - inter)


def greedy(rows: np.ndarray, order: list[int], threshold: float) -> list[int]:
    kept: list[int] = []
    for i in order:
        if all(iou(rows[i], rows[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@given(boxes_strategy, st.sampled_from([0.3, 0.45, 0.71]))
@settings(max_examples=150, deadline=None)
def test_suppression_is_the_greedy_one(boxes: torch.Tensor, threshold: float) -> None:
    keep = box_ops.nms(boxes[None], torch.ones(1, len(boxes), dtype=torch.bool), threshold)[0]
    assert keep.nonzero().squeeze(1).tolist() == greedy(boxes.numpy(), list(range(len(boxes))), threshold)


def test_suppression_of_groups_is_independent_and_ignores_padding() -> None:
    same = as_boxes((0, 0, 9, 9), (0, 0, 9, 9), (50, 50, 59, 59))
    apart = as_boxes((0, 0, 9, 9), (20, 20, 29, 29), (0, 0, 9, 9))
    valid = torch.tensor([[True, True, True], [False, True, True]])
    keep = box_ops.nms(torch.stack([same, apart]), valid, 0.5)
    assert keep.tolist() == [[True, False, True], [False, True, True]]


def per_class_loop(prob: np.ndarray, rows: np.ndarray, threshold: float, count: int) -> tuple[list[int], list[float]]:
    """The published way: one suppression a class, the best surviving probability of each proposal, sorted."""
    best = np.zeros(len(rows), np.float32)
    for c in range(prob.shape[1]):
        for i in greedy(rows, sorted(range(len(rows)), key=lambda i: (-prob[i, c], i)), threshold):
            best[i] = max(best[i], prob[i, c])
    order = sorted(range(len(rows)), key=lambda i: (-best[i], i))
    order = [i for i in order if best[i] > 0][:count]
    return order, [float(best[i]) for i in order]


@given(boxes_strategy, st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_all_classes_at_once_is_the_loop_over_classes(
    boxes: torch.Tensor, classes: int, seed: int, ties: bool, block: int
) -> None:
    rng = np.random.default_rng(seed)
    prob = rng.random((len(boxes), classes), dtype=np.float32)
    if ties:  # equal and zero probabilities
        prob = np.floor(prob * 4) / np.float32(4)
    for count in (1, 5, len(boxes)):
        index, score = box_ops.rank_by_surviving_class(torch.from_numpy(prob), boxes, 0.45, count, block=block)
        expected, scores = per_class_loop(prob, boxes.numpy(), 0.45, count)
        assert score.tolist() == scores
        assert index.tolist() == expected


# --- regions -------------------------------------------------------------------------------------------------


def test_grid_cells_by_hand() -> None:
    cells = grid_cells(70, 100, 4)  # 17 x 25 pixels a cell, two rows left over
    assert cells.shape == (16, 4)
    assert cells[0].tolist() == [0, 0, 25, 17]
    assert cells[1].tolist() == [25, 0, 50, 17]
    assert cells[4].tolist() == [0, 17, 25, 34]
    assert cells[15].tolist() == [75, 51, 100, 68]


@pytest.mark.parametrize(
    ("side", "level"), [(10, 2), (111, 2), (112, 3), (223, 3), (224, 4), (447, 4), (448, 5), (3000, 5)]
)
def test_level_of_a_region(side: int, level: int) -> None:
    assert pyramid_level(as_boxes((7, 9, 7 + side - 1, 9 + side - 1))).item() == level


def test_grid_of_a_photograph_reads_one_level() -> None:
    assert pyramid_level(grid_cells(800, 1056)).unique().tolist() == [3]  # 4:3
    assert pyramid_level(grid_cells(800, 800)).unique().tolist() == [2]  # square


# --- RoIAlign ----------------------------------------------------------------------------------------------


def plain_roi_align(level_map: np.ndarray, region: np.ndarray, scale: float, bins: int, samples: int) -> np.ndarray:
    """One sample at a time, as the operator is defined."""
    _, height, width = level_map.shape
    x1, y1, x2, y2 = region * scale
    bin_h, bin_w = max(y2 - y1, 1) / bins, max(x2 - x1, 1) / bins

    def at(y: float, x: float) -> np.ndarray:
        if y < -1 or y > height or x < -1 or x > width:
            return np.zeros(len(level_map))
        y, x = max(y, 0), max(x, 0)
        y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
        y1_, x1_ = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        fy, fx = (y - y0 if y0 < height - 1 else 0), (x - x0 if x0 < width - 1 else 0)
        top = level_map[:, y0, x0] * (1 - fx) + level_map[:, y0, x1_] * fx
        bottom = level_map[:, y1_, x0] * (1 - fx) + level_map[:, y1_, x1_] * fx
        return top * (1 - fy) + bottom * fy

    out = np.zeros((bins, bins, len(level_map)))
    for i in range(bins):
        for j in range(bins):
            for iy in range(samples):
                for ix in range(samples):
                    y = y1 + i * bin_h + (iy + 0.5) * bin_h / samples
                    x = x1 + j * bin_w + (ix + 0.5) * bin_w / samples
                    out[i, j] += at(y, x) / samples**2
    return out


def test_roi_align_by_hand() -> None:
    # pixel (y, x) of a 5 x 5 map holds 10 y + x, so a bilinear sample there is 10 y + x. The region (1, 1)-(3, 3) in
    # 2 x 2 bins of one pixel has bin centres 1.5 and 2.5, which are also the means of the 2 x 2 samples in a bin.
    ramp = (10 * torch.arange(5.0)[:, None] + torch.arange(5.0))[None, None]
    pooled = roi_align(ramp, as_boxes((1, 1, 3, 3)), torch.tensor([0]), 1.0, 2, 2)
    assert pooled[0, :, :, 0].tolist() == [[16.5, 17.5], [26.5, 27.5]]


def test_roi_align_has_no_half_pixel_shift_and_a_least_size() -> None:
    ramp = (10 * torch.arange(5.0)[:, None] + torch.arange(5.0))[None, None]
    pooled = roi_align(ramp, as_boxes((2, 2, 2, 2)), torch.tensor([0]), 1.0, 1, 2)  # one pixel from (2, 2)
    assert pooled.item() == pytest.approx(2.5 * 11)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from([1, 2, 3]))
@settings(max_examples=60, deadline=None)
def test_roi_align_is_the_plain_one(seed: int, scale: float, samples: int) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((2, 3, rng.integers(2, 9), rng.integers(2, 9))).astype(np.float32)
    x1, y1 = rng.uniform(-8, 30, (2, 5))
    regions = np.stack([x1, y1, x1 + rng.uniform(0, 40, 5), y1 + rng.uniform(0, 40, 5)], 1).astype(np.float32)
    image = rng.integers(0, 2, 5)
    layout = torch.channels_last if seed % 2 else torch.contiguous_format
    found = roi_align(
        torch.from_numpy(maps).contiguous(memory_format=layout), torch.from_numpy(regions), torch.from_numpy(image),
        scale, 4, samples,
    )  # fmt: skip
    for i in range(5):
        expected = plain_roi_align(maps[image[i]].astype(np.float64), regions[i], scale, 4, samples)
        np.testing.assert_allclose(found[i].numpy(), expected, atol=2e-4)


# --- the whole ---------------------------------------------------------------------------------------------


def loaded(folder: Path, precision: str = "float32") -> Detector:
    return load_detector(find_checkpoint(folder), engine="native", device=torch.device("cpu"), precision=precision)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 60


def test_grid_path_is_bit_for_bit_the_full_model(tiny_checkpoint: Path) -> None:
    detector = loaded(tiny_checkpoint)
    for height, width in ((800, 1056), (800, 800), (544, 1312)):
        images = noise(1, 1, 3, height, width)
        cells = grid_cells(height, width)
        few = detector.region_features(images, [cells])
        with torch.inference_mode():
            every = detector.model._pyramid(images, ALL_LEVELS)
            full = detector.model.head.features(every, [cells], pyramid_level(cells))
        assert torch.equal(few, full)


@pytest.mark.parametrize("kind", ["grid", "boxes"])
def test_a_batch_gives_what_single_images_give(tiny_checkpoint: Path, kind: str) -> None:
    detector = loaded(tiny_checkpoint)
    images = noise(2, 3, 3, 480, 640)
    if kind == "grid":
        cells = grid_cells(480, 640)
        together = detector.region_features(images, [cells] * 3).split(64)
        alone = [detector.region_features(images[i : i + 1], [cells]) for i in range(3)]
    else:
        batch, single = detector.detect(images), [detector.detect(images[i : i + 1])[0] for i in range(3)]
        for b, s in zip(batch, single, strict=True):
            torch.testing.assert_close(b.proposals, s.proposals, atol=1e-2, rtol=0)
        together, alone = [b.fc6 for b in batch], [s.fc6 for s in single]
    for b, s in zip(together, alone, strict=True):
        assert (b - s).abs().max() <= 1e-5 * s.abs().max()


@pytest.mark.parametrize(
    ("before", "of_a_level", "of_all", "expected"),
    [(200, 3, 1000, 5 * 3), (200, 3, 7, 7), (2, 1000, 1000, range(5, 11))],
)
@torch.inference_mode()
def test_proposals_are_bounded_before_suppression_after_it_and_over_all_levels(
    tiny_checkpoint: Path, before: int, of_a_level: int, of_all: int, expected: int | range
) -> None:
    model = loaded(tiny_checkpoint).model
    pyramid = model._pyramid(noise(4, 1, 3, 480, 640), ALL_LEVELS)
    model.rpn.config = replace(model.config, pre_nms_top_n=before, post_nms_top_n=of_a_level, fpn_post_nms_top_n=of_all)
    _, objectness = model.rpn(pyramid, (480, 640))
    left = int((objectness >= 0).sum())
    assert left in expected if isinstance(expected, range) else left == expected


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("instructions", ["the processor's", "none"])
def test_lower_precision_stays_near(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, precision: str, instructions: str
) -> None:
    exact = loaded(tiny_checkpoint)
    if instructions == "none":  # as on a processor whose oneDNN refuses the type
        monkeypatch.setattr(layers, "has_fused_convolution", lambda dtype: dtype == torch.float32)
    faster = loaded(tiny_checkpoint, precision)
    if instructions == "none":
        assert faster.emulated
    images = noise(3, 1, 3, 480, 640)
    cells = grid_cells(480, 640)
    a, b = exact.region_features(images, [cells]), faster.region_features(images, [cells])
    assert b.dtype == torch.float32
    assert 0 < (a - b).abs().max() < 0.1 * a.abs().max()
    assert len(faster.detect(images)[0].proposals) > 100


def test_weights_of_a_lower_precision_are_rounded_to_it_whatever_they_are_kept_in(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "has_fused_convolution", lambda dtype: dtype == torch.float32)
    model = loaded(tiny_checkpoint, "bfloat16").model
    for name, buffer in model.named_buffers():
        assert buffer.dtype == torch.float32
        if not name.startswith("rpn.base"):
            assert torch.equal(buffer, buffer.bfloat16().float()), name


def test_without_the_fused_convolution_the_plain_one_computes_the_same(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An internal operator that another PyTorch may lack, or take other arguments."""
    images, cells = noise(4, 1, 3, 320, 480), grid_cells(320, 480)
    expected = loaded(tiny_checkpoint).region_features(images, [cells])

    def refuse(*_: object, **__: object) -> None:
        raise TypeError("_convolution_pointwise() takes other arguments today")

    layers.has_fused_convolution.cache_clear()
    monkeypatch.setattr(layers, "_fused", refuse)
    try:
        assert not layers.has_fused_convolution(torch.float32)
        plain = loaded(tiny_checkpoint)
        found = plain.region_features(images, [cells])
    finally:
        layers.has_fused_convolution.cache_clear()
    assert not plain.emulated
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("fault", ["wrong sum", "no relu", "another type"])
def test_a_fused_convolution_that_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def other(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *_: object, relu: bool, add: object, **__: object
    ):
        y = torch.nn.functional.conv2d(x, weight, bias, 1, 1, 1, 2)
        y = y if add is None or fault == "wrong sum" else y + add
        y = y if fault == "no relu" else y.relu()
        return y.double() if fault == "another type" else y

    layers.has_fused_convolution.cache_clear()
    monkeypatch.setattr(layers, "_fused", other)
    try:
        assert not layers.has_fused_convolution(torch.float32)
    finally:
        layers.has_fused_convolution.cache_clear()


@pytest.mark.parametrize(
    ("engine", "precision", "error"),
    [
        ("native", "tf32", "needs a GPU"),
        ("native", "float64", "known are float32, tf32"),
        ("docker", "float32", "known are native, reference"),
        ("reference", "bfloat16", "reference engine computes in float32 or tf32"),
    ],
)
def test_what_cannot_be_had_is_refused_before_the_weights_are_read(
    tiny_checkpoint: Path, tmp_path: Path, engine: str, precision: str, error: str
) -> None:
    files = CheckpointFiles(find_checkpoint(tiny_checkpoint).config, tmp_path / "missing.pth")
    with pytest.raises(KitError, match=error):
        load_detector(files, engine=engine, device=torch.device("cpu"), precision=precision)


# --- synthetic weights ---------------------------------------------------------------------------------------


def test_synthetic_weights_are_recognised(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert loaded(tiny_checkpoint).synthetic
    assert is_synthetic(find_checkpoint(tiny_checkpoint))
    tensors = read_tensors(tiny_checkpoint / "detectron_model.pth")
    # a file of another program after the same rules, on another C library: prefixed names, a last bit that differs
    other = {f"module.{name}": tensor + 4e-7 for name, tensor in tensors.items()}
    torch.save({"model": other, "iteration": 1}, tmp_path / "detectron_model.pth")
    (tmp_path / "detectron_config.yaml").write_bytes((tiny_checkpoint / "detectron_config.yaml").read_bytes())
    assert loaded(tmp_path).synthetic


def test_other_weights_are_not_called_synthetic(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tensors = read_tensors(tiny_checkpoint / "detectron_model.pth")
    trained = {name: tensor * 1.01 for name, tensor in tensors.items()}
    torch.save({"model": trained}, tmp_path / "detectron_model.pth")
    (tmp_path / "detectron_config.yaml").write_bytes((tiny_checkpoint / "detectron_config.yaml").read_bytes())
    assert not loaded(tmp_path).synthetic


def test_what_is_written_into_files_has_kept_its_keys(tiny_checkpoint: Path) -> None:
    made_by = identity(find_checkpoint(tiny_checkpoint), "native", torch.device("cpu"), "float32")
    assert list(made_by) == ["engine", "precision", "device", "checkpoint_sha256", "config_sha256", "torch"]
