"""A run that is killed fifty times, at random instants, ends as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from helpers.common import finish
from helpers.forking import Forks
from helpers.process_runs import assert_equal, contents, grid_command

from feature_extraction.storage.store import work_dir

Command = Callable[..., subprocess.Popen[str]]


def test_fifty_kills_lose_nothing(
    coco: Path, tiny_checkpoint: Path, uninterrupted: dict, tmp_path: Path, command: Command, forks: Forks
) -> None:
    """kill -9 at random instants of start-up, extraction and assembly; each next run goes on."""
    output = tmp_path / "f.h5"
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 10**6))
    print("KILL_SEED", seed)
    rng = random.Random(seed)
    kills, grew = 0, []
    part = work_dir(output) / "part-00000-of-00001.log"

    def size() -> int:
        try:
            return part.stat().st_size
        except FileNotFoundError:
            return 0

    while kills < 50:
        starts = kills % 10 == 0  # some while it still starts
        process = (command if starts else forks.start)(*grid_command(coco, tiny_checkpoint, output))
        if starts:
            time.sleep(rng.uniform(0.05, 2.0))
        else:
            before, deadline = size(), time.monotonic() + 60
            while size() <= before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.12))
        process.send_signal(signal.SIGKILL)
        returncode = process.wait()
        kills += 1
        if returncode == 0:  # it was through before the kill: start anew
            assert_equal(contents(output), uninterrupted)
            output.unlink()
        grew.append(size())
        if output.exists():  # whole whenever it is there
            assert_equal(contents(output), uninterrupted)
    assert len(set(grew)) > 15  # the runs did go on from one another
    returncode, printed = finish(forks.start(*grid_command(coco, tiny_checkpoint, output)))
    assert returncode == 0, printed
    assert_equal(contents(output), uninterrupted)
    assert not work_dir(output).exists()
