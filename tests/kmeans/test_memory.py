"""Memory: what is planned, and what a run over 4 GB of features really takes."""

import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
from helpers.kmeans_cases import environment

from kmeans import memory

DIM, K = 2048, 300

# ru_maxrss of a child is at least what its parent, pytest with whatever it holds, had at the fork; VmHWM is its own
MEASURED = """
import atexit, runpy
def tell():
    print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")), flush=True)
atexit.register(tell)
runpy.run_module("kmeans.run_kmeans", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def four_gigabytes(tmp_path):
    """8,000 images x 64 rows x 2048: 4.19 GB, the same 64 images over and over."""
    path = tmp_path / "large.h5"
    rng = np.random.default_rng(0)
    images = [np.maximum(rng.standard_normal((8, 8, DIM), dtype=np.float32), 0) for _ in range(64)]
    with h5py.File(path, "w") as file:
        for i in range(8000):
            file.create_group(f"{i:06}").create_dataset("features", data=images[i % 64])
    yield path
    path.unlink()


def test_a_run_over_4_gb_with_1_gb_of_memory_stays_below_a_gb_and_a_half(four_gigabytes, tmp_path):
    """The sample is 0.63 GB beside blocks and programs, so it goes to the scratch file; the target is read
    block by block."""
    assert four_gigabytes.stat().st_size > 4.1e9
    command = [
        *(sys.executable, "-c", MEASURED, f"--src={four_gigabytes}", f"--tgt={four_gigabytes}"),
        *(f"--datasets_dir={tmp_path}", f"--n_centroids={K}", "--n_iter=2", "--memory=1"),
        "--assignment=bfloat16",  # which takes more memory than faiss
    ]
    process = subprocess.run(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    text = process.stdout
    assert process.returncode == 0, text
    assert "the sample (0.63 GB) lies on disk" in text
    assert f"{8000 * 64} rows assigned" in text
    (high_water,) = re.findall(r"VmHWM:\s+(\d+) kB", text)
    peak = int(high_water) * 1024
    print(f"peak memory: {peak / 1e9:.2f} GB")
    assert peak < 1.5e9


def test_the_plan_by_hand():
    """The paper's run: 2,560,000 rows (21 GB) and 10,000 centroids (82 MB)."""
    paper = {"sample_rows": 2_560_000, "k": 10_000, "dim": 2048}
    assert memory.plan(64 * 10**9, **paper).in_memory
    small = memory.plan(10**9 + 10_000 * 8192, **paper)
    assert not small.in_memory
    assert small.blocks.rows == 4096  # 34 MB
    assert memory.plan(16 * 10**9, **paper).blocks.rows == memory.BLOCK_ROWS


@pytest.mark.parametrize("dim", [1, 16, 64, 2048])
@pytest.mark.parametrize("budget", [0, 10**6, 10**9, 10**11])
def test_blocks_are_never_smaller_than_faiss_needs(dim, budget):
    import faiss

    blocks = memory.plan(budget, sample_rows=10**6, k=100, dim=dim).blocks
    assert blocks.rows % faiss.cvar.distance_compute_blas_query_bs == 0
    assert blocks.least * dim >= faiss.cvar.distance_compute_blas_threshold
    assert blocks.rows >= blocks.least


def test_free_memory_is_a_sensible_number():
    assert 10**8 < memory.free_bytes() < 10**14
    assert memory.budget(2.5) == 2_500_000_000
