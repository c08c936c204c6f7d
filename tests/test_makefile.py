"""The Makefile: every target has a help line, prints one pasteable line, and says what it lacks before it starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Makefile").read_text()
HOST = ("RUN=host", "GPUS=0")
CONTAINER = ("RUN=container", "CONTAINER=docker", "GPUS=4", "DEVICE=gpu")


def make(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}
    return subprocess.run(
        ["make", "--no-print-directory", "-C", str(folder), *arguments],
        text=True, capture_output=True, check=False, env=clean | environment,
    )  # fmt: skip


def targets() -> list[str]:
    """Every phony target, as make itself knows them."""
    database = make("-pnRr", "nosuchtarget").stdout
    (found,) = re.findall(r"^\.PHONY:([^$\n]*)$", database, re.M)  # with a $, it is the text of a `define`
    return sorted(set(found.split()))


TARGETS = targets()
LEAVES = [
    f"extract-{data}-{kind}"
    for kind in ("grid", "boxes")
    for data in ("coco-train", "coco-valid", "coco-test", "vg", "gqa", "nlvr2-train", "nlvr2-valid", "nlvr2-test")
]


def test_the_users_own_words_are_targets() -> None:
    promised = {
        "demo", "test", "docker-build", "download", "download-features", "download-images", "extract-all",
        "extract-coco-grid", "kmeans", "verify", "report", "help", "parity", "shell", "image-test",
        "image-save", "setup",
    }  # fmt: skip
    assert promised <= set(TARGETS)
    assert len(LEAVES) == 16
    assert set(LEAVES) <= set(TARGETS)


def test_help_lists_every_target_and_is_the_default() -> None:
    listed = make("help").stdout
    assert make().stdout == listed
    assert set(TARGETS) - {line.split()[0] for line in listed.splitlines() if line.startswith("  ")} == set()


@pytest.mark.parametrize("where", [HOST, CONTAINER], ids=["host", "container"])
@pytest.mark.parametrize("target", [t for t in TARGETS if t not in ("help", "setup", "demo", "test", "lint", "lock")])
def test_one_pasteable_line(target: str, where: tuple[str, ...]) -> None:
    # setup, which image-test needs, prints its own line until it has been done
    done = make("-n", "--assume-old=.venv/.complete", "--assume-old=setup", target, *where)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, lines
    parsed = subprocess.run(["bash", "-n", "-c", lines[0]], capture_output=True, check=False)
    assert parsed.returncode == 0, parsed.stderr


@pytest.mark.parametrize("target", ["help", "setup", "demo", "test", "lint", "lock"])
def test_the_others_print_too(target: str) -> None:
    assert make("-n", target).returncode == 0


@pytest.mark.parametrize("target", LEAVES)
def test_extraction_commands_exist(target: str) -> None:
    """The script that a target names is there, and its flags are the published ones."""
    line = make("-n", target, *HOST).stdout
    found = re.search(r"cd feature_extraction && \S+python (\S+\.py) --(\w+) \S+/ ?(?:--split (\w+))?", line)
    assert found, line
    script, flag, split = found.groups()
    assert (ROOT / "feature_extraction" / script).is_file()
    data = target.split("-")[1]
    assert script.lower().startswith(data)
    assert flag == {"coco": "cocoroot", "vg": "vgroot", "gqa": "gqaroot", "nlvr2": "nlvrroot"}[data]
    assert split == (target.split("-")[2] if target.count("-") == 3 else None)
    assert ("bbox" if target.endswith("boxes") else "grid") in script


def test_more_than_one_gpu_is_used_by_itself() -> None:
    assert "torchrun --standalone --nproc_per_node 4 " in make("-n", "extract-vg-grid", *CONTAINER).stdout
    for gpus in ("0", "1"):
        assert "torchrun" not in make("-n", "extract-vg-grid", "RUN=host", f"GPUS={gpus}").stdout


def test_variables_reach_the_command() -> None:
    line = make(
        "-n", "extract-coco-train-grid", *CONTAINER, "PRECISION=tf32", "ENGINE=reference",
        "EXTRACT_FLAGS=--batch_size 4",
        "GPU_FLAGS=--device nvidia.com/gpu=all", "DATASETS=/data", "CHECKPOINT=/ckpt",
    ).stdout  # fmt: skip
    for part in (
        "--precision tf32", "--engine reference", "--batch_size 4", "--device nvidia.com/gpu=all", "--network none",
        "--volume /data/COCO/images:/app/datasets/COCO/images:ro",
        "--volume /ckpt:/app/feature_extraction/mask_rcnn_ckpt:ro",
        "--user $(id -u):$(id -g)",
    ):  # fmt: skip
        assert part in line
    assert "--gpus all" not in line
    assert "--gpus" not in make("-n", "extract-vg-grid", "RUN=container", "DEVICE=cpu", "GPUS=0").stdout


def test_relative_folders_become_absolute() -> None:
    line = make("-n", "extract-vg-grid", *CONTAINER, "DATASETS=data", "CHECKPOINT=ckpt").stdout
    assert f"--volume {ROOT}/data/VG/images:" in line
    assert f"--volume {ROOT}/ckpt:" in line


def test_several_files_name_their_leaves() -> None:
    def named(target: str) -> list[str]:
        return [word for word in make("-n", target, *HOST).stdout.split() if word.startswith("extract-")]

    assert sorted(named("extract-all")) == sorted(LEAVES)
    assert named("extract-coco-grid") == [f"extract-coco-{s}-grid" for s in ("train", "valid", "test")]
    assert named("extract-nlvr2-boxes") == [f"extract-nlvr2-{s}-boxes" for s in ("train", "valid", "test")]
    assert named("extract-gqa") == ["extract-gqa-grid", "extract-gqa-boxes"]
    assert named("extract-boxes") == [leaf for leaf in LEAVES if leaf.endswith("boxes")]


def test_the_published_vocabulary_command() -> None:
    line = make("-n", "kmeans", *HOST).stdout
    assert "run_kmeans.py --src=mscoco_train --tgt mscoco_train mscoco valid vg " in line


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a Makefile needs to be asked, and an environment that is there but does nothing."""
    for name in ("Makefile", "scripts/preflight.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$PWD $@"\n')
    python.chmod(0o755)
    (tmp_path / "feature_extraction" / "mask_rcnn_ckpt").mkdir(parents=True)
    (tmp_path / "kmeans").mkdir()
    for name in ("detectron_model.pth", "detectron_config.yaml"):
        (tmp_path / "feature_extraction/mask_rcnn_ckpt" / name).touch()
    images = tmp_path / "datasets/VG/images/VG_100K"
    images.mkdir(parents=True)
    (images / "1.jpg").touch()
    return tmp_path


def test_all_that_is_needed_is_there(checkout: Path) -> None:
    done = make("extract-vg-grid", *HOST, folder=checkout)
    assert done.returncode == 0, done.stderr
    assert "VG_extract_grid_feature.py --vgroot" in done.stdout.splitlines()[-1]


LACKING = {
    "environment": (".venv", [*HOST], "make setup"),
    "checkpoint": ("feature_extraction/mask_rcnn_ckpt/detectron_model.pth", [*HOST], "make download"),
    "configuration": ("feature_extraction/mask_rcnn_ckpt/detectron_config.yaml", [*HOST], "make download"),
    "images": ("datasets/VG/images/VG_100K/1.jpg", [*HOST], "make download-images-vg"),
    "space": ("", [*HOST, "bytes_grid=999999999999999999"], "GB free"),
    "engine": ("", ["RUN=container", "CONTAINER=nosuch-engine"], "there is no nosuch-engine: install Docker"),
    "engine that answers": ("", ["RUN=container", "CONTAINER=false"], "false does not answer"),
    "image": ("", ["RUN=container", "CONTAINER=./engine"], "make docker-build"),
    "engine that runs": ("", ["RUN=container", "CONTAINER=buildah"], "CONTAINER=podman"),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_is_lacking_is_said_in_one_line(checkout: Path, what: str) -> None:
    remove, variables, way_out = LACKING[what]
    engine = checkout / "engine"
    engine.write_text('#!/bin/sh\n[ "$1" = info ]\n')
    engine.chmod(0o755)
    path = checkout / remove
    if remove:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = make("extract-vg-grid", *variables, folder=checkout)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("preflight: ")]
    assert len(said) == 1, done.stderr
    assert way_out in said[0]
    assert "VG_extract" not in done.stdout.splitlines()[-1] or "&&" in done.stdout, "nothing was started"


def test_gpu_is_asked_for(checkout: Path) -> None:
    engine = checkout / "engine"
    engine.write_text("#!/bin/sh\n")
    engine.chmod(0o755)
    done = make(
        "extract-vg-grid", "RUN=container", "CONTAINER=./engine", "DEVICE=gpu", folder=checkout, PATH="/usr/bin:/bin"
    )
    if shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        assert done.returncode == 0
    else:
        assert "the NVIDIA driver sees no GPU" in done.stderr


def test_one_failing_file_does_not_keep_the_others(checkout: Path) -> None:
    done = make("extract-all", *HOST, folder=checkout)
    assert done.returncode != 0
    started = [line for line in done.stdout.splitlines() if line.startswith(f"{checkout}/feature_extraction ")]
    assert len(started) == 2, "both files of VG; the images of the rest are lacking"
