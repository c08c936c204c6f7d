"""How many threads, how they wait, and who is which of several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.common import ROOT

from feature_extraction import machine


def test_an_affinity_mask_counts() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {0}); from feature_extraction import machine; print(machine.threads())"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("files", "membership", "quotas"),
    [
        ({"a/b/cpu.max": "150000 100000\n", "a/cpu.max": "max 100000\n"}, "0::/a/b\n", [1.5]),
        ({"cpu.max": "50000 100000\n"}, "0::/host/path/not/seen/inside\n", [0.5]),
        ({"cpu,cpuacct/x/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
         "4:cpu,cpuacct:/x\n3:memory:/x\n", [2.0]),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/\n", []),
        ({"cpu.max": "nonsense\n"}, "0::/\n", []),
        ({}, "", []),
    ],
)  # fmt: skip
def test_quotas_of_both_kinds_of_cgroups(tmp_path: Path, files: dict, membership: str, quotas: list[float]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    assert machine._quotas(tmp_path / "membership", tmp_path) == quotas


def test_processors_are_shared_by_the_processes_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cpus", lambda: 6.5)
    assert machine.threads({}) == 6
    assert machine.threads({"LOCAL_WORLD_SIZE": "2"}) == 3
    assert machine.threads({"LOCAL_WORLD_SIZE": "64"}) == 1
    assert machine.threads({"SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}) == 3
    monkeypatch.setattr(machine, "usable_cpus", lambda: 0.5)
    assert machine.threads({}) == 1


def test_waiting_threads_sleep_unless_the_user_said_otherwise() -> None:
    environment = {"HOME": "/"}
    machine.wait_without_spinning(environment)
    assert environment["OMP_WAIT_POLICY"] == "passive"
    for name in machine.WAITING:
        own = {name: "active"}
        machine.wait_without_spinning(own)
        assert own == {name: "active"}


@pytest.mark.parametrize(
    ("environment", "rank", "local"),
    [
        ({}, (0, 1), 0),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8), 1),
        # a task that srun started
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}, (1, 2), 1),
        # the batch script itself: no step, and what is set there decides nothing
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, (0, 1), 0),
        # torchrun inside a step: torchrun's word counts
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "RANK": "1", "WORLD_SIZE": "2",
          "LOCAL_RANK": "1"}, (1, 2), 1),
    ],
)  # fmt: skip
def test_rank(environment: dict[str, str], rank: tuple[int, int], local: int) -> None:
    assert machine.rank_and_world(environment) == rank
    assert machine.local_rank(environment) == local


def test_this_machine_answers() -> None:
    assert 0 < machine.usable_cpus() <= (os.cpu_count() or 1)
