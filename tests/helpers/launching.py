"""A checkout to be asked by real `make`, whose Python and container runtimes only write down what they are told."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from helpers.common import ROOT

from feature_extraction import catalog
from scripts.launch.jobs import Command, Launcher
from scripts.launch.settings import Settings

FILES = {file.name: file for file in catalog.feature_files()}
SBATCH = """#!/bin/bash
echo "sbatch $*" >> "$RECORD.slurm"
[ -z "$REFUSED" ] || { echo "sbatch: error: $REFUSED" >&2; exit 1; }
echo "$(($(grep -c ^sbatch "$RECORD.slurm") + 100));cluster"
"""
SQUEUE = """#!/bin/bash
case "$*" in *--name=${QUEUED:-nothing}-??????" "*) printf '%s %s\\n' ${STATES:-55 CG 55 PD 55 R};; esac
"""
RECORDER = f"""#!/bin/sh
''':'
exec {shlex.quote(sys.executable)} "$0" "$@"
'''
import json, os, sys
words = sys.argv[1:]
name = os.path.basename(sys.argv[0])
with open(os.environ["RECORD"], "a") as record:
    print(json.dumps({{"program": name, "words": words}}), file=record)
if name in ("docker", "podman"):
    answers = json.loads(os.environ.get("RUNTIME", "{{}}"))
    if words[0] == "info" or words[:2] == ["image", "inspect"]:
        print(answers.get("info", ""))
        sys.exit(answers.get("image", 0) if words[0] == "image" else 0)
    if words[0] == "buildx":
        sys.exit(answers.get("buildx", 0))
    if words[0] == "version":
        print(answers.get("version", "28.2.2"))
        sys.exit(0)
codes = json.loads(os.environ.get("CODES", "{{}}"))
for part, (code, said) in codes.items():
    if any(part in word for word in words):
        print(said, file=sys.stderr)
        sys.exit(code)
"""


class Checkout:
    """A copy of what `make` reads, and the folder where its fakes write down their calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignore = shutil.ignore_patterns("__pycache__", "*.h5", "mask_rcnn_ckpt", "detector", "storage")
        for name in ("scripts", "feature_extraction", "kmeans"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignore, symlinks=True)
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder / name)
        self.bin = folder.parent / "bin"  # not in the checkout, whose name may hold a colon
        programs = [folder / ".venv/bin" / name for name in ("python", "torchrun")]
        programs += [self.bin / name for name in ("docker", "podman", "curl")]
        for path in programs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(RECORDER)
            path.chmod(0o755)
        (self.bin / "python3").symlink_to(sys.executable)
        (folder / ".venv/.complete").touch()
        self.data = self.lay_out(folder / "datasets")
        self.checkpoint = self.lay_checkpoint(folder / "feature_extraction/mask_rcnn_ckpt")

    def lay_out(self, datasets: Path) -> Path:
        """One image of Visual Genome."""
        images = datasets / "VG/images/VG_100K"
        images.mkdir(parents=True)
        (images / "1.jpg").touch()
        return datasets

    def lay_checkpoint(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name in ("detectron_model.pth", "detectron_config.yaml"):
            (folder / name).touch()
        return folder

    def make(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Real make, with nothing of an outer make or of the person's own settings."""
        (self.folder / "record").unlink(missing_ok=True)
        clean = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "RECORD": str(self.folder / "record"),
        }
        return subprocess.run(
            ["make", "--no-print-directory", *words],
            cwd=self.folder, text=True, capture_output=True, check=False, env=clean | environment, timeout=120,
            errors="surrogateescape",
        )  # fmt: skip

    def calls(self, program: str = "") -> list[list[str]]:
        """Words of every call, but for the questions to a runtime."""
        record = self.folder / "record"
        if not record.exists():
            return []
        calls = [json.loads(line) for line in record.read_text().splitlines()]
        return [
            call["words"]
            for call in calls
            if (not program or call["program"] == program)
            and call["words"][0] not in ("info", "image", "buildx", "version")
        ]

    def codes(self, **codes: tuple[int, str]) -> str:
        """For the environment variable CODES: part of a word -> (exit code, what is printed)."""
        return json.dumps(codes)

    def runtime(self, **answers: object) -> str:
        """For the environment variable RUNTIME: what docker and podman answer."""
        return json.dumps(answers)


def mounts(words: list[str]) -> dict[str, bool]:
    """Target -> writable of every ``--mount``, read as the runtimes read them: comma-separated, perhaps quoted."""
    found = {}
    for flag, value in pairwise(words):
        if flag == "--mount":
            (fields,) = csv.reader([value])
            named = dict(field.partition("=")[::2] for field in fields)
            assert named["type"] == "bind"
            assert os.path.exists(named["source"]), named
            found[named["target"]] = "readonly" not in named
    return found


def launcher(*words: str, dry_run: bool = False) -> Launcher:
    return Launcher(Settings({}, ["TARGET=cpu", *words]), dry_run=dry_run)


def mounted(command: Command) -> dict[str, tuple[str, bool]]:
    """Target -> (source, writable)."""
    found = {}
    words = list(command.argv)
    for value in (words[i + 1] for i, word in enumerate(words) if word == "--mount"):
        (fields,) = csv.reader([value])
        named = dict(field.partition("=")[::2] for field in fields)
        found[named["target"]] = (named["source"], "readonly" not in named)
    return found
