"""Fixtures of downloads from a server on this machine, of folders that a page is made of, and of the launcher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.album import make_album
from helpers.file_server import Server, serving
from helpers.launching import RECORDER, SBATCH, SQUEUE, Checkout

from scripts.download.fetch import Download
from scripts.download.record import LockFile
from scripts.launch import checks, container


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


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """With the programs of a cluster on the path."""
    checkout = Checkout(tmp_path / "my checkout")
    for name, text in (("apptainer", RECORDER), ("ch-run", RECORDER), ("sbatch", SBATCH), ("squeue", SQUEUE)):
        (checkout.bin / name).write_text(text)
        (checkout.bin / name).chmod(0o755)
    (checkout.folder / "build/xlxmert-features-cpu/app").mkdir(parents=True)
    for name in ("tmp", "opt/venv", checkout.folder.parts[1]):  # the last: where everything lies
        (checkout.folder / "build/xlxmert-features-cpu" / name).mkdir(parents=True, exist_ok=True)
    for target in ("cpu", "gpu"):
        (checkout.folder / f"build/xlxmert-features-{target}.sif").touch()
    return checkout


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three images of Visual Genome and a checkpoint beside them."""
    images = tmp_path / "data/VG/images/VG_100K"
    images.mkdir(parents=True)
    for name in ("1.jpg", "2.JPG", "3.jpg", "notes.txt"):
        (images / name).touch()
    (tmp_path / "ckpt").mkdir()
    for name in ("detectron_model.pth", "a.yaml"):
        (tmp_path / "ckpt" / name).touch()
    return tmp_path / "data"


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that has the image, and no GPU."""
    monkeypatch.setattr(container.Runtime, "require_to_run", lambda self, image, way_out: None)
    monkeypatch.setattr(container.Runtime, "has_image", lambda self, image: True)
    monkeypatch.setattr(checks, "gpus", lambda: 0)
