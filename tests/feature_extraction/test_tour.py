"""The notebook: it runs as it stands, and what is stored of it is small, whole and of no particular machine."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from helpers.common import ROOT
from helpers.notebooks import executed

TOUR = ROOT / "feature_extraction" / "tour.ipynb"


def outputs(notebook: nbformat.NotebookNode) -> list[tuple[str, int]]:
    """What each cell of code printed, and how many pictures it showed."""
    return [
        (
            "".join(out.get("text", "") for out in cell.outputs),
            sum("image/jpeg" in out.get("data", {}) for out in cell.outputs),
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_it_runs_and_shows_what_is_stored(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHECKPOINT", str(tiny_checkpoint))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))  # else the home's, which may be closed or hold settings
    made, stored = outputs(executed(TOUR)), outputs(nbformat.read(TOUR, as_version=4))
    # the stored ones are of the real architecture: other numbers, the same kinds of outputs
    assert [(bool(said), pictures) for said, pictures in made] == [(bool(said), pictures) for said, pictures in stored]
    said = "".join(said for said, _ in made)
    assert "6 images, 0 failed" in said
    assert "100% of the cells have the same word" in said


def test_what_is_stored_of_it_is_whole_and_small() -> None:
    stored = nbformat.read(TOUR, as_version=4)
    nbformat.validate(stored)
    assert TOUR.stat().st_size < 1_000_000
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    said = "".join(said for said, _ in outputs(stored))
    assert "SYNTHETIC weights" in said
    assert not [
        out for cell in cells for out in cell.outputs if out.output_type == "error" or out.get("name") == "stderr"
    ]
    assert not re.findall(r"/(?:home|root|tmp|work|usr)\b", said)
    assert stored.metadata.language_info == {"name": "python"}  # of no version
