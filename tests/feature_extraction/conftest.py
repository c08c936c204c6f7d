"""Fixtures of extractions in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.common import ROOT
from helpers.forking import Forks
from helpers.process_runs import contents, crops, grid_command


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Starts programs of the kit in 0.1 s; where the start itself is what is shown, there is ``command``."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "COCO"
    crops(root / "images/val2014", 240)
    return root


@pytest.fixture(scope="module")
def uninterrupted(coco: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    output = tmp_path_factory.mktemp("whole") / "f.h5"
    subprocess.run(
        [sys.executable, *map(str, grid_command(coco, tiny_checkpoint, output))],
        cwd=ROOT / "feature_extraction", check=True, capture_output=True,
    )  # fmt: skip
    return contents(output)
