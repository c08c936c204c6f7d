"""scripts/launch/: owners, checks and endings; real make is asked in tests/test_makefile.py."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from helpers.common import ROOT
from helpers.launching import FILES, launcher

from feature_extraction.errors import UsageError
from scripts.launch import __main__ as launch
from scripts.launch import checks, container, features, jobs, setup, several, vocabulary
from scripts.launch.container import IMAGE_USER, RESTRICTIONS
from scripts.launch.jobs import Command, Launcher
from scripts.launch.settings import BUILD_ARGUMENTS, KNOWN, Settings

# ---------------------------------------------------------------- words and help


def test_nothing_but_the_standard_library_is_needed() -> None:
    """On a fresh machine there is no other: -S leaves all installed packages out."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "scripts.launch", "--list"], cwd=ROOT, capture_output=True, check=True
    )
    assert done.stdout.decode().count("  extract-") == 16


def test_every_argument_of_the_dockerfile_can_be_set() -> None:
    named = {line.split()[1].partition("=")[0] for line in (ROOT / "docker/Dockerfile").read_text().splitlines()
             if line.startswith("ARG ")}  # fmt: skip
    assert named == {*BUILD_ARGUMENTS, "REVISION"}
    assert len(set(KNOWN)) == len(KNOWN)


@pytest.mark.parametrize("arguments", [[], ["--dry-runn", "kmeans"], ["kmeans", "verify"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: python3 -m scripts.launch ")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--help", "kmeans"]) == 0
    said = capsys.readouterr().out
    assert all(flag in said for flag in ("--dry-run", "--slurm", "--list", "NAME=value"))


def test_a_job_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["kmean"]) == 2
    assert "did you mean 'kmeans'?" in capsys.readouterr().err


@pytest.mark.parametrize("group", launch.GROUPS)
def test_groups_have_several_files(group: str) -> None:
    words = set(group.split("-")) - {"all"}
    assert [f.name for f in launch.files_called(f"extract-{group}")] == [n for n in FILES if words <= set(n.split("-"))]
    assert len(launch.files_called(f"extract-{group}")) > 1


# ---------------------------------------------------------------- containers


def test_restrictions_are_the_same_in_compose() -> None:
    """docker/compose.yaml is what the launcher writes, and says in its words what RESTRICTIONS says."""
    text = (ROOT / "docker/compose.yaml").read_text()
    assert text == container.COMPOSE
    services = yaml.safe_load(text)["services"]
    assert {s["build"]["target"] for s in services.values()} == {"cpu", "gpu"}
    for service in services.values():
        assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert (
            "--network", service["network_mode"], "--cap-drop", *service["cap_drop"],
            "--security-opt", service["security_opt"][0].removesuffix(":true"), *["--read-only"] * service["read_only"],
            "--tmpfs", *service["tmpfs"], "--pids-limit", str(service["pids_limit"]),
        ) == RESTRICTIONS  # fmt: skip
        assert service["user"] == "${USER_ID:-1000}:${GROUP_ID:-1000}"
        assert service["environment"] == {"HOME": "/tmp"}
        writable = [v["target"] for v in service["volumes"] if not v.get("read_only")]
        assert writable == ["${OUTPUT:?}"]
        assert all(v["source"] == v["target"] for v in service["volumes"])


@pytest.mark.parametrize(("runtime", "flag"), [("docker", "--gpus all"), ("podman", "--device nvidia.com/gpu=all")])
def test_gpus_enter_the_gpu_image_alone(runtime: str, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    for target in ("gpu", "cpu"):
        here = Launcher(Settings({}, [f"CONTAINER={runtime}", "RUN=container", f"TARGET={target}"]), dry_run=True)
        line = here.command(features.extract(here, FILES["vg-grid"])).shown()
        assert (flag in line) == (target == "gpu")
        assert ("--env CUDA_VISIBLE_DEVICES=2,3" in line) == (target == "gpu")
        assert ("--init" in line) == (runtime == "docker")


# ---------------------------------------------------------------- whose files


class Owned:
    """Folders and their owners, told instead of looked up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, caller: int) -> None:
        self.given: dict[str, tuple[int, int]] = {}
        monkeypatch.setattr(os, "geteuid", lambda: caller)
        monkeypatch.setattr(os, "getegid", lambda: caller)
        monkeypatch.setattr(os, "chown", lambda path, *who, **how: self.given.update({str(path): who}))
        stat = Path.stat

        def told(path: Path, **flags: bool) -> os.stat_result:
            found = list(stat(path, **flags))
            found[4:6] = self.given.get(str(path), (0, 0))
            return os.stat_result(found)

        monkeypatch.setattr(Path, "stat", told)


def test_nobody_is_root_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller is himself; root becomes the owner of what is written, or the image's user."""
    owned = Owned(monkeypatch, 0)
    folders = [tmp_path / "a", tmp_path / "b"]
    assert container.owner(folders, tmp_path) == IMAGE_USER
    for folder in folders:
        folder.mkdir()
    owned.given[str(folders[0])] = (4321, 99)
    assert container.owner(folders, tmp_path) == (4321, 99)
    owned.given[str(folders[0])] = (4321, 0)
    assert container.owner(folders, tmp_path) == (4321, IMAGE_USER[1])
    assert container.owner(folders[1:], tmp_path) == IMAGE_USER
    owned.given[str(tmp_path)] = (7, 7)
    assert container.owner([], tmp_path) == (7, 7)
    Owned(monkeypatch, 500)
    assert container.owner(folders, tmp_path) == (500, 500)


def test_what_root_makes_goes_to_the_owner_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owned = Owned(monkeypatch, 0)
    (tmp_path / "theirs").mkdir()
    owned.given[str(tmp_path / "theirs")] = (4321, 99)
    checks.make_output(tmp_path / "theirs/VG/features", in_container=True)
    assert owned.given[str(tmp_path / "theirs/VG/features")] == owned.given[str(tmp_path / "theirs/VG")] == (4321, 99)
    checks.make_output(tmp_path / "roots/features", in_container=True)
    assert owned.given[str(tmp_path / "roots/features")] == IMAGE_USER
    (tmp_path / "empty").mkdir()
    checks.make_output(tmp_path / "empty", in_container=True)
    assert owned.given[str(tmp_path / "empty")] == IMAGE_USER
    checks.make_output(tmp_path / "on the host", in_container=False)
    assert str(tmp_path / "on the host") not in owned.given


def test_the_second_name_of_the_vocabulary_is_the_owners_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answering: None
) -> None:
    owned = Owned(monkeypatch, 0)
    owned.given[str(tmp_path)] = (4321, 99)
    here = launcher("RUN=container", f"DATASETS={tmp_path}")
    here.command(vocabulary.kmeans(here))
    assert owned.given[str(tmp_path / "clustering")] == owned.given[str(tmp_path / "cluster_centroids")] == (4321, 99)


def test_what_root_has_filled_is_roots_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owned = Owned(monkeypatch, 0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x.h5").touch()
    with pytest.raises(UsageError, match=r"belong to root, .*: chown -R 1000:1000 '?/.+/full'?, or RUN=host"):
        checks.make_output(tmp_path / "full", in_container=True)
    assert owned.given == {}


def test_a_user_without_a_name_cannot_write_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, or where the directory service is down, a number is all that there is."""
    Owned(monkeypatch, 4321)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=r"cannot write to .* as user 4321: "):
        checks.make_output(tmp_path, in_container=False)


def test_a_home_that_is_not_known_becomes_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds a folder ~ in his checkout, and removes it, removes his home."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match=r"DATASETS=~/data: .*\(HOME\): give the whole path"):
        _ = Settings({"DATASETS": "~/data"}).datasets


def test_podman_without_root_keeps_the_callers_id(monkeypatch: pytest.MonkeyPatch) -> None:
    for caller, keeps in ((500, True), (0, False)):
        Owned(monkeypatch, caller)
        here = Launcher(Settings({}, ["CONTAINER=podman", "RUN=container", "TARGET=cpu"]), dry_run=True)
        assert ("--userns keep-id" in here.command(features.verify(here)).shown()) == keeps


def test_groups_that_own_the_data_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared folder is often readable by its group alone, which need not be the caller's first."""
    owned = Owned(monkeypatch, 500)
    owned.given[str(tmp_path)] = (1, 777)
    monkeypatch.setattr(os, "getgroups", lambda: [500, 777, 888, 0])
    here = Launcher(
        Settings({}, ["CONTAINER=docker", "RUN=container", "TARGET=cpu", f"DATASETS={tmp_path}"]), dry_run=True
    )
    assert "--group-add 777 " in here.command(features.verify(here)).shown()
    assert "888" not in here.command(features.verify(here)).shown()


def test_verify_behind_an_address_runs_on_the_host_and_mounts_nothing_of_it(answering: None) -> None:
    """No container has a network, also where the image is there."""
    for words, place in (
        (["REMOTE=1"], "--remote"),
        (["PUBLISHED=https://mirror.example/f"], "--published https://mirror.example/f"),
    ):
        here = Launcher(Settings({}, [*words, "DATASETS=/data"]), dry_run=True)
        line = here.command(features.verify(here)).shown()
        assert re.match(rf"'?/.+/.venv/bin/python'? -m scripts\.verify --ours /data {place}", line)
        for run in ("container", "apptainer", "charliecloud"):
            with pytest.raises(UsageError, match="no container has a network"):
                features.verify(Launcher(Settings({}, [*words, f"RUN={run}"]), dry_run=True))


def test_verify_that_recomputes_is_given_the_checkpoint() -> None:
    words = ["CHECKPOINT=/weights", "DATASETS=/data", "CONTAINER=podman", "RUN=container", "TARGET=cpu"]
    for flags, given in (("--sample 5", False), ("--explain --sample 5", True)):
        here = Launcher(Settings({}, [*words, f"VERIFY_FLAGS={flags}"]), dry_run=True)
        job = features.verify(here)
        assert (Path("/weights") in job.reads) == given
        assert ("--checkpoint_dir" in job.command) == given


# ---------------------------------------------------------------- checks


def test_images_are_counted_through_links_and_circles(data: Path, tmp_path: Path) -> None:
    images = data / "VG/images"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/9.jpg").touch()
    (images / "other").symlink_to(tmp_path / "other")
    (images / "round").symlink_to(images)
    (images / "nothing.jpg").symlink_to(tmp_path / "nosuch.jpg")
    found = checks.survey(images, "*.jpg")
    assert found.images == 4
    assert tmp_path / "other" in found.folders
    assert checks.survey(images, "*.jpg", recursive=False).images == 0
    assert checks.survey(images, "*").images == 5


def test_images_of_another_kind_are_none(data: Path) -> None:
    with pytest.raises(UsageError, match=r"there are no images in .*: make x, or DATASETS=folder"):
        checks.require_images(data / "VG/images", "make x", "*.png")


@pytest.mark.parametrize(
    ("work", "finished", "free", "enough"),
    [
        (0, 0, 2000, True), (0, 0, 1999, False),  # the journals, and the file that is made of them
        (600, 0, 1400, True), (600, 0, 1399, False),  # what was computed before is room already taken
        (1000, 0, 1000, True), (1000, 0, 999, False),  # all is computed, nothing is assembled
        (0, 1000, 0, True), (0, 985, 0, True),  # finished, but for images that gave no features
        (0, 500, 1500, True), (0, 500, 1499, False),  # to be extended
    ],
)  # fmt: skip
def test_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: int, finished: int, free: int, enough: bool
) -> None:
    output = tmp_path / "x.h5"
    if work:
        (tmp_path / "x.h5.work").mkdir()
        (tmp_path / "x.h5.work/0.log").write_bytes(b"x" * work)
    if finished:
        output.write_bytes(b"x" * finished)
    (tmp_path / "another.h5").write_bytes(b"x" * 5000)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    if enough:
        checks.require_room(output, 100, 10)
    else:
        with pytest.raises(UsageError, match=r"GB free; the features of 100 images need .* while x\.h5 is made"):
            checks.require_room(output, 100, 10)


def test_room_is_asked_for_before_the_work(data: Path, monkeypatch: pytest.MonkeyPatch, answering: None) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    words = ("RUN=container", f"DATASETS={data}", f"CHECKPOINT={data.parent / 'ckpt'}")
    here = launcher(*words)
    with pytest.raises(UsageError, match="make room, or DATASETS=folder"):
        here.command(features.extract(here, FILES["vg-grid"]))
    for flags in ("--imsize 32", "--imsize=32"):  # the published size does not hold: the job asks itself
        here = launcher(*words, f"EXTRACT_FLAGS={flags}")
        here.command(features.extract(here, FILES["vg-grid"]))


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 3), ("", 0), ("0", 1), ("0,2", 2), ("-1", 0), ("GPU-1,GPU-2,GPU-3,GPU-4", 3)]
)
def test_gpus_are_counted_as_cuda_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert checks.gpus() == count


def test_gpus_that_are_not_there_are_refused() -> None:
    checks.require_gpus(None, 0, needed=False)
    checks.require_gpus(0, 0, needed=False)
    checks.require_gpus(2, 2, needed=True)
    with pytest.raises(UsageError, match=r"GPUS=2, but the NVIDIA driver sees no GPU here .*: GPUS=0 and TARGET=cpu"):
        checks.require_gpus(2, 0, needed=False)
    with pytest.raises(UsageError, match=r"GPUS=4, but the NVIDIA driver sees 2 GPUs here"):
        checks.require_gpus(4, 2, needed=True)
    with pytest.raises(UsageError, match=r"sees no GPU \(nvidia-smi\): mend the driver, or TARGET=cpu"):
        checks.require_gpus(None, 0, needed=True)


def test_processes_follow_gpus_or_are_set() -> None:
    def line(*words: str) -> str:
        here = Launcher(Settings({}, ["RUN=host", *words]), dry_run=True)
        return here.command(features.extract(here, FILES["vg-grid"])).shown()

    assert re.search(r"/torchrun'? --standalone --local-addr 127.0.0.1 --nproc_per_node 4 ", line("GPUS=4"))
    assert " --nproc_per_node 2 " in line("GPUS=0", "PROCESSES=2")
    assert "torchrun" not in line("GPUS=1") + line("GPUS=0") + line("GPUS=4", "PROCESSES=1")
    assert " --device cpu" in line("GPUS=0")
    assert " --device cuda" in line("GPUS=1"), "a PyTorch without CUDA is refused, not computed with"
    assert " --device cpu" not in line("GPUS=0", "EXTRACT_FLAGS=--device cuda")
    assert " --device" not in line()


# ---------------------------------------------------------------- several files


def test_endings(tmp_path: Path) -> None:
    output, report = tmp_path / "x.h5", tmp_path / "x.report.json"

    def ending(code: int, said: str = "why", begun: float = 0.0, stopped: bool = False) -> tuple[bool, str]:
        found = several.ending(code, said, output, begun, stopped=stopped)
        return found.made, found.text

    assert ending(0) == (True, "made")
    assert ending(1) == (False, "missing: why")
    assert ending(1, "") == (False, "missing: exit code 1")
    assert ending(130, stopped=True) == (False, "missing: stopped; the same command goes on")
    output.touch()
    report.write_text('{"failed": [1, 2]}')
    assert ending(3) == (True, "made, 2 failed images: x.report.json")
    assert ending(1) == (True, "made, 2 failed images: x.report.json"), "torchrun knows one code for all failures"
    later = time.time() + 60
    assert ending(1, begun=later) == (False, "an earlier file is there, this run failed: why")
    report.write_text("not json")
    assert ending(3) == (True, "made, some failed images: x.report.json")


def test_a_signal_reaches_the_job_once_and_ends_the_round(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first job is told, ends as it likes, and the others are not begun."""
    program = (
        "import signal, sys, time\n"
        "def stop(number, frame):\n    print('told', number, flush=True)\n    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    here = launcher("RUN=host", f"DATASETS={data}")
    found = {name: lambda: Command(argv=[sys.executable, "-c", program]) for name in ("vg-grid", "vg-boxes")}
    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.start()
    assert several.run_all(here, found) == 143
    said = capfd.readouterr().out
    assert said.count("told") == 1
    assert "missing: stopped; the same command goes on" in said
    assert "missing: not begun" in said
    assert "0 of 2 files made" in said
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_the_caller_ignores_is_ignored(data: Path) -> None:
    """``nohup make extract-all &`` outlives its terminal, whose end is a SIGHUP to everything in it."""
    program = (
        "import os, signal, sys\n"
        "from scripts.launch.jobs import Command\n"
        "from scripts.launch import several\n"
        "stopped = []\n"
        "job = f'import os, signal, time; [os.kill({os.getpid()}, n) for n in (signal.SIGHUP, signal.SIGTERM)]; "
        "time.sleep(0.5)'\n"
        "several.run(Command(argv=[sys.executable, '-c', job]), stopped)\n"
        "print(*stopped)\n"
    )
    done = subprocess.run(
        ["nohup", sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [str(int(signal.SIGTERM))]


def test_torchrun_ignores_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It handles SIGHUP whatever its caller has set, and ends its processes."""
    here = Launcher(Settings({}, ["RUN=host", "GPUS=0", "PROCESSES=2"]), dry_run=True)
    assert here.command(features.extract(here, FILES["vg-grid"])).environment == {}
    monkeypatch.setattr(jobs.signal, "getsignal", lambda number: signal.SIG_IGN)
    environment = here.command(features.extract(here, FILES["vg-grid"])).environment
    assert environment == {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGQUIT"}


def test_the_reason_is_the_error_line() -> None:
    assert checks.last_error(["reading\n", "error: no checkpoint\n", "1 image done\n", "\n"]) == "no checkpoint"
    assert checks.last_error(["reading\n", "bye\n"]) == "bye"
    assert checks.last_error([]) == ""


# ---------------------------------------------------------------- setup


def test_setup_shows_one_line_a_package() -> None:
    progress = setup.Progress(3)
    said = [
        "Looking in links: /x",
        "Obtaining file:///checkout",
        "Collecting torch==2.13.0 (from xlxmert-features==1.0.0)",
        "  Downloading https://x.example/torch-2.13.0-cp312-cp312-manylinux.whl.metadata (29 kB)",
        "  Downloading torch-2.13.0%2Bcpu-cp312.whl (195.3 MB)",
        "Collecting torch==2.13.0 (from again)",
        "Collecting Numpy==2.4.6",
        "  Using cached numpy-2.4.6.whl (17 MB)",
        "Processing /srv/wheels/faiss_cpu-1.15.1-cp312-cp312-manylinux.whl (from xlxmert-features==1.0.0)",
        "Installing collected packages: numpy, torch",
        "Successfully installed numpy-2.4.6 torch-2.13.0",
    ]
    assert [shown for line in said if (shown := progress.line(line.strip()))] == [
        "setup: package 1 of at most 3: torch",
        "setup:     downloading torch-2.13.0, 195.3 MB",
        "setup: package 2 of at most 3: numpy",
        "setup: package 3 of at most 3: faiss-cpu",
        "setup: installing them, which takes a minute",
    ]


def test_setup_that_fails_shows_why(capsys: pytest.CaptureFixture[str]) -> None:
    program = "print('Collecting a'); print('ERROR: No matching distribution'); raise SystemExit(1)"
    log = io.StringIO()
    assert setup.install([sys.executable, "-c", program], setup.Progress(5), log) == [
        "Collecting a",
        "ERROR: No matching distribution",
    ]
    assert capsys.readouterr().out == "setup: package 1 of at most 5: a\n"
    assert "No matching" in log.getvalue()


def test_setup_says_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def makes_it(command: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        (tmp_path / "venv").mkdir()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(setup, "install", lambda command, progress, log: asked.append(command) or [])
    with monkeypatch.context() as patched:
        patched.setattr(setup.subprocess, "run", makes_it)
        assert setup.main([str(tmp_path / "venv")]) == 0
    assert asked[0] == [sys.executable, "-m", "venv", str(tmp_path / "venv")]
    assert asked[1][0] == str(tmp_path / "venv/bin/python")
    assert asked[1][-2:] == ["--editable", ".[dev]"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: make demo")


def test_setup_that_makes_no_environment_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert setup.main([str(tmp_path / "file/venv")]) == 1
    assert "makes no environment: Error: [Errno 20] Not a directory: " in (said := capsys.readouterr().err), said
    monkeypatch.setattr(setup, "find_spec", lambda name: None)
    assert setup.main([str(tmp_path / "venv")]) == 1
    assert re.search(r"has no ensurepip: apt-get install python3\.\d+-venv, or PYTHON=", capsys.readouterr().err)
    assert not (tmp_path / "venv").exists()


def test_a_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.os, "chdir", lambda path: None)
    with pytest.raises(UsageError, match="/nosuch/program: No such file or directory"):
        Command(argv=["/nosuch/program"]).replace_this_process()
