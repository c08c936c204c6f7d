"""scripts/verify.py and scripts/parity.py: what they let pass and what they do not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from feature_extraction import catalog
from feature_extraction.tolerance import SAME_NETWORK
from scripts import engines, parity
from scripts.verify import __main__ as verify
from scripts.verify.files import pairs, spread

RNG = np.random.default_rng(5)


def write(path: Path, images: int = 20, change: Callable[[h5py.File], None] | None = None) -> None:
    rng = np.random.default_rng(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for number in range(images):
            group = file.create_group(f"{number:03d}")
            if "grid" in path.name:
                group["features"] = rng.random((8, 8, 16), np.float32)
                continue
            group["features"] = rng.random((36, 16), np.float32)
            group["boxes"] = (rng.random((36, 4)) * 500).astype(np.float32)
            group["obj_id"] = rng.integers(0, 1600, 36)
            group["img_w"], group["img_h"] = np.int64(640), np.int64(480)
        if change:
            change(file)


def run(tmp_path: Path, *arguments: str) -> int:
    return verify.main(["--ours", str(tmp_path / "ours"), "--published", str(tmp_path / "published"), *arguments])


GRID, BOXES = "VG/features/maskrcnn_grid8.h5", "VG/features/maskrcnn_boxes36.h5"


def replace(file: h5py.File, name: str, value: object) -> None:
    del file[name]
    file[name] = value


def swap(file: h5py.File) -> None:
    """Two neighbours of the ranking in each image, as near-ties do."""
    for group in file.values():
        for key in ("features", "boxes", "obj_id"):
            rows = group[key][()]
            rows[[4, 5]] = rows[[5, 4]]
            group[key][...] = rows


def nudge(file: h5py.File) -> None:
    for group in file.values():
        group["features"][...] = group["features"][()] + np.float32(1e-4)


@pytest.mark.parametrize("change", [None, nudge], ids=["equal", "near"])
@pytest.mark.parametrize("name", [GRID, BOXES])
def test_passes(tmp_path: Path, name: str, change: Callable[[h5py.File], None] | None) -> None:
    write(tmp_path / "published" / name)
    write(tmp_path / "ours" / name, change=change)
    assert run(tmp_path) == 0


def test_of_several_files_the_last_line_counts_and_those_without_a_partner_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (GRID, BOXES):
        write(tmp_path / "published" / name)
        write(tmp_path / "ours" / name, change=nudge if name == GRID else later_layer)
    write(tmp_path / "ours" / "COCO/features/maskrcnn_valid_grid8.h5")
    assert run(tmp_path) == 1
    said, complaint = capsys.readouterr()
    assert said.splitlines()[-1] == "1 of 2 files are within the tolerances"
    assert complaint.endswith("has no published file for coco-valid-grid\n")


def test_swapped_neighbours_pass(tmp_path: Path) -> None:
    write(tmp_path / "published" / BOXES)
    write(tmp_path / "ours" / BOXES, change=swap)
    assert run(tmp_path) == 0


WRONG: dict[str, tuple[str, Callable[[h5py.File], None], str]] = {
    "an image is missing": (GRID, lambda f: f.pop("003"), "1 image is not in ours: 003"),
    "an image too many": (GRID, lambda f: f.copy("003", "x"), "not in the published file: x"),
    "another shape": (GRID, lambda f: replace(f, "003/features", np.zeros((7, 7, 16), "f4")), "published float32"),
    "another type": (GRID, lambda f: replace(f, "003/features", np.zeros((8, 8, 16))), "float64"),
    "other features": (
        GRID,
        lambda f: [g["features"].write_direct(RNG.random((8, 8, 16), np.float32)) for g in f.values()],
        "beyond 0.02",
    ),
    "NaN": (GRID, lambda f: f["003/features"].write_direct(np.full((8, 8, 16), np.nan, "f4")), "beyond"),
    "no boxes": (
        BOXES,
        lambda f: f["003"].pop("boxes"),
        "1 image is of another form than the published (without boxes): 003",
    ),
    "another width": (BOXES, lambda f: replace(f, "003/img_w", np.int64(641)), "641, published 640"),
    "boxes elsewhere": (
        BOXES,
        lambda f: [g["boxes"].write_direct(g["boxes"][()] + np.float32(3)) for g in f.values()],
        "boxes: 0% found again at quantile 0.99 of the images, expected 90%",
    ),
    "other classes": (
        BOXES,
        lambda f: [g["obj_id"].write_direct(g["obj_id"][()] + 1) for g in f.values()],
        "no box is found again",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    name, change, said = WRONG[kind]
    write(tmp_path / "published" / name)
    write(tmp_path / "ours" / name, change=change)
    assert run(tmp_path) == 1
    assert said in capsys.readouterr().out


def test_nothing_to_compare_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 1
    assert "make download-features" in capsys.readouterr().err


def test_a_truncated_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for where in ("ours", "published"):
        write(tmp_path / where / GRID)
    path = tmp_path / "ours" / GRID
    path.write_bytes(path.read_bytes()[:5000])
    assert run(tmp_path) == 1
    assert "is not a whole HDF5 file" in capsys.readouterr().out


@pytest.mark.parametrize("lacking", ["features", "obj_id"])
def test_published_files_of_another_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str], lacking: str) -> None:
    def lose(file: h5py.File) -> None:
        for group in file.values():
            del group[lacking]

    write(tmp_path / "published" / BOXES, change=lose)
    write(tmp_path / "ours" / BOXES)
    assert run(tmp_path) == 1
    assert f"WRONG: no '{lacking}'" in capsys.readouterr().out


def test_published_folder_names(tmp_path: Path) -> None:
    """The published downloads have NLVR2/NAME.h5, the scripts write nlvr2/features/NAME.h5."""
    write(tmp_path / "published" / "NLVR2" / "maskrcnn_test_grid8.h5")
    write(tmp_path / "ours" / "nlvr2" / "features" / "maskrcnn_test_grid8.h5")
    assert run(tmp_path, "--sample", "5") == 0


# --- one pair, the table and JSON, what patterns say -------------------------------------------------------------


def pair(tmp_path: Path, name: str, change: Callable[[h5py.File], None] | None) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of one pair of files."""
    write(tmp_path / "published" / name, change=change)
    write(tmp_path / "ours" / name)
    arguments = ["--ours", tmp_path / "ours" / name, "--published", tmp_path / "published" / name]
    code = verify.main([*map(str, arguments), "--json", str(tmp_path / "found.json"), "--worst", "2"])
    (found,) = json.loads((tmp_path / "found.json").read_text())
    return code, found


def test_one_pair_its_ladder_and_its_worst_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(file: h5py.File) -> None:
        for name, by in (("003", 3e-5), ("007", 1e-2), ("011", 0.1), ("013", 3.0), ("017", np.nan)):
            file[name]["features"][...] = file[name]["features"][()] + np.float32(by)

    code, found = pair(tmp_path, GRID, change)
    said = capsys.readouterr().out
    assert code == 1
    assert found["levels"] == {"equal": 15, "float32 rounding": 1, "TF32": 1, "other decoder": 1, "different": 2}
    assert [image["id"] for image in found["differing"]] == ["017", "013", "011", "007"]
    assert found["differing"][0]["features"] == "inf"
    worst = said.partition("worst images")[2].splitlines()[1:]
    assert [line.split()[:2] for line in worst[:2]] == [["017", "different"], ["013", "different"]]
    assert not worst[2].strip().startswith("011"), "two were asked for"


def test_a_sample_is_spread_over_the_file() -> None:
    ids = [f"{n:03}" for n in range(1000)]
    assert spread(ids, 3) == ["000", "500", "999"]
    assert spread(ids, None) == ids
    assert len(set(spread(ids, 999))) == 999
    assert spread(ids[:5], 100) == ids[:5]


def exchange(file: h5py.File) -> None:
    for name in ("003", "004"):
        file[name]["img_w"][...], file[name]["img_h"][...] = 480, 640
        file[name]["features"][...] = RNG.random((36, 16), np.float32)


def rename(file: h5py.File) -> None:
    file.move("003", "x")
    file.move("004", "003")
    file.move("x", "004")


def shrink(file: h5py.File) -> None:
    file["003"]["img_w"][...] = 641
    file["003"]["features"][...] = RNG.random((36, 16), np.float32)


def later_layer(file: h5py.File) -> None:
    for group in file.values():
        group["features"][...] = RNG.random((36, 16), np.float32)


def others(file: h5py.File) -> None:
    for name in ("003", "004"):
        file[name]["features"][...] = np.random.default_rng(int(name)).random((8, 8, 16), np.float32)


def pad_below(file: h5py.File) -> None:
    for group in file.values():
        features = group["features"][()] + np.float32(0.2) * RNG.random((8, 8, 16), np.float32)
        features[-1] += RNG.random((8, 16), np.float32)
        group["features"][...] = features


PATTERNS: dict[str, tuple[str, Callable[[h5py.File], None], list[str], str]] = {
    "sides exchanged": (BOXES, exchange, ["EXIF"], "003 has width and height exchanged"),
    "two ids exchanged": (GRID, rename, ["OTHER_IMAGE"], "003 holds what ours holds under 004"),
    "another size": (BOXES, shrink, ["OTHER_IMAGE"], "003 has 641 x 480 pixels, ours 640 x 480"),
    "two images of twenty": (GRID, others, ["OTHER_IMAGE", "EXIF", "RGB"], "Single images have nothing in common"),
    "padded on one side": (GRID, pad_below, ["PADDING"], "at the right or below they differ"),
    "the same boxes": (BOXES, later_layer, ["FC7"], "boxes and classes are the same, the features are not"),
}


@pytest.mark.parametrize("kind", PATTERNS)
def test_what_the_files_show_by_themselves(tmp_path: Path, kind: str) -> None:
    name, change, causes, because = PATTERNS[kind]
    code, found = pair(tmp_path, name, change)
    assert code == 1
    assert found["causes"] == causes
    assert because in found["verdict"]
    assert not found["recomputed"]


def test_without_images_nothing_is_recomputed_and_the_files_still_speak(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "published" / BOXES, change=later_layer)
    write(tmp_path / "ours" / BOXES)
    assert run(tmp_path, "--explain", "--checkpoint_dir", str(tiny_checkpoint)) == 1
    said = capsys.readouterr().out
    assert "are fc7, not fc6" in said
    assert "Recomputing says nothing: none of the images that differ (" in said
    assert "--explain FOLDER names where they lie" in said


def test_if_recomputing_is_interrupted_the_verdict_of_the_files_is_told(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scripts.verify.recompute.recompute", interrupted)
    for name in (BOXES, GRID):
        write(tmp_path / "published" / name, change=later_layer if name == BOXES else nudge)
        write(tmp_path / "ours" / name)
    ours, published = (str(tmp_path / where / BOXES) for where in ("ours", "published"))
    words = ["--ours", ours, "--published", published, "--explain", "--checkpoint_dir", str(tiny_checkpoint)]
    assert verify.main(words) == 130
    said = capsys.readouterr().out
    assert "are fc7, not fc6" in said
    assert "Recomputing says nothing: it was interrupted." in said


def test_files_without_an_id_in_common(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "published" / GRID, change=lambda file: [file.move(name, f"x{name}") for name in list(file)])
    write(tmp_path / "ours" / GRID)
    assert run(tmp_path) == 1
    said = capsys.readouterr().out
    assert "No image could be compared: 20 images are not in ours: x000, x001," in said
    assert "20 images are not in the published file: 000, 001," in said
    assert "Compare files of the same data set, split and settings." in said


def test_what_is_wrong_of_all_images_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def of_4_cells(file: h5py.File) -> None:
        for name in file:
            replace(file, f"{name}/features", np.zeros((4, 4, 16), "f4"))

    write(tmp_path / "published" / GRID, change=of_4_cells)
    write(tmp_path / "ours" / GRID)
    assert run(tmp_path) == 1
    told = [line for line in capsys.readouterr().out.splitlines() if "(8, 8, 16)" in line]
    assert "20 images are of another form than the published (features: float32 (8, 8, 16)," in told[0]
    assert len(told) == 2, "among the problems, and in the verdict"


def test_what_is_in_both_files_is_the_same_and_something_is_lacking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "published" / GRID)
    write(tmp_path / "ours" / GRID, change=lambda file: file.pop("003"))
    assert run(tmp_path) == 1
    assert "could be compared are alike (19 images: 19 equal), but 1 image is not in ours: 003." in (
        capsys.readouterr().out
    )


USAGE = {
    "no folder for the JSON file": (["--json", "/nowhere/found.json"], "its folder does not exist"),
    "a share beyond 1": (["--quantile", "3"], "3 is not a part from 0 to 1"),
    "no number": (["--features", "nan"], "nan is not a number from 0"),
}


@pytest.mark.parametrize("mistake", USAGE)
def test_mistakes_are_told_before_anything_is_read(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = USAGE[mistake]
    with pytest.raises(SystemExit) as end:
        verify.main(words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("more", "said"), [
    (["--checkpoint_dir", "/nowhere"], "in /nowhere: `make download` fetches it"),
    (["--device", "mars"], "no device 'mars'"),
])  # fmt: skip
def test_what_recomputing_needs_is_looked_for_before_the_files_are_read(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    write(tmp_path / "published" / BOXES, change=later_layer)
    write(tmp_path / "ours" / BOXES)
    assert run(tmp_path, "--explain", "--checkpoint_dir", str(tiny_checkpoint), *more) == 1
    out, complaint = capsys.readouterr()
    assert (out, complaint.count("\n")) == ("", 1)
    assert said in complaint


def test_one_file_finds_the_published_one_of_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "published" / "VG" / "maskrcnn_grid8.h5")
    write(tmp_path / "ours" / GRID)
    write(tmp_path / "elsewhere_grid8.h5")
    words = ["--published", str(tmp_path / "published"), "--ours"]
    assert verify.main([*words, str(tmp_path / "ours" / GRID)]) == 0
    assert verify.main([*words, str(tmp_path / "elsewhere_grid8.h5")]) == 1
    assert "--published FILE names it" in capsys.readouterr().err
    assert verify.main([*words, str(tmp_path / "nowhere.h5")]) == 1
    (far,) = pairs(tmp_path / "ours" / GRID, catalog.FEATURES_BASE_URL)
    assert far.published == f"{catalog.FEATURES_BASE_URL}/VG/maskrcnn_grid8.h5"


# --- parity --------------------------------------------------------------------------------------------


def test_parity_says_what_is_missing(tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main(["--images", str(tmp_path)]) == 1
    assert "no .jpg" in capsys.readouterr().err
    (tmp_path / "1.jpg").touch()
    assert parity.main(["--images", str(tmp_path), "--checkpoint_dir", str(tiny_checkpoint)]) == 1
    assert "make docker-build" in capsys.readouterr().err


class Nudged:
    """A model whose features are a little off."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def region_features(self, *arguments: Any) -> Any:
        return self.model.region_features(*arguments) * 1.001

    def detect(self, *arguments: Any) -> Any:
        return [dataclasses.replace(found, fc6=found.fc6 * 1.001) for found in self.model.detect(*arguments)]


def test_parity_of_an_engine_with_another_and_with_itself(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from helpers.common import photograph
    from PIL import Image

    from feature_extraction.detector.build import load_detector
    from feature_extraction.detector.files import find_checkpoint

    Image.fromarray(photograph("coffee")).save(tmp_path / "coffee.png")
    native = load_detector(
        find_checkpoint(tiny_checkpoint), engine="native", device=torch.device("cpu"), precision="float32"
    )
    other = dataclasses.replace(native, model=Nudged(native.model))
    (tmp_path / "bad.png").write_bytes(b"no image")
    images = [tmp_path / "bad.png", tmp_path / "coffee.png"]
    assert engines.compare_engines(native, other, images, SAME_NETWORK) == (2, 2)
    said = capsys.readouterr().out
    assert "bad.png grid: passed over: " in said
    assert said.count("OUT OF BOUNDS: features: 0.001 of the largest, beyond 0.0002") == 2
    assert engines.compare_engines(native, native, images, SAME_NETWORK) == (2, 0)
    assert "2 of 2 within bounds" in capsys.readouterr().out
