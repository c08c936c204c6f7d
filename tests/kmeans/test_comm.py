"""Several processes started by torchrun against one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.kmeans_cases import cluster, environment, features, results, write_features

from kmeans.comm import split_rows

ROOT = Path(__file__).resolve().parents[2]
ROWS, DIM, K, ITERATIONS = 19_200, 48, 40, 15


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    path = write_features(folder / "some.h5", features(ROWS // 64, 8, DIM, seed=2, clusters=30))
    return path, cluster(path, folder, K, n_iter=ITERATIONS)


def torchrun(ranks, path, folder, *further, script=("kmeans/run_kmeans.py",), fails=False):
    """Each rank gets one thread, so that figures do not depend on the machine's cores."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}"),
            *("--nnodes=1", "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0", "--local_addr=127.0.0.1"),
            *script,
            *(f"--src={path}", f"--tgt={path}", f"--datasets_dir={folder}"),
            *(f"--n_centroids={K}", f"--n_iter={ITERATIONS}", f"--feat_dim={DIM}", *further),
        ],
        cwd=ROOT,
        env=environment(GLOO_SOCKET_IFNAME="lo"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done.stdout, results(folder)


def test_one_rank_gives_the_plain_result(case, tmp_path):
    path, plain = case
    _, found = torchrun(1, path, tmp_path)
    assert np.array_equal(found["centroids"], plain["centroids"])
    assert np.array_equal(found["index"], plain["index"])


def test_two_ranks_agree_with_one_to_rounding_and_always_give_the_same_bits(case, tmp_path):
    """Measured on these 19,200 rows: centroids within 8e-6, no row changes its cluster."""
    path, plain = case
    said, found = torchrun(2, path, tmp_path / "a")
    assert said.count(f"iteration {ITERATIONS}/{ITERATIONS}") == 1  # only one rank speaks
    assert found["centroids"].shape == plain["centroids"].shape
    assert np.abs(found["centroids"] - plain["centroids"]).max() < 1e-4
    assert (found["index"] != plain["index"]).mean() < 1e-3
    _, again = torchrun(2, path, tmp_path / "b", "--memory=0.001")
    assert np.array_equal(again["centroids"], found["centroids"])
    assert np.array_equal(again["index"], found["index"])
    killed = ("tests/helpers/kmeans_killed.py", "iteration", "7")  # both ranks, by SIGKILL
    torchrun(2, path, tmp_path / "c", script=killed, fails=True)
    said, resumed = torchrun(2, path, tmp_path / "c")
    assert f"resuming after iteration 7 of {ITERATIONS}" in said
    assert np.array_equal(resumed["centroids"], found["centroids"])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize(("total", "multiple"), [(0, 1), (5, 1), (100, 1), (10_000, 4096), (8192, 4096)])
def test_slices_cover_everything_at_multiples(size, total, multiple):
    slices = split_rows(total, size, multiple=multiple)
    assert len(slices) == size
    assert [i for a, b in slices for i in range(a, b)] == list(range(total))
    assert all(a % multiple == 0 for a, b in slices if a < b)
