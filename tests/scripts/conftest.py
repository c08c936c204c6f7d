"""Fixtures of downloads from a server on this machine, and of folders that a page is made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.album import make_album
from helpers.file_server import Server, serving

from scripts.download.fetch import Download
from scripts.download.record import LockFile


@pytest.fixture
def server() -> Iterator[Server]:
    """Empty; a test module puts in what is downloaded, as /file.h5."""
    with serving() as server:
        yield server


@pytest.fixture
def download(server: Server, tmp_path: Path) -> Download:
    return Download("COCO/file.h5", server.url("/file.h5"), tmp_path / "out" / "file.h5")


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    return LockFile(tmp_path / "lock.json")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with features and words, whole and sound; for tests that only look."""
    return make_album(tmp_path_factory.mktemp("album") / "datasets")


@pytest.fixture
def datasets(tmp_path: Path) -> Path:
    """The same, to be changed."""
    return make_album(tmp_path / "datasets")
