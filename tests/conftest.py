"""Fixtures of several folders: checkpoints with seeded weights, the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.common import ROOT, make_checkpoint


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
    """Start ``python ARGS`` in feature_extraction/ as a user does, with one thread: the last bits of a convolution may
    depend on their number. Every process left over is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: object, cwd: Path = ROOT / "feature_extraction", **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, args)],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
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
