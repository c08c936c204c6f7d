"""What a program leaves at its final paths outlives a power loss, and so does what it goes on from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.file_server import Server, serving

from feature_extraction.storage import files
from feature_extraction.storage.journal_writer import JournalWriter
from feature_extraction.storage.output import Output
from feature_extraction.storage.shares import Register
from kmeans import partial, train
from kmeans.partial import Frame, PartialIndex
from scripts.download.part import Part
from scripts.download.version import Version

from .power_loss import Disk
from .scenarios import IDENTITY, SCENARIOS, image_of, served


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        server.files |= served()
        yield server


@pytest.mark.parametrize("name", [name for name, s in SCENARIOS.items() if not any(fault for _, fault in s.before)])
def test_what_lies_at_the_final_paths_outlives_a_power_loss(
    name: str, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, address = SCENARIOS[name], server.url("")
    for program, _ in scenario.before:
        assert program(tmp_path, address) == 0
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    disk = Disk(monkeypatch)
    assert scenario.program(tmp_path, address) == 0
    final = [tmp_path / path for path in scenario.final(tmp_path)]
    assert final
    assert [path for path in final if path not in before and disk.lost(path)] == []
    assert disk.torn == []


def test_what_is_written_whole_outlives_it(tmp_path: Path, disk: Disk) -> None:
    files.atomic_write(tmp_path / "f", "contents")
    assert not disk.lost(tmp_path / "f")
    assert disk.torn == []


def test_a_journal_outlives_it_as_far_as_it_was_synced(tmp_path: Path, disk: Disk) -> None:
    journal = JournalWriter(tmp_path, 0, 1)
    journal.add("1", {"features": np.ones(9)}, None, None)
    assert disk.lost(journal.path)
    journal.sync()
    assert not disk.lost(journal.path)
    journal.end("plan", [])
    assert not disk.lost(journal.path)
    journal.close()


def test_an_event_outlives_it_before_anything_is_built_on_it(tmp_path: Path, disk: Disk) -> None:
    number = Register(tmp_path).append({"event": "ended", "share": 0, "of": 1})
    assert not disk.lost(tmp_path / f"event-{number:06d}.json")


def test_a_careless_program_would_be_found_out(tmp_path: Path, disk: Disk) -> None:
    """Nothing synced; the contents alone; the name alone."""
    for name, contents, names in (("neither", 0, 0), ("contents", 1, 0), ("names", 0, 1), ("both", 1, 1)):
        with (tmp_path / "work").open("wb") as file:
            file.write(name.encode())
            file.flush()
            if contents:
                os.fsync(file)
        (tmp_path / "work").replace(tmp_path / name)
        if names:
            files.sync_folder(tmp_path)
        assert disk.lost(tmp_path / name) != (contents and names)
    assert disk.torn == [str(tmp_path / "neither"), str(tmp_path / "names")]
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "inside").open("wb") as file:
        os.fsync(file)
    files.sync_folder(tmp_path / "work")
    (tmp_path / "work").replace(tmp_path / "moved")
    assert disk.lost(tmp_path / "moved" / "inside")
    files.sync_folder(tmp_path)
    assert not disk.lost(tmp_path / "moved" / "inside")


def test_the_recipe_outlives_it_before_features_do(tmp_path: Path, disk: Disk) -> None:
    output = Output(tmp_path / "f.h5", IDENTITY, {})
    output.add("1", {"features": np.ones(9)}, image_of("1", 0))
    assert not disk.lost(output.folder / "manifest.json")
    output.close()


def test_what_a_part_says_is_safe_is(tmp_path: Path, disk: Disk) -> None:
    part = Part(tmp_path / "f", "http://there/f")
    part.begin(Version(size=9))
    part.append(b"contents")
    part.close()
    assert json.loads(part.about.read_text())["synced"] == 8
    assert not disk.lost(part.about)
    assert disk.holds(part.path)


def test_a_half_made_index_outlives_it_now_and_then(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = Frame(np.arange(3), np.zeros(0, np.uint32), np.zeros(0, np.float32))
    with PartialIndex(tmp_path / "part", {"k": 1}, 1) as part:
        part.append(frame)
        assert not disk.holds(part.path)
        monkeypatch.setattr(partial, "SYNC_EVERY", -1.0)
        part.append(frame)
        assert disk.holds(part.path)


def test_a_scratch_file_outlives_it_before_it_is_said_to_be_whole(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, held = train.save_json, []

    def save_json(path: Path, work: Path, value: object) -> None:
        held.append(disk.holds(path.with_name(path.name.removesuffix(".json"))))
        save(path, work, value)

    monkeypatch.setattr(train, "save_json", save_json)
    scenario = SCENARIOS["k-means-on-disk"]
    for program in (*(before for before, _ in scenario.before), scenario.program):
        assert program(tmp_path, "") == 0
    assert held == [True]
