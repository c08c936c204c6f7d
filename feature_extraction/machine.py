"""What this process may use of the machine: processors, and how its threads wait. Standard library only.

``os.cpu_count()`` sees neither an affinity mask nor a cgroup's quota nor the other processes of the same run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
WAITING: Final = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What decides how OpenMP's threads wait; read once, when the OpenMP library is loaded."""
SLURM_STEP: Final = (
    "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID",
)  # fmt: skip
"""What is read below of a step of Slurm's; a container that hides the environment has to be told these."""


def wait_without_spinning(environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Let OpenMP's threads sleep between parallel regions; to be called before PyTorch or faiss is imported.

    A spinning thread takes the time of one that computes where the machine has company. A user's own setting stands."""
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "passive"


def usable_cpus() -> float:
    """Processors that this process may use: its affinity mask, bounded by the quotas of its cgroups."""
    return min([float(len(os.sched_getaffinity(0))), *_quotas(Path("/proc/self/cgroup"), CGROUPS)])


def processes_here(environment: Mapping[str, str] = os.environ) -> int:
    """Processes of this run on this machine: torchrun's, or those of a step that srun started."""
    if "LOCAL_WORLD_SIZE" in environment:
        return max(1, int(environment["LOCAL_WORLD_SIZE"]))
    if "SLURM_STEP_ID" in environment:  # a batch script itself is no step; its SLURM_NTASKS decides nothing
        text = environment.get("SLURM_STEP_TASKS_PER_NODE", "1")  # "2(x3),1": the largest is the safe one
        return max(int(part.partition("(")[0]) for part in text.split(","))
    return 1


def threads(environment: Mapping[str, str] = os.environ) -> int:
    """Threads for this process's share of the usable processors, at least one."""
    return max(1, math.floor(usable_cpus() / processes_here(environment) + 1e-9))


def decoding_threads() -> int:
    """Threads that decode images ahead of the detector. At most 4: on an H100 with 16 processors grids in bfloat16 came
    at 262 images/s with 4, at 180 with 8, as Pillow holds Python's lock for a quarter of its time and what feeds the
    card waits for it."""
    return max(2, min(4, threads()))


def _quotas(membership: Path, root: Path) -> list[float]:
    """CPU quotas, in processors, of every cgroup (v1 and v2) that this process is in, and of their parents."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases, read = [root, root / "unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            bases, read = [root / controllers, root / "cpu"], _quota_v1
        else:
            continue
        for base in bases:
            inner = Path(path.lstrip("/"))
            # inside a container the path is the host's, and the mount shows the cgroup itself at its root
            found += [quota for folder in (inner, *inner.parents) if (quota := read(base / folder)) is not None]
    return found


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    except (OSError, ValueError):
        return None


def rank_and_world(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(this process's number, number of processes) of the run: torchrun's, or those of a step that srun started."""
    if "WORLD_SIZE" in environment:
        return int(environment.get("RANK", "0")), int(environment["WORLD_SIZE"])
    if "SLURM_STEP_ID" in environment:
        return int(environment.get("SLURM_PROCID", "0")), int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    return 0, 1


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """This process's number among those of the run on this machine: which card it takes."""
    if "LOCAL_RANK" in environment:
        return int(environment["LOCAL_RANK"])
    return int(environment.get("SLURM_LOCALID", "0")) if "SLURM_STEP_ID" in environment else 0
