"""What reading hostile files comes to.

    python -m helpers.hostile_reading FOLDER

writes them into FOLDER, reads each as k-means and others do in a child that may take 12 seconds and 1 GB of
memory, and prints as JSON what each way came to: "StoreError: ...", "read", "findings: ...", or what must not be.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from helpers.hostile_bytes import RAW
from helpers.hostile_h5 import HOSTILE, D, sound


def as_readers_do(path: Path) -> str:
    """Open, list, provenance, every array of every image."""
    from feature_extraction.storage import store

    with store.open_features(path) as file:
        store.provenance(file)
        for image_id in store.image_ids(file):
            store.source_of(file, image_id)
            store.checksums_of(file, image_id)
            store.read_array(store.features_of(file, image_id))
            store.read_image(file, image_id)
    return "read"


def as_check_does(path: Path) -> str:
    from feature_extraction.storage.check import check_file

    return "findings: " + "; ".join(f"{f.level} {f.text}" for f in check_file(path))


def as_extending_does(path: Path) -> str:
    from helpers.storing import IDENTITY

    from feature_extraction.storage.output import Output

    Output(path, IDENTITY, {}).close()
    return "read"


def as_kmeans_does(path: Path) -> str:
    from kmeans.vectors import FeatureFile

    with FeatureFile(path, dim=D, grid_size=8) as file:
        file.read(0, file.count, np.empty((file.count, D), np.float32))
    return "read"


WAYS = (as_readers_do, as_check_does, as_extending_does, as_kmeans_does)


def build(folder: Path) -> Iterator[tuple[str, Path]]:
    for name, change in HOSTILE.items():
        place = folder / name
        place.mkdir()
        path = place / "f.h5"
        sound(path)
        # what a program that trusts the file would do here could take this one down with it
        if os.fork() == 0:
            with h5py.File(path, "r+") as file:
                change(file, place)
            os._exit(0)
        assert os.wait()[1] == 0, name
        if (place / "replace").exists():
            path = place / (place / "replace").read_text()
        yield name, path
    for name, make in RAW.items():
        place = folder / name
        place.mkdir()
        make(place / "f.h5")
        yield name, place / "f.h5"


def outcome(way: Callable[[Path], str], path: Path) -> str:
    """What reading comes to, in a child of its own."""
    from feature_extraction.errors import KitError

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(12)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
        try:
            said = way(path)
        except KitError as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException as error:
            said = f"TRACEBACK {type(error).__name__}: {error}"
        with contextlib.suppress(BaseException):
            os.write(writing, said.encode("utf-8", "backslashreplace")[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "HANGS" if os.WTERMSIG(status) == signal.SIGALRM else f"SIGNAL {os.WTERMSIG(status)}"
    return said


def main() -> int:
    folder = Path(sys.argv[1])
    results: dict[str, dict[str, Any]] = {}
    for name, path in build(folder):
        results[name] = {way.__name__: outcome(way, path) for way in WAYS}
    print(json.dumps(results))
    return 0


def run(folder: Path) -> dict[str, dict[str, str]]:
    """All of it, in a process of its own."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "helpers.hostile_reading", str(folder)],
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"},
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
