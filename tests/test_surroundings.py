"""What a machine has set, and where things lie on it, reaches no test: some that would notice are run on such a one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers.common import ROOT

NOTICING = (
    "scripts/test_download.py::test_redirects_are_followed",
    "feature_extraction/test_cli.py::test_published_paths",
    "feature_extraction/test_given.py::test_a_run_over_given_boxes_reports_images_without_and_knows_its_file",
    "kmeans/test_cli.py::test_silence_on_request",
    "scripts/test_job_arrays.py::test_the_kmeans_alone_waits_for_what_is_queued",
    "scripts/test_launch.py::test_what_root_has_filled_is_roots_to_give",
)
SET = {
    "DATASETS": "/nonexistent", "CHECKPOINT": "/nonexistent", "RUN": "apptainer", "PRECISION": "bfloat16",
    "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "RANK": "1", "WORLD_SIZE": "2",
    "http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "GIT_DIR": "/nonexistent",
    "MAKEFLAGS": "-j8", "CDPATH": ".", "COLUMNS": "20", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2",
    "HOME": "/nonexistent", "TZ": "Pacific/Chatham", "PYTHONHASHSEED": "7",
}  # fmt: skip
"""What the shells of those who use this kit have, jobs of a cluster, hooks of git, and networks behind a proxy."""


def test_tests_hold_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "a folder's name"
    folder.mkdir()
    tests = [f"{ROOT}/tests/{name}" for name in NOTICING]
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests],
        cwd=folder, env={**outer, **SET, "TMPDIR": str(folder)}, umask=0o077, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
