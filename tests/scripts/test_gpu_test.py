"""``make gpu-test`` without a GPU: its rows run, what goes wrong is a row, and the table says what was found."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from scripts.gpu_test import exact, waits
from scripts.gpu_test import run as gpu_test
from scripts.gpu_test.table import FAIL, NOT_RUN, PASS, Finding, NotRun, Table


def rows_of(folder: Path) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}


def test_a_selection_of_the_rows_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["environment", "golden", "grid path", "single images", "two precisions", "matrix rate", "drift, bfloat16",
             "speed, grid, float32", "host, grid", "stages", "tile"]  # fmt: skip
    code = gpu_test.main(["--device", "cpu", "--models", "tiny", "--out", str(tmp_path), "--only", *words])
    rows = rows_of(tmp_path)
    assert code == 0, [row["text"] for row in rows.values() if row["result"] == FAIL]
    assert all(any(word in name for name in rows) for word in words)
    assert {row["result"] for row in rows.values()} <= {PASS, NOT_RUN}
    assert rows["golden cases, tiny, float32"]["result"] == PASS
    assert rows["golden cases, tiny, float32"]["data"]["boxes"] < 1e-2
    assert rows["matrix rate, tf32"]["text"].startswith("precision tf32 needs a GPU")
    assert rows["speed, grid, float32"]["data"]["batch 1"]["images/s"] > 0
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {name} | {row['result']} |" in table for name, row in rows.items())
    assert torch.__version__ in table
    assert time.strftime("%Y") in table
    printed = capsys.readouterr().out
    assert table in printed
    assert "PASS     grid path = full path, tiny" in printed


def test_a_value_out_of_bounds_fails_its_row_and_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact.golden, "FEATURE_BOUND", 1e-9)
    arguments = ["--device", "cpu", "--models", "tiny", "--out", str(tmp_path), "--only", "golden"]
    assert gpu_test.main(arguments) == 1
    row = rows_of(tmp_path)["golden cases, tiny, float32"]
    assert row["result"] == FAIL
    assert "allowed 1e-09" in row["text"]


def test_no_photographs_no_rows_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'skimage'")

    monkeypatch.setattr("scripts.gpu_test.bench.photograph", missing)
    arguments = ["--device", "cpu", "--models", "tiny", "--out", str(tmp_path), "--only", "golden", "drift, bfloat16"]
    assert gpu_test.main(arguments) == 0
    rows = rows_of(tmp_path)
    for name in ("golden cases, tiny, float32", "drift, bfloat16"):
        assert rows[name]["result"] == NOT_RUN
        assert "scikit-image" in rows[name]["text"]


def test_no_gpu_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu_test.main(["--device", "cuda", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_error_is_a_row_and_not_the_end(tmp_path: Path) -> None:
    def crash() -> Finding:
        raise RuntimeError("CUDA error:\nan illegal memory access")

    def not_here() -> Finding:
        raise NotRun("no faiss")

    table = Table(tmp_path, "title", 1)
    table.run("crash", crash)
    table.run("absent", not_here)
    table.run("wrong", lambda: Finding("the rest", ("7 rows differ",)))
    table.run("good / bad", lambda: Finding("fine"))
    assert [row.result for row in table.rows] == [FAIL, NOT_RUN, FAIL, PASS]
    assert table.failed == ["crash", "wrong"]
    rows = rows_of(tmp_path)  # written after every row
    assert rows["crash"]["text"].startswith("RuntimeError: CUDA error: an illegal memory access (test_gpu_test.py:")
    assert rows["wrong"]["text"] == "7 rows differ. the rest"
    assert "1 pass, 2 fail, 1 not run" in (tmp_path / "table.md").read_text()
    assert "| good / bad | pass |" in table.markdown()


def test_when_the_time_is_spent_no_row_begins(tmp_path: Path) -> None:
    table = Table(tmp_path, "title", 0.05)
    table.run("first", lambda: Finding("done"), least=1)
    table.run("long", lambda: Finding("never"), least=60)
    assert [row.result for row in table.rows] == [PASS, NOT_RUN]
    assert "time budget" in table.rows[1].text


def test_waits_are_counted_where_a_gpu_would_make_the_host_wait() -> None:
    marked = waits.mark(torch.arange(6.0))
    with waits.counting() as counted:
        product = (marked @ marked.view(6, 1) + 1).relu()  # none: work is only handed over
        marked[:3] *= 2
        marked[marked > 1] = 0
    assert not counted
    with waits.counting() as counted:
        if product > 0:
            product.item()
        marked[marked > 1].cpu()
        (marked > 1).nonzero()
        torch.equal(marked, marked)
        int(marked.sum())
        marked.tolist()
        marked.to("cpu")
    once = ("__bool__", "item", "__getitem__", "cpu", "nonzero", "equal", "__int__", "tolist", "to")
    assert dict(counted) == dict.fromkeys(once, 1)
    with waits.counting() as counted:
        torch.arange(3).tolist()  # never was on the device
    assert not counted
