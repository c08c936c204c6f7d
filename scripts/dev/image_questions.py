"""Run tests/image/inside.py in the image, as any job is run: python -m scripts.dev.image_questions [NAME=value ...]"""

from __future__ import annotations

import subprocess
import sys

from ..launch.jobs import Job, Launcher
from ..launch.settings import Settings


def main() -> int:
    here = Launcher(Settings({}, ["RUN=container", "TARGET=cpu", *sys.argv[1:]]))
    data = here.settings.datasets / "VG"
    words = ["python", "tests/image/inside.py", str(data / "images"), str(data / "features")]
    command = here.command(Job(folder="", command=words, reads=(data / "images",), writes=(data / "features",)))
    return subprocess.run(list(command.argv), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
