"""Boxes that a file gives: read from its three forms, refused where they are none, pooled as the family pools them."""

from __future__ import annotations

import json
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.common import DATA, photograph
from PIL import Image

from feature_extraction import given, pipeline
from feature_extraction.config import Boxes, ExtractConfig, GivenBoxes
from feature_extraction.detector.build import Detector
from feature_extraction.errors import ImageError, StoreError, UsageError
from feature_extraction.features import computation_of, compute
from feature_extraction.given import open_boxes, refuse_beside
from feature_extraction.images.decode import decode_image
from feature_extraction.progress import Clock
from feature_extraction.storage.check import check_file
from feature_extraction.storage.store import open_features, provenance, read_image
from scripts.gpu_test.golden import FEATURE_BOUND, relative

TWO = [[1.0, 2.0, 30.5, 40.0], [0.0, 0.0, 9.0, 9.0]]


def as_json(path: Path, boxes: dict[str, Any]) -> Path:
    path.write_text(json.dumps(boxes))
    return path


def as_h5(path: Path, boxes: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for image_id, rows in boxes.items():
            file[f"{image_id}/boxes"] = np.array(rows)
    return path


def as_npy(path: Path, boxes: dict[str, Any]) -> Path:
    rows = [(image_id, tuple(box)) for image_id, several in boxes.items() for box in several]
    np.save(path, np.array(rows, [("image_id", "U16"), ("box", "f4", 4)]))
    return path


FORMS = {".json": as_json, ".h5": as_h5, ".npy": as_npy}


@pytest.mark.parametrize("suffix", FORMS)
def test_every_form_gives_the_boxes_of_an_image_in_its_order(tmp_path: Path, suffix: str) -> None:
    path = FORMS[suffix](tmp_path / f"b{suffix}", {"b": [[5, 5, 6, 6]], "a": TWO})
    boxes_of = open_boxes(path, "xyxy")
    assert boxes_of("a").dtype == np.float32
    assert boxes_of("a").tolist() == TWO
    assert boxes_of("b").tolist() == [[5, 5, 6, 6]]
    with pytest.raises(ImageError, match=f"b{suffix} gives no boxes for it"):
        boxes_of("c")


def test_x_y_width_height_are_as_many_pixels(tmp_path: Path) -> None:
    path = as_json(tmp_path / "b.json", {"a": [[10, 20, 30, 1], [1, 1, 0, 0.5]]})
    assert open_boxes(path, "xywh")("a").tolist() == [[10, 20, 39, 20], [1, 1, 1, 1]]


def test_rows_of_an_image_need_not_lie_together_and_ids_may_be_numbers(tmp_path: Path) -> None:
    rows = np.array([(7, TWO[0]), (3, [0, 0, 1, 1]), (7, TWO[1])], [("image_id", "i8"), ("box", "f8", 4)])
    np.save(tmp_path / "b.npy", rows)
    boxes_of = open_boxes(tmp_path / "b.npy", "xyxy")
    assert boxes_of("7").tolist() == TWO
    assert boxes_of("3").tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("rows", "form", "said"),
    [
        ([[1, 2, 3]], "xyxy", r"an array \(1, 3\)"),
        ([1, 2, 3, 4], "xyxy", r"an array \(4,\)"),
        ([["a", "b", "c", "d"]], "xyxy", "expected numbers"),
        ([[5, 5, 4, 9]], "xyxy", r"box 0 of it in b.json is \(5, 5, 4, 9\), which as xyxy is no box"),
        ([[0, 0, 1, 1], [5, 5, -1, 9]], "xywh", "box 1 of it"),
        ([[0, 0, float("nan"), 1]], "xyxy", "nan"),
        ([[0, 0, float("inf"), 1]], "xyxy", "inf"),
        ([[0, 0, 1e30, 1]], "xyxy", "1e.30"),
        ([[0, 0, 10**400, 1]], "xyxy", "gives an array|cannot be read"),
        ([[0, 0, 1, 1]] * 1001, "xyxy", "1,001 boxes for it, expected at most 1,000"),
        ([], "xyxy", "no boxes"),
        ("text", "xyxy", "gives an array"),
        ([[0, 0, 1, 1], [0, 0]], "xyxy", "cannot be read"),
        ({"x": 1}, "xyxy", "an array"),
        (None, "xyxy", "no boxes"),
    ],
)
def test_what_are_no_boxes_is_the_images_error(tmp_path: Path, rows: Any, form: Any, said: str) -> None:
    boxes_of = open_boxes(as_json(tmp_path / "b.json", {"a": rows}), form)
    with pytest.raises(ImageError, match=said) as caught:
        boxes_of("a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ([-20, -20, 0, 0], True),
        ([59.6, 49.6, 60, 50], True),  # COCO has such
        ([-9, -9, 900, 900], True),
        ([60, 0, 70, 9], False),
        ([0, 50, 9, 70], False),
        ([-9, 0, -1, 9], False),
        ([0, -9, 9, -1], False),
    ],
)
def test_a_box_wholly_beside_its_image_is_the_images_error(box: list[float], inside: bool) -> None:
    """Of 60 x 50 pixels. Most of such boxes are of another frame, and all features there are those of nothing."""
    boxes = np.array([TWO[0], box], np.float32)
    if inside:
        refuse_beside(boxes, 50, 60)
    else:
        with pytest.raises(ImageError, match=r"box 1 given for it, .* lies wholly beside the image"):
            refuse_beside(boxes, 50, 60)


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.txt", b"", "boxes are read from .h5, .json, .npy files"),
        ("b.json", b"[1, 2]", r"no file of boxes: a list; expected \{\"image id\""),
        ("b.json", b"{", "no file of boxes"),
        ("b.json", b"[" * 100_000, "nested too deep"),
        ("b.json", b"{}" + b" " * 99, "more than 64 bytes; expected .*of at most 0.5 GB"),
        ("b.npy", pickle.dumps(Hostile()), "no .npy file"),
        ("b.npy", b"", "no file of boxes"),
        ("b.h5", b"x" * 100, "no file of boxes"),
    ],
)
def test_other_files_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    if "64 bytes" in said:
        monkeypatch.setattr(given, "MOST_JSON", 64)
    with pytest.raises(UsageError, match=said) as caught:
        open_boxes(tmp_path / name, "xyxy")
    assert "\n" not in str(caught.value)


def test_a_pickled_array_is_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("b.npy", np.array([{"image_id": "a", "box": Hostile()}], object), allow_pickle=True)
    with pytest.raises(UsageError, match="expected plain numbers"):
        open_boxes(Path("b.npy"), "xyxy")
    np.save("b.npy", np.zeros((3, 5)))
    with pytest.raises(UsageError, match="columns none; expected rows of the columns image_id and box"):
        open_boxes(Path("b.npy"), "xyxy")
    assert not Path("ran").exists()
    with pytest.raises(UsageError, match="No such file"):
        open_boxes(Path("none.json"), "xyxy")


# --- pooled ---------------------------------------------------------------------------------------------


def pooled(detector: Detector, spec: GivenBoxes, image: str) -> dict[str, Any]:
    computation = computation_of(spec)
    (arrays,) = compute(
        detector, computation, [computation.network_input(decode_image(photograph(image)), "a")], Clock()
    )
    assert not isinstance(arrays, ImageError)
    return arrays


@pytest.mark.parametrize("image", ["astronaut", "coffee_strip", "chelsea_tall"])
def test_proposals_given_back_have_the_stored_features_and_scores(tiny: Detector, tmp_path: Path, image: str) -> None:
    golden = np.load(DATA / "tiny" / f"{image}.npz")
    some = np.arange(0, 1000, 7)
    short, long = sorted((int(golden["img_h"]), int(golden["img_w"])))
    scale = 1333 / long if round(800 / short * long) > 1333 else 800 / short
    path = as_json(tmp_path / "b.json", {"a": (golden["proposals"][some].astype(np.float64) / scale).tolist()})
    found = pooled(tiny, GivenBoxes(boxes_from=path, class_probs=True, obj_conf=True), image)
    assert relative(found["features"], golden["fc6"][some]) < FEATURE_BOUND
    logits = golden["scores"][some].astype(np.float64)
    prob = np.exp(logits - logits.max(1, keepdims=True))
    prob /= prob.sum(1, keepdims=True)
    np.testing.assert_allclose(found["cls_prob"], prob, atol=1e-4)
    np.testing.assert_allclose(found["obj_conf"], prob[:, 1:].max(1), atol=1e-4)
    assert (found["obj_id"] == prob[:, 1:].argmax(1)).mean() > 0.98
    np.testing.assert_allclose(found["boxes"], golden["proposals"][some] / scale, rtol=1e-6)


def test_vilberts_scaling_stretches_to_the_padded_size(tiny: Detector, tmp_path: Path) -> None:
    """chelsea_tall is 90 x 300 pixels: 400 x 1333 resized, 416 x 1344 padded."""
    boxes = [[10.0, 20.0, 70.0, 250.0], [0, 0, 89, 299]]
    stretch = np.array([416 / 90, 1344 / 300] * 2) / (1333 / 300)
    by_hand = as_json(tmp_path / "stretched.json", {"a": (np.array(boxes) * stretch).tolist()})
    given = as_json(tmp_path / "b.json", {"a": boxes})
    quirk = pooled(tiny, GivenBoxes(boxes_from=given, boxes_scaling="vilbert-mt"), "chelsea_tall")
    plain = pooled(tiny, GivenBoxes(boxes_from=given), "chelsea_tall")
    expected = pooled(tiny, GivenBoxes(boxes_from=by_hand), "chelsea_tall")
    assert quirk["boxes"].tolist() == boxes
    assert relative(quirk["features"], expected["features"]) < 1e-5
    assert relative(quirk["features"], plain["features"]) > 1e-3


def test_a_run_over_given_boxes_reports_images_without_and_knows_its_file(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for n in range(4):
        Image.fromarray(photograph("astronaut")[20 * n : 20 * n + 20, :300]).save(images / f"{n}.png")
    given = as_json(tmp_path / "b.json", {"0": TWO, "2": [[2, 2, 18, 300]], "3": [[0, 22, 9, 30]]})

    def run(spec: Boxes) -> pipeline.Report:
        config = ExtractConfig(
            spec=spec, images=images, output=tmp_path / "f.h5", checkpoint_dir=tiny_checkpoint, device="cpu"
        )
        return pipeline.extract(config, threading.Event())

    spec = GivenBoxes(boxes_from=given, layer="both", clip=True)
    report = run(spec)
    assert (report.exit_code, report.outcome.images) == (3, 2)
    assert report.outcome is not None
    assert [(f["id"], f["reason"].partition(", x1")[0]) for f in report.outcome.failed] == [
        ("1", "b.json gives no boxes for it"),
        ("3", "box 0 given for it"),
    ]
    with open_features(tmp_path / "f.h5") as file:
        assert "num_boxes" not in provenance(file)
        found = {image_id: read_image(file, image_id) for image_id in ("0", "2")}
    assert [found[i]["features_fc7"].shape for i in ("0", "2")] == [(2, 64), (1, 64)]
    assert found["0"]["boxes"].tolist() == [[1, 2, 30.5, 19], [0, 0, 9, 9]]  # clipped to 20 rows of pixels
    assert [f.text for f in check_file(tmp_path / "f.h5") if f.level == "error"] == []

    given = given.rename(tmp_path / "moved.json")
    assert run(GivenBoxes(boxes_from=given, layer="both", clip=True)).outcome.images == 2
    for other in (Boxes(), GivenBoxes(boxes_from=given, layer="fc7", clip=True), GivenBoxes(boxes_from=given)):
        with pytest.raises(StoreError, match=r"with another recipe: .*option_"):
            run(other)
    as_json(given, {"0": TWO})
    with pytest.raises(StoreError, match="option_boxes_sha256"):
        run(GivenBoxes(boxes_from=given, layer="both", clip=True))


def test_which_boxes_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="num_boxes, threshold and boxes_from: the file says which boxes"):
        GivenBoxes(boxes_from=tmp_path / "b.json", num_boxes=3, threshold=0.5)
