"""Files and work in progress of an earlier version."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.common import DATA
from helpers.storing import IDENTITY, broken, check, features, make, source

from feature_extraction.errors import StoreError
from feature_extraction.storage import journal, store
from feature_extraction.storage.output import Output
from feature_extraction.storage.store import open_features, work_dir

pytestmark = pytest.mark.usefixtures("quick")


EARLIER = DATA / "earlier"
IDS = ["1", "10", "2", "3", "9"]


def test_a_file_of_an_earlier_version_is_extended(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    shutil.copy(EARLIER / "finished.h5", path)
    output = Output(path, IDENTITY, {})
    assert [output.is_current(i, *source(i).stamp, lambda: "?") for i in IDS] == [True] * 4 + [False]
    output.close()
    assert make(path, [*IDS, "11"]).images == 6
    check(path, [*IDS, "11"])
    with open_features(path) as file:
        assert [store.source_of(file, i) for i in ("1", "9")] == [None, source("9")]
        assert store.checksums_of(file, "1") == {n: journal.checksum(a) for n, a in features(1).items()}


def test_a_killed_run_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    shutil.copytree(EARLIER / "killed", work_dir(path))
    output = Output(path, IDENTITY, {})
    assert [output.known(i) for i in IDS] == [True] * 3 + [False] * 2
    output.close()
    assert make(path, IDS).images == 5
    check(path, IDS)


def test_a_share_that_an_earlier_version_ended_counts(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    shutil.copytree(EARLIER / "shared", work_dir(path))
    outcome = make(path, IDS, 1, 2)
    assert outcome.images == 4
    assert outcome.failed == broken("9")
    check(path, IDS[:4])


def test_an_earlier_version_s_other_recipe_is_refused_unless_it_stored_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    other = {**IDENTITY, "precision": "tf32"}
    shutil.copytree(EARLIER / "killed", work_dir(path))
    with pytest.raises(StoreError, match="precision"):
        Output(path, other, {})
    shutil.rmtree(work_dir(path))
    shutil.copytree(EARLIER / "empty", work_dir(path))
    assert make(path, ["1"], identity=other).images == 1
