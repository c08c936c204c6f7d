"""The commands about finished files, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.exporting import COCO, coco_file, grid_arrays, stored, write_file

from feature_extraction import tools_cli
from feature_extraction.cli import TOOLS, main
from feature_extraction.exports import spec


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return coco_file(tmp_path / "coco.h5")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code, and all that was printed."""
    try:
        code = main(words)
    except SystemExit as stopped:
        code = int(str(stopped.code))
    return code, "".join(capsys.readouterr())


def test_export_says_what_was_written_and_what_is_to_be_known(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "export", "coco.h5", "--to", "lxmert-tsv", "out.tsv")
    assert code == 0
    assert "out.tsv: 5 images" in text
    assert "read back and equal" in text
    assert "attrs_id and attrs_conf are zeros" in text
    code, text = run(capsys, "export", "coco.h5", "--to", "lxmert-tsv", "out.tsv")
    assert (code, "was there already" in text) == (0, True)
    record = json.loads(Path("out.tsv.export.json").read_text())
    assert record["from"]["name"] == "coco.h5"
    assert record["made"]["checkpoint_sha256"] == "abc"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "coco.h5", "--to", "vilbert-nyp", "out"], "did you mean 'vilbert-npy'?"),
        (["export", "coco.h5", "--to", "fga-h5", "out"], "fga-h5 needs --split NAME"),
        (["export", "coco.h5", "--to", "npz", "--quirks", "objects", "out"], "npz has no quirk 'objects'"),
        (["split", "coco.h5", "parts"], "one of the arguments --parts --ids is required"),
        (["merge", "coco.h5", "out.h5"], "give at least two files"),
        (["repack", "coco.h5", "out.h5", "--gzip", "10"], "--gzip"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_2(
    words: list[str], said: str, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run(capsys, *words)
    assert code == 2
    assert said in text
    assert len(text.splitlines()) == 1


def test_what_cannot_be_written_is_one_line_and_1(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "export", "none.h5", "--to", "npz", "out")
    assert (code, text) == (1, "error: none.h5 does not exist: extract or download it first\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_nothing_of_the_file_is_left(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "many.h5", {str(n): grid_arrays(n) for n in range(70)})
    monkeypatch.setattr(tools_cli, "_tell", lambda done, total: os.kill(os.getpid(), number))
    code, text = run(capsys, "repack", str(tmp_path / "many.h5"), str(tmp_path / "out.h5"))
    assert code == 128 + number
    assert "stopped: nothing of the file is left" in text
    assert "Traceback" not in text
    assert os.listdir(tmp_path) == ["many.h5"]


def test_a_missing_library_is_named_with_its_cure(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    code, text = run(capsys, "export", "coco.h5", "--to", "vilbert-lmdb", "out")
    assert (code, text) == (1, "error: this format needs lmdb: pip install 'xlxmert-features[export]'\n")
    assert not Path("out").exists()


def test_info(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "info", "coco.h5")
    assert code == 0
    assert "coco.h5: 5 images" in text
    assert "features     float32  (3, 8)" in text
    assert "checkpoint_sha256 = abc" in text
    assert run(capsys, "info", "--ids", "coco.h5") == (0, "\n".join(COCO) + "\n")
    code, text = run(capsys, "info", "--json", "coco.h5")
    found = json.loads(text)
    assert (found["images"], found["arrays"]["boxes"]["shape"], found["checksums"]) == (5, [3, 4], True)


def test_info_tells_of_the_others_whatever_one_is(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("no.h5").write_bytes(b"\xff\x00 no HDF5")
    code, text = run(capsys, "info", "no.h5", "nowhere.h5", "coco.h5")
    assert code == 1
    assert "it begins with b'\\xff\\x00 no HDF5'" in text
    assert "nowhere.h5 does not exist" in text
    assert "coco.h5: 5 images" in text


def test_files_of_somebody_else_are_called_what_they_are(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File("other.h5", "w") as file:
        file["images"] = np.zeros((4, 3))
    Path("ids.txt").write_text(f"{COCO[0]}\n")
    assert "'images' is an array at the top of the file" in run(capsys, "check", "other.h5")[1]
    assert run(capsys, "assemble", "ids.txt")[1].startswith("error: ids.txt is not an HDF5 file")
    swapped = run(capsys, "subset", "ids.txt", "coco.h5", "out.h5")
    assert swapped == (2, "error: coco.h5, the list of ids, cannot be read: it is no text in UTF-8\n")
    nowhere = run(capsys, "subset", "coco.h5", "nowhere.txt", "out.h5")
    assert nowhere == (2, "error: nowhere.txt, the list of ids, cannot be read: No such file or directory\n")
    assert "cannot be written: File exists" in run(capsys, "split", "coco.h5", "ids.txt", "--parts", "2")[1]
    assert "'kind' is " in run(capsys, "merge", "coco.h5", "other.h5", "out.h5")[1]


def test_hostile_names_move_nothing_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_file(tmp_path / "a.h5", {"\x1b[2J": {}}, {"schema_version": 1, "note": "\x1b]0;x\x07"})
    for words in (["info", str(source)], ["info", "--json", str(source)]):
        code, text = run(capsys, *words)
        assert code == 0
        assert text.replace("\n", "").isprintable()


def test_lists_go_round(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """info --ids, split by lists, merge, repack, check, subset."""
    _, ids = run(capsys, "info", "--ids", "coco.h5")
    Path("first.txt").write_text("".join(ids.splitlines(keepends=True)[:2]))
    Path("rest.txt").write_text("".join(ids.splitlines(keepends=True)[2:4]))
    code, text = run(capsys, "split", "coco.h5", "parts", "--ids", "first.txt", "--ids", "rest.txt")
    assert (code, "1 images of coco.h5 stand in no list" in text) == (0, True)
    assert run(capsys, "merge", "parts/coco-first.h5", "parts/coco-rest.h5", "merged.h5")[0] == 0
    assert list(stored(Path("merged.h5"))) == list(COCO[:4])
    code, text = run(capsys, "repack", "merged.h5", "half.h5", "--dtype", "float16", "--gzip", "1")
    assert (code, "float16 moved features by at most" in text) == (0, True)
    assert run(capsys, "subset", "half.h5", "first.txt", "few.h5")[0] == 0
    assert stored(Path("few.h5"))[COCO[0]]["features"].dtype == "float16"


def test_every_tool_has_a_help_of_the_idiom(capsys: pytest.CaptureFixture[str]) -> None:
    for name in TOOLS:
        code, text = run(capsys, name, "--help")
        assert code == 0
        assert text.startswith(f"usage: python -m feature_extraction {name}")
    assert all(name in text for name in spec.FORMATS)
