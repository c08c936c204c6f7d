"""Slurm as the launcher speaks to it, with an sbatch that only writes down what it is told; the real one is asked in
test_slurm.py."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from helpers.common import ROOT
from helpers.launching import Checkout

from feature_extraction.errors import UsageError
from feature_extraction.storage.output import MANIFEST
from scripts.launch import checks, slurm
from scripts.launch.cluster import Cluster, read_cluster
from scripts.launch.jobs import Launcher
from scripts.launch.settings import Settings


def submitted(checkout: Checkout) -> list[str]:
    record = checkout.folder / "record.slurm"
    return record.read_text().splitlines() if record.exists() else []


# ---------------------------------------------------------------- the site's file


def test_the_sample_says_the_defaults(tmp_path: Path) -> None:
    sample = ROOT / "scripts/launch/cluster.toml"
    assert read_cluster(sample, wanted=True) == Cluster()
    names = {*tomllib.loads(sample.read_text())}
    assert names == set(Cluster.__dataclass_fields__)
    assert read_cluster(tmp_path / "none.toml", wanted=False) == Cluster()


WRONG = {
    "acount = 'a'": "there is no acount; .* did you mean 'account'?",
    "at_once = '3'": "at_once is 3: expected a whole number",
    "at_once = true": "at_once is True: expected a whole number",
    "images_per_task = 0": "expected a positive number",
    "modules = 'cuda'": "modules is cuda: expected a list of texts",
    "modules = ['a; rm -r x']": "modules holds 'a; rm -r x': expected one word",
    "extract = 3": r"expected a table, \[extract\]",
    "[extract]\ngpus = 'a100'": r'gpus is a100: expected a number, or a type and a number, "a100:1"',
    "[extract]\ngpu_option = 'gpu'": "gpu_option holds 'gpu': expected an option",
    "[extract]\ntime = 04:00:00": r"\[extract\]: time is 04:00:00: expected a text in quotes",
    "[kmeans]\nsbatch = ['qos=long']": "expected an option, --NAME=VALUE",
    "[kmeans]\ncpu = 3": r"\[kmeans\]: there is no cpu; .* did you mean 'cpus'?",
    "[extract]\nmemory = '1G\\n#SBATCH --x'": "memory holds .*: expected one word",
    "= 3": "cluster.toml: .*: the sample is scripts/launch/cluster.toml",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_in_it_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster.toml").write_text(text)
    with pytest.raises(UsageError, match=WRONG[text]) as caught:
        read_cluster(tmp_path / "cluster.toml", wanted=True)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No such file or directory: copy scripts/launch/cluster\.toml there"):
        read_cluster(tmp_path / "none.toml", wanted=True)


# ---------------------------------------------------------------- scripts


def test_dry_run_prints_scripts_to_keep(checkout: Checkout) -> None:
    """One for each file and the k-means; bash reads them, and each holds what was asked for."""
    (checkout.folder / "cluster.toml").write_text(
        'account = "vision"\nmodules = ["apptainer/1.3", "cuda"]\nsetup = ["export A=\'b c\'"]\nat_once = 5\n'
        '[extract]\npartition = "gpu"\ngpus = "a100:1"\nsbatch = ["--qos=long"]\n'
    )
    done = subprocess.run(
        ["python3", "-m", "scripts.launch", "--slurm", "--dry-run", "extract-all", "RUN=apptainer",
         "DATASETS=/a b/$x", "EXTRACT_FLAGS=--batch_size 4"],
        cwd=checkout.folder, text=True, capture_output=True, check=False, env={"PATH": f"{checkout.bin}:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^# -+ (\S+)\.sbatch\n", done.stdout, flags=re.M)[1:]
    scripts = dict(zip(parts[::2], parts[1::2], strict=True))
    assert len(scripts) == 17
    assert list(scripts)[-1] == "kmeans"
    for text in scripts.values():
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
        options = re.findall(r"^#SBATCH (\S+)$", text, re.M)
        assert {"--requeue", "--signal=B:USR1@120", "--account=vision", "--open-mode=append"} <= set(options)
        assert "module load apptainer/1.3 cuda || exit 1\nexport A='b c'\n" in text
        assert "'DATASETS=/a b/$x'" in text
        assert f"'IMAGE={checkout.folder}/build/xlxmert-features-gpu.sif'" in text or "gpu.sif " in text
    train = scripts["coco-train-grid"]
    options = re.findall(r"^#SBATCH (\S+)$", train, re.M)
    assert {"--array=0-8%5", "--gres=gpu:a100:1", "--partition=gpu", "--qos=long", "--mem=16G", "--cpus-per-task=6",
            "--time=4:00:00"} <= set(options)  # fmt: skip
    assert "extract-coco-train-grid" in train
    assert """'EXTRACT_FLAGS=--batch_size 4 --shard '"$((SLURM_ARRAY_TASK_ID + 1))/9" &""" in train
    assert " GPUS=1 " in train, "a node without its card is refused"
    assert "GPUS=0" in scripts["kmeans"]
    assert "--array" not in scripts["kmeans"]
    assert submitted(checkout) == []
    assert not list(checkout.folder.rglob("*.sbatch"))


@pytest.mark.skipif(checks.gpus() > 0, reason="this machine has a GPU")
def test_a_node_without_its_card_refuses_the_task(checkout: Checkout) -> None:
    assert checkout.make("slurm-extract-vg-grid", "RUN=host").returncode == 0
    script = checkout.folder / "build/slurm/vg-grid.sbatch"
    environment = {"PATH": f"{checkout.bin}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "0"}
    done = subprocess.run(["bash", script], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "launch: GPUS=1, but the NVIDIA driver sees no GPU here" in done.stderr


def test_cards_are_neither_taken_for_nothing_nor_lacking(checkout: Checkout) -> None:
    """GPUS says what works on a file, cluster.toml what a task is given: a card that nobody uses is somebody else's."""
    for gpus in ("0", "2"):
        done = checkout.make("slurm-extract-vg-grid", "RUN=host", f"GPUS={gpus}")
        assert f"launch: GPUS={gpus}, but a task is given 1: gpus in cluster.toml says how many" in done.stderr
    assert submitted(checkout) == []


def on_the_cpu(checkout: Checkout) -> None:
    """Submit a file whose tasks run where there is no card."""
    (checkout.folder / "cluster.toml").write_text("[extract]\ngpus = 0\n")
    assert checkout.make("slurm-extract-vg-grid", "RUN=host").returncode == 0


def test_a_share_is_run_as_its_task_says(checkout: Checkout) -> None:
    """The script itself, run by bash as Slurm would: the share, and exit codes."""
    on_the_cpu(checkout)
    script = checkout.folder / "build/slurm/vg-grid.sbatch"
    environment = {
        "PATH": f"{checkout.bin}:/usr/bin:/bin", "RECORD": str(checkout.folder / "record"), "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_JOB_ID": "7",
    }  # fmt: skip
    for code, expected in ((0, 0), (3, 0), (1, 1)):
        codes = checkout.codes(VG_extract_grid=(code, ""))
        (checkout.folder / "record").unlink(missing_ok=True)
        done = subprocess.run(["bash", script], env={**environment, "CODES": codes}, check=False, capture_output=True)
        assert done.returncode == expected, done.stderr
        (words,) = checkout.calls("python")
        assert words[-2:] == ["--shard", "1/1"]


def test_at_the_time_limit_a_task_is_requeued_as_often_as_is_sensible(checkout: Checkout) -> None:
    on_the_cpu(checkout)
    script = checkout.folder / "build/slurm/vg-grid.sbatch"
    waits = "#!/bin/bash\ntrap 'echo told; exit 143' TERM\nkill -USR1 $PPID\nwhile :; do sleep 0.05; done\n"
    (checkout.folder / ".venv/bin/python").write_text(waits)
    (checkout.bin / "scontrol").write_text('#!/bin/bash\necho "scontrol $*"\n')
    (checkout.bin / "scontrol").chmod(0o755)
    environment = {"PATH": f"{checkout.bin}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "7"}
    for restarts, requeued in (("", True), ("19", True), ("20", False)):
        done = subprocess.run(
            ["bash", script], env={**environment, "SLURM_RESTART_COUNT": restarts}, check=False, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 143, done.stderr
        assert "told" in done.stdout
        assert ("scontrol requeue 7" in done.stdout) == requeued
        assert ("20 restarts are enough: submit it again" in done.stderr) != requeued


SITES = {
    "": {"--gres=gpu:1"},
    'gpus = "a100:2"': {"--gres=gpu:a100:2"},
    'gpus = 2\ngpu_option = "--gpus-per-node={gpus}"': {"--gpus-per-node=2"},
    'gpus = "h100:4"\ngpu_option = "--gpus={gpus}"\nmemory = ""': {"--gpus=h100:4"},
    'gpu_option = ""\npartition = "gh"': set(),
}
"""How sites hand out their cards (their own manuals) -> the options that ask for them."""


@pytest.mark.parametrize("text", SITES)
def test_cards_are_asked_for_as_the_site_wants(tmp_path: Path, text: str) -> None:
    """And a job finds as many on its node, or does not begin."""
    (tmp_path / "cluster.toml").write_text(f"[extract]\n{text}\n")
    cluster = read_cluster(tmp_path / "cluster.toml", wanted=True)
    assert {o for o in cluster.extract.options if "gpu" in o and "partition" not in o} == SITES[text]
    here = Launcher(Settings({}, ["RUN=apptainer"]))
    given = slurm.settings_there(here, cluster, cluster.extract)
    assert given["GPUS"] == str(cluster.extract.cards) == (re.findall(r"\d+", str(cluster.extract.gpus)) or ["1"])[-1]
    assert given["IMAGE"].endswith("gpu.sif")


def test_a_script_without_the_sites_profile_finds_its_modules(checkout: Checkout) -> None:
    """sbatch gives a script the environment of the submission, of which `module` need not be part."""
    (checkout.folder / "cluster.toml").write_text('modules = ["nothing/1"]\n')
    assert checkout.make("slurm-extract-vg-grid", "RUN=host").returncode == 0
    script = (checkout.folder / "build/slurm/vg-grid.sbatch").read_text()
    profile = checkout.folder / "profile"
    profile.write_text('module() { echo "module $*"; false; }\n')
    script = script.replace("/etc/profile", shlex.quote(str(profile)))
    done = subprocess.run(["bash", "-c", script], text=True, capture_output=True, check=False, env={"PATH": "/bin"})
    assert done.stdout == "module load nothing/1\n"
    assert done.returncode == 1, "nothing begins without it"


def test_make_n_prints_the_scripts_and_submits_nothing(checkout: Checkout) -> None:
    done = checkout.make("-n", "slurm-extract-vg", "RUN=host", "DATASETS=a 'b'")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("#!/bin/bash") == 2
    assert submitted(checkout) == []
    assert not (checkout.folder / "build/slurm").exists()


# ---------------------------------------------------------------- submitting


def test_arrays_are_submitted_and_the_kmeans_waits_for_its_grids(checkout: Checkout) -> None:
    for file in ("COCO/images/train2014/1.jpg", "COCO/images/val2014/1.jpg"):
        (checkout.data / file).parent.mkdir(parents=True)
        (checkout.data / file).touch()
    done = checkout.make("slurm-extract-all", "RUN=host")
    assert done.returncode != 0, "GQA and NLVR2 are not there"
    assert "launch: gqa-grid: there are no images in" in done.stderr
    said = submitted(checkout)
    arrays = [line.split()[-1] for line in said]
    assert arrays == ["coco-train-grid.sbatch", "coco-valid-grid.sbatch", "vg-grid.sbatch", "coco-train-boxes.sbatch",
                      "coco-valid-boxes.sbatch", "vg-boxes.sbatch", "kmeans.sbatch"]  # fmt: skip
    assert "--dependency=afterok:101:102:103 --kill-on-invalid-dep=yes" in said[-1]
    assert "kmeans: job 107, after 101, 102, 103" in done.stdout
    assert "to stop: scancel 101 102" in done.stdout


def test_what_is_made_or_queued_is_not_submitted(checkout: Checkout) -> None:
    features = checkout.data / "VG/features"
    features.mkdir()
    (features / "maskrcnn_grid8.h5").touch()
    queued = {"QUEUED": "xlxmert-vg-boxes"}
    done = checkout.make("slurm-extract-vg", "RUN=host", **queued)
    assert done.returncode == 0, done.stderr
    assert "vg-grid: the file is there already" in done.stdout
    assert "vg-boxes: job 55 is queued or running already" in done.stdout
    assert submitted(checkout) == []
    (features / "maskrcnn_grid8.h5.work").mkdir()
    assert "the file is there already" in checkout.make("slurm-extract-vg-grid", "RUN=host").stdout
    assert slurm.FIRST_STORED == MANIFEST
    (features / "maskrcnn_grid8.h5.work" / MANIFEST).touch()
    assert checkout.make("slurm-extract-vg-grid", "RUN=host").returncode == 0
    assert len(submitted(checkout)) == 1, "a file that is begun anew goes on"


def test_what_was_just_cancelled_is_not_taken_for_queued(checkout: Checkout) -> None:
    """It stays in the queue until its processes have ended; the k-means is not to wait for it either."""
    for target in ("slurm-extract-vg-grid", "slurm-kmeans"):
        ending = {"QUEUED": "xlxmert-vg-grid", "STATES": "55 CG 55 CG"}
        done = checkout.make(target, "RUN=host", "KMEANS_SRC=vg", "KMEANS_TGT=vg", **ending)
        assert done.returncode != 0
        assert "job 55 is ending: the same command again when it has" in done.stderr
    assert submitted(checkout) == []


def test_the_kmeans_alone_waits_for_what_is_queued(checkout: Checkout) -> None:
    words = ("slurm-kmeans", "KMEANS_SRC=vg", "KMEANS_TGT=vg", "RUN=host")
    done = checkout.make(*words)
    assert done.returncode != 0
    assert re.search(r"kmeans: needs /.+/VG/features/maskrcnn_grid8.h5, .*: make slurm-extract-vg-grid", done.stderr)
    done = checkout.make(*words, QUEUED="xlxmert-vg-grid")
    assert done.returncode == 0, done.stderr
    assert "--dependency=afterok:55 " in submitted(checkout)[0]


def test_a_job_of_another_data_folder_is_another(checkout: Checkout) -> None:
    names = set()
    for folder in ("a", "b", "a/../a"):
        here = Launcher(Settings({}, [f"DATASETS={checkout.folder / folder}"]))
        names.add(slurm.job_name(here, "vg-grid"))
    assert len(names) == 2


def test_scripts_and_logs_want_a_folder_of_ones_own(checkout: Checkout) -> None:
    """As where many use one checkout: the folder is named in one's own file, or the home folder in everybody's."""
    checkout.folder.joinpath("build/slurm").touch()
    done = checkout.make("slurm-extract-vg-grid", "RUN=host")
    assert re.search(
        r'^launch: cannot make the folder .+/build/slurm \(File exists\): .* scripts = "..." in .+/cluster.toml',
        done.stderr, re.M,
    )  # fmt: skip
    assert submitted(checkout) == []
    (checkout.folder / "cluster.toml").write_text('scripts = "~/jobs of slurm"\n')
    home = checkout.folder.parent / "home"
    assert checkout.make("slurm-extract-vg-grid", "RUN=host", HOME=str(home)).returncode == 0
    assert (home / "jobs of slurm/vg-grid.sbatch").is_file()


def test_what_cannot_be_mounted_is_said_before_anything_waits(checkout: Checkout) -> None:
    """And not in the log of every task."""
    data = checkout.lay_out(checkout.folder.parent / "a:b")
    done = checkout.make("slurm-extract-vg-grid", "RUN=charliecloud", f"DATASETS={data}")
    assert re.search(r"^launch: vg-grid: \S+a:b/VG/\S+: ch-run splits its mounts at colons", done.stderr, re.M)
    assert submitted(checkout) == []
    assert checkout.make("slurm-extract-vg-grid", "RUN=apptainer", f"DATASETS={data}").returncode == 0


def test_a_checkpoint_that_lacks_is_said_once(checkout: Checkout) -> None:
    """And not for each of the files that want it; where they are made, nobody does."""
    done = checkout.make("slurm-extract-vg", "RUN=host", "CHECKPOINT=/nosuch")
    assert done.stderr.count("launch: there is no detectron_model.pth in /nosuch") == 1
    assert submitted(checkout) == []
    (checkout.data / "VG/features").mkdir()
    for name in ("maskrcnn_grid8.h5", "maskrcnn_boxes36.h5"):
        (checkout.data / "VG/features" / name).touch()
    assert checkout.make("slurm-extract-vg", "RUN=host", "CHECKPOINT=/nosuch").returncode == 0


def test_the_image_that_is_exported_is_not_that_of_the_kmeans() -> None:
    """sbatch hands the environment on: what is left out of the line would come back by it."""
    here = Launcher(Settings({"TARGET": "gpu"}, ["RUN=host"]))
    cluster = Cluster()
    (line,) = [li for li in slurm.scripts(here, cluster, [], kmeans=True)[0].text.splitlines() if li.endswith(" &")]
    words = shlex.split(line.removesuffix(" &"))[4:]
    there = Launcher(Settings({"TARGET": "gpu"}, words))
    assert (there.target, there.gpus) == ("cpu", 0)


def test_what_slurm_says_is_passed_on(checkout: Checkout) -> None:
    done = checkout.make("slurm-extract-vg-grid", "RUN=host", REFUSED="invalid partition specified: low")
    assert done.returncode != 0
    assert "launch: vg-grid: sbatch: invalid partition specified: low\n" in done.stderr
    done = checkout.make("slurm-extract-vg-grid", "RUN=host", REFUSED="Invalid job array specification")
    assert (
        "array specification: 1 tasks; fewer by a larger images_per_task (scontrol show config: MaxArr" in done.stderr
    )
    done = checkout.make("slurm-extract-vg-grid", "RUN=host", REFUSED="Invalid generic resource (gres) specification")
    assert "(gres) specification: gpus and gpu_option in cluster.toml say how cards are asked for" in done.stderr
    # each try takes sbatch two minutes
    done = checkout.make("slurm-extract-vg", "RUN=host", REFUSED="failed: Resource temporarily unavailable")
    assert done.stderr.count("the queue is full: the same command again later submits what is left") == 1
    assert "vg-boxes" not in done.stderr
    (checkout.bin / "sbatch").unlink()
    if not os.path.exists("/usr/bin/sbatch"):
        assert "there is no sbatch here" in checkout.make("slurm-extract-vg-grid", "RUN=host").stderr


def test_a_target_that_is_none(checkout: Checkout) -> None:
    done = checkout.make("slurm-verify", "RUN=host")
    assert done.returncode != 0
    assert "launch: no file is called verify" in done.stderr
