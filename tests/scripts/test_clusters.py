"""Apptainer and Charliecloud as the launcher speaks to them, with programs that only write down what they are
told; the real ones are asked in test_slurm.py."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.common import ROOT
from helpers.launching import FILES, Checkout, mounts

from feature_extraction.errors import UsageError
from scripts.launch import features
from scripts.launch.apptainer import IMAGE_ENVIRONMENT, folders_to_mount, require_mount
from scripts.launch.jobs import Launcher
from scripts.launch.settings import Settings


def test_apptainer_gets_the_mounts_of_docker_and_a_clean_environment(checkout: Checkout) -> None:
    done = checkout.make("extract-vg-grid", "RUN=apptainer", "GPUS=0", "RUN_FLAGS=--no-mount hostfs")
    assert done.returncode == 0, done.stderr
    (words,) = checkout.calls("apptainer")
    assert words[:5] == ["exec", "--containall", "--cleanenv", "--pwd", "/app/feature_extraction"]
    images, features = f"{checkout.data}/VG/images", f"{checkout.data}/VG/features"
    assert mounts(words) == {str(checkout.checkpoint): False, images: False, features: True}
    image = words.index(f"{checkout.folder}/build/xlxmert-features-cpu.sif")
    assert words[image - 2 : image] == ["--no-mount", "hostfs"]
    assert words[image + 1 : image + 3] == ["python", "VG_extract_grid_feature.py"]
    assert "--nv" not in words
    assert not {"--writable", "--writable-tmpfs"} & set(words)


APPTAINER = {
    "exec": "runs a program of the image, not its runscript",
    "--containall": "no home, /tmp, processes or variables of the host; /tmp and the home are 64 MB of memory",
    "--cleanenv": "as --containall has it; said for those who read the line",
    "--pwd": "the working folder; a synonym of --cwd, and the only name before 1.3.0",
    "--mount": "type=bind alone, fields of a CSV record: source or src, destination, dst or target, ro or readonly",
    "--nv": "the cards and the driver's libraries",
}
"""Every option that we give, as Apptainer's sources and manual have it (read on 2026-11-26, at 917d6657; --mount came
with 1.0.0, --cwd was preferred from 1.3.0 on)."""


def test_apptainer_is_given_only_what_it_knows(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Option by option, and no environment that it would refuse or take for an option of its own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    words = ["RUN=apptainer", "TARGET=gpu", f"DATASETS={checkout.folder}/a, b:c"]
    here = Launcher(Settings({}, words), dry_run=True)
    command = list(here.command(features.extract(here, FILES["vg-grid"])).argv)
    program, image = command.index("apptainer"), next(i for i, w in enumerate(command) if w.endswith(".sif"))
    given = {word for word in command[program + 1 : image] if word.startswith("--") or word == "exec"}
    assert given == set(APPTAINER)
    for before, value in pairwise(command[:image]):
        if before == "--mount":
            (fields,) = csv.reader([value])
            assert [field.partition("=")[0] for field in fields][:3] == ["type", "source", "target"]
            assert fields[0] == "type=bind"
            assert set(fields[3:]) <= {"readonly"}
    names = [word.partition("=")[0] for word in command[1:program]]
    # {PREFIX}ENV_PATH, _LD_LIBRARY_PATH and _HOME have meanings of their own
    assert names == ["APPTAINERENV_CUDA_VISIBLE_DEVICES"]


def test_the_archive_is_unpacked_for_apptainer_first(checkout: Checkout) -> None:
    """From 1.4.1 it looks into a docker-archive for an OCI layout, and stops at a compressed one."""
    (checkout.folder / "build/xlxmert-features-cpu.sif").unlink()
    done = checkout.make("extract-vg-grid", "RUN=apptainer", "GPUS=0")
    assert " gunzip xlxmert-features-cpu.tar.gz && apptainer build " in done.stderr
    assert " docker-archive:xlxmert-features-cpu.tar, " in done.stderr


def test_cards_and_the_task_of_a_step_are_handed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment: Apptainer splits the values of its flag at commas."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2(x2)")
    monkeypatch.setenv("SLURM_JOB_NAME", "not its matter")
    found = {}
    for run in ("apptainer", "charliecloud", "container"):
        words = [f"RUN={run}", "TARGET=gpu", "CONTAINER=podman", "GPUS=2"]
        here = Launcher(Settings({}, words), dry_run=True)
        found[run] = list(here.command(features.verify(here)).argv)
        assert not any("JOB_NAME" in word for word in found[run])
        assert here.processes == 1, "a task beside others is a rank itself"
    assert found["apptainer"][:5] == [
        "env", "APPTAINERENV_CUDA_VISIBLE_DEVICES=0,1", "APPTAINERENV_SLURM_STEP_ID=0",
        "APPTAINERENV_SLURM_STEP_NUM_TASKS=4", "APPTAINERENV_SLURM_STEP_TASKS_PER_NODE=2(x2)",
    ]  # fmt: skip
    assert "--nv" in found["apptainer"]
    assert "--set-env=SLURM_STEP_NUM_TASKS=4" in found["charliecloud"]
    assert "CUDA_VISIBLE_DEVICES=0,1" in found["container"]
    monkeypatch.setattr("shutil.which", lambda program: program if program == "singularity" else None)
    older = Launcher(Settings({}, ["RUN=apptainer", "TARGET=gpu"]), dry_run=True)
    assert older.command(features.verify(older)).argv[1] == "SINGULARITYENV_CUDA_VISIBLE_DEVICES=0,1"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert Launcher(Settings({}, ["GPUS=2"]), dry_run=True).processes == 2


def test_charliecloud_has_the_environment_of_the_image(checkout: Checkout) -> None:
    done = checkout.make("extract-vg-grid", "RUN=charliecloud", "GPUS=0")
    assert done.returncode == 0, done.stderr
    (words,) = checkout.calls("ch-run")
    text = (ROOT / "docker/Dockerfile").read_text()
    (block,) = re.findall(r"^ENV (PATH=/opt/venv.*(?:\n .*)*)", text, re.M)
    named = dict(word.split("=", 1) for word in block.replace("\\\n", " ").split())
    assert {k: v for k, v in IMAGE_ENVIRONMENT.items() if k != "PATH"} == {
        k: v for k, v in named.items() if k != "PATH"
    }
    assert IMAGE_ENVIRONMENT["PATH"].startswith(named["PATH"].replace("$PATH", ""))
    assert "--unset-env=*" in words
    assert "--set-env=HOME=/tmp" in words
    assert "--write" not in words
    binds = [after for word, after in pairwise(words) if word == "--bind"]
    image = words[words.index("--") - 1]
    assert image == f"{checkout.folder}/build/xlxmert-features-cpu"
    folders = folders_to_mount([checkout.data / "VG/images"], Path(image))  # itself, or what it lies in
    assert {f"{os.path.realpath(folder)}:{folder}" for folder in folders} <= set(binds)


def test_charliecloud_mounts_on_what_the_image_has(tmp_path: Path) -> None:
    """ch-run makes mount points nowhere but in its own /tmp; what is mounted must not hide the image's own files, of
    which Ubuntu has some in /home."""
    image = tmp_path / "image"
    for name in ("gpfs", "mnt/data/COCO", "opt/venv", "home/ubuntu", "home/me", "var/tmp"):
        (image / name).mkdir(parents=True)
    seen_in = {
        "/gpfs/me/COCO/images": "/gpfs",
        "/home/me/COCO": "/home/me",
        "/mnt/data": "/mnt/data",
        "/mnt/data/COCO": "/mnt/data/COCO",
        "/mnt/data/COCO/images": "/mnt/data/COCO",
        "/tmp/me/COCO": "/tmp/me/COCO",
        "/var/tmp/me": "/var/tmp",
    }
    for path, folder in seen_in.items():
        assert folders_to_mount([Path(path)], image) == [Path(folder)], path
    lacking = {
        "/scratch/me/a": "scratch",
        "/opt/me/a": "opt/me",
        "/home/you/a": "home/you",
        "/mnt/data/VG": "mnt/data/VG",
    }
    for path, folder in lacking.items():
        with pytest.raises(UsageError, match=f"mkdir {image / folder}$"):
            require_mount(*folders_to_mount([Path(path)], image), image)
        (image / folder).mkdir()
        require_mount(*folders_to_mount([Path(path)], image), image)
    # a folder that is mounted shows what is below it, whatever the image has there
    assert folders_to_mount([Path("/mnt/data"), Path("/mnt/data/GQA")], image) == [Path("/mnt/data")]
    # before there is an image, for the line that make -n prints
    assert folders_to_mount([Path("/opt/me/COCO")], tmp_path / "none") == [Path("/opt")]


def test_a_path_leads_through_all_its_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder that links to a project, on a file system that is itself a link, is found inside by each name."""
    links = {"/home/me/data": "/gpfs/project/me", "/gpfs": "/mnt/gpfs", "/gpfs/project/me": "../old/me",
             "/gpfs/old": "/archive", "/home/me/up": "../../srv/x", "/home/me/here": "/tmp/me",
             "/home/me/round": "/home/me/round", "/home/me/long": "long/er"}  # fmt: skip
    monkeypatch.setattr("os.path.islink", lambda path: str(path) in links)
    monkeypatch.setattr("os.readlink", lambda path: links[str(path)])
    found = {
        "/home/me/data/COCO": ["/home", "/gpfs", "/archive"],
        "/home/me/up/COCO": ["/home", "/srv"],
        "/home/me/here/COCO": ["/home", "/tmp/me/COCO"],
        "/home/me/round": ["/home"],
        "/home/me/long": ["/home"],
        "/gpfs/COCO": ["/gpfs"],
        "/data": ["/data"],
    }
    for path, folders in found.items():
        assert folders_to_mount([Path(path)], tmp_path / "none") == [Path(folder) for folder in folders], path
    every = folders_to_mount(map(Path, found), tmp_path / "none")
    assert every == [Path(f) for f in ("/home", "/gpfs", "/archive", "/srv", "/tmp/me/COCO", "/data")]


LACKING = {
    "RUN=apptainer IMAGE=other.sif": r"no image /.+/other.sif: make image-archive .* '/.+' docker-archive:other",
    "RUN=charliecloud IMAGE=other": r"no image in the folder /.+/other: make image-archive .* tar -C '/.+/other' -xf",
    "RUN=charliecloud DATASETS=/a:b": r"/a:b: ch-run splits its mounts at colons",
    "RUN=charliecloud DATASETS=/gpfs9/me": r"the image has no folder /gpfs9 to mount on: mkdir '/.+-cpu/gpfs9'$",
    "RUN=charliecloud DATASETS=/opt/me": r"the image has no folder /opt/me to mount on: mkdir '/.+-cpu/opt/me'$",
}


@pytest.mark.parametrize("words", LACKING)
def test_what_is_lacking_is_said_in_one_line(checkout: Checkout, words: str) -> None:
    done = checkout.make("-n" if "DATASETS" in words else "-s", "extract-vg-grid", "GPUS=0", *words.split())
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("launch: ")]
    assert len(said) == 1, done.stderr
    assert re.search(LACKING[words], said[0]), said[0]
    assert checkout.calls() == []


def test_the_program_itself_is_missing(checkout: Checkout) -> None:
    for name, run in (("apptainer", "apptainer"), ("ch-run", "charliecloud")):
        (checkout.bin / name).unlink()
        path = {"PATH": f"{checkout.bin}:/bin"} if not Path("/bin", name).exists() else {"PATH": str(checkout.bin)}
        done = subprocess.run(
            ["/usr/bin/env", "-i", f"PATH={path['PATH']}", "python3", "-m", "scripts.launch", "extract-vg-grid",
             f"RUN={run}", "GPUS=0"], cwd=checkout.folder, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert f"there is no {name}: " in done.stderr


def test_the_archive_has_the_form_of_who_will_run_it(checkout: Checkout) -> None:
    build = ("CONTAINER=podman", "TARGET=cpu", "IMAGE_FILE=image.tar.gz")
    for target in ("image-archive", "image-save"):
        assert checkout.make(target, *build).returncode == 0
        assert checkout.calls("podman") == [["save", "xlxmert-features:cpu"]]
        assert (checkout.folder / "image.tar.gz").is_file()
        (checkout.folder / "image.tar.gz").unlink()
    assert checkout.make("image-archive", "RUN=charliecloud", *build).returncode == 0
    assert [words[0] for words in checkout.calls("podman")] == ["create", "export", "rm"]
    codes = checkout.codes(export=(1, "no room"))
    (checkout.folder / "image.tar.gz").unlink()
    assert checkout.make("image-archive", "RUN=charliecloud", *build, CODES=codes).returncode != 0
    assert not (checkout.folder / "image.tar.gz").exists(), "half an image has no name"
    assert checkout.calls("podman")[-1][0] == "rm"
