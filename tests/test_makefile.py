"""The Makefile, asked by real make: targets, help, lines to paste, and whatever is typed after `make`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from helpers.common import ROOT
from helpers.launching import Checkout, mounts

TEXT = (ROOT / "Makefile").read_text()
HOST = ("RUN=host", "GPUS=0")
CONTAINER = ("RUN=container", "CONTAINER=docker", "GPUS=4", "TARGET=gpu")
TARGETS = sorted(set(re.findall(r"^([a-z][a-z-]*):", TEXT, re.M)))
LEAVES = [
    f"extract-{data}-{kind}"
    for kind in ("grid", "boxes")
    for data in ("coco-train", "coco-valid", "coco-test", "vg", "gqa", "nlvr2-train", "nlvr2-valid", "nlvr2-test")
]
BY_MAKE_ALONE = {"help", "setup", "demo", "test", "test-fast", "lint", "lock", "image-test", "slurm-test"}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """One for the tests that change nothing."""
    return Checkout(tmp_path_factory.mktemp("makefile") / "checkout")


# ---------------------------------------------------------------- what a reader meets


def test_a_person_who_knows_a_little_make_reads_it() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 125
    assert "eval" not in TEXT
    assert "define" not in TEXT


def test_the_promised_targets_are_there() -> None:
    promised = {
        "demo", "test", "test-fast", "test-faults", "gpu-test", "check", "docker-build", "download",
        "download-annotations", "download-features", "download-images", "extract-all", "kmeans", "paper-vocabulary",
        "verify-kmeans", "verify", "report", "xlxmert", "help", "parity", "shell",
        "image-test", "image-save", "image-archive", "slurm-test", "setup", "lint", "lock",
    }  # fmt: skip
    assert promised <= set(TARGETS)
    phony = set(re.search(r"^\.PHONY:((?:.*\\\n)*.*)$", TEXT, re.M)[1].replace("\\", " ").split())
    assert phony == {*TARGETS, "FORCE"}


def test_help_lists_every_target_file_and_variable_and_is_the_default(reading: Checkout) -> None:
    done = reading.make("help")
    assert done.returncode == 0, done.stderr
    assert reading.make().stdout == done.stdout
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {*TARGETS, *LEAVES, "DATASETS", "CHECKPOINT", "SELINUX"} <= listed


@pytest.mark.parametrize("where", [HOST, CONTAINER], ids=["host", "container"])
@pytest.mark.parametrize("target", [t for t in TARGETS if t not in BY_MAKE_ALONE])
def test_one_line_to_paste(reading: Checkout, target: str, where: tuple[str, ...]) -> None:
    done = reading.make("-n", "--assume-old=.venv/.complete", "--assume-old=setup", target, *where)
    if target == "shell" and where is HOST:
        assert "leave RUN=host out" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, lines
    assert subprocess.run(["bash", "-n", "-c", lines[0]], check=False).returncode == 0
    assert reading.calls() == [], "nothing is started"


@pytest.mark.parametrize("target", sorted(BY_MAKE_ALONE))
def test_the_others_print_too(reading: Checkout, target: str) -> None:
    assert reading.make("-n", target).returncode == 0
    assert reading.calls() == []


# ---------------------------------------------------------------- the 16 files


@pytest.mark.parametrize("target", LEAVES)
def test_the_published_command_is_run(checkout: Checkout, target: str) -> None:
    """The script that a target names is there, and its flags are the published ones."""
    data, *rest = target.removeprefix("extract-").split("-")
    folder = {"coco": "COCO", "vg": "VG", "gqa": "GQA", "nlvr2": "nlvr2"}[data]
    split = rest[0] if len(rest) == 2 else ""
    images = {
        "coco-train": "train2014", "coco-valid": "val2014", "coco-test": "test2015",
        "nlvr2-train": "train", "nlvr2-valid": "dev", "nlvr2-test": "test1",
    }.get(f"{data}-{split}", "VG_100K")  # fmt: skip
    path = checkout.data / folder / "images" / images / f"a.{'png' if data == 'nlvr2' else 'jpg'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    done = checkout.make(target, *HOST)
    assert done.returncode == 0, done.stderr
    (words,) = checkout.calls("python")
    script = {"coco": "coco", "vg": "VG", "gqa": "GQA", "nlvr2": "nlvr2"}[data]
    assert words[0] == f"{script}_extract_{'bbox' if target.endswith('boxes') else 'grid'}_feature.py"
    assert (ROOT / "feature_extraction" / words[0]).is_file()
    flag = {"coco": "--cocoroot", "vg": "--vgroot", "gqa": "--gqaroot", "nlvr2": "--nlvrroot"}[data]
    assert words[1:3] == [flag, f"{checkout.data / folder}/"]
    assert words[3:5] == ["--split", split] if split else "--split" not in words


def test_several_files_name_their_own(reading: Checkout) -> None:
    def named(target: str) -> list[str]:
        return re.findall(
            r"(\w+_extract_\w+_feature.py) --\w+ (?:'.+?'|\S+)(?: --split (\w+))?",
            reading.make("-n", target, *HOST).stdout,
        )

    assert len(named("extract-all")) == 16
    assert named("extract-coco-grid") == [("coco_extract_grid_feature.py", s) for s in ("train", "valid", "test")]
    assert named("extract-nlvr2-boxes") == [("nlvr2_extract_bbox_feature.py", s) for s in ("train", "valid", "test")]
    assert named("extract-gqa") == [("GQA_extract_grid_feature.py", ""), ("GQA_extract_bbox_feature.py", "")]
    assert len(named("extract-boxes")) == len(named("extract-grid")) == 8


def test_a_file_of_the_same_name_is_no_obstacle(checkout: Checkout) -> None:
    (checkout.folder / "extract-vg-grid").touch()
    assert checkout.make("extract-vg-grid", *HOST).returncode == 0
    assert len(checkout.calls("python")) == 1


def test_the_published_vocabulary_command(reading: Checkout) -> None:
    line = reading.make("-n", "kmeans", *HOST).stdout
    assert "cd kmeans && " in line
    assert "run_kmeans.py --src=mscoco_train --tgt mscoco_train mscoco valid vg " in line


# ---------------------------------------------------------------- variables


def test_variables_reach_the_command(reading: Checkout) -> None:
    line = reading.make(
        "-n", "extract-coco-train-grid", *CONTAINER, "PRECISION=tf32", "ENGINE=reference",
        "EXTRACT_FLAGS=--batch_size 4", "GPU_FLAGS=--device nvidia.com/gpu=all", "DATASETS=/data", "CHECKPOINT=/ckpt",
        "SELINUX=disable", "RUN_FLAGS=--memory 8g",
    ).stdout  # fmt: skip
    for part in (
        "--precision tf32", "--engine reference", "--batch_size 4", "--device nvidia.com/gpu=all", "--network none",
        "source=/data/COCO/images/train2014,target=/data/COCO/images/train2014,readonly", "--cocoroot /data/COCO/ ",
        "source=/ckpt,target=/ckpt,readonly", "label=disable", "--memory 8g", " xlxmert-features:gpu ",
        "torchrun --standalone --local-addr 127.0.0.1 --nproc_per_node 4 ",
    ):  # fmt: skip
        assert part in line, part
    assert "--gpus all" not in line


def test_values_come_from_the_environment_as_well(reading: Checkout) -> None:
    environment = {"DATASETS": "/da ta/$x$(touch PWNED)", "CHECKPOINT": "/ckpt", "EXTRACT_FLAGS": "--batch_size 4"}
    line = reading.make("-n", "extract-vg-grid", *HOST, **environment).stdout
    assert "--vgroot '/da ta/$x$(touch PWNED)/VG/' --checkpoint_dir /ckpt " in line
    assert line.endswith("--batch_size 4\n")
    assert "/other/VG/" in reading.make("-n", "extract-vg-grid", *HOST, "DATASETS=/other", **environment).stdout


def test_a_tilde_that_no_shell_has_seen_is_the_home_folder(checkout: Checkout) -> None:
    """Shells expand it after the name of a variable only sometimes, settings files never."""
    checkout.lay_out(checkout.folder / "home/data")
    home = {"HOME": f"{checkout.folder}/home"}
    for typed, environment in (("DATASETS=~/data/", home), ("RUN=host", home | {"DATASETS": "~/data"})):
        assert checkout.make("extract-vg-grid", *HOST, typed, **environment).returncode == 0
        assert checkout.calls("python")[0][2] == f"{checkout.folder}/home/data/VG/"
    assert not (checkout.folder / "~").exists()


def test_relative_folders_become_absolute(reading: Checkout) -> None:
    line = reading.make("-n", "extract-vg-grid", *CONTAINER, "DATASETS=data", "CHECKPOINT=ckpt").stdout
    assert f"target={reading.folder}/data/VG/images," in line
    assert f"target={reading.folder}/ckpt," in line


def test_the_former_name_of_target(reading: Checkout) -> None:
    run = ("-n", "extract-vg-grid", "RUN=container", "CONTAINER=docker", "GPUS=0")
    assert " xlxmert-features:cpu " in reading.make(*run, "DEVICE=cpu").stdout
    assert " xlxmert-features:cpu " in reading.make(*run, DEVICE="cuda").stdout, "the environment's is another thing"
    said = reading.make(*run, "DEVICE=cuda").stderr.splitlines()[0]
    assert said.startswith("launch: DEVICE=cuda: TARGET=gpu or TARGET=cpu is the image; ")
    assert said.endswith('EXTRACT_FLAGS="--device cuda"')


WRONG = {
    "RUN=hst": "RUN=hst: known: container, host, apptainer, charliecloud; did you mean 'host'?",
    "TARGET=gpus": "TARGET=gpus: known: gpu, cpu; did you mean 'gpu'?",
    "ENGINE=nativ": "ENGINE=nativ: known: native, reference; did you mean 'native'?",
    "ENGINE=docker": "ENGINE=docker: known: native, reference; the container runtime is CONTAINER=docker",
    "PRECISION=bf16": "PRECISION=bf16: known: float32, tf32, bfloat16, float16",
    "PRECISION=float23": "did you mean 'float32'?",
    "CONTAINER=dokcer": "CONTAINER=dokcer: known: docker, podman; did you mean 'docker'?",
    "DATASET=/data": "there is no variable DATASET; did you mean 'DATASETS'?",
    "datasets=/data": "there is no variable datasets; did you mean 'DATASETS'?",
    "SHM=8g": "there is no variable SHM",
    "GPUS=two": "GPUS=two: expected a whole number from 0",
    "GPUS=-1": "GPUS=-1: expected a whole number from 0",
    "PROCESSES=0": "PROCESSES=0: expected at least 1",
    "EXTRACT_FLAGS=--output 'x": "EXTRACT_FLAGS=--output 'x: No closing quotation: quote it as for a shell",
    "DATASETS=/da\nta": "DATASETS holds a line break",
}


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_word_gets_one_line(checkout: Checkout, word: str) -> None:
    run = [] if word.startswith("RUN") else ["RUN=container"] if word.startswith("CONT") else ["RUN=host"]
    done = checkout.make("extract-vg-grid", *run, word)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("launch: ")
    assert WRONG[word] in said[0]
    assert checkout.calls() == []


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("extract-coco-trian-grid", "did you mean 'extract-coco-train-grid'?"),
        ("extract-vgg", "did you mean 'extract-vg'?"),
        ("download-images-cocoo", "did you mean 'download-images-coco'?"),
        ("download-features-vgg", "did you mean 'download-features-vg'?"),
        ("downlaod", "did you mean 'download'?"),
        ("exctract-all", "did you mean 'extract-all'?"),
        ("tets", "did you mean 'test'?"),
        ("docker_build", "did you mean 'docker-build'?"),
        ("extract-", "no file is called extract-: did you mean 'extract-"),
        ("slurm-kmean", "did you mean 'kmeans'?"),
        ("slurm-verify", "no file is called verify: make help lists all"),
        ("xyzzy", "there is no xyzzy; make help lists all"),
    ],
)
def test_a_target_that_is_none_gets_the_nearest(reading: Checkout, target: str, meant: str) -> None:
    for asked in ([], ["-n"]):
        done = reading.make(*asked, target, *HOST)
        assert done.returncode != 0
        assert meant in done.stderr.splitlines()[0]


def test_a_make_without_its_features_says_so_at_once(reading: Checkout) -> None:
    """macOS has make 3.81, which reads a recipe line by line and does something else."""
    for version in ("3.81", "3.82", "4.0", "4.1"):
        done = reading.make(f"MAKE_VERSION={version}", "help")
        assert "needs GNU make 4.2 or newer" in done.stderr
        assert done.stdout == ""
    for version in ("4.2", "4.2.1", "4.4.1", "4.10", "5.0"):
        assert reading.make(f"MAKE_VERSION={version}", "-n", "lint").returncode == 0


# ---------------------------------------------------------------- paths, whatever is in them

PATHS = [
    "a b", " leading and trailing ", "it's", 'say "so"', "com,ma", 'a, "b":c', "col:on", "semi;colon&more|x>y",
    "star*[x]?{a,b}", "back`touch PWNED`tick", "dollar$(touch PWNED)x", "make$(shell touch PWNED)x", "$HOME", "${HOME}",
    "$$", "a$b", "-rf", "--help", "hash#x", "back\\slash\\", "per%cent", "tilde~", "~", "eq=ual", "é漢字", "tab\there",
    "!bang", "(paren)", "a\\ b", "readonly",
]  # fmt: skip


def as_typed(path: str) -> str:
    """As make wants it typed: $$ for a dollar sign."""
    return path.replace("$", "$$")


@pytest.mark.parametrize(
    ("where", "how"),
    [("host", "typed"), ("host", "environment"), ("host", "relative"), ("docker", "typed"), ("podman", "environment")],
)
def test_a_path_is_used_as_it_is(checkout: Checkout, where: str, how: str) -> None:
    """On the host and in both containers: the very folder, nothing expanded, nothing run."""
    run = ["RUN=host"] if where == "host" else ["RUN=container", f"CONTAINER={where}", "TARGET=cpu"]
    for name in PATHS:
        base = checkout.folder if how == "relative" else checkout.folder / "some"
        datasets = checkout.lay_out(base / name)
        checkpoint = checkout.lay_checkpoint(base / f"{name}.ckpt")
        if how == "environment":
            done = checkout.make("extract-vg-grid", *run, DATASETS=str(datasets), CHECKPOINT=str(checkpoint))
        else:
            typed = [name, f"{name}.ckpt"] if how == "relative" else [str(datasets), str(checkpoint)]
            typed[0] = typed[0].replace("~", "./~") if name == "~" else typed[0]  # alone it is the home folder
            if how == "relative" and name[0] == " ":
                continue  # make drops blanks after the equals sign
            done = checkout.make(
                "extract-vg-grid", *run, f"DATASETS={as_typed(typed[0])}", f"CHECKPOINT={as_typed(typed[1])}"
            )
        assert done.returncode == 0, (name, done.stderr)
        (words,) = checkout.calls("python" if where == "host" else where)
        at = words.index("--vgroot")
        assert words[at + 1] == f"{datasets}/VG/", name
        assert words[at + 3] == str(checkpoint), name
        assert (datasets / "VG/features").is_dir()
        if where != "host":
            assert mounts(words) == {
                str(checkpoint): False, f"{datasets}/VG/images": False, f"{datasets}/VG/features": True,
            }  # fmt: skip
    assert not list(checkout.folder.rglob("PWNED"))


def test_dollars_that_nobody_doubled_are_used_as_they_are(checkout: Checkout) -> None:
    for name in ("dollar$(touch PWNED)x", "make$(shell touch PWNED)x", "a$b"):
        datasets = checkout.lay_out(checkout.folder / name)
        assert checkout.make("extract-vg-grid", *HOST, f"DATASETS={datasets}").returncode == 0
        assert f"{datasets}/VG/" in checkout.calls("python")[0]
    assert not list(checkout.folder.rglob("PWNED"))


@pytest.mark.parametrize("variable", ["EXTRACT_FLAGS", "RUN_FLAGS", "IMAGE", "GPU_FLAGS", "SELINUX"])
def test_no_other_value_is_run_either(checkout: Checkout, variable: str) -> None:
    value = "x$(touch PWNED)`touch PWNED`;touch PWNED"
    for typed in (value, as_typed(value), value.replace("touch", "shell touch")):
        checkout.make("extract-vg-grid", *CONTAINER[:2], "TARGET=cpu", f"{variable}={typed}")
        checkout.make("extract-vg-grid", *CONTAINER[:2], "TARGET=cpu", **{variable: typed})
        assert not list(checkout.folder.rglob("PWNED"))


def test_the_pasted_line_means_the_same(checkout: Checkout) -> None:
    """What -n prints, given to a shell, calls the same program with the same words."""
    datasets = checkout.lay_out(checkout.folder / "a 'b' $(touch PWNED)")
    run = ("extract-vg-grid", *HOST, f"DATASETS={as_typed(str(datasets))}")
    line = checkout.make("-n", *run).stdout
    checkout.make(*run)
    calls = checkout.calls()
    (checkout.folder / "record").unlink()
    environment = {"RECORD": str(checkout.folder / "record"), "PATH": "/usr/bin:/bin"}
    subprocess.run(["bash", "-c", line], cwd=checkout.folder, check=True, env=environment)
    assert checkout.calls() == calls
    assert not list(checkout.folder.rglob("PWNED"))


@pytest.mark.parametrize("name", ["a b", "it's", "co,m:a"])
def test_the_checkout_itself_may_lie_anywhere(tmp_path: Path, name: str) -> None:
    checkout = Checkout(tmp_path / name)
    assert checkout.make("extract-vg-grid", *HOST).returncode == 0
    assert checkout.calls("python")[0][2] == f"{checkout.data}/VG/"
    assert checkout.make("extract-vg-grid", *CONTAINER[:2], "TARGET=cpu").returncode == 0
    assert checkout.make("help").returncode == 0


# ---------------------------------------------------------------- what is lacking

LACKING = {
    "environment": (".venv/bin/python", [*HOST], "make setup"),
    "checkpoint": ("feature_extraction/mask_rcnn_ckpt/detectron_model.pth", [*HOST], "make download"),
    "configuration": ("feature_extraction/mask_rcnn_ckpt/detectron_config.yaml", [*HOST], "make download"),
    "images": ("datasets/VG/images/VG_100K/1.jpg", [*HOST], "make download-images-vg"),
    "runtime": ("", ["RUN=container", "CONTAINER=./nosuch", "TARGET=cpu"], "there is no ./nosuch: install Docker"),
    "runtime that runs": ("", ["RUN=container", "CONTAINER=buildah"], "CONTAINER=podman"),
    "GPUs": ("", ["RUN=host", "GPUS=200"], "GPUS=200, but the NVIDIA driver sees"),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_is_lacking_is_said_in_one_line(checkout: Checkout, what: str) -> None:
    remove, variables, way_out = LACKING[what]
    if remove:
        (checkout.folder / remove).unlink()
    done = checkout.make("extract-vg-grid", *variables)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("launch: ")]
    assert len(said) == 1, done.stderr
    assert way_out in said[0]
    assert checkout.calls() == []


@pytest.mark.parametrize("target", ["extract-vg-grid", "extract-all", "kmeans", "paper-vocabulary", "verify"])
def test_a_mistyped_folder_is_not_made(checkout: Checkout, target: str) -> None:
    for run in (HOST, (*CONTAINER[:2], "TARGET=cpu")):
        done = checkout.make(target, *run, "DATASETS=some/dta")
        assert done.returncode != 0
        assert re.search(r"^launch: there (are no images in|is no folder) /.+/some/dta", done.stderr, re.M), done.stderr
        assert not (checkout.folder / "some").exists()


@pytest.mark.parametrize("lacking", [".venv/bin/python", "feature_extraction/mask_rcnn_ckpt/detectron_model.pth"])
def test_what_all_files_lack_is_said_once(checkout: Checkout, lacking: str) -> None:
    (checkout.folder / lacking).unlink()
    done = checkout.make("extract-all", *HOST)
    assert done.returncode != 0
    assert len([line for line in done.stderr.splitlines() if line.startswith("launch: ")]) == 1
    assert "missing" not in done.stdout


FLAGS = {
    (
        "extract-all",
        "EXTRACT_FLAGS=--batchsize 4",
    ): "coco_extract_grid_feature.py: error: no flag --batchsize; did you mean --batch_size?",
    ("extract-all", "EXTRACT_FLAGS=--imsize 512"): "coco_extract_bbox_feature.py: error: no flag --imsize",
    (
        "extract-vg-grid",
        "EXTRACT_FLAGS=--batch_size=0",
    ): "VG_extract_grid_feature.py: error: argument --batch_size: '0': expected",
    ("kmeans", "KMEANS_FLAGS=--n_centroid x"): "run_kmeans.py: error: argument --n_centroids: 'x': expected",
    ("slurm-extract-all", "KMEANS_FLAGS=--n_centrods 4"): "run_kmeans.py: error: no flag --n_centrods; did you mean",
    (
        "slurm-extract-vg",
        "EXTRACT_FLAGS=--precison tf32",
    ): "VG_extract_grid_feature.py: error: no flag --precison; did you",
}


@pytest.mark.parametrize(("target", "word"), FLAGS)
def test_a_wrong_flag_is_told_before_hours_of_other_files_or_of_a_queue(
    checkout: Checkout, target: str, word: str
) -> None:
    done = checkout.make(target, *(["RUN=host"] if target.startswith("slurm-") else HOST), word)
    assert "Error 2" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
    assert line.startswith(FLAGS[target, word])
    assert "==" not in done.stdout
    assert checkout.calls() == []


def test_nobody_is_sent_to_the_host_for_what_needs_the_image(checkout: Checkout) -> None:
    for target in ("shell", "image-archive"):
        for answers in ({"image": 1}, {"info": "[name=seccomp,profile=builtin name=rootless]"}):
            done = checkout.make(target, *CONTAINER[:2], "TARGET=cpu", RUNTIME=checkout.runtime(**answers))
            assert done.stderr.startswith("launch: ")
            assert "RUN=host" not in done.stderr


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_a_runtime_that_does_not_answer_speaks_for_itself(checkout: Checkout, runtime: str) -> None:
    refused = "permission denied while trying to connect to the socket"
    program = (
        f"#!/bin/sh\necho 'warning' >&2\necho 'ERROR: {refused}' >&2\necho 'errors pretty printing info' >&2\nexit 1\n"
    )
    (checkout.bin / runtime).write_text(program)
    done = checkout.make("docker-build", f"CONTAINER={runtime}", "TARGET=cpu")
    line = done.stderr.splitlines()[0]
    assert f"launch: {runtime} does not answer (ERROR: {refused}): " in line
    assert ("group docker" in line) == (runtime == "docker")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"image": 1}, "there is no image xlxmert-features:cpu: make docker-build, or RUN=host"),
        (
            {"info": "[name=seccomp,profile=builtin name=rootless]"},
            "CONTAINER=podman, which keeps your id, or RUN=host",
        ),
    ],
)
def test_what_the_runtime_lacks(checkout: Checkout, answers: dict[str, object], said: str) -> None:
    done = checkout.make("extract-vg-grid", *CONTAINER[:2], "TARGET=cpu", RUNTIME=checkout.runtime(**answers))
    assert said in done.stderr.splitlines()[0]
    assert checkout.calls() == []


def test_docker_without_buildx_builds_nothing(checkout: Checkout) -> None:
    build = ("docker-build", "CONTAINER=docker", "TARGET=cpu")
    done = checkout.make(*build, RUNTIME=checkout.runtime(buildx=1))
    assert "docker has no buildx" in done.stderr.splitlines()[0]
    assert checkout.calls() == []
    assert checkout.make(*build, RUNTIME=checkout.runtime(buildx=1, version="20.10.24")).returncode == 0
    (words,) = checkout.calls("docker")
    assert words[:5] == ["build", "--file", "docker/Dockerfile", "--target", "cpu"]


def test_the_build_gets_its_arguments(checkout: Checkout) -> None:
    done = checkout.make(
        "docker-build", "CONTAINER=podman", "TARGET=cpu", "APT_MIRROR=https://m.example/$$x", "JOBS=2",
        "PIP_CONF=pip.conf", "BUILD_FLAGS=--network host", "IMAGE=mine:1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (words,) = checkout.calls("podman")
    for part in (
        ["--format", "docker"], ["--build-arg", "APT_MIRROR=https://m.example/$x"], ["--build-arg", "JOBS=2"],
        ["--secret", f"id=pip.conf,src={checkout.folder}/pip.conf"], ["--network", "host"], ["--tag", "mine:1", "."],
    ):  # fmt: skip
        assert any(words[i : i + len(part)] == part for i in range(len(words))), part


# ---------------------------------------------------------------- several files


def test_extract_all_ends_with_a_table_and_goes_on_to_the_vocabulary(checkout: Checkout) -> None:
    """Single images that failed keep nobody from the k-means; a file that is missing does."""
    for file in (
        "COCO/images/train2014/1.jpg", "COCO/images/val2014/1.jpg", "COCO/images/test2015/1.jpg", "GQA/images/1.jpg",
        "nlvr2/images/train/1.png", "nlvr2/images/dev/1.png", "nlvr2/images/test1/1.png",
    ):  # fmt: skip
        (checkout.data / file).parent.mkdir(parents=True)
        (checkout.data / file).touch()
    report = checkout.data / "VG/features/maskrcnn_grid8.report.json"
    report.parent.mkdir()
    report.write_text('{"failed": [{}, {}, {}]}')
    done = checkout.make("extract-all", "kmeans", *HOST, CODES=checkout.codes(VG_extract_grid=(3, "three bad images")))
    assert done.returncode == 0, done.stderr
    words = checkout.calls("python")
    assert len(words) == 17
    assert words[-1][0] == "run_kmeans.py"
    rows = done.stdout.partition("16 of 16 files made")[0].splitlines()[-16:]
    assert [row.split()[0] for row in rows][:4] == [
        "COCO/features/maskrcnn_train_grid8.h5", "COCO/features/maskrcnn_valid_grid8.h5",
        "COCO/features/maskrcnn_test_grid8.h5", "VG/features/maskrcnn_grid8.h5",
    ]  # fmt: skip
    assert rows[3].endswith("made, 3 failed images: maskrcnn_grid8.report.json")
    assert rows[0].endswith("  made")

    (checkout.data / "GQA/images/1.jpg").unlink()
    broken = checkout.codes(VG_extract_bbox=(1, "error: the detector is missing\n\nbye"))
    done = checkout.make("extract-all", "kmeans", *HOST, CODES=broken)
    assert done.returncode != 0
    assert all(w[0] != "run_kmeans.py" for w in checkout.calls("python"))
    table = done.stdout
    assert "13 of 16 files made" in table
    assert re.search(r"VG/features/maskrcnn_boxes36.h5 +missing: the detector is missing\n", table)
    assert re.search(
        r"GQA/features/maskrcnn_grid8.h5 +missing: there are no images in /.+: make download-images-gqa", table
    )
    assert len(checkout.calls("python")) == 14, "one that fails does not keep the others from being made"


def test_one_file_keeps_its_exit_code(checkout: Checkout) -> None:
    done = checkout.make("extract-vg-grid", *HOST, CODES=checkout.codes(VG_extract_grid=(3, "")))
    assert "Error 3" in done.stderr


# ---------------------------------------------------------------- in the container


@pytest.mark.parametrize("runtime", ["docker", "podman"])
@pytest.mark.parametrize(
    "target", ["extract-vg-grid", "kmeans", "paper-vocabulary", "verify-kmeans", "verify", "parity", "check", "shell"]
)
def test_every_way_in_is_restricted(checkout: Checkout, target: str, runtime: str) -> None:
    """And the only folders that can be written are those of results."""
    (checkout.data / "published").mkdir()
    (checkout.data / "COCO/images/val2014").mkdir(parents=True)
    (checkout.data / "COCO/images/val2014/1.jpg").touch()
    (checkout.data / "VG/features").mkdir()
    (checkout.data / "VG/features/maskrcnn_grid8.h5").touch()
    done = checkout.make(target, "RUN=container", f"CONTAINER={runtime}", "TARGET=cpu")
    if target in ("extract-vg-grid", "shell") and "belong to root" in done.stderr:
        (checkout.data / "VG/features/maskrcnn_grid8.h5").unlink()
        done = checkout.make(target, "RUN=container", f"CONTAINER={runtime}", "TARGET=cpu")
    assert done.returncode == 0, done.stderr
    (words,) = checkout.calls(runtime)
    line = " ".join(words)
    for part in ("--network none", "--cap-drop all", "--security-opt no-new-privileges", "--read-only", "--tmpfs /tmp:",
                 "--pids-limit ", "--env HOME=/tmp", "--user ", "--pull never"):  # fmt: skip
        assert part in line, part
    assert not words[words.index("--user") + 1].startswith("0:")
    assert not words[words.index("--user") + 1].endswith(":0")
    writable = {path for path, can in mounts(words).items() if can}
    data = str(checkout.data)
    assert writable == {
        "extract-vg-grid": {f"{data}/VG/features"},
        "kmeans": {f"{data}/cluster_centroids"},
        "paper-vocabulary": {f"{data}/cluster_centroids"},
        "verify-kmeans": {f"{data}/cluster_centroids"},
        "shell": {f"{data}/COCO/features", f"{data}/VG/features", f"{data}/cluster_centroids"},
    }.get(target, set())
    assert ("--tty" in words) == (target == "shell")
