"""Flags as published, help, and mistakes a user makes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.common import ROOT

from feature_extraction import cli, places
from feature_extraction.config import Boxes, ExtractConfig, GivenBoxes, Grid
from feature_extraction.recipes import RECIPES, X_152

SCRIPTS = [
    (f"{prefix}_extract_{word}_feature.py", dataset, kind)
    for prefix, dataset in (("coco", "coco"), ("VG", "vg"), ("GQA", "gqa"), ("nlvr2", "nlvr2"))
    for word, kind in (("grid", "grid"), ("bbox", "boxes"))
]
FOLDER = Path(cli.__file__).parent


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> list[ExtractConfig]:
    made: list[ExtractConfig] = []
    monkeypatch.setattr(cli, "execute", lambda configs: made.extend(configs) or 0)
    return made


@pytest.mark.parametrize(("script", "dataset", "kind"), SCRIPTS)
def test_scripts_are_short_and_name_their_row(script: str, dataset: str, kind: str) -> None:
    text = (FOLDER / script).read_text()
    assert len(text.splitlines()) <= 12
    assert f'main_for("{dataset}", "{kind}")' in text


@pytest.mark.parametrize(
    ("dataset", "kind", "argv", "images", "output"),
    [
        ("coco", "grid", ["--split", "train"], "COCO/images/train2014", "COCO/features/maskrcnn_train_grid8.h5"),
        ("coco", "grid", [], "COCO/images/val2014", "COCO/features/maskrcnn_valid_grid8.h5"),
        ("coco", "boxes", ["--split", "test"], "COCO/images/test2015", "COCO/features/maskrcnn_test_boxes36.h5"),
        ("vg", "grid", [], "VG/images", "VG/features/maskrcnn_grid8.h5"),
        ("vg", "boxes", ["--test"], "VG/images", "VG/features/maskrcnn_boxes36_test.h5"),
        ("gqa", "grid", ["--imsize", "256"], "GQA/images", "GQA/features/maskrcnn_grid8_imsize256.h5"),
        ("gqa", "boxes", ["--num_boxes", "100"], "GQA/images", "GQA/features/maskrcnn_boxes100.h5"),
        ("nlvr2", "grid", ["--split", "valid"], "nlvr2/images/dev", "nlvr2/features/maskrcnn_valid_grid8.h5"),
        ("nlvr2", "grid", ["--grid_size", "7"], "nlvr2/images/dev", "nlvr2/features/maskrcnn_valid_grid7.h5"),
        ("nlvr2", "boxes", ["--split", "test"], "nlvr2/images/test1", "nlvr2/features/maskrcnn_test_boxes36.h5"),
    ],
)
def test_published_paths(configured, dataset, kind, argv, images: str, output: str) -> None:
    assert cli.main_for(dataset, kind, argv) == 0
    (config,) = configured
    datasets = (Path.cwd() / "../datasets").resolve()
    assert config.images == datasets / images
    assert config.output == datasets / output
    assert (config.batch_size, config.precision, config.engine) == (1, "float32", "native")


def test_roots_and_published_flags(configured) -> None:
    for dataset, flag in (("coco", "--cocoroot"), ("vg", "--vgroot"), ("gqa", "--gqaroot"), ("nlvr2", "--nlvrroot")):
        cli.main_for(
            dataset, "grid", [flag, "/x", "--backbone", "maskrcnn", "--im_ratio", "original", "--batch_size", "4"]
        )
    assert [str(c.images)[:9] for c in configured] == ["/x/images"] * 4


def test_any_folder(configured) -> None:
    cli.main(["--images", "/photos", "--output", "/f.h5", "--kind", "boxes", "--shard", "2/5"])
    (config,) = configured
    assert (config.images, config.output, config.recursive, config.shard) == (
        Path("/photos"),
        Path("/f.h5"),
        True,
        (1, 5),
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--split", "val"], "no 'val'; known: train, valid, test; did you mean 'valid'?"),
        (["--precision", "fp16"], "did you mean 'float16'?"),
        (["--batchsize", "4"], "no flag --batchsize; did you mean --batch_size?"),
        (["--imsize", "100"], "multiple of 32"),
        (["--grid_size", "0"], "expected a whole number from 1"),
        (["--shard", "5/4"], "1 to n"),
        (["--shard", "half"], "i/n"),
        (["--backbone", "resnet"], "no 'resnet'; known: maskrcnn"),
    ],
)
def test_flags_out_of_range(configured, capsys, argv: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main_for("coco", "grid", argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [([], "either --dataset"), (["--images", "/x"], "--output"), (["--dataset", "vg", "--split", "train"], "no split")],
)
def test_general_command_mistakes(configured, capsys, argv: list[str], said: str) -> None:
    with pytest.raises(SystemExit):
        cli.main(argv)
    assert said in capsys.readouterr().err


def run(configured: list[ExtractConfig], *argv: str) -> list[ExtractConfig]:
    """What ``python -m feature_extraction --images /i --output /o/f.h5 ARGV`` means."""
    configured.clear()
    assert cli.main(["--images", "/i", "--output", "/o/f.h5", *argv]) == 0
    return configured


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_row_and_what_is_given_beside_it_counts(configured, name: str) -> None:
    detector = ["--checkpoint_dir", "/c"] if RECIPES[name].detector != X_152 else []
    (config,) = run(configured, "--recipe", name, *detector)
    assert config.spec == RECIPES[name].spec
    assert config.output == Path("/o/f.h5")
    (config,) = run(configured, "--recipe", name, *detector, "--layer", "both", "--num_boxes", "50", "--background")
    assert config.spec == replace(RECIPES[name].spec, layer="both", num_boxes=50, background=True)


def test_a_published_script_takes_a_recipe_and_names_its_file_by_it(configured) -> None:
    cli.main_for("coco", "boxes", ["--split", "train", "--recipe", "bottom-up-10-100", "--layer", "fc7"])
    (config,) = configured
    assert config.output.name == "maskrcnn_train_boxes10to100_fc7.h5"


def test_the_published_default_is_no_other_spec(configured) -> None:
    assert run(configured, "--kind", "boxes")[0].spec == Boxes()
    assert run(configured, "--kind", "boxes", "--class_probs")[0].spec == Boxes(class_probs=True)
    assert run(configured, "--kind", "boxes", "--class_probs", "foreground")[0].spec == Boxes(class_probs="foreground")
    assert run(configured)[0].spec == Grid()


def test_several_kinds_and_sizes_are_a_file_each(configured) -> None:
    run(configured, "--kinds", "grid,boxes", "--grid_size", "8", "14", "8", "--num_boxes", "50")
    assert [config.spec for config in configured] == [Grid(), Grid(grid_size=14), Boxes(num_boxes=50)]
    assert [str(c.output) for c in configured] == ["/o/f_grid8.h5", "/o/f_grid14.h5", "/o/f_boxes50.h5"]
    configured.clear()
    cli.main_for("vg", "grid", ["--grid_size", "8", "4"])
    assert [c.output.name for c in configured] == ["maskrcnn_grid8.h5", "maskrcnn_grid4.h5"]


def test_given_boxes(configured) -> None:
    flags = ["--kind", "boxes", "--boxes_from", "/b.json", "--boxes_format", "xywh", "--boxes_scaling", "vilbert-mt"]
    expected = GivenBoxes(boxes_from=Path("/b.json"), boxes_format="xywh", boxes_scaling="vilbert-mt")
    assert run(configured, *flags)[0].spec == expected
    (config,) = run(configured, *flags, "--recipe", "mmf")  # its number is not meant
    assert config.spec == replace(expected, class_probs="foreground", obj_conf=True)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--recipe", "mfm"], "no 'mfm'; known: x-lxmert"),
        (["--recipe", "mmf", "--kinds", "grid"], "--recipe mmf is one of boxes"),
        (["--recipe", "fga"], "is of the X-101 detector"),
        (["--kinds", "grid,box"], "did you mean 'boxes'?"),
        (["--kinds", "boxes", "--min_boxes", "40"], "min_boxes is 40, expected 1 to num_boxes, which is 36"),
        (["--kinds", "boxes", "--threshold", "2"], "a probability"),
        (["--kinds", "boxes", "--class_probs", "all"], "expected nothing, or foreground"),
        (["--kinds", "boxes", "--boxes_from", "/b.json", "--num_boxes", "3"], "the file says which boxes"),
        (["--kinds", "boxes", "--boxes_format", "yxyx"], "known: xyxy, xywh"),
    ],
)
def test_flags_that_contradict_each_other(configured, capsys, argv: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(configured, *argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_the_table_of_recipes_is_printed_whatever_else_is_asked_for(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--recipe", "list"])
    assert not caught.value.code
    printed = capsys.readouterr().out
    for name, recipe in RECIPES.items():
        assert f"\n{name} " in f"\n{printed}"
        assert recipe.source.partition(" ")[0] in printed


def test_errors_are_one_paragraph(tmp_path: Path, capsys, tiny_checkpoint: Path) -> None:
    argv = ["--cocoroot", str(tmp_path), "--checkpoint_dir", str(tiny_checkpoint)]
    assert cli.main_for("coco", "grid", argv) == 1
    assert str(tmp_path / "images/val2014") in capsys.readouterr().err
    (tmp_path / "images/val2014").mkdir(parents=True)
    (tmp_path / "images/val2014/a.jpg").write_bytes(b"x")
    assert cli.main_for("coco", "grid", [*argv[:-1], str(tmp_path / "nothing")]) == 1
    error = capsys.readouterr().err
    assert "detectron_model.pth" in error
    assert "Traceback" not in error
    assert cli.main_for("coco", "grid", [*argv, "--device", "cuda:9"]) == 1
    assert "cuda:9" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):  # as where the parser sees it
        cli.main_for("coco", "grid", [*argv, "--output", str(tmp_path / "f.npz")])
    assert ".h5" in capsys.readouterr().err


def test_a_folder_of_bad_images_only_exits_with_1(tmp_path: Path, capsys, tiny_checkpoint: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(b"")
    output = tmp_path / "f.h5"
    argv = ["--images", str(tmp_path / "images"), "--output", str(output), "--checkpoint_dir", str(tiny_checkpoint)]
    assert cli.main(argv) == 1
    assert not output.exists()
    assert "empty file" in (tmp_path / "f.report.json").read_text()


def test_what_does_not_need_torch_is_said_before_it_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom feature_extraction import cli\n"
        f"assert cli.main(['--images', {str(tmp_path / 'none')!r}, '--output', '/x/f.h5']) == 1\n"
        "try:\n"
        f"    cli.main(['--images', {str(tmp_path)!r}, '--output', '/x/f.npz'])\n"
        "except SystemExit as error:\n"
        "    assert error.code == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line[:6] for line in done.stderr.splitlines()] == ["error:"] * 2


def test_a_python_without_the_packages_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "images/val2014").mkdir(parents=True)
    (tmp_path / "images/val2014/a.jpg").write_bytes(b"x")
    (tmp_path / "h5py.py").write_text("raise ModuleNotFoundError(\"No module named 'h5py'\", name='h5py')\n")
    done = subprocess.run(
        [sys.executable, "coco_extract_grid_feature.py", "--cocoroot", str(tmp_path)],
        cwd=ROOT / "feature_extraction", env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "has no h5py" in line
    assert "make setup" in line


@pytest.mark.parametrize("script", ["coco_extract_grid_feature.py", "nlvr2_extract_bbox_feature.py"])
def test_help_imports_nothing_heavy(script: str) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'numpy', 'cv2', 'h5py', 'PIL'} & set(sys.modules)\n"
    )
    folder = ROOT / "feature_extraction"
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def test_places_are_looked_at_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    here, checkout = Path("mask_rcnn_ckpt"), places.CHECKOUT / "feature_extraction" / "mask_rcnn_ckpt"
    assert places.checkpoint_folders({})[0] == here
    assert places.checkpoint_folders({})[-1] == checkout
    assert places.checkpoint_folders({"CHECKPOINT": "/c"})[0] == Path("/c")
    roots = places.dataset_roots("COCO", {"DATASETS": "/d"})
    assert roots[0] == Path("/d/COCO")
    assert places.first_existing(roots) == roots[0]  # none is there: the first is named
    (tmp_path / "datasets" / "COCO").mkdir(parents=True)
    assert places.first_existing(places.dataset_roots("COCO", {})) == Path("datasets/COCO")
