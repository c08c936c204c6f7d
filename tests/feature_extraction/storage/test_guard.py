"""Feature files from anywhere: hostile ones come to one line, sound ones are read, and reasons are the true ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5g
from helpers import hostile_h5, hostile_reading
from helpers.exporting import grid_arrays
from helpers.hostile_bytes import RAW
from helpers.hostile_h5 import HOSTILE

from feature_extraction.errors import StoreError
from feature_extraction.storage import guard, store
from feature_extraction.storage.assemble import write_features

SOUND_FOR_KMEANS = {
    "ten_thousand_arrays_in_one_image",
    "checksums_that_are_no_json",
    "checksums_of_another_image",
}
"""The features are plain, and it reads nothing else."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return hostile_reading.run(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("way", [way.__name__ for way in hostile_reading.WAYS])
@pytest.mark.parametrize("name", [*HOSTILE, *RAW])
def test_a_hostile_file_comes_to_one_line(outcomes: dict[str, dict[str, str]], name: str, way: str) -> None:
    said = outcomes[name][way]
    if way == "as_check_does":
        assert said.startswith("findings: error"), said
    elif way == "as_kmeans_does" and name in SOUND_FOR_KMEANS:
        assert said == "read"
    else:
        assert said.partition(":")[0] in ("StoreError", "CutOff", "NotThere"), said
    assert said.isprintable(), ascii(said)


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) + len(RAW) >= 55


def test_long_names_are_shortened_and_say_so() -> None:
    assert guard.shown("x" * 80) == repr("x" * 80)
    assert guard.shown("x" * 81) == repr("x" * 77 + "...")
    assert guard.shown(b"\xff\n") == r"'\\xff\n'"


def test_headers_are_kept_in_bounds_and_the_list_of_names_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 looks a name up in the whole list of them: what it forgets of that, it reads again at every look."""
    monkeypatch.setattr(guard, "CACHE", 2 << 20)
    ids = [f"{n:0200d}" for n in range(12_000)]
    with h5py.File(tmp_path / "names.h5", "w") as file:
        for image_id in ids:
            h5g.create(file.id, image_id.encode())
    listed = sum(map(len, ids))
    with guard.open_plain(tmp_path / "names.h5") as file:
        for image_id in ids:
            guard.image_group(file, image_id)
        _, _, kept, _ = file.id.get_mdc_size()
        assert listed < kept <= guard.CACHE + 2 * (listed + 8 * len(ids))


def test_the_list_of_names_is_given_room_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[int] = []
    monkeypatch.setattr(guard, "size_cache", lambda file, names: rooms.append(len(list(names))))
    images = [(str(n), grid_arrays(n), None) for n in range(9)]
    (tmp_path / "a.h5").touch()
    write_features(tmp_path / "a.h5", images, {})
    assert rooms == [2, 4, 8, 16]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    hostile_h5.sound(tmp_path / "f.h5")
    return tmp_path / "f.h5"


def test_a_file_that_another_program_writes_is_said_to_be_in_use(sound: Path) -> None:
    program = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, sound], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match="is in use") as caught:
            store.open_features(sound)
        other.communicate()
    assert "download" not in str(caught.value)
    store.open_features(sound).close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said_to_be_forbidden(sound: Path) -> None:
    sound.chmod(0)
    with pytest.raises(StoreError, match="may not be read"):
        store.open_features(sound)


def test_what_the_system_says_of_permissions_is_passed_on(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(StoreError, match="may not be read: Permission denied"):
        store.open_features(sound)


def test_nested_ids_and_arrays_at_the_top_are_called_another_layout(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["train/1/features"] = np.zeros((8, 8, 4), np.float32)
        file["names"] = np.zeros(3)
    with store.open_features(path) as file:
        with pytest.raises(StoreError, match="nested"):
            store.features_of(file, "train")
        with pytest.raises(StoreError, match="another layout"):
            store.features_of(file, "names")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"chunks": (4, 8, 16)},
        {"chunks": (8, 8, 16), "compression": "gzip"},
        {"chunks": (3, 3, 16), "compression": "gzip", "shuffle": True},
    ],
)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("userblock", [0, 1024])
def test_plain_storage_of_every_usual_kind_is_read(tmp_path: Path, how: dict, libver: str, userblock: int) -> None:
    path = tmp_path / "f.h5"
    values = np.random.default_rng(0).random((8, 8, 16), dtype=np.float32)
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        for n in range(300):  # names of several nodes
            file.create_group(f"{n:03}").create_dataset("features", data=values + n, **how)
    with store.open_features(path) as file:
        assert len(store.image_ids(file)) == 300
        for n in (0, 150, 299):
            np.testing.assert_array_equal(store.read_image(file, f"{n:03}")["features"], values + n)


def test_names_are_shown_without_control_characters() -> None:
    assert guard.shown("\x1b[2J\n").isprintable()
    assert guard.shown(b"\xff\x00").isprintable()
    assert len(guard.shown("x" * 10_000)) < 100
    assert guard.shown("é") == "'é'"


@pytest.mark.parametrize("how", [{"compression": "lzf"}, {"fletcher32": True}, {"scaleoffset": 3}], ids=str)
def test_a_filter_that_is_not_of_the_layout_is_refused_though_hdf5_knows_it(tmp_path: Path, how: dict) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("1/features", data=np.ones((8, 8, 4), np.float32), chunks=(8, 8, 4), **how)
        file.create_dataset("2/features", data=np.ones((8, 8, 4), np.float32), compression="gzip", shuffle=True)
    with store.open_features(tmp_path / "f.h5") as file:
        assert store.read_array(store.features_of(file, "2")).all()
        with pytest.raises(StoreError, match="is stored with the filter"):
            store.features_of(file, "1")
