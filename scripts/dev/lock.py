#!/usr/bin/env python3
"""Write every lock file from the exact pins in pyproject.toml's extras (``make lock``).

    constraints.txt                 all versions, for `make setup` on any Linux machine
    docker/requirements-cpu.txt     the cpu image, with SHA-256 of every file
    docker/requirements-cuda.txt    the CUDA libraries that PyTorch's CUDA build needs, likewise
    docker/requirements-gpu.txt     the gpu image (without faiss, which it compiles), likewise
    docker/requirements-build.txt   the tools that compile the fork and faiss, likewise

Needs uv (the ``lock`` extra) and a package index. PyTorch exists in two builds under one version:
the package index holds the CUDA build; ``2.13.0+cpu`` comes from PyTorch's own CPU index. A plain
``torch==2.13.0`` accepts either, so constraints.txt serves both, and the cpu image's list carries the
hashes of both builds.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
IMAGE_PYTHON: Final = "3.12"  # Ubuntu 24.04

# The CPU build is not on the package index, so no resolver lists its files there.
TORCH_CPU_SHA256: Final = {
    "cp311": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "cp312": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
}
TORCH_OF_THESE_HASHES: Final = "2.13.0"

CUDA_PACKAGE: Final = re.compile(r"(nvidia-|cuda-|triton$)")
HEADER: Final = "# Written by `make lock` from pyproject.toml; do not edit.\n"


def compiled(*arguments: str) -> str:
    """What ``uv pip compile`` prints for these arguments; of pyproject.toml, the extras that are named."""
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate",
        "--no-emit-find-links", "--no-emit-index-url", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def entries(lock: str) -> dict[str, str]:
    """Package name -> its lines ("name==version \\\\\\n    --hash=...")."""
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=[a-zA-Z0-9])", lock.strip()):
        found[re.split(r"[=\[ ]", entry, maxsplit=1)[0]] = entry
    return found


def with_cpu_build(entry: str) -> str:
    """The entry of torch, accepting the files of the CPU build as well."""
    if not entry.startswith(f"torch=={TORCH_OF_THESE_HASHES} "):
        raise SystemExit(
            f"scripts/dev/lock.py knows the CPU build's hashes of torch {TORCH_OF_THESE_HASHES}, but the pin is "
            f"{entry.split()[0]}: put the new files' SHA-256 into TORCH_CPU_SHA256"
        )
    return entry + "".join(f" \\\n    --hash=sha256:{digest}" for digest in TORCH_CPU_SHA256.values())


def write(name: str, lines: list[str], title: str) -> None:
    path = ROOT / name
    path.write_text(f"# {title}\n{HEADER}" + "\n".join(lines) + "\n")
    print(f"{name}: {len(lines)} packages")


def main() -> None:
    one = ("--fork-strategy", "fewest")  # one version of each for every Python, here as in the images
    project = ("pyproject.toml", "--extra", "exact")
    versions = compiled(*project, "--extra", "dev", "--python-version", "3.11", "--universal", *one)
    write("constraints.txt", versions.strip().splitlines(), "Every version, direct and transitive.")

    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(versions)
        constraints.flush()
        image = (
            "--generate-hashes", "--python-version", IMAGE_PYTHON,
            "--python-platform", "x86_64-unknown-linux-gnu", "--constraint", constraints.name,
        )  # fmt: skip
        everything = entries(compiled(*project, "--extra", "image-reference", *image))
        reference = set(everything) - set(entries(compiled(*project, *image)))
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        with tempfile.NamedTemporaryFile("w", suffix=".in") as wanted:
            wanted.write("\n".join(extras["image-build"]))
            wanted.flush()
            build = entries(compiled(wanted.name, *image))

    cuda = {name for name in everything if CUDA_PACKAGE.match(name)}
    for_cpu = {n: e for n, e in everything.items() if n not in cuda | reference}
    for_cpu["torch"] = with_cpu_build(for_cpu["torch"])
    write("docker/requirements-cpu.txt", list(for_cpu.values()), "Python packages of the cpu image.")
    write(
        "docker/requirements-cuda.txt",
        [everything[n] for n in sorted(cuda)],
        "Libraries of PyTorch's CUDA build; the cpu image needs them only where the CPU build cannot be had.",
    )
    write(
        "docker/requirements-gpu.txt",
        [e for n, e in everything.items() if n != "faiss-cpu"],
        "Python packages of the gpu image; faiss is compiled there.",
    )
    write("docker/requirements-build.txt", list(build.values()), "Tools that compile the fork and faiss.")


if __name__ == "__main__":
    main()
