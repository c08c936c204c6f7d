#!/usr/bin/env python3
"""Question the image while it is built: the build fails unless everything in it is what was pinned.

    python check_image.py gpu|cpu

No GPU is needed: what is asked is whether the CUDA code is there, not whether it runs.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FAT_BINARY: Final = b".nv_fatbin"
"""ELF section that holds the compiled kernels; absent from an extension built without its CUDA part."""


def pins() -> dict[str, str]:
    """Package -> pinned version, from pyproject.toml's extra ``exact``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(line.split("==") for line in project["optional-dependencies"]["exact"])


def wrong_versions(gpu: bool) -> Iterator[str]:
    for package, wanted in pins().items():
        try:
            if gpu and package == "faiss-cpu":
                # compiled in the gpu image; its library knows its version, its wheel's may lag behind
                found = str(importlib.import_module("faiss").__version__)
            else:
                found = importlib.metadata.version(package)
        except ImportError as error:  # PackageNotFoundError is one
            yield f"{package} is not installed ({error}); pinned: {wanted}"
            continue
        if found.split("+")[0] != wanted:  # "2.13.0+cpu" is the CPU build of 2.13.0
            yield f"{package} is {found}; pinned: {wanted}"


def not_importable(gpu: bool) -> Iterator[str]:
    modules = ["torch", "numpy", "h5py", "PIL", "cv2", "yaml", "faiss", "tqdm"]
    # torch first: the extension's libraries are found through it
    if gpu:
        # its extension, and what feature_extraction/detector/reference.py asks for
        modules += [
            "maskrcnn_benchmark._C", "maskrcnn_benchmark.config", "maskrcnn_benchmark.modeling.detector",
            "maskrcnn_benchmark.structures.bounding_box", "maskrcnn_benchmark.structures.image_list",
        ]  # fmt: skip
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            yield f"import {module} fails: {error}"


def without_cuda() -> Iterator[str]:
    """What the gpu image lacks of CUDA."""
    torch = importlib.import_module("torch")
    if torch.version.cuda is None:
        yield "PyTorch is the CPU build"
    extension = Path(str(importlib.import_module("maskrcnn_benchmark._C").__file__))
    if FAT_BINARY not in extension.read_bytes():
        yield f"{extension} holds no CUDA kernels: the fork was compiled without its CUDA part (FORCE_CUDA)"
    faiss = importlib.import_module("faiss")
    for name in ("StandardGpuResources", "GpuIndexFlatL2", "index_cpu_to_gpu"):
        if not hasattr(faiss, name):
            yield f"faiss has no {name}: it was compiled without FAISS_ENABLE_GPU"


def main(arguments: list[str]) -> int:
    if arguments not in (["gpu"], ["cpu"]):
        print("usage: check_image.py gpu|cpu", file=sys.stderr)
        return 2
    gpu = arguments == ["gpu"]
    wrong = [*wrong_versions(gpu), *not_importable(gpu)]
    if gpu and not any(re.match("import ", line) for line in wrong):
        wrong += without_cuda()
    for line in wrong:
        print(f"check_image: {line}", file=sys.stderr)
    if not wrong:
        print("check_image: versions as pinned" + (", CUDA code in the fork and in faiss" if gpu else ""))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
