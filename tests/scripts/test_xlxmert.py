"""make xlxmert: what x-lxmert's and VL-T5's programs open is there, and nothing of the user's is touched."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import readers
from helpers.common import ROOT
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from feature_extraction import catalog
from feature_extraction.errors import StoreError
from feature_extraction.storage.assemble import write_features
from feature_extraction.storage.check import check_file
from scripts.xlxmert import __main__ as xlxmert
from scripts.xlxmert.clip import CLIPPED, clipped
from scripts.xlxmert.x_lxmert import X_LXMERT

DIM = 4
TRAIN = ("COCO_train2014_000000000009", "COCO_train2014_000000000025")
VALID = ("COCO_val2014_000000000042", "COCO_val2014_000000000073")
TEST = ("COCO_test2015_000000000001",)
VG, GQA = ("1", "2"), ("1", "2", "n161313")
"""GQA's images hold Visual Genome's, and more."""
NLVR2 = {"train": "train-10171-0", "valid": "dev-850-0-0", "test": "test1-0-1"}
MADE_BY = {"kind": "boxes", "num_boxes": 36, "checkpoint_sha256": "abc", "synthetic_weights": False}


def box_arrays(seed: int, beyond: float = 9.0) -> dict[str, Any]:
    """36 boxes of an image of 60 x 40, one of which reaches ``beyond`` it to the right and below."""
    rng = np.random.default_rng(seed)
    found = np.sort(rng.random((2, 36, 2), np.float32), 0).transpose(1, 0, 2).reshape(36, 4) * [59, 39, 59, 39]
    found[7] = (10, 20, 60 + beyond, 40 + beyond)
    return {
        "features": rng.random((36, DIM), np.float32),
        "obj_id": rng.integers(0, 1600, 36),
        "boxes": found.astype(np.float32),
        "img_w": np.array(60),
        "img_h": np.array(40),
    }


def grid_arrays(seed: int) -> dict[str, Any]:
    return {"features": np.random.default_rng(seed).random((8, 8, DIM), np.float32)}


def write(path: Path, ids: Iterable[str], seed: int = 0, **attributes: Any) -> None:
    """A feature file of this kit."""
    make = grid_arrays if "grid" in path.name else box_arrays
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    write_features(path, ((i, make(seed + n), None) for n, i in enumerate(sorted(ids))), {**MADE_BY, **attributes})


def images_of(file: catalog.FeatureFile) -> tuple[str, ...]:
    if file.data is catalog.NLVR2:
        return tuple(f"{NLVR2[file.split.name]}-img{n}" for n in (0, 1))
    coco = {"train": TRAIN, "valid": VALID, "test": TEST}
    return coco[file.split.name] if file.data is catalog.COCO else VG if file.data is catalog.VG else GQA


def annotate(data: Path) -> None:
    """What make download-annotations fetches, and what VL-T5's authors give besides."""

    def put(path: str, content: object) -> None:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_text(json.dumps(content))

    def of(*ids: str) -> list[dict[str, str]]:
        return [{"img_id": image_id} for image_id in ids]

    for folder in ("vqa", "gqa"):
        put(f"data/{folder}/trainval_ans2label.json", {"yes": 0})
        put(f"data/{folder}/trainval_label2ans.json", ["yes"])
    put("data/lxmert/all_ans.json", [{"ans": "yes", "dsets": ["vqa"]}])
    for name, ids in (("train", TRAIN), ("nominival", VALID[:1]), ("minival", VALID[1:])):
        put(f"data/vqa/{name}.json", of(*ids))
        put(f"data/lxmert/mscoco_{name}.json", of(*ids))
    put("data/vqa/test.json", of(*TEST))
    put("data/lxmert/vgnococo.json", of(*VG))
    put("lxmert/mscoco_resplit_val.json", of(VALID[0]))
    for name, image_id in (("train", "1"), ("valid", "2"), ("submit", "2"), ("testdev", "n161313")):
        put(f"data/gqa/{name}.json", of(image_id))
    for name, stem in NLVR2.items():
        put(f"data/nlvr2/{name}.json", [{"img0": f"{stem}-img0", "img1": f"{stem}-img1"}])
    for name in ("objects", "attributes"):
        (data / f"{name}_vocab.txt").write_text("cup\ncat")


def cluster(folder: Path) -> None:
    """What make kmeans leaves, under the published names."""
    folder.mkdir(parents=True)
    np.save(folder / f"maskrcnn_mscoco_train_centroids{readers.VOCABULARY}.npy", np.ones((3, DIM), np.float32))
    for target, ids in (("mscoco_train", TRAIN), ("mscoco_valid", VALID), ("vg", VG)):
        path = folder / f"maskrcnn_mscoco_train_{target}_img_id_to_cluster_id_{readers.VOCABULARY}.pkl"
        path.write_bytes(pickle.dumps(dict.fromkeys(ids, np.zeros(64, np.int64))))


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("made") / "datasets"
    for file in catalog.feature_files():
        write(file.path(data), images_of(file), kind=file.spec.name)
    annotate(data)
    cluster(data / "cluster_centroids")
    for folder, ids in (("train2014", TRAIN), ("val2014", VALID)):
        (data / "COCO/images" / folder).mkdir(parents=True)
        for image_id in ids:
            (data / "COCO/images" / folder / f"{image_id}.jpg").touch()
    (data / "x-lxmert").mkdir()
    (data / "x-lxmert/Epoch20_LXRT.pth").write_bytes(b"PK\3\4weights")
    (data / "x-lxmert/G_60.pth").write_bytes(b"PK\3\4generator")
    return data


@pytest.fixture
def data(laid_out: Path, tmp_path: Path) -> Path:
    """All that this kit and its downloads leave, of a few images."""
    shutil.copytree(laid_out, tmp_path / "datasets", symlinks=True)
    return tmp_path / "datasets"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Of x-lxmert and VL-T5 alike."""
    for folder in ("x-lxmert/src", "image_generator/src", "VL-T5/src"):
        (tmp_path / "checkout" / folder).mkdir(parents=True)
    (tmp_path / "checkout/image_generator/src/trainer.py").write_text("pass")
    (tmp_path / "checkout/x-lxmert/example_sentences.txt").write_text("a cup")
    return tmp_path / "checkout"


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> tuple[int, str]:
        code = xlxmert.main([str(word) for word in words])
        return code, capsys.readouterr().out

    return run


def tree(folder: Path) -> dict[str, object]:
    """Everything that a run could change: names, kinds, where links lead, sizes, times."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else (stat.st_size, stat.st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        for stat in [path.lstat()]
        if path.is_symlink() or not path.is_dir()
    }


def line(output: str, path: str) -> str:
    (found,) = [line for line in output.splitlines() if path in line.split()]
    return found


def paths(output: str, state: str) -> set[str]:
    """The paths of this state, read from the table."""
    listed = [row.path for reader in xlxmert.READERS.values() for row in reader.rows]
    rows = [row.split() for row in output.splitlines() if row.startswith(f"{state} ")]
    return {next(word for word in row if word.removeprefix("READER/") in listed) for row in rows}


# --- the programs read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grid", "boxes"])
def test_every_reader_of_x_lxmert_finds_what_it_opens(data: Path, checkout: Path, run: Run, kind: str) -> None:
    code, output = run("--datasets", data, "--checkout", checkout)
    assert code == 0, output
    assert "missing" not in output
    for read in (readers.vqa, readers.gqa, readers.nlvr2, readers.pretraining):
        read(data, kind, DIM)
    readers.generator(data, checkout)
    readers.sampler(data, checkout)


def test_without_it_three_readers_stop_and_the_others_read(data: Path) -> None:
    for kind in ("grid", "boxes"):
        readers.vqa(data, kind, DIM)
    readers.pretraining(data, "boxes", DIM)
    readers.nlvr2(data, "boxes", DIM)
    with pytest.raises(AssertionError):
        readers.nlvr2(data, "grid", DIM)
    with pytest.raises(FileNotFoundError):
        readers.gqa(data, "grid", DIM)
    with pytest.raises(FileNotFoundError):
        readers.pretraining(data, "grid", DIM)


def test_vl_t5_finds_its_names_and_boxes_inside_the_image(data: Path, checkout: Path, run: Run) -> None:
    code, output = run("--datasets", data, "--checkout", checkout, "--for", "vl-t5")
    assert code == 1, "what its authors alone give is missing"
    left = {part.split()[-1] for part in output.splitlines() if part.startswith("missing")}
    assert left == {"Drive", "https://visualqa.org/download.html"}
    for program in readers.VL_T5:
        readers.vl_t5(checkout, DIM, program)
    with pytest.raises(AssertionError), h5py.File(data / "COCO/features/maskrcnn_train_boxes36.h5") as file:
        readers.boxes(Path(file.filename), TRAIN[0], DIM, inside=True)


def test_every_feature_file_is_in_the_table() -> None:
    """NLVR2's grids under the name of an earlier version."""
    listed = {row.path.replace("_v4_", "_") for row in X_LXMERT.rows}
    assert {str(file.path(Path())) for file in catalog.feature_files()} <= listed


# --- what is changed and what is not -----------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["x-lxmert", "vl-t5"])
def test_an_empty_folder_stays_empty(tmp_path: Path, run: Run, reader: str) -> None:
    code, output = run("--datasets", tmp_path, "--for", reader)
    assert code == 1
    assert not list(tmp_path.iterdir())
    rows = output.split("\n\n")[0].splitlines()[2:]
    assert len(rows) > 20
    assert all(row.startswith("missing ") for row in rows)
    assert "make download-annotations" in output


@pytest.mark.parametrize("reader", ["x-lxmert", "vl-t5"])
def test_a_second_run_changes_nothing_and_check_never_does(
    data: Path, checkout: Path, tmp_path: Path, run: Run, reader: str
) -> None:
    words = ("--datasets", data, "--checkout", checkout, "--for", reader)
    before = tree(tmp_path)
    code, looked = run(*words, "--check")
    assert code == 1
    assert tree(tmp_path) == before
    _, made = run(*words)
    after = tree(tmp_path)
    promised, now_there = paths(looked, "to make"), paths(made, "made now")
    assert len(now_there) > 5
    assert now_there <= promised <= now_there | paths(made, "there"), "some by the link of their folder"
    _, again = run(*words)
    assert "made now" not in again
    assert tree(tmp_path) == after
    assert set(before) <= set(after)
    assert all(after[name] == before[name] for name in before)


def test_files_of_the_user_stay(data: Path, run: Run) -> None:
    own = {
        "COCO/mscoco_train.json": b"[]",
        "nlvr2/features/maskrcnn_train_v4_grid8.h5": b"\x89HDF of another kind",
        "ddata/gqa/train.json": b"[1]",
        "COCO/features/train2014_obj36.h5": b"\x89HDF of LXMERT",
        "vqa/train.json": b"[2]",
    }
    for name, content in own.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
    _, output = run("--datasets", data)
    assert "not of the same size as data/lxmert/mscoco_train.json" in line(output, "COCO/mscoco_train.json")
    run("--datasets", data, "--for", "vl-t5")
    assert all((data / name).read_bytes() == content for name, content in own.items())


def test_a_link_that_leads_nowhere_is_mended_or_left(data: Path, run: Run) -> None:
    there, gone = data / "nlvr2/features/maskrcnn_train_v4_grid8.h5", data / "nlvr2/features/maskrcnn_test_v4_grid8.h5"
    there.symlink_to("moved.h5")
    gone.symlink_to("moved.h5")
    (data / "nlvr2/features/maskrcnn_test_grid8.h5").unlink()
    _, output = run("--datasets", data)
    assert os.readlink(there) == "maskrcnn_train_grid8.h5"
    assert os.readlink(gone) == "moved.h5"
    said = line(output, "nlvr2/features/maskrcnn_test_v4_grid8.h5")
    assert said.startswith("missing")
    assert "make extract-nlvr2-test-grid (now a link to moved.h5, which is not there)" in said


def test_links_hold_where_a_data_set_lies_elsewhere(data: Path, tmp_path: Path, run: Run) -> None:
    """VG is a link to another disk: ``..`` counts from there."""
    (tmp_path / "disk").mkdir()
    (data / "VG").rename(tmp_path / "disk/genome")
    (data / "VG").symlink_to(tmp_path / "disk/genome")
    run("--datasets", data, "--for", "vl-t5")
    assert (data / "VG/objects_vocab.txt").read_text() == "cup\ncat"
    assert (tmp_path / "disk/genome/objects_vocab.txt").samefile(data / "objects_vocab.txt")


def test_words_are_found_in_both_folders_whichever_holds_them(data: Path, run: Run) -> None:
    (data / "cluster_centroids").rename(data / "clustering")
    run("--datasets", data)
    assert os.readlink(data / "cluster_centroids") == "clustering"
    # both folders are the user's own, with half of the files each
    (data / "cluster_centroids").unlink()
    (data / "cluster_centroids").mkdir()
    name = f"maskrcnn_mscoco_train_vg_img_id_to_cluster_id_{readers.VOCABULARY}.pkl"
    (data / "clustering" / name).rename(data / "cluster_centroids" / name)
    run("--datasets", data)
    readers.pretraining(data, "grid", DIM)
    centroids = f"maskrcnn_mscoco_train_centroids{readers.VOCABULARY}.npy"
    assert (data / "cluster_centroids" / centroids).samefile(data / "clustering" / centroids)


def test_a_folder_in_the_way_is_told(data: Path, run: Run) -> None:
    (data / "COCO/mscoco_train.json").mkdir()
    (data / "data/vqa/test.json").write_bytes(b"")
    code, output = run("--datasets", data)
    assert code == 1
    assert "a folder, expected a file" in line(output, "COCO/mscoco_train.json")
    assert "an empty file" in line(output, "data/vqa/test.json")


def test_what_cannot_be_made_does_not_keep_the_rest(data: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.symlink

    def no_links_there(target: str, path: str, *more: object, **named: object) -> None:
        if "v4" in str(path):
            raise PermissionError(1, "Operation not permitted", str(path))
        real(target, path)

    monkeypatch.setattr(os, "symlink", no_links_there)
    code, output = run("--datasets", data)
    assert code == 1
    assert line(output, "nlvr2/features/maskrcnn_valid_v4_grid8.h5").startswith("failed")
    assert "Operation not permitted" in output
    assert (data / "ddata").is_symlink()


KILLED = """
import os, shutil, signal, sys
import feature_extraction.storage.derive as derive
from scripts.xlxmert.__main__ import main
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def half(source, target, *_):
    target.write(source.read()[:9]); target.flush(); die()
shutil.copyfileobj = half
derive.read_back = die
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("reader", "path"), [("x-lxmert", "COCO/mscoco_train.json"), ("vl-t5", "COCO/features/train2014_obj36.h5")]
)
def test_killed_in_the_middle_no_half_file_is_left_and_the_next_run_ends_it(
    data: Path, run: Run, reader: str, path: str
) -> None:
    words = ["--datasets", str(data), "--for", reader]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not (data / path).exists()
    assert list(data.rglob(".*.making"))
    run(*words)
    assert (data / path).is_file()
    assert not list(data.rglob(".*.making"))


def test_interrupted_it_says_so_in_one_line(data: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(xlxmert, "put", interrupted)
    code, output = run("--datasets", data)
    assert code == 130
    assert output.splitlines() == ["stopped: what has its name is whole; the same command goes on from here"]


# --- the checkout and the words after the command ------------------------------------------------------------


def test_the_checkout_around_the_data_is_found(data: Path, checkout: Path, run: Run) -> None:
    data.rename(checkout / "datasets")
    code, output = run("--datasets", checkout / "datasets")
    assert code == 0, output
    assert line(output, "READER/datasets").startswith("there")
    assert os.readlink(checkout / "image_generator/snap/pretrained/G_60.pth") == "../../../datasets/x-lxmert/G_60.pth"


def test_another_folder_in_the_checkout_stays(data: Path, checkout: Path, run: Run) -> None:
    (checkout / "datasets").mkdir()
    code, output = run("--datasets", data, "--checkout", checkout)
    assert code == 1
    assert "another folder than the data" in line(output, "READER/datasets")
    assert not list((checkout / "datasets").iterdir())


def test_without_a_checkout_its_paths_are_asked_for(data: Path, run: Run) -> None:
    code, output = run("--datasets", data)
    assert code == 1
    assert line(output, "READER/image_generator/snap/pretrained/G_60.pth").endswith("say where it is: READER=folder")
    assert run("--datasets", data, "--only", "vqa-grid,nlvr2-grid")[0] == 0, "these need none"


@pytest.mark.parametrize(
    ("words", "reads"),
    [
        (["--checkout", "."], "no checkout of x-lxmert: it has no x-lxmert/src"),
        (["--only", "vqa"], "no program 'vqa'; known: vqa-grid, pretraining-grid"),
        (["--for", "vlt5"], "did you mean 'vl-t5'"),
        (["--datasets", __file__], "test_xlxmert.py is no folder"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, words: list[str], reads: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        xlxmert.main(["--datasets", str(tmp_path), *words])
    assert ended.value.code == 2
    assert reads in capsys.readouterr().err


# --- box files ------------------------------------------------------------------------------------------------


def test_only_what_reaches_beyond_the_image_is_clipped(data: Path, run: Run) -> None:
    run("--datasets", data, "--for", "vl-t5")
    made, source = data / "COCO/features/val2014_obj36.h5", data / "COCO/features/maskrcnn_valid_boxes36.h5"
    with h5py.File(made) as new, h5py.File(source) as old:
        assert list(new) == list(old)
        for image_id in new:
            for name in ("features", "obj_id", "img_w", "img_h"):
                np.testing.assert_array_equal(new[image_id][name][()], old[image_id][name][()])
            before, after = old[image_id]["boxes"][()], new[image_id]["boxes"][()]
            assert before[7].tolist() == [10, 20, 69, 49]
            assert after[7].tolist() == [10, 20, 59, 39]
            others = [n for n in range(36) if n != 7]
            np.testing.assert_array_equal(after[others], before[others])
        assert new.attrs[CLIPPED]
        assert new.attrs["checkpoint_sha256"] == "abc"
    assert [found.text for found in check_file(made, expected_ids=VALID) if found.level == "error"] == []


@given(
    boxes=arrays.arrays(np.float32, (5, 4), elements=st.floats(-100, 2000, width=32)),
    width=st.integers(1, 1500),
    height=st.integers(1, 1500),
)
def test_clipped_boxes_lie_inside_and_those_inside_stay(boxes: Any, width: int, height: int) -> None:
    found = clipped({"boxes": boxes, "img_w": np.array(width), "img_h": np.array(height)}, "x")["boxes"]
    limits = np.array([width - 1, height - 1] * 2)
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert (found <= limits).all()
    inside = (boxes >= 0) & (boxes <= limits)
    np.testing.assert_array_equal(found[inside], boxes[inside])


def test_vg_and_gqa_are_put_together_and_test_images_picked(data: Path, run: Run) -> None:
    write(data / "GQA/features/maskrcnn_boxes36.h5", GQA, seed=50, dataset="gqa")
    write(data / "VG/features/maskrcnn_boxes36.h5", VG, seed=0, dataset="vg")
    run("--datasets", data, "--for", "vl-t5")
    with h5py.File(data / "VG/features/vg_gqa_obj36.h5") as file:
        assert list(file) == list(GQA)
        np.testing.assert_array_equal(file["1/features"][()], box_arrays(0)["features"], "Visual Genome's own")
        np.testing.assert_array_equal(file["n161313/features"][()], box_arrays(52)["features"])
        assert file.attrs["dataset"] == "vg + gqa"
    with h5py.File(data / "GQA/features/gqa_testdev_obj36.h5") as file:
        assert list(file) == ["n161313"]


def test_a_changed_source_is_clipped_anew_and_a_lost_one_is_not(data: Path, run: Run) -> None:
    made, source = data / "COCO/features/val2014_obj36.h5", data / "COCO/features/maskrcnn_valid_boxes36.h5"
    words = ("--datasets", data, "--for", "vl-t5", "--only", "vqa")
    run(*words)
    write(source, [*VALID, "COCO_val2014_000000000074"], seed=9)
    assert line(run(*words, "--check")[1], "COCO/features/val2014_obj36.h5").startswith("to make")
    earlier = made.read_bytes()
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], cwd=ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert made.read_bytes() == earlier
    run(*words)
    with h5py.File(made) as file:
        assert len(file) == 3
        assert json.loads(file.attrs["derived"])["by"] == "clip"
    before = made.read_bytes()
    source.unlink()
    assert line(run(*words)[1], "COCO/features/val2014_obj36.h5").startswith("there")
    assert made.read_bytes() == before


def _without_boxes(path: Path) -> None:
    path.write_bytes(b"")
    write_features(path, ((i, grid_arrays(1), None) for i in TRAIN), MADE_BY)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3000])


def _flipped(path: Path) -> None:
    """One byte of the features of an image is another one."""
    with h5py.File(path) as file:
        at = file[f"{TRAIN[0]}/features"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "reads"),
    [(_without_boxes, "has no boxes"), (_cut, "whole HDF5 file"), (_flipped, "checksum")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_of_a_bad_source_no_file_is_made(data: Path, run: Run, spoil: Callable[[Path], None], reads: str) -> None:
    spoil(data / "COCO/features/maskrcnn_train_boxes36.h5")
    code, output = run("--datasets", data, "--for", "vl-t5")
    assert code == 1
    failed = line(output, "COCO/features/train2014_obj36.h5")
    assert failed.startswith("failed")
    assert reads in failed
    assert not (data / "COCO/features/train2014_obj36.h5").exists()
    assert (data / "COCO/features/val2014_obj36.h5").is_file()
    assert not list(data.rglob(".*.making"))


@pytest.mark.parametrize("differs", [{"checkpoint_sha256": "other"}, {"synthetic_weights": True}, {"num_boxes": 100}])
def test_files_of_different_making_are_not_put_together(data: Path, run: Run, differs: dict[str, object]) -> None:
    write(data / "GQA/features/maskrcnn_boxes36.h5", GQA, **differs)
    _, output = run("--datasets", data, "--for", "vl-t5")
    assert f"were made differently ({next(iter(differs))})" in line(output, "VG/features/vg_gqa_obj36.h5")
    assert not (data / "VG/features/vg_gqa_obj36.h5").exists()


def test_a_list_that_names_no_image_of_the_file(data: Path, run: Run) -> None:
    (data / "data/gqa/testdev.json").write_text('[{"img_id": "n0"}]')
    assert "no image in them that GQA/testdev.json names" in run("--datasets", data, "--for", "vl-t5")[1]
    (data / "data/gqa/testdev.json").write_text('[{"question": 1}]')
    assert "GQA/testdev.json is no list of questions" in run("--datasets", data, "--for", "vl-t5")[1]


def test_published_files_which_say_nothing_of_their_making_are_clipped_too(data: Path, run: Run) -> None:
    path = data / "COCO/features/maskrcnn_test_boxes36.h5"
    path.unlink()
    with h5py.File(path, "w") as file:
        for name, array in box_arrays(3).items():
            file[f"{TEST[0]}/{name}"] = array
    run("--datasets", data, "--for", "vl-t5")
    readers.boxes(data / "COCO/features/test2015_obj36.h5", TEST[0], DIM, inside=True)


def test_an_image_without_a_size_is_refused() -> None:
    with pytest.raises(StoreError, match="not the image's size"):
        clipped({"boxes": np.zeros((1, 4), np.float32)}, "x")
