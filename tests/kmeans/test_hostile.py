"""Feature files and results that nobody vouches for: one clear line each; no crash, hang, other file read or memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import kmeans_hostile as hostile
from helpers.kmeans_cases import environment

SCRIPT = Path(hostile.__file__)
CASES = [*(case.__name__ for case in hostile.FILES), *hostile.CENTROIDS, *hostile.CLUSTERS]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Case -> how it ended, what it said, seconds, memory gained."""
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env=environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "owned").exists()
    return json.loads(done.stdout)


def test_a_sound_file_and_a_sound_vocabulary_are_taken(ends):
    """With the same call: what is refused below is refused for what is wrong with it."""
    assert ends["sound"][0] == ends["sound vocabulary"][0] == 0


@pytest.mark.parametrize("case", CASES)
def test_is_refused_in_one_line(ends, case):
    end, said, seconds, gained = ends[case]
    assert end == 1, (end, said)
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert said.endswith("\n")
    assert said.strip().isprintable()
    assert seconds < 10
    assert gained < 2e8


def test_the_reasons_are_the_true_ones(ends):
    for case, reason in {
        "nested": "nested",
        "an_array_at_the_top": "another layout",
        "external_link": "external link",
        "raw_file": "lies in another file",
        "virtual_of_another": "put together of other data sets",
        "cut_off": "shorter than it says",
        "a_web_page": "is not an HDF5 file",
        "a_pipe": "is no file",
        "name_with_escape_codes": "NaN",
        "npz that claims a terabyte": "are claimed",
    }.items():
        assert reason in ends[case][1], ends[case]
        assert "damaged" not in ends[case][1]
