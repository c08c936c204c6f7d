"""Fixtures of several folders: checkpoints with seeded weights, the command line, one thread."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.common import ROOT, make_checkpoint

from scripts.launch.settings import KNOWN

if TYPE_CHECKING:
    from feature_extraction.detector.build import Detector

REACHES_NO_TEST = re.compile(
    r"(?i:\w+_proxy)|(SLURM|GIT|PET|TORCHELASTIC|OMP|GOMP|KMP|MKL|OPENBLAS|MAKE)\w*|(LOCAL_)?(RANK|WORLD_SIZE)|MFLAGS"
    r"|PYTHON(WARNINGS|OPTIMIZE|UNBUFFERED|IOENCODING)|MASTER_(ADDR|PORT)|CDPATH|BASH_ENV|COLUMNS|LINES|"
    + "|".join(KNOWN)
)
"""What a shell, a cluster's job, a hook of git or a network with a proxy have set, and programs read: tests set their
own."""
for name in filter(REACHES_NO_TEST.fullmatch, list(os.environ)):
    del os.environ[name]

# The last bits of a convolution depend on the number of threads, and tests compare the files of this process with those
# of programs that they start: all compute with one, whatever the machine has, unless a test asks for more.
os.environ["OMP_NUM_THREADS"] = "1"

# Programs that are started inherit what is ignored: under nohup, or behind a shell's &, tests of Ctrl-C would wait for
# it in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)

SLOW = {
    "test_annotations", "test_api", "test_arithmetic", "test_as_published", "test_browser", "test_by_bfloat16",
    "test_by_faiss", "test_campaign", "test_changed", "test_check", "test_cli", "test_clusters", "test_comm",
    "test_contributing", "test_demo", "test_derive", "test_detector", "test_download", "test_download_servers",
    "test_export_killed", "test_fake_cuda", "test_faults", "test_fifty_kills", "test_formats", "test_former",
    "test_golden", "test_gpu_test", "test_guard", "test_hostile", "test_hostile_weights", "test_inputs",
    "test_job_arrays", "test_journal", "test_jpeg", "test_jpeg2000", "test_keys", "test_killed", "test_launch",
    "test_listing", "test_lloyd", "test_makefile", "test_memory", "test_nearest_cells", "test_paper_vocabulary",
    "test_partial", "test_pipeline", "test_port_fork", "test_power_loss", "test_preprocess", "test_process",
    "test_readmes", "test_recipes", "test_reference", "test_report", "test_report_browser", "test_report_vocabulary",
    "test_results", "test_samples", "test_series", "test_shares", "test_slurm", "test_streaming", "test_surroundings",
    "test_terminal", "test_tiff", "test_together", "test_tour", "test_unpack", "test_verify", "test_verify_alike",
    "test_verify_causes", "test_verify_kmeans", "test_verify_remote", "test_xlxmert",
}  # fmt: skip
"""Modules that start real processes, run the real architecture, or try thousands of files; `make test-fast` leaves them
out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        assert " at 0x" not in item.name, f"{item.nodeid}: a name that changes from run to run"
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow relative of the published model: the same code, quick."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny"), "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path) -> Detector:
    """It, loaded; no test may change it."""
    from feature_extraction.detector.build import choose_device, load_detector
    from feature_extraction.detector.files import find_checkpoint

    files = find_checkpoint(tiny_checkpoint)
    return load_detector(files, engine="native", device=choose_device("cpu"), precision="float32")


@pytest.fixture(scope="session")
def x152_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real architecture, 824 MB."""
    return make_checkpoint(tmp_path_factory.mktemp("x152"), "x152")


@pytest.fixture(autouse=True)
def _one_thread_again() -> Iterator[None]:
    """What a test sets by ``--threads`` must not reach the next."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``python ARGS`` in feature_extraction/ as a user does. Every process left over is killed."""
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
