"""A Slurm of one's own: munged, slurmctld and one slurmd on the loopback address, all of it in one folder.

Nothing of the machine's own configuration is read or written, ports are free ones, and every process is ended by its
number: it runs beside anything, another one like it included. Takes root, as jobs of other users do.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
CONF = """\
ClusterName=xlxmert
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes={host} MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Why no such Slurm can be here; empty: it can."""
    if os.geteuid() != 0:
        return "Slurm's daemons here take root: they start jobs of other users"
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"there is no {', '.join(lacking)}: make slurm-test installs them on Debian and Ubuntu" if lacking else ""


class Slurm:
    """Its daemons run from the construction to ``stop``."""

    def __init__(self, folder: Path, cpus: int = 4) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self._processes: list[subprocess.Popen[bytes]] = []
        folder.chmod(0o755)
        for name in ("state", "spool", "munge"):
            (folder / name).mkdir(mode=0o755)
        ports = _free_ports(2)
        settings = {"host": socket.gethostname(), "folder": folder, "cpus": cpus}
        self.conf.write_text(CONF.format(**settings, controller=ports[0], node=ports[1]))
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        key = self.folder / "munge/key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self._daemon(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munge/pid", f"--log-file={self.folder}/munge/log",
            f"--seed-file={self.folder}/munge/seed",
        )  # fmt: skip
        self.until((self.folder / "munge.socket").exists, "munged listens")
        self._daemon("slurmctld", "-D", "-f", str(self.conf))
        self._daemon("slurmd", "-D", "-f", str(self.conf), "-N", socket.gethostname())
        self.until(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%t", check=False), "the node is idle")

    def _daemon(self, *words: str) -> None:
        with (self.folder / f"{words[0]}.out").open("wb") as output:
            self._processes.append(
                subprocess.Popen(words, env=self.environment, stdout=output, stderr=output, cwd=self.folder)
            )

    def stop(self) -> None:
        """Cancel what runs, and end the daemons."""
        self.ask("scancel", "--user=root", check=False)
        self.until(lambda: not self.ask("squeue", "--noheader", check=False), "the queue is empty", 30, strict=False)
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def ask(self, *words: str, check: bool = True) -> str:
        """What a program of Slurm's prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False, timeout=120)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout if done.returncode == 0 else ""

    def states(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says of a job, or of the first task of an array."""
        text = self.ask("scontrol", "show", "job", job).split("\n\n")[0]
        return dict(word.partition("=")[::2] for word in text.split() if "=" in word)

    def all_states(self, job: str) -> list[str]:
        """States of all tasks of an array."""
        text = self.ask("scontrol", "show", "job", job)
        return [word.partition("=")[2] for word in text.split() if word.startswith("JobState=")]

    def until(self, true, what: str, seconds: float = 120, *, strict: bool = True) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                assert not strict, f"not within {seconds} s: {what}; {self.tail()}"
                return
            time.sleep(0.2)

    def tail(self) -> str:
        """The last lines of every log."""
        logs = sorted(self.folder.glob("*.log")) + sorted(self.folder.glob("*.out"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody has."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
