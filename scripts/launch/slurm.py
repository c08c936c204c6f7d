"""To Slurm: one job array for each feature file, the k-means after those it reads (``make slurm-extract-all``).

A task does one share of its file (``--shard i/n``) through this same launcher, on its node; the share that ends last
writes the file. The scripts stay where cluster.toml says, to look at, to keep and to submit by hand. Standard library
only.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_extraction import catalog
from feature_extraction.config import EXIT_ALL, EXIT_NOTHING, EXIT_SOME_FAILED, Grid
from feature_extraction.errors import UsageError

from . import checks, features, vocabulary
from .cluster import Cluster, Resources, read_cluster
from .jobs import Launcher
from .settings import CHECKOUT, Settings

KMEANS: Final = "kmeans"
WITHOUT_DAEMON: Final = ("apptainer", "charliecloud")
FIRST_STORED: Final = "manifest.json"
"""What storage/output.py writes into a work folder with the first features."""
ENDING: Final = "CG"
"""squeue's word for a job whose processes are being ended."""
MODULES: Final = """\
# a batch script is no login shell, and may not know what `module` is
command -v module >/dev/null || . /etc/profile
module load {modules} || exit 1
"""
FULL: Final = "temporarily unavailable"
"""What sbatch says, after two minutes of trying, where the queue takes no more jobs."""
HINTS: Final = {
    "array specification": ": {tasks} tasks; fewer by a larger images_per_task (scontrol show config: MaxArraySize)",
    FULL: ": the queue is full: the same command again later submits what is left",
    "gres": ": gpus and gpu_option in cluster.toml say how cards are asked for",
}
"""Part of what sbatch says -> what of ours it is about."""
BEFORE_LIMIT: Final = 120
"""Seconds before its time limit at which a task is told to stop."""
SCRIPT: Final = """\
#!/bin/bash
{options}
# Written by `python3 -m scripts.launch --slurm`; `sbatch` takes it as it is.
unset SLURM_STEP_ID  # of a session of srun's that submitted this: a batch script is no step
{modules}{setup}cd {checkout} || exit 1

# Of an end that Slurm has decided (preempted, cancelled) every process of the job is told: this shell outlives them.
trap : TERM
# Before the time limit this shell alone is told: the job ends with what it has, and goes on when it is run again.
limit=
trap 'limit=reached; kill -TERM "$job"' USR1

{command} &
job=$!
wait "$job"
code=$?
while [ "$code" -gt 128 ] && kill -0 "$job" 2>/dev/null; do  # a trap ended the waiting, not the job
    wait "$job"
    code=$?
done
if [ "$code" = {some_failed} ]; then
    code=0  # some images gave no features: the report beside the file names them, and what follows may begin
fi
if [ "$limit" ] && [ "$code" != 0 ]; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
        echo "the time limit is near: requeued"
        scontrol requeue "$SLURM_JOB_ID"
    else
        echo "the time limit is near, and {restarts} restarts are enough: submit it again, it goes on from here" >&2
    fi
fi
exit "$code"
"""


@dataclass(frozen=True, kw_only=True)
class Script:
    """One job, as sbatch takes it."""

    name: str
    text: str
    tasks: int = 1
    after: Sequence[str] = ()
    """Names of the jobs that have to end well before."""
    settings: Mapping[str, str]
    """The variables that it gets on its node."""


def scripts(here: Launcher, cluster: Cluster, files: Sequence[catalog.FeatureFile], *, kmeans: bool) -> list[Script]:
    """What is to be submitted, in order."""
    found = []
    there = settings_there(here, cluster, cluster.extract)
    for file in files:
        tasks = shares(here, file, cluster.images_per_task)
        text = _text(here, cluster, f"extract-{file.name}", there, tasks)
        found.append(Script(name=file.name, text=text, tasks=tasks, settings=there))
    if kmeans:
        there = settings_there(here, cluster, cluster.kmeans)
        text = _text(here, cluster, KMEANS, there)
        before = [file.name for file in grids_of_kmeans(here)]
        found.append(Script(name=KMEANS, text=text, after=before, settings=there))
    return found


def shares(here: Launcher, file: catalog.FeatureFile, images_per_task: int) -> int:
    """Into how many shares a file is cut, by its images: those that are there, or else those that were published."""
    folder = file.images(here.settings.datasets)
    there = checks.survey(folder, file.data.pattern, file.data.recursive).images if folder.is_dir() else 0
    return -(-(there or file.split.images) // images_per_task)


def _text(here: Launcher, cluster: Cluster, job: str, there: Mapping[str, str], tasks: int = 0) -> str:
    """The script of one job of the launcher, with the settings ``there``; of an array, where it has ``tasks``."""
    resources = cluster.extract if tasks else cluster.kmeans
    name = job.removeprefix("extract-")
    options = [
        f"--job-name={job_name(here, name)}",
        f"--output={name}.{'%A_%a' if tasks else '%j'}.log",
        "--open-mode=append",
    ]
    options += [f"--array=0-{tasks - 1}%{cluster.at_once}"] if tasks else []
    options += ["--requeue", f"--signal=B:USR1@{BEFORE_LIMIT}", "--ntasks=1", *resources.options]
    options += [f"--account={cluster.account}"] if cluster.account else []
    modules = MODULES.format(modules=shlex.join(cluster.modules)) if cluster.modules else ""
    given = dict(there)
    python, flags = given.pop("PYTHON", here.settings["PYTHON"]), given.pop("EXTRACT_FLAGS", "")
    words = [shlex.quote(f"{name}={value}") for name, value in given.items()]
    if tasks:
        begin = f"EXTRACT_FLAGS={flags}{' ' * bool(flags)}--shard "
        words.append(f'{shlex.quote(begin)}"$((SLURM_ARRAY_TASK_ID + 1))/{tasks}"')
    return SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in options),
        modules=modules,
        setup="".join(f"{line}\n" for line in cluster.setup),
        checkout=shlex.quote(str(CHECKOUT)),
        command=" ".join([shlex.quote(python), "-m scripts.launch", job, *words]),
        some_failed=EXIT_SOME_FAILED,
        restarts=cluster.restarts,
    )


def settings_there(here: Launcher, cluster: Cluster, resources: Resources) -> dict[str, str]:
    """The variables that a job gets on its node: those given here, and what follows from the cards asked for. Raises
    UsageError for a number of cards that is not what is asked for."""
    given = here.settings.given
    given.pop("CLUSTER", None)
    if given.get("RUN") in WITHOUT_DAEMON:
        # one image for all jobs, also for those that ask for no card
        target = given.get("TARGET") or ("gpu" if cluster.extract.cards else "cpu")
        given["IMAGE"] = Launcher(Settings({**given, "TARGET": target})).image
    if not resources.cards:
        given |= {"GPUS": "0", "TARGET": "cpu"}  # by word, for what is exported here is there, too
    # a node whose cards are not there refuses the job; it would compute on the CPU for days
    if given.setdefault("GPUS", str(resources.cards)) != str(resources.cards):
        raise UsageError(
            f"GPUS={given['GPUS']}, but a task is given {resources.cards}: gpus in cluster.toml says how many"
        )
    return given


def grids_of_kmeans(here: Launcher) -> list[catalog.FeatureFile]:
    """The files of the catalogue that the k-means reads; ``mscoco valid``, as published, is mscoco_valid."""
    named = "_".join(["", here.settings["KMEANS_SRC"], *here.settings.words("KMEANS_TGT"), ""])
    sources = catalog.kmeans_sources().items()
    return [catalog.FeatureFile(data, split, Grid()) for name, (data, split) in sources if f"_{name}_" in named]


def job_name(here: Launcher, name: str) -> str:
    """What a job is known by in the queue: one of another data folder is another job."""
    digest = hashlib.sha256(os.fsencode(here.settings.datasets)).hexdigest()
    return f"xlxmert-{name}-{digest[:6]}"


# ---------------------------------------------------------------- submitting


def submit(here: Launcher, target: str, files: Sequence[catalog.FeatureFile]) -> int:
    """Write and submit the scripts of ``target``; with ``--dry-run`` print them. Exit code: 0, or 1 if something could
    not be submitted. Raises UsageError for what is wrong with the words or the site's file."""
    path = here.settings.path("CLUSTER", CHECKOUT / "cluster.toml")
    cluster = read_cluster(path, wanted=bool(here.settings["CLUSTER"]))
    found = scripts(here, cluster, files, kmeans=target in (KMEANS, "extract-all"))
    for file in files:
        features.require_flags(here, file)
    vocabulary.require_flags(here)
    if here.dry_run:
        for script in found:
            print(f"# ---------------- {script.name}.sbatch\n{script.text}")
        return EXIT_ALL
    if shutil.which("sbatch") is None:
        raise UsageError("there is no sbatch here: log in where jobs are submitted, or make -n and copy the scripts")
    folder = CHECKOUT / os.path.expanduser(cluster.scripts)
    checks.make_output(folder, in_container=False, choice=f'scripts = "..." in {path}')
    if not all(is_made(file.path(here.settings.datasets)) for file in files):
        checks.require_checkpoint(here.settings.checkpoint)
    by_name = {file.name: file for file in catalog.feature_files()}
    ids: dict[str, str] = {}
    code = EXIT_ALL
    for script in found:
        try:
            print(f"{script.name}: {_submit(here, script, folder, by_name, ids)}", flush=True)
        except UsageError as error:  # one that cannot begin does not keep the others from it
            print(f"launch: {script.name}: {error}", file=sys.stderr, flush=True)
            code = EXIT_NOTHING
            if FULL in str(error):
                break
    if ids:
        print(
            f"to look: squeue --me; logs: {folder}; to stop: scancel {' '.join(ids.values())}; to go on: the same again"
        )
    return code


def _submit(
    here: Launcher, script: Script, folder: Path, files: dict[str, catalog.FeatureFile], ids: dict[str, str]
) -> str:
    """Submit one script, unless there is nothing to do; returns what became of it. ``ids`` takes the job's number.
    Raises UsageError."""
    if number := queued(here, script.name):
        ids[script.name] = number
        return f"job {number} is queued or running already"
    if script.name in files and is_made(files[script.name].path(here.settings.datasets)):
        return "the file is there already"
    before = [_job_before(here, files[name], ids) for name in script.after]
    job = features.extract(here, files[script.name]) if script.name in files else vocabulary.kmeans(here)
    here.prepare(job)
    if here.settings["RUN"] in WITHOUT_DAEMON:  # what cannot be mounted is said now, not by every task
        Launcher(Settings(script.settings), dry_run=True).command(job)
    path = folder / f"{script.name}.sbatch"
    try:
        path.unlink(missing_ok=True)  # in a folder of several users it may be another's
        path.write_text(script.text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    after = ":".join(filter(None, before))
    options = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    try:
        done = _ask(["sbatch", "--parsable", *options, path.name], folder)
    except UsageError as error:
        hint = next((hint for word, hint in HINTS.items() if word in str(error)), "")
        raise UsageError(f"{error}{hint.format(tasks=script.tasks)}") from None
    ids[script.name] = done.strip().partition(";")[0]
    tasks = f", {script.tasks} tasks" if script.name in files else ""
    return f"job {ids[script.name]}{tasks}{', after ' + after.replace(':', ', ') if after else ''}"


def is_made(output: Path) -> bool:
    """Whether a file is finished: one that is begun anew, for images that were added, has features in the work folder
    beside it. A single task of it that was repeated leaves such a folder, too, with none in it."""
    return output.is_file() and not Path(f"{output}.work", FIRST_STORED).exists()


def _job_before(here: Launcher, file: catalog.FeatureFile, ids: dict[str, str]) -> str:
    """Number of the job that makes ``file``; empty where it is made. Raises UsageError where nobody makes it."""
    number = ids.get(file.name) or queued(here, file.name)
    if not number and not is_made(file.path(here.settings.datasets)):
        raise UsageError(
            f"needs {file.path(here.settings.datasets)}, which no job makes: make slurm-extract-{file.name}"
        )
    return number


def queued(here: Launcher, name: str) -> str:
    """Number of the caller's job of this name that waits or runs; empty: none. Raises UsageError for one that ends at
    this moment, well or cancelled: nobody knows yet whether it is to be submitted again."""
    mine = [f"--user={os.geteuid()}", f"--name={job_name(here, name)}"]
    found = [line.split() for line in _ask(["squeue", "--noheader", *mine, "--format=%F %t"], CHECKOUT).splitlines()]
    at_work = [number for number, state in found if state != ENDING]
    if found and not at_work:
        raise UsageError(f"job {found[0][0]} is ending: the same command again when it has (squeue --me)")
    return at_work[0] if at_work else ""


def _ask(command: Sequence[str], folder: Path) -> str:
    """What a program of Slurm's prints. Raises UsageError, with its own words, where it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise UsageError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        said = checks.last_error(done.stderr.splitlines()) or f"ended with {done.returncode}"
        raise UsageError(f"{command[0]}: {said.removeprefix(f'{command[0]}: error: ')}")
    return done.stdout
