"""Questions to the running image, asked inside it: python tests/image/inside.py IMAGES RESULTS

Exits 1 and names what is wrong. IMAGES and RESULTS are folders that are mounted read-only and writable.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path


def reaches_a_network() -> bool:
    """Whether there is any interface besides the loopback."""
    return any(name != "lo" for _, name in socket.if_nameindex())


def can_write(folder: str) -> bool:
    probe = Path(folder) / "probe"
    try:
        probe.touch()
    except OSError:
        return False
    probe.unlink()
    return True


def status(name: str) -> str:
    """A line of /proc/self/status."""
    return dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())[name].strip()


def bounded_processes() -> bool:
    """Whether the cgroup, of version 1 or 2, bounds their number."""
    files = [*Path("/sys/fs/cgroup").glob("pids*/pids.max"), Path("/sys/fs/cgroup/pids.max")]
    found = [f.read_text().strip() for f in files if f.is_file()]
    return bool(found) and all(text.isdecimal() for text in found)


def questions(images: str, results: str) -> dict[str, bool]:
    root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(root))
    import faiss
    import numpy as np
    import torch

    from feature_extraction import catalog

    index = faiss.IndexFlatL2(4)
    index.add(np.eye(4, dtype=np.float32))
    carried = [p.suffix for p in root.rglob("*") if "datasets" not in p.parts]
    return {
        "the user is not root": os.getuid() != 0 and os.getgid() != 0,
        "there are no capabilities": all(int(status(name), 16) == 0 for name in ("CapEff", "CapPrm", "CapBnd")),
        "there are no new privileges": status("NoNewPrivs") == "1",
        "the number of processes is bounded": bounded_processes(),
        "images cannot be written, results can": not can_write(images) and can_write(results),
        "nothing else can be written but /tmp": can_write("/tmp") and not any(map(can_write, ("/", "/var", "/home"))),
        "there is a home": os.environ["HOME"] == "/tmp",
        "there is no compiler": not any(shutil.which(c) for c in ("gcc", "cc", "g++", "c++", "nvcc", "clang")),
        "the code is not the user's to change": not can_write("/app") and not can_write("/opt/venv"),
        "there is no network": not reaches_a_network(),
        "PyTorch computes": torch.ones(2).sum().item() == 2,
        "faiss searches": index.search(np.eye(4, dtype=np.float32), 1)[1].ravel().tolist() == [0, 1, 2, 3],
        "the catalogue is there": len(catalog.DATA_SETS) == 4,
        "no checkpoint and no features travelled along": not {".pth", ".h5", ".npy"} & set(carried),
        "the revision is known": (root / "REVISION").read_text().strip() not in ("", "unknown"),
    }


def main() -> int:
    answers = questions(*sys.argv[1:])
    for question, answer in answers.items():
        print(f"{'ok' if answer else 'WRONG':6}{question}")
    return 0 if all(answers.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
