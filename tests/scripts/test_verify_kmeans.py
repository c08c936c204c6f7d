"""make verify-kmeans: what it says of two vocabularies, and what the report shows of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.album import CENTROIDS, make_album
from helpers.kmeans_cases import features, write_features
from helpers.pretrained import state, write
from numpy.typing import NDArray

from feature_extraction import recipe
from feature_extraction.errors import VocabularyError
from kmeans import Options, run
from kmeans.results import compared_of
from scripts import paper_vocabulary
from scripts.report.compared import Compared, comparison_of
from scripts.report.files import entries_in
from scripts.report.options import PageOptions
from scripts.report.page import page_of
from scripts.report.photographs import Photographs
from scripts.report.words import vocabularies_in
from scripts.verify_kmeans import __main__ as verify
from scripts.verify_kmeans import findings

DIM, K = 24, 16
NAME = f"maskrcnn_mscoco_train_centroids{K}_iter20_d{DIM}_grid8.npy"
SIZE = ["--n_centroids", str(K), "--feat_dim", str(DIM)]


def trained(datasets: Path, seed: int) -> NDArray[np.float32]:
    """Centroids of the published recipe with another seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "KMEANS_SEED", seed)
        run(Options(n_centroids=K, feat_dim=DIM, tgt=("mscoco_train",), datasets_dir=datasets, restart=True))
    return np.load(datasets / "cluster_centroids" / NAME)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[NDArray[np.float32]]]:
    """A data folder, and the centroids of two runs on it that differ in their seeds."""
    datasets = tmp_path_factory.mktemp("runs") / "datasets"
    values = features(40, 8, DIM, seed=4)
    write_features(datasets / "COCO/features/maskrcnn_train_grid8.h5", values)
    return datasets, [trained(datasets, 1), trained(datasets, recipe.KMEANS_SEED)]


def compare(datasets: Path, ours: Any, theirs: Any, *flags: object) -> tuple[int, dict[str, Any]]:
    """Exit code and document of a comparison of two arrays."""
    paths = []
    for name, array in (("ours", ours), ("theirs", theirs)):
        paths.append(datasets.parent / f"{name}.npy")
        np.save(paths[-1], array)
    words = ["--ours", paths[0], "--theirs", paths[1], "--datasets_dir", datasets, *flags]
    code = verify.main(list(map(str, words)))
    found: dict[str, Any] = json.loads(compared_of(paths[0]).read_text())
    return code, found


def test_two_runs_of_different_seeds(
    runs: tuple[Path, list[NDArray[np.float32]]], capsys: pytest.CaptureFixture[str]
) -> None:
    datasets, (first, second) = runs
    assert not np.array_equal(first, second)
    code, found = compare(datasets, first, second, "--objective", 0.03)
    assert found["matched"] == K
    assert found["rows"]["rows"] == 40 * 64
    assert 0.1 < found["share"] < 0.9
    assert abs(found["excess"]) < 0.03
    assert found["least_mean_distance"] <= found["mean_distance"]
    assert sorted(found["partner"]) == list(range(K))
    assert sum(found["common"]) == round(found["share"] * found["rows"]["rows"])
    worst = found["farthest"][0]
    assert worst["distance"] == max(found["distance"])
    assert found["partner"][worst["ours"]["word"]] == worst["theirs"]["word"]
    assert len(worst["ours"]["cells"]) == min(12, worst["ours"]["rows"])
    assert code == 0
    said = capsys.readouterr().out
    assert f"{found['share']:.2%} of 2,560 rows, 40 images of mscoco_train" in said
    # seen from the other side it is the same
    _, back = compare(datasets, second, first)
    assert back["share"] == found["share"]
    assert back["mean_distance"] == pytest.approx(found["mean_distance"], rel=1e-6)


def test_a_permuted_copy_is_found_exactly(
    runs: tuple[Path, list[NDArray[np.float32]]], capsys: pytest.CaptureFixture[str]
) -> None:
    datasets, (first, _) = runs
    order = np.random.default_rng(0).permutation(K)
    code, found = compare(datasets, first, first[order])
    assert code == 0
    assert found["share"] == 1
    assert found["mean_distance"] == 0
    assert order[found["partner"]].tolist() == list(range(K))
    assert "the same vocabulary, but under other numbers" in capsys.readouterr().out


def one_far(words: NDArray[np.float32]) -> NDArray[np.float32]:
    words = words.copy()
    words[5] += 9
    return words


CASES: dict[str, tuple[Any, list[str], int, str]] = {
    "itself": (lambda w: w, [], 0, "ok: the same vocabulary"),
    "rounding": (lambda w: w * np.float32(1 + 1e-6), [], 0, "the same vocabulary but for rounding"),
    "theirs lacks a word": (lambda w: w[:-1], ["--objective", "1"], 0, "without a partner        1 of ours"),
    "ours is worse": (lambda w: w * np.float32(1.3), [], 1, "DIFFERENT: theirs describes these rows worse"),
    "a share is asked for": (one_far, ["--objective", "1", "--share", "0.999"], 1, "DIFFERENT: other words"),
    "of few images": (lambda w: w, ["--sample", "3"], 0, "100.00% of 192 rows, 3 images"),
    "of all images": (lambda w: w, ["--sample", "0"], 0, "100.00% of 2,560 rows, 40 images"),
}


@pytest.mark.parametrize("case", CASES)
def test_verdicts(runs: tuple[Path, list[NDArray[np.float32]]], case: str, capsys: pytest.CaptureFixture[str]) -> None:
    datasets, (_, words) = runs
    change, flags, expected, said = CASES[case]
    code, found = compare(datasets, words, change(words), *flags)
    assert said in capsys.readouterr().out
    assert code == expected
    assert found["as_near_as_asked"] is (code == 0)


def test_the_paper_s_against_ours_wherever_they_are(
    runs: tuple[Path, list[NDArray[np.float32]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and centroids are found without a word; also when the paper's have taken the name and ours are former."""
    (made, (paper, ours)), datasets = runs, tmp_path / "datasets"
    shutil.copytree(made / "COCO", datasets / "COCO")
    trained(datasets, recipe.KMEANS_SEED)
    folder = datasets / "cluster_centroids"
    write(datasets / "x-lxmert/Epoch20_LXRT.pth", state(paper))
    flags = ["--datasets_dir", str(datasets), "--ours", str(folder / NAME), "--objective", "1"]
    assert verify.main(flags) == 0
    found = json.loads((folder / f"{NAME}.compared.json").read_text())
    assert found["theirs"]["origin"]["tensor"] == "module.vis_emb.weight"
    assert len(found["theirs"]["origin"]["sha256"]) == 64
    assert paper_vocabulary.main(["--datasets_dir", str(datasets), *SIZE, "--force"]) == 0
    former = verify.own_centroids(folder / NAME)
    assert former.parent.name.startswith("former_")
    assert np.array_equal(np.load(former), ours)
    assert compared_of(former).exists()
    assert not compared_of(folder / NAME).exists()
    second = folder / "former_00000000" / NAME
    second.parent.mkdir()
    np.save(second, paper)
    with pytest.raises(VocabularyError, match="--ours names your own"):
        verify.own_centroids(folder / NAME)


WRONG: dict[str, tuple[list[str], str]] = {
    "no features": (["--rows", "vg"], "maskrcnn_grid8.h5 does not exist"),
    "an unknown name": (["--rows", "mscoco_trian"], "did you mean 'mscoco_train'"),
    "no such file": (["--theirs", "nowhere.npy"], "nowhere.npy does not exist"),
    "no weights": (["--theirs", "nowhere.pth"], "nowhere.pth does not exist: make download-pretrained"),
    "another dimension": (["--theirs", "DIM"], "has words of 7 numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_one_line(
    runs: tuple[Path, list[NDArray[np.float32]]], case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets, (first, _) = runs
    np.save(tmp_path / "ours.npy", first)
    np.save(tmp_path / "seven.npy", first[:, :7])
    flags, said = WRONG[case]
    flags = [str(tmp_path / "seven.npy") if flag == "DIM" else flag for flag in flags]
    words = [
        "--datasets_dir",
        str(datasets),
        "--ours",
        str(tmp_path / "ours.npy"),
        "--theirs",
        str(tmp_path / "ours.npy"),
    ]
    assert verify.main([*words, *flags]) == (2 if case == "an unknown name" else 1)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("flags", [["--sample", "-1"], ["--share", "2"], ["--objective", "nan"], ["--sampel", "3"]])
def test_usage(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        verify.main(flags)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# --- in the report -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_album(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Photographs with a vocabulary of 12 words that was compared with one of 10; the data folder and the document."""
    datasets = make_album(tmp_path_factory.mktemp("album") / "datasets")
    ours = datasets / "cluster_centroids" / CENTROIDS
    theirs = np.delete(np.load(ours), [2, 7], 0)
    theirs[4] += 1
    np.save(datasets.parent / "theirs.npy", theirs)
    words = ["--ours", ours, "--theirs", datasets.parent / "theirs.npy", "--rows", "mscoco_valid"]
    verify.main(["--datasets_dir", str(datasets), *map(str, words)])
    return datasets, compared_of(ours)


@pytest.fixture
def album(whole_album: tuple[Path, Path]) -> Iterator[tuple[Path, Path]]:
    """The same; the document may be changed."""
    datasets, path = whole_album
    before = path.read_text()
    yield datasets, path
    path.write_text(before)


def in_report(datasets: Path) -> tuple[Compared | None, list[str]]:
    """What the report would show, and its remarks."""
    entries = entries_in(datasets)
    (vocabulary, *_), _ = vocabularies_in(datasets, entries)
    files = {e.label: e for e in entries if e.whole and e.spec == "grid"}
    return comparison_of(vocabulary, files, Photographs(datasets)), vocabulary.remarks


def test_the_page_shows_the_words_that_differ_most(album: tuple[Path, Path]) -> None:
    datasets, path = album
    stats = datasets / "cluster_centroids" / f"{CENTROIDS}.stats.json"
    origin = {"file": "/x/Epoch20_LXRT.pth", "sha256": "ab" * 32, "tensor": "module.vis_emb.weight"}
    stats.write_text(json.dumps({"origin": origin, "targets": {}}))
    found = json.loads(path.read_text())
    strange = ["<script>alert(1)</script>\x1b[2J", 1, 0.5]
    found["alone_ours"]["largest"][1]["cells"] += [strange, ["COCO_val2014_000000000001", 10**9, 0.5]]
    path.write_text(json.dumps(found))
    page = page_of(PageOptions(datasets=datasets))
    assert "Not trained here" in page
    assert "ab" * 32 in page
    text = re.search(r'<h3 id="compared">.*?</section>', page, re.S)[0]
    assert found["verdict"] in text
    pair = found["farthest"][0]
    assert "The pair that is farthest apart" in text
    assert f"{pair['ours']['word']} and {pair['theirs']['word']}" in text
    assert "2 of ours without a partner" in text
    cells = sum(len(word["cells"]) for word in (pair["ours"], pair["theirs"], *found["alone_ours"]["largest"]))
    assert text.count("<use ") == cells - 2 > 12
    assert text.count("no photograph") == 2
    assert "<script>" not in text
    assert "\x1b" not in text


def test_of_a_document_about_other_centroids_only_this_is_told(album: tuple[Path, Path]) -> None:
    datasets, path = album
    document = json.loads(path.read_text())
    document["ours"]["centroids_sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    found, remarks = in_report(datasets)
    assert found is None
    assert remarks == [f"{path.name} is about other centroids: run make verify-kmeans again"]


def test_without_a_document_there_is_nothing(album: tuple[Path, Path]) -> None:
    datasets, path = album
    path.unlink()
    assert in_report(datasets) == (None, [])


def test_the_document_is_found_where_the_paper_s_have_the_name(album: tuple[Path, Path]) -> None:
    """It went with our own centroids to the former ones."""
    datasets, path = album
    document = json.loads(path.read_text())
    document["ours"], document["theirs"] = dict(document["theirs"]), dict(document["ours"], origin={})
    aside = path.parent / "former_12345678" / path.name
    aside.parent.mkdir()
    aside.write_text(json.dumps(document))
    path.unlink()
    found, _ = in_report(datasets)
    assert found is not None
    assert found.names == {"ours": "theirs.npy", "theirs": CENTROIDS}
    aside.unlink()


def damage(document: dict[str, Any], *keys: Any, to: object) -> None:
    for key in keys[:-1]:
        document = document[key]
    document[keys[-1]] = to


DAMAGED: dict[str, tuple[tuple[Any, ...], object]] = {
    "a number is text": (("share",), "1"),
    "a number is a truth value": (("farthest", 0, "ours", "word"), True),
    "another schema": (("schema",), 2),
    "no cells": (("farthest", 0, "ours", "cells"), None),
    "a cell of text": (("farthest", 0, "ours", "cells"), [["a", "b", 1.0]]),
    "a cell of four": (("farthest", 0, "ours", "cells"), [["a", 1, 1.0, 1]]),
    "a list is a number": (("alone_ours",), 3),
    "no origin": (("theirs",), {}),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_of_a_damaged_document_only_this_is_told(album: tuple[Path, Path], case: str) -> None:
    datasets, path = album
    document = json.loads(path.read_text())
    keys, value = DAMAGED[case]
    damage(document, *keys, to=value)
    path.write_text(json.dumps(document))
    found, remarks = in_report(datasets)
    assert found is None
    assert "is not what make verify-kmeans writes" in remarks[0]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 5000, b'{"schema": 1}'])
def test_a_document_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(VocabularyError, match="is not what make verify-kmeans writes"):
        findings.load(tmp_path / "x.json")
