"""Real Slurm on the loopback address, and real Charliecloud: whatever is done to the jobs, the files are those of one
process, bit for bit. Skipped, with its reason, where they are not installed (`make slurm-test` does that)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import slurm_cluster
from helpers.common import ROOT, photograph
from helpers.slurm_cluster import Slurm
from PIL import Image

from feature_extraction.storage.journal import journal_name
from scripts.dev.same_files import differences

LACKING = slurm_cluster.missing()
SOMEBODY = 4321
"""A user without a name on this machine."""
EXTRACT_FLAGS = "EXTRACT_FLAGS=--threads 1"
"""The last bits depend on the number of computing threads."""
KMEANS_FLAGS = "KMEANS_FLAGS=--n_centroids 4 --feat_dim 64 --verbose no"
PROGRAM = """\
#!/bin/bash
[ -z "$SLURM_RESTART_COUNT" ] || exit 0
trap 'echo told to stop; exit 143' TERM
while :; do sleep 0.2; done
"""
"""In the place of Python: works until it is told to stop; run again, it is done."""
CLUSTER = """\
scripts = "{folder}/jobs"
images_per_task = 24
[extract]
partition = "low"
time = "1:00:00"
cpus = 1
gpus = 0
memory = ""
[kmeans]
cpus = 1
memory = ""
time = "1:00:00"
"""


class Site:
    """A cluster, a folder of data on it, and what one process makes of the same images."""

    def __init__(self, folder: Path, checkpoint: Path, slurm: Slurm | None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.alone = folder / "alone"
        self.slurm = slurm
        self.limited = ""
        self.common = [f"CHECKPOINT={checkpoint}", KMEANS_FLAGS, "KMEANS_SRC=vg", "KMEANS_TGT=vg"]
        (folder / "cluster.toml").write_text(CLUSTER.format(folder=folder))
        images = self.data / "VG/images/VG_100K"
        images.mkdir(parents=True)
        whole = Image.fromarray(photograph("astronaut"))
        for number in range(72):
            whole.crop((number, 0, number + 320, 240)).save(images / f"{number:03}.jpg")
        shutil.copytree(self.data, self.alone)
        for job in ("extract-vg-grid", "kmeans"):
            self.launch(job, "RUN=host", "GPUS=0", EXTRACT_FLAGS, f"DATASETS={self.alone}")

    def launch(self, *words: str, before: tuple[str, ...] = (), good: bool = True) -> str:
        """What the launcher prints."""
        done = subprocess.run(
            [*before, sys.executable, "-m", "scripts.launch", *self.common, *words],
            cwd=ROOT, env=self.slurm.environment if self.slurm else None, text=True, check=False, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert (done.returncode == 0) == good, done.stdout
        return done.stdout

    def submit(self, job: str, *, good: bool = True) -> str:
        """The number of the job that ``--slurm`` submits for a target of one."""
        words = ("RUN=host", EXTRACT_FLAGS, f"DATASETS={self.data}", f"CLUSTER={self.folder / 'cluster.toml'}")
        said = self.launch("--slurm", job, *words, good=good)
        return found[1] if (found := re.search(r": job (\d+)", said)) else said

    def submit_with_a_limit(self) -> str:
        """The number of a job of three minutes, the shortest in which two of them are a notice; it takes no time."""
        folder = self.folder / "limited"
        images = folder / "VG/images"
        images.mkdir(parents=True)
        (images / "1.jpg").touch()
        (folder / "program").write_text(PROGRAM)
        (folder / "program").chmod(0o755)
        text = (self.folder / "cluster.toml").read_text()
        (folder / "cluster.toml").write_text(text.replace('"low"', '"high"').replace("1:00:00", "0:03:00", 1))
        words = (f"PYTHON={folder / 'program'}", f"DATASETS={folder}", f"CLUSTER={folder / 'cluster.toml'}")
        said = self.launch("--slurm", "extract-vg-grid", "RUN=host", *words)
        return re.findall(r": job (\d+)", said)[0]

    def log(self, job: str) -> str:
        """Everything that a job's tasks have printed."""
        return "\n".join(path.read_text() for path in sorted((self.folder / "jobs").glob(f"*.{job}*.log")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Site]:
    if LACKING:
        pytest.skip(LACKING)
    slurm = Slurm(tmp_path_factory.mktemp("slurm"), cpus=5)  # four, and one for the job that waits for its limit
    try:
        site = Site(tmp_path_factory.mktemp("site"), tiny_checkpoint, slurm)
        site.limited = site.submit_with_a_limit()
        yield site
    finally:
        slurm.stop()


def test_preempted_out_of_time_cancelled_and_submitted_again(site: Site) -> None:
    """All of it happens to one array, and to the k-means that waits for it."""
    slurm = site.slurm
    assert slurm is not None
    array, kmeans = site.submit("extract-vg-grid"), site.submit("kmeans")
    assert site.submit("extract-vg-grid") == array, "what is in the queue is not submitted twice"
    slurm.until(lambda: "RUNNING" in slurm.all_states(array), "a task runs")
    journal = site.data / "VG/features/maskrcnn_grid8.h5.work" / journal_name(0, 3)
    slurm.until(lambda: journal.exists() and journal.stat().st_size > 50_000, "features of the first task are there")

    urgent = slurm.ask("sbatch", "--parsable", "--partition=high", "--cpus-per-task=4", "--output=/dev/null",
                       "--wrap=sleep 1").strip()  # fmt: skip
    slurm.until(lambda: slurm.states(urgent)["JobState"] == "COMPLETED", "the urgent job has run")
    assert int(slurm.states(array)["Restarts"]) == 1
    assert "stopping after the images in flight" in site.log(array)
    assert slurm.states(kmeans)["JobState"] == "PENDING"

    slurm.ask("scontrol", "update", f"JobId={array}", "StartTime=now")  # Slurm would wait two minutes
    slurm.until(lambda: site.log(f"{array}_0").count("done before") == 2, "the first task goes on")
    assert ", 0 done before" not in site.log(f"{array}_0").rpartition("share 1 of 3")[2]
    # what Slurm does two minutes before the limit, by the words of the script: a signal to its shell alone
    slurm.ask("scancel", "--batch", "--signal=USR1", f"{array}_0")
    slurm.until(lambda: int(slurm.states(f"{array}_0")["Restarts"]) == 2, "a task at its limit is requeued")
    assert "the time limit is near: requeued" in site.log(array)

    slurm.ask("scancel", array)
    slurm.until(
        lambda: not set(slurm.all_states(array)) & {"RUNNING", "COMPLETING", "PENDING"}, "the array is cancelled"
    )
    assert not (site.data / "VG/features/maskrcnn_grid8.h5").exists()
    slurm.until(lambda: slurm.states(kmeans)["JobState"] == "CANCELLED", "the k-means has nothing to wait for")

    array, kmeans = site.submit("extract-vg-grid"), site.submit("kmeans")
    slurm.until(lambda: slurm.states(kmeans)["JobState"] == "COMPLETED", "the k-means is done", 300)
    assert slurm.all_states(array) == ["COMPLETED"] * 3
    assert list(differences(site.alone, site.data)) == []
    assert "the file is there already" in site.submit("extract-vg-grid")


def test_a_task_is_told_before_its_limit_and_goes_on(site: Site) -> None:
    """By Slurm itself, two minutes before."""
    slurm = site.slurm
    assert slurm is not None
    slurm.until(lambda: slurm.states(site.limited)["Restarts"] == "1", "the limit is near, the task requeued")
    slurm.until(lambda: slurm.states(site.limited)["JobState"] in ("PENDING", "RUNNING", "COMPLETED"), "it waits")
    # not at once: the daemon refuses a start in the second in which it stopped the task ("credential revoked")
    slurm.ask("scontrol", "update", f"JobId={site.limited}", "StartTime=now+15", check=False)
    slurm.until(lambda: slurm.states(site.limited)["JobState"] == "COMPLETED", "it has gone on, and ended")
    assert "told to stop\nthe time limit is near: requeued" in site.log(site.limited)


def test_two_tasks_of_srun_are_two_ranks(site: Site) -> None:
    """With no word about it: what srun tells its tasks decides."""
    slurm = site.slurm
    assert slurm is not None
    few = site.folder / "one/COCO/images/val2014"
    few.mkdir(parents=True)
    for image in sorted((site.data / "VG/images/VG_100K").iterdir())[:8]:
        shutil.copy(image, few)
    shutil.copytree(site.folder / "one", site.folder / "two")
    job = ("extract-coco-valid-grid", "RUN=host", "GPUS=0", EXTRACT_FLAGS)
    site.launch(*job, f"DATASETS={site.folder / 'one'}")
    srun = ("srun", "--ntasks=2", "--cpus-per-task=1", "--partition=high")
    said = site.launch(*job, f"DATASETS={site.folder / 'two'}", before=srun)
    assert "share 1 of 2" in said, said
    assert len(re.findall(r"^4 images in \S+ s ", said, re.M)) == 2, said
    assert list(differences(site.folder / "one", site.folder / "two")) == []


@pytest.fixture
def image() -> Iterator[Path]:
    """A stand-in for the unpacked image: this checkout's code at its place, the host's programs and packages mounted.

    (`make image-test` builds the real one.) In a folder that everybody may read, and only root can write."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for program in ("ch-run", "setpriv", version):
        if not Path("/usr/bin", program).exists():
            pytest.skip(f"there is no /usr/bin/{program}: make slurm-test installs charliecloud on Debian and Ubuntu")
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    folder = Path(tempfile.mkdtemp(prefix="charliecloud-", dir="/var/tmp"))
    folder.chmod(0o755)
    root = folder / "image"
    for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "root", "home/ubuntu", "var/lib", "var/tmp", "app",
                 "opt/venv/bin", "opt/packages"):  # fmt: skip
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "hosts", "resolv.conf"):
        (root / "etc" / name).touch()
    for name in ("feature_extraction", "kmeans", "scripts"):
        ignore = shutil.ignore_patterns("__pycache__", "mask_rcnn_ckpt")
        shutil.copytree(ROOT / name, root / "app" / name, symlinks=True, ignore=ignore)
    python = root / "opt/venv/bin/python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH=/opt/packages exec /usr/bin/{version} "$@"\n')
    python.chmod(0o755)
    tried = subprocess.run(
        ["ch-run", "--bind=/usr:/usr", root, "--", "true"],
        env={"PATH": "/usr/bin:/bin", "USER": "root"},
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"ch-run does not run here: {tried.stderr.strip()}")
    yield root
    shutil.rmtree(folder)


def test_another_user_in_charliecloud_makes_the_same_bits(image: Path, tiny_checkpoint: Path) -> None:
    """Nothing is written into the image, the environment of the caller stays outside, and it does not matter where the
    folders lie, or through how many links: /tmp is the one place where ch-run makes mount points by itself."""
    work = image.parent
    shutil.copytree(tiny_checkpoint, work / "checkpoint", copy_function=shutil.copyfile)
    (work / "checkpoint").chmod(0o755)
    job = ["-m", "scripts.launch", "extract-vg-grid", f"CHECKPOINT={work / 'checkpoint'}", "GPUS=0", EXTRACT_FLAGS]
    _photographs(work / "host")
    subprocess.run([sys.executable, *job, "RUN=host", f"DATASETS={work / 'host'}"], cwd=ROOT, check=True)
    before = {path: path.lstat().st_mtime_ns for path in image.rglob("*")}
    flags = f"RUN_FLAGS=--bind=/usr:/usr --bind={sysconfig.get_path('purelib')}:/opt/packages"
    somebody = ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups", "/usr/bin/python3"]
    caller = {"PATH": "/usr/bin:/bin", "USER": "somebody", "HOME": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="charliecloud-") as temporary:
        Path(temporary).chmod(0o755)
        (work / "linked").symlink_to(temporary)
        for datasets in (work / "inside", Path(temporary, "a"), work / "linked" / "b"):
            _photographs(datasets)
            if datasets.name == "a":
                (datasets / "VG/images").rename(Path(temporary, "disk"))
                (datasets / "VG/images").mkdir()
                Path(temporary, "datasets").symlink_to("disk")
                (datasets / "VG/images/VG_100K").symlink_to(Path(temporary, "datasets/VG_100K"))
            subprocess.run(["chown", "-R", f"{SOMEBODY}:{SOMEBODY}", datasets], check=True)
            subprocess.run(
                [*somebody, *job, "RUN=charliecloud", f"IMAGE={image}", f"DATASETS={datasets}", flags],
                cwd=image / "app",
                check=True,
                env=caller,
            )
            assert list(differences(work / "host", datasets)) == []
            assert {path.stat().st_uid for path in (datasets / "VG/features").rglob("*")} == {SOMEBODY}
    assert {path: path.lstat().st_mtime_ns for path in image.rglob("*")} == before


def _photographs(datasets: Path) -> None:
    """Three images of Visual Genome."""
    images = datasets / "VG/images/VG_100K"
    images.mkdir(parents=True)
    for number in range(3):
        Image.fromarray(photograph("coffee")[: 300 + number]).save(images / f"{number}.jpg")
