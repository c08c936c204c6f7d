"""What several tests need: photographs, checkpoints with seeded weights, golden arrays, the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from scripts import synthetic_checkpoint

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).parent / "data"


def photograph(name: str) -> NDArray[np.uint8]:
    """The image that a golden file of this name belongs to, as tests/data/README.md says."""
    if name == "motorcycle":
        return np.asarray(Image.open(Path(skimage.data.__file__).parent / "motorcycle_left.png"))
    if name == "coffee_strip":
        return skimage.data.coffee()[150:270]
    if name == "chelsea_tall":
        return skimage.data.chelsea()[:, 100:190]
    if name == "astronaut_crop33":
        return skimage.data.astronaut()[:33, :47]
    return getattr(skimage.data, name)()


def make_checkpoint(folder: Path, name: str) -> Path:
    synthetic_checkpoint.write(folder, (DATA / name / "config.yaml").read_text())
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow relative of the published model: the same code, quick."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny"), "tiny")


@pytest.fixture(scope="session")
def x152_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real architecture, 824 MB."""
    return make_checkpoint(tmp_path_factory.mktemp("x152"), "x152")


@pytest.fixture
def command() -> Callable[..., subprocess.Popen[str]]:
    """Start ``python ARGS`` in feature_extraction/ as a user does; every process left over is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: object, cwd: Path = ROOT / "feature_extraction", **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, args)],
            cwd=cwd,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str]:
    """Exit code and everything printed."""
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output
