"""Rows about values: the golden cases, ways that must give the same numbers, drift of the faster precisions."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from feature_extraction.config import Precision
from feature_extraction.detector.faster_rcnn import ALL_LEVELS, FasterRCNN
from feature_extraction.detector.layers import Conv
from feature_extraction.detector.roi_heads import pyramid_level
from feature_extraction.errors import ImageError
from feature_extraction.features import Arrays, NetworkInput
from feature_extraction.regions import ChosenBoxes, choose_boxes, grid_cells

from . import golden
from .bench import KINDS, Bench, arrays, network_input, on_device, picture
from .table import Finding, NotRun


def golden_cases(bench: Bench, model: str) -> Finding:
    """Float32 on the device against the original program's outputs."""
    detector = bench.detector(model, "float32")
    assert isinstance(detector.model, FasterRCNN)
    convolutions = sum(isinstance(module, Conv) for module in detector.model.modules())
    worst = dict.fromkeys(("grid", "boxes", "box features", "scores"), 0.0)
    others = ties = 0
    wrong: list[str] = []
    for name in bench.sizes.golden[model]:
        expected = np.load(golden.DATA / model / f"{name}.npz")
        photo = picture(name)
        (found,) = arrays(detector, "grid", [network_input("grid", photo)])
        worst["grid"] = max(worst["grid"], golden.relative(found["features"], expected["grid"]))

        item = network_input("boxes", photo)
        (proposals,) = detector.detect(on_device(detector, [item]))
        apart = np.abs(proposals.proposals.cpu().numpy()[:, None] - expected["proposals"][None]).max(2)
        missing = int(max((apart.min(0) > golden.BOX_BOUND).sum(), (apart.min(1) > golden.BOX_BOUND).sum()))
        others += missing
        if missing > golden.OTHER_PROPOSALS or len(apart) != len(expected["proposals"]):
            wrong.append(
                f"{name}: {missing} of {len(apart)} proposals are others ({len(expected['proposals'])} expected)"
            )
        scores = choose_boxes(proposals, item.scale, 36).obj_conf
        worst["scores"] = max(worst["scores"], float(np.abs(scores - expected["obj_conf"]).max()))
        tie = golden.undecided(scores, expected["obj_conf"], float(proposals.logits.abs().max()), convolutions)
        for number, suffix in ((36, ""), (100, "_100")):
            chosen = choose_boxes(proposals, item.scale, number + golden.FURTHER)
            order, problems = golden.match_ranking(chosen, expected[f"boxes{suffix}"], expected[f"obj_id{suffix}"], tie)
            ties += int((order != np.arange(number)).sum())
            wrong += [f"{name}: {number} boxes: {problem}" for problem in problems[:2]]
            if number == 36 and not problems:
                worst["boxes"] = max(worst["boxes"], float(np.abs(chosen.boxes[order] - expected["boxes"]).max()))
                features = golden.relative(chosen.features[order], expected["box_features"])
                worst["box features"] = max(worst["box features"], features)
    limits = {"grid": golden.FEATURE_BOUND, "boxes": golden.BOX_BOUND, "box features": golden.FEATURE_BOUND,
              "scores": golden.SCORE_BOUND}  # fmt: skip
    wrong += [
        f"{name} {value:.2g}, allowed {limits[name]:g}" for name, value in worst.items() if not value < limits[name]
    ]
    text = (
        f"{len(bench.sizes.golden[model])} images: grid features {worst['grid']:.1e} of the largest, box features "
        f"{worst['box features']:.1e}, boxes {worst['boxes']:.1e} px, scores {worst['scores']:.1e}; {others} other "
        f"proposals; {ties} places of near-ties swapped"
    )
    return Finding(text, tuple(wrong), {**worst, "other proposals": others, "swapped": ties})


def grid_is_full(bench: Bench, model: str) -> Finding:
    """The path that computes only what the grid reads, against the whole pyramid: bit for bit."""
    detector = bench.detector(model, "float32")
    assert isinstance(detector.model, FasterRCNN)
    wrong = []
    sizes = ((800, 1056), (800, 800), (544, 1312)) if bench.device.type == "cuda" or model == "tiny" else ((320, 320),)
    for height, width in sizes:
        images = noise(1, height, width).to(bench.device)
        cells = grid_cells(height, width)
        few = detector.region_features(images, [cells])
        with torch.inference_mode(), detector.arithmetic.applied():
            pyramid = detector.model._pyramid(images, ALL_LEVELS)
            full = detector.model.head.features(pyramid, [cells.to(bench.device)], pyramid_level(cells)).float()
        if not torch.equal(few, full):
            wrong.append(f"{height} x {width}: {int((few != full).sum())} of {few.numel()} values differ, by up to "
                         f"{float((few - full).abs().max()):.2g}")  # fmt: skip
    return Finding(f"{len(sizes)} sizes, {model}: bit for bit the full model's", tuple(wrong))


def batches(bench: Bench, model: str, size: int) -> Finding:
    """Images of a batch against the same images alone."""
    detector = bench.detector(model, "float32")
    height, width = (480, 640)
    images = noise(size, height, width).to(bench.device)
    cells = grid_cells(height, width)
    together = detector.region_features(images, [cells] * size).split(len(cells))
    alone = [detector.region_features(images[i : i + 1], [cells]) for i in range(size)]
    grid = max(golden.relative(b.cpu().numpy(), s.cpu().numpy()) for b, s in zip(together, alone, strict=True))
    same = all(torch.equal(b, s) for b, s in zip(together, alone, strict=True))
    boxes, wrong = 0.0, []
    found = [choose_boxes(one, 1.0) for one in detector.detect(images)]
    singles = [choose_boxes(detector.detect(images[i : i + 1])[0], 1.0) for i in range(size)]
    for i, (one, other) in enumerate(zip(found, singles, strict=True)):
        matched, apart = match(one, other)
        boxes = max(boxes, apart)
        if matched < 35:  # one near-tie at the last place may differ
            wrong.append(f"image {i}: {matched} of 36 boxes are the same")
    if not grid < golden.FEATURE_BOUND:
        wrong.append(f"grid features {grid:.2g} apart, allowed {golden.FEATURE_BOUND:g}")
    bits = "bit for bit the same" if same else f"{grid:.1e} of the largest apart"
    text = f"{size} images of {height} x {width}, {model}: grid features {bits}; boxes up to {boxes:.1e} px apart"
    return Finding(text, tuple(wrong), {"grid": grid, "boxes": boxes})


def two_precisions(bench: Bench, model: str) -> Finding:
    """Two detectors of different precision in one process, in turns and in two threads: neither disturbs the other."""
    faster: Precision = "tf32" if bench.device.type == "cuda" else "bfloat16"
    images = noise(1, 320, 480).to(bench.device)
    cells = [grid_cells(320, 480)]
    exact = bench.detector(model, "float32")
    first = exact.region_features(images, cells)
    other = bench.load(model, faster)
    quick = other.region_features(images, cells)
    wrong = []
    if not torch.equal(exact.region_features(images, cells), first):
        wrong.append(f"float32 features changed after a detector in {faster} was loaded and used")
    if torch.equal(first, quick):
        wrong.append(f"{faster} gives the bits of float32")
    found: dict[str, list[Any]] = {"exact": [], "quick": []}

    def calls(name: str, detector: Any) -> None:
        for _ in range(6):
            found[name].append(detector.region_features(images, cells))

    threads = [threading.Thread(target=calls, args=pair) for pair in (("exact", exact), ("quick", other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, expected in (("exact", first), ("quick", quick)):
        different = sum(not torch.equal(value, expected) for value in found[name])
        if different or len(found[name]) != 6:
            wrong.append(
                f"in two threads {different} of {len(found[name])} results ({name}) differ from those in turns"
            )
    apart = float((first - quick).abs().max() / first.abs().max())
    text = f"float32 and {faster}, {model}, in turns and in two threads: each keeps its bits; {apart:.1e} apart"
    return Finding(text, tuple(wrong), {"apart": apart})


def drift(bench: Bench, precision: Precision) -> Finding:
    """How far a faster precision is from float32 on photographs."""
    model = bench.sizes.model
    inputs, exact = in_float32(bench)
    detector = bench.detector(model, precision)
    unusable = 0
    grid, typical, same, matched, boxes = [], [], [], [], []
    for item, expected in zip(inputs["grid"], exact["grid"], strict=True):
        try:
            (found,) = arrays(detector, "grid", [item])
        except ImageError:
            unusable += 1
            continue
        grid.append(golden.relative(found["features"], expected["features"]))
        norm, difference = expected["features"].astype(np.float64), found["features"] - expected["features"]
        typical.append(float(np.linalg.norm(difference) / np.linalg.norm(norm)))
    for item, expected in zip(inputs["boxes"], exact["boxes"], strict=True):
        try:
            (found,) = arrays(detector, "boxes", [item])
        except ImageError:
            unusable += 1
            continue
        same.append(float((found["obj_id"] == expected["obj_id"]).mean()))
        share, apart = shares(found, expected)
        matched.append(share)
        boxes.append(apart)
    if not grid or not same:
        return Finding("", (f"{unusable} of {2 * len(inputs['grid'])} images overflow",))
    wrong = [f"{unusable} of {2 * len(inputs['grid'])} images overflow"] if unusable else []
    if not max(grid) < 0.2:
        wrong.append(f"grid features {max(grid):.2g} of the largest apart: more than rounding")
    text = (
        f"{model}, {len(grid)} images: grid features {max(grid):.1e} of the largest at most, {np.median(typical):.1e} "
        f"of their root mean square typically; of the 36 boxes {100 * np.mean(same):.0f} % have the same class in the "
        f"same place, {100 * np.mean(matched):.0f} % are found with the same class within 2 px"
        + (" (computed as rounded float32 here: this processor lacks the instructions)" if detector.emulated else "")
    )
    return Finding(text, tuple(wrong), {"grid": grid, "typical": typical, "same place": same, "found": matched})


def in_float32(bench: Bench) -> tuple[dict[str, list[NetworkInput]], dict[str, list[Arrays]]]:
    """The photographs' network inputs and their arrays in float32, by kind; computed once."""
    if not bench.exact:
        detector = bench.detector(bench.sizes.model, "float32")
        for kind in KINDS:
            inputs = [network_input(kind, picture(name)) for name in bench.sizes.drift_images]
            bench.exact[kind] = (inputs, [arrays(detector, kind, [item])[0] for item in inputs])
    return {kind: pair[0] for kind, pair in bench.exact.items()}, {kind: pair[1] for kind, pair in bench.exact.items()}


def shares(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> tuple[float, float]:
    """Share of the expected boxes found with the same class within 2 pixels, and the largest distance of these."""
    apart = np.abs(found["boxes"][:, None] - expected["boxes"][None]).max(2)
    apart[found["obj_id"][:, None] != expected["obj_id"][None]] = np.inf
    nearest = apart.min(0)
    near = nearest <= 2
    return float(near.mean()), float(nearest[near].max()) if near.any() else 0.0


def match(one: ChosenBoxes, other: ChosenBoxes) -> tuple[int, float]:
    """How many boxes of the other are among ours, within 2 pixels, and how far apart these are."""
    share, apart = shares({"boxes": one.boxes, "obj_id": one.obj_id}, {"boxes": other.boxes, "obj_id": other.obj_id})
    return round(share * len(other.boxes)), apart


def noise(images: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(images, 3, height, width, generator=torch.Generator().manual_seed(height)) * 60


def reference_engine(bench: Bench) -> Finding:
    """The original program itself, where it is installed: the golden cases through --engine reference."""
    from feature_extraction.detector.build import load_detector
    from feature_extraction.errors import ReferenceMissing

    model = "x152" if bench.device.type == "cuda" else "tiny"
    try:
        oracle = load_detector(bench.files(model), engine="reference", device=bench.device, precision="float32")
    except ReferenceMissing as error:
        raise NotRun("the original program is not installed here (it is in the gpu image)") from error
    native = bench.detector(model, "float32")
    worst, wrong = 0.0, []
    for name in bench.sizes.golden[model]:
        item = network_input("grid", picture(name))
        (expected,), (found,) = arrays(oracle, "grid", [item]), arrays(native, "grid", [item])
        worst = max(worst, golden.relative(found["features"], expected["features"]))
    if not worst < golden.FEATURE_BOUND:
        wrong.append(f"grid features {worst:.2g} apart, allowed {golden.FEATURE_BOUND:g}")
    return Finding(f"{model}: grid features of both engines {worst:.1e} of the largest apart", tuple(wrong))
