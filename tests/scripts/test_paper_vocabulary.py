"""make paper-vocabulary: the paper's centroids out of weights that nobody trusts, and one's own vocabulary kept."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.common import DATA, ROOT
from helpers.pretrained import state, write
from numpy.typing import NDArray

from feature_extraction.errors import CheckpointError
from kmeans import Options, load_vocabulary, run
from kmeans.results import digest
from scripts import paper_vocabulary
from scripts.paper_vocabulary import centroids_in

GOLDEN = DATA / "kmeans"
NAME = "maskrcnn_mscoco_train_centroids8_iter20_d64_grid8.npy"
PAPER: NDArray[np.float32] = np.load(GOLDEN / "cluster_centroids" / NAME)
SHAPE = PAPER.shape


@pytest.fixture
def datasets(tmp_path: Path) -> Path:
    """The golden features, and weights where make download-pretrained puts them."""
    folder = tmp_path / "datasets"
    for name in ("COCO", "VG"):
        shutil.copytree(GOLDEN / name, folder / name)
    write(folder / "x-lxmert/Epoch20_LXRT.pth", state(PAPER))
    return folder


def paper(datasets: Path, *flags: object) -> int:
    size = ["--n_centroids", str(SHAPE[0]), "--feat_dim", str(SHAPE[1])]
    return paper_vocabulary.main(["--datasets_dir", str(datasets), *size, *map(str, flags)])


def vocabulary(datasets: Path) -> Path:
    return datasets / "cluster_centroids" / NAME


def own(datasets: Path, seed: int = 0) -> NDArray[np.float32]:
    """One's own vocabulary of the published name, with its words of one target; its centroids."""
    path = vocabulary(datasets)
    path.parent.mkdir(exist_ok=True)
    np.save(path, PAPER + np.random.default_rng(seed).random(SHAPE, np.float32))
    run(Options(n_centroids=8, feat_dim=64, tgt=("vg",), assign_only=True, datasets_dir=datasets))
    return np.load(path)


# --- finding the tensor --------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("prefix", ["module.", "", "bert.", "module.model."])
def test_it_is_found_under_any_prefix(tmp_path: Path, prefix: str, legacy: bool) -> None:
    path = write(tmp_path / "w.pth", state(PAPER, prefix), legacy)
    found, name = centroids_in(path, SHAPE)
    assert name == f"{prefix}vis_emb.weight"
    assert found.dtype == np.float32
    assert np.array_equal(found, PAPER)


@pytest.mark.parametrize("wrap", [lambda s: {"model": s, "epoch": 20}, lambda s: {"a": {"state_dict": s}, "args": "x"}])
def test_it_is_found_inside_other_dictionaries(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    found, _ = centroids_in(write(tmp_path / "w.pth", wrap(state(PAPER))), SHAPE)
    assert np.array_equal(found, PAPER)


def test_the_published_size(tmp_path: Path) -> None:
    """10,000 words of 2,048 numbers, of any layout in memory."""
    words = np.random.default_rng(0).random((2048, 10_000), np.float32)
    path = write(tmp_path / "w.pth", {"module.vis_emb.weight": torch.from_numpy(words).T, "other": torch.zeros(3, 4)})
    found, _ = centroids_in(path, (10_000, 2048))
    assert found.flags.c_contiguous
    assert np.array_equal(found, words.T)


def test_without_the_name_the_only_one_of_that_shape_is_taken(tmp_path: Path) -> None:
    document = state(PAPER)
    del document["module.vis_emb.weight"]
    _, name = centroids_in(write(tmp_path / "w.pth", document), SHAPE)
    assert name == "module.obj_predict_head.out_cluster.weight"


def changed(**changes: object) -> dict[str, Any]:
    """Weights with other entries under these names, dots for underscores doubled; None: without."""
    document: dict[str, Any] = dict(state(PAPER))
    for name, value in changes.items():
        document[name.replace("__", ".")] = value
    return {name: value for name, value in document.items() if value is not None}


WORDS = torch.from_numpy(PAPER)
NAN = WORDS.clone()
NAN[3, 5] = float("nan")
GONE = {"module__vis_emb__weight": None, "module__obj_predict_head__out_cluster__weight": None}
WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "not there": (changed(**GONE), ["neither vis_emb.weight [8, 64]", "decoder.weight [99, 12]", "download"]),
    "no matrix at all": ({"a": torch.zeros(3)}, ["it holds 1 tensors, none of two dimensions"]),
    "nothing at all": ({}, ["it holds 0 tensors"]),
    "no dictionary": ([1, 2], ["it holds 0 tensors"]),
    "two of the name": (changed(other__vis_emb__weight=WORDS + 1),
                        ["module.vis_emb.weight [8, 64], other.vis_emb.weight [8, 64]; --tensor NAME chooses"]),
    "two of the shape": (changed(module__vis_emb__weight=None, b=WORDS + 1), ["out_cluster.weight [8, 64], b [8, 64]"]),
    "another size": (changed(module__vis_emb__weight=torch.zeros(5, 64)),
                     ["module.vis_emb.weight [5, 64], expected [8, 64]"]),
    "one dimension": (changed(module__vis_emb__weight=torch.zeros(8 * 64)), ["weight [512], expected [8, 64]"]),
    "half precision": (changed(module__vis_emb__weight=WORDS.half()), ["of float16, expected float32"]),
    "NaN": (changed(module__vis_emb__weight=NAN), ["holds NaN or infinity"]),
    "infinity": (changed(module__vis_emb__weight=NAN.nan_to_num(float("inf"))), ["holds NaN or infinity"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, case: str) -> None:
    document, expected = WRONG[case]
    with pytest.raises(CheckpointError) as caught:
        centroids_in(write(tmp_path / "w.pth", document), SHAPE)
    for part in expected:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_of_two_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", changed(other__vis_emb__weight=WORDS + 1))
    found, _ = centroids_in(path, SHAPE, "other.vis_emb.weight")
    assert np.array_equal(found, PAPER + 1)
    with pytest.raises(CheckpointError, match=r"no tensor vis_emb.weight; of two dimensions it holds .*other.vis_emb"):
        centroids_in(path, SHAPE, "vis_emb.weight")


def test_names_from_the_file_move_nothing_on_a_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", {"\x1b[2J\u202evis_emb": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError) as caught:
        centroids_in(path, SHAPE)
    assert str(caught.value).isprintable()


def test_dictionaries_that_hold_themselves_end(tmp_path: Path) -> None:
    document: dict[str, Any] = dict(state(PAPER))
    document["self"] = document
    found, _ = centroids_in(write(tmp_path / "w.pth", document), SHAPE)
    assert np.array_equal(found, PAPER)


class Command:
    """What a pickle may call when it is loaded by anyone else."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def damaged(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 64)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a command": lambda p: p.write_bytes(pickle.dumps({"module.vis_emb.weight": Command()})),
    "a command in an archive": lambda p: write(p, {**state(PAPER), "x": Command()}),
    "a command before 1.6": lambda p: write(p, {**state(PAPER), "x": Command()}, legacy=True),
    "cut": lambda p: cut(write(p, state(PAPER))),
    "cut, before 1.6": lambda p: cut(write(p, state(PAPER), legacy=True)),
    "bytes changed": lambda p: damaged(write(p, state(PAPER))),
    "an error page": lambda p: p.write_text("<html>404</html>"),
    "empty": Path.touch,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_weights_are_refused_and_nothing_is_executed(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    HOSTILE[case](tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="make download-pretrained"):
        centroids_in(tmp_path / "w.pth", SHAPE)
    assert not (tmp_path / "executed").exists()


def test_weights_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert paper(tmp_path) == 1
    assert "Epoch20_LXRT.pth does not exist: make download-pretrained" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- the command -----------------------------------------------------------------------------------------------


def test_everything_that_x_lxmert_reads_is_there(datasets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published script's own results with the same centroids, in both folders."""
    assert paper(datasets, "--tgt", "mscoco_train", "mscoco", "valid", "vg") == 0
    capsys.readouterr()
    for folder in ("cluster_centroids", "clustering"):
        for path in (GOLDEN / "cluster_centroids").glob("*8_iter20*.npy"):
            assert np.array_equal(np.load(datasets / folder / path.name), np.load(path)), path.name
        assert len(list((datasets / folder).glob("*.pkl"))) == 3
    found = load_vocabulary(vocabulary(datasets))
    assert sorted(found.images) == ["mscoco_train", "mscoco_valid", "vg"]
    assert found.nearest_cells(0)
    stats = json.loads(Path(f"{vocabulary(datasets)}.stats.json").read_text())
    weights = datasets / "x-lxmert/Epoch20_LXRT.pth"
    assert stats["origin"] == {
        "file": str(weights), "tensor": "module.vis_emb.weight",
        "sha256": subprocess.run(["sha256sum", weights], capture_output=True, text=True, check=True).stdout[:64],
    }  # fmt: skip
    assert sorted(stats["targets"]) == ["mscoco_train", "mscoco_valid", "vg"]
    made = {path: path.stat().st_mtime_ns for path in (datasets / "cluster_centroids").iterdir()}
    assert paper(datasets, "--tgt", "mscoco_train", "mscoco_valid", "vg") == 0
    assert "assigned already" in capsys.readouterr().out
    assert made == {path: path.stat().st_mtime_ns for path in (datasets / "cluster_centroids").iterdir()}


def test_the_own_vocabulary_is_not_touched_unless_it_is_said(
    datasets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    centroids = own(datasets)
    before = {path: path.read_bytes() for path in (datasets / "cluster_centroids").iterdir()}
    assert paper(datasets, "--tgt", "vg") == 1
    said = capsys.readouterr().err
    assert f"former_{digest(centroids)[:8]}" in said
    assert "--force" in said
    assert "--output" in said
    assert before == {p: p.read_bytes() for p in (datasets / "cluster_centroids").iterdir() if p.is_file()}
    assert paper(datasets, "--tgt", "vg", "--force") == 0
    aside = datasets / "cluster_centroids" / f"former_{digest(centroids)[:8]}"
    assert "were moved to" in capsys.readouterr().err
    kept = load_vocabulary(aside / NAME)
    assert np.array_equal(kept.centroids, centroids)
    assert list(kept.images) == ["vg"]
    assert np.array_equal(load_vocabulary(vocabulary(datasets)).centroids, PAPER)
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == {p.name: c for p, c in before.items()}


def test_stopped_at_any_file_nothing_is_lost_and_the_same_command_goes_on(
    datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at the n-th rename, for every n."""
    rename = Path.replace
    centroids = own(datasets)
    for stop_at in range(100):
        count = 0

        def replace(path: Path, target: Path, stop_at: int = stop_at) -> Path:
            nonlocal count
            if count == stop_at:
                raise KeyboardInterrupt
            count += 1
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            code = paper(datasets, "--tgt", "vg", "--force")
        whole = [path for path in datasets.glob(f"cluster_centroids/**/{NAME}") if path.is_file()]
        assert any(np.array_equal(np.load(path), centroids) for path in whole), stop_at
        if code == 0:
            break
        assert code == 130
    assert stop_at > 5
    assert np.array_equal(load_vocabulary(vocabulary(datasets)).centroids, PAPER)
    kept = load_vocabulary(datasets / "cluster_centroids" / f"former_{digest(centroids)[:8]}" / NAME)
    assert np.array_equal(kept.centroids, centroids)
    assert list(kept.images) == ["vg"]


def test_an_unfinished_training_is_not_lost(datasets: Path) -> None:
    """Its checkpoint lies beside the centroids of the same name."""
    checkpoint = vocabulary(datasets).with_name(f"{NAME}.work") / "checkpoint.npz"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"nineteen iterations")
    assert paper(datasets, "--tgt", "vg") == 0
    assert checkpoint.read_bytes() == b"nineteen iterations"
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["checkpoint.npz", "lock"]


def test_a_vocabulary_of_the_other_folder_is_not_hidden(datasets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """clustering/ may be a folder of its own, with centroids that X-LXMERT's sampler reads."""
    other = datasets / "clustering" / NAME
    other.parent.mkdir()
    np.save(other, PAPER + 1)
    assert paper(datasets, "--tgt", "vg", "--force") == 1
    assert "move it away" in capsys.readouterr().err
    assert np.array_equal(np.load(other), PAPER + 1)


def test_targets_that_are_not_there_are_told_and_the_others_assigned(
    datasets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (datasets / "VG/features/maskrcnn_grid8.h5").unlink()
    assert paper(datasets, "--tgt", "vg", "mscoco_valid") == 3
    assert "vg is not assigned" in capsys.readouterr().err
    assert list(load_vocabulary(vocabulary(datasets)).images) == ["mscoco_valid"]


def test_a_name_that_nothing_has_is_refused_before_anything_is_written(
    datasets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paper(datasets, "--tgt", "mscoco_trian") == 2
    assert "did you mean 'mscoco_train'" in capsys.readouterr().err
    assert not (datasets / "cluster_centroids").exists()


def test_they_can_be_written_elsewhere(datasets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    centroids = own(datasets)
    other = datasets / "paper" / "words.npy"
    assert paper(datasets, "--output", other) == 0
    assert np.array_equal(load_vocabulary(other).centroids, PAPER)
    assert json.loads(Path(f"{other}.stats.json").read_text())["origin"]["tensor"] == "module.vis_emb.weight"
    assert np.array_equal(np.load(vocabulary(datasets)), centroids)
    np.save(other, centroids)
    assert paper(datasets, "--output", other) == 1
    assert np.array_equal(np.load(other), centroids)
    assert "give another --output" in capsys.readouterr().err


def test_taking_another_tensor_is_told(datasets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = state(PAPER)
    del document["module.vis_emb.weight"]
    write(datasets / "x-lxmert/Epoch20_LXRT.pth", document)
    assert paper(datasets, "--tgt", "vg") == 0
    assert "has no vis_emb.weight; taking module.obj_predict_head.out_cluster.weight" in capsys.readouterr().err


def test_killed_between_the_centroids_and_the_rest_it_goes_on(datasets: Path) -> None:
    vocabulary(datasets).parent.mkdir()
    np.save(vocabulary(datasets), PAPER)
    assert paper(datasets, "--tgt", "vg") == 0
    assert json.loads(Path(f"{vocabulary(datasets)}.stats.json").read_text())["origin"]
    assert list(load_vocabulary(vocabulary(datasets)).images) == ["vg"]


def test_help_needs_the_standard_library_only() -> None:
    code = (
        "import sys; from feature_extraction.commands import main\n"
        "for command in ('paper-vocabulary', 'verify-kmeans'):\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit as end: assert not end.code\n"
        "assert not {'numpy', 'torch', 'faiss', 'h5py'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--tensor" in done.stdout
