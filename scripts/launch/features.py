"""The jobs that make, read and compare feature files, and a shell beside them. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from feature_extraction import catalog, cli
from feature_extraction.errors import UsageError

from . import checks
from .jobs import Job, Launcher, paths_after
from .mounts import links_out_of

OTHER_FILES: Final = frozenset(
    ("--imsize", "--grid_size", "--recipe", "--num_boxes", "--min_boxes", "--layer", "--class_probs", "--boxes_from")
)
"""Flags by which the features are not those of the published file, nor of its size."""


def extract(here: Launcher, file: catalog.FeatureFile) -> Job:
    """One of the 16 files."""
    settings, data = here.settings, file.data
    root = Path(os.path.realpath(settings.datasets / data.folder))
    images, output = data.images_dir(root, file.split), data.features_file(root, file.split, file.spec.suffix)
    flags = settings.words("EXTRACT_FLAGS")
    elsewhere = [p.parent for p in paths_after("--output", flags)]
    program = ["python"]
    if here.processes > 1:
        # its processes meet at the loopback address: in Docker without a network the host's own name is unknown
        program = ["torchrun", "--standalone", "--local-addr", "127.0.0.1"]
        program += ["--nproc_per_node", str(here.processes)]
    words = [f"--{data.root_flag}", f"{root}/", *(["--split", file.split.name] if file.split.name else [])]
    words += ["--checkpoint_dir", str(settings.checkpoint)]
    words += ["--engine", settings["ENGINE"], "--precision", settings["PRECISION"]]
    if (gpus := settings.number("GPUS")) is not None and "--device" not in flags:
        words += ["--device", "cuda" if gpus else "cpu"]  # what was asked for by number, or nothing

    def check() -> list[Path]:
        require_flags(here, file)
        checks.require_checkpoint(settings.checkpoint)
        found = checks.require_images(images, f"make download-images-{data.name}", data.pattern, data.recursive)
        if not elsewhere and not OTHER_FILES & {flag.partition("=")[0] for flag in flags}:
            checks.require_room(output, found.images, file.bytes_per_image)
        return [*found.folders, *links_out_of(settings.checkpoint, (), 1)]

    return Job(
        folder="feature_extraction", command=[*program, file.script, *words, *flags],
        reads=(settings.checkpoint, images),
        writes=(*elsewhere, output.parent), check=check, says=f"{file.name}: {images} -> {output}",
    )  # fmt: skip


def require_flags(here: Launcher, file: catalog.FeatureFile) -> None:
    """Exit with the mistake if EXTRACT_FLAGS are none of the script's: before hours of other files, or of a queue."""
    cli.configs_for(file.data.name, file.spec.name, here.settings.words("EXTRACT_FLAGS"), file.script)


def verify(here: Launcher) -> Job:
    """Our files against the published ones, here or where these lie."""
    settings, datasets, flags = here.settings, here.settings.datasets, here.settings.words("VERIFY_FLAGS")
    address = settings["PUBLISHED"] if settings["PUBLISHED"].startswith(("http://", "https://")) else ""
    far = bool(address or settings["REMOTE"])
    explains = any(word.partition("=")[0] == "--explain" for word in flags)
    if far:
        if settings["RUN"] not in ("", "host"):
            raise UsageError("published features behind an address: no container has a network; leave RUN out")
        here.run = "host"

    def check() -> list[Path]:
        checks.require_folder(datasets, "make extract-all, or DATASETS=folder")
        linked = here.linked_features()
        if explains:
            checks.require_checkpoint(settings.checkpoint)
            linked += links_out_of(settings.checkpoint, (), 1)
        if not far:
            checks.require_folder(settings.published, "make download-features, or PUBLISHED=folder, or REMOTE=1")
            linked += links_out_of(settings.published, (datasets, settings.published), 3)
        return linked

    place = ["--published", address or str(settings.published)] if address or not far else ["--remote"]
    weights = ["--checkpoint_dir", str(settings.checkpoint)] if explains else []
    return Job(
        folder="",
        command=["python", "-m", "scripts.verify", "--ours", str(datasets), *place, *weights, *flags],
        reads=(datasets, *([] if far else [settings.published]), *([settings.checkpoint] if explains else [])),
        check=check,
    )


def parity(here: Launcher) -> Job:
    """Both engines on the same images."""
    settings = here.settings
    images = settings.path("PARITY_IMAGES", settings.datasets / "COCO/images/val2014")

    def check() -> list[Path]:
        checks.require_checkpoint(settings.checkpoint)
        found = checks.require_images(images, "make download-images-coco, or PARITY_IMAGES=folder")
        return [*found.folders, *links_out_of(settings.checkpoint, (), 1)]

    command = ["python", "-m", "scripts.parity", "--images", str(images), "--checkpoint_dir", str(settings.checkpoint)]
    command += settings.words("PARITY_FLAGS")
    return Job(folder="", command=command, reads=(settings.checkpoint, images), check=check)


def check(here: Launcher) -> Job:
    """Every file that has been made, read bit by bit."""
    datasets = here.settings.datasets
    made = [path for file in catalog.feature_files() if (path := file.path(datasets)).is_file()]

    def check() -> list[Path]:
        if not made:
            raise UsageError(f"no feature file has been made in {datasets}: make extract-all, or DATASETS=folder")
        return here.linked_features()

    command = ["python", "-m", "feature_extraction", "check", *map(str, made)]
    return Job(folder="", command=command, reads=(datasets,), check=check)


def shell(here: Launcher) -> Job:
    """A look inside the image, with the data; only the folders of results can be written."""
    if here.settings["RUN"] == "host":
        raise UsageError("make shell looks inside the image: leave RUN=host out")
    datasets, checkpoint = here.settings.datasets, here.settings.checkpoint
    results = [datasets / d.folder / "features" for d in catalog.DATA_SETS.values() if (datasets / d.folder).is_dir()]

    def check() -> list[Path]:
        checks.require_folder(datasets, "make download-images, or DATASETS=folder")
        return [*here.linked_features(), *links_out_of(checkpoint, (), 1)]

    if not here.in_image:
        here.run = "container"
    reads = (datasets, *([checkpoint] if checkpoint.is_dir() or here.dry_run else []))
    writes = (*results, datasets / "cluster_centroids")
    return Job(folder="", command=["bash"], reads=reads, writes=writes, check=check, interactive=True)
