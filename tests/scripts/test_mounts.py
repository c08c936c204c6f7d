"""What a job in an image sees of the machine: folders under their own names, and where links lead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.launching import FILES, launcher, mounted

from feature_extraction.errors import UsageError
from scripts.launch import checks, features, vocabulary
from scripts.launch.mounts import Mount, links_out_of, refuse_hiding, unseen, without_nested


def test_folders_have_their_own_names_inside(data: Path, answering: None) -> None:
    """So that the paths which feature files record agree; and only results can be written."""
    here = launcher("RUN=container", f"DATASETS={data}", f"CHECKPOINT={data.parent / 'ckpt'}")
    assert mounted(here.command(features.extract(here, FILES["vg-grid"]))) == {
        str(data.parent / "ckpt"): (str(data.parent / "ckpt"), False),
        f"{data}/VG/images": (f"{data}/VG/images", False),
        f"{data}/VG/features": (f"{data}/VG/features", True),
    }


def test_links_lead_inside_where_they_lead_outside(data: Path, tmp_path: Path, answering: None) -> None:
    """The data folder itself, a data set, its images, a folder of images, single images, the checkpoint's file."""
    for name in ("disk", "more", "few", "models", "results", "room"):
        (tmp_path / name).mkdir()
    data.rename(tmp_path / "disk/data")
    data.symlink_to("disk/data")
    (data / "VG").rename(tmp_path / "more/VG")
    (data / "VG").symlink_to(tmp_path / "more/VG")
    vg = tmp_path / "more/VG"
    (vg / "images").rename(tmp_path / "few/images")
    (vg / "images").symlink_to("../../few/images")
    (tmp_path / "results/one.jpg").touch()
    (vg / "images/VG_100K_2").symlink_to(tmp_path / "results")
    (tmp_path / "models/4.jpg").touch()
    (vg / "images/VG_100K/4.jpg").symlink_to(tmp_path / "models/4.jpg")
    (vg / "features").symlink_to(tmp_path / "room")
    here = launcher("RUN=container", f"DATASETS={data}", f"CHECKPOINT={tmp_path / 'ckpt'}")
    command = here.command(features.extract(here, FILES["vg-grid"]))
    assert mounted(command) == {
        f"{tmp_path}/ckpt": (f"{tmp_path}/ckpt", False),
        f"{vg}/images": (f"{tmp_path}/few/images", False),
        f"{vg}/features": (f"{tmp_path}/room", True),
        f"{tmp_path}/results": (f"{tmp_path}/results", False),
        f"{tmp_path}/models": (f"{tmp_path}/models", False),
    }
    assert f"{vg}/" in command.argv, "the root is named as the script resolves it"


def test_an_output_elsewhere_is_mounted(data: Path, tmp_path: Path, answering: None) -> None:
    for given in (f"--output '{tmp_path}/out/x.h5'", f"--output='{tmp_path}/out/x.h5'"):
        words = ("RUN=container", f"DATASETS={data}", f"CHECKPOINT={tmp_path / 'ckpt'}", f"EXTRACT_FLAGS={given}")
        here = launcher(*words)
        assert mounted(here.command(features.extract(here, FILES["vg-grid"])))[f"{tmp_path}/out"] == (
            f"{tmp_path}/out",
            True,
        )
        assert (tmp_path / "out").is_dir()


def test_the_vocabulary_has_both_its_names(data: Path, tmp_path: Path, answering: None) -> None:
    """The second is a link, made outside because the container may not write there; links out of the data are seen."""
    (tmp_path / "big/COCO/features").mkdir(parents=True)
    (data / "COCO").symlink_to(tmp_path / "big/COCO")
    here = launcher(
        "RUN=container", f"DATASETS={data}", f"KMEANS_FLAGS=--scratch '{tmp_path}/scratch'", "KMEANS_SRC=/a/x.h5"
    )
    assert mounted(here.command(vocabulary.kmeans(here))) == {
        str(data): (str(data), False),
        f"{data}/cluster_centroids": (f"{data}/cluster_centroids", True),
        f"{tmp_path}/scratch": (f"{tmp_path}/scratch", True),
        f"{tmp_path}/big/COCO": (f"{tmp_path}/big/COCO", False),
        "/a": ("/a", False),
    }
    assert os.readlink(data / "clustering") == "cluster_centroids"
    (data / "clustering").unlink()
    (data / "clustering").mkdir()
    here = launcher("RUN=container", f"DATASETS={data}")
    assert mounted(here.command(vocabulary.kmeans(here)))[f"{data}/clustering"] == (f"{data}/clustering", True)


def test_files_that_are_named_to_the_vocabulary_s_jobs_are_mounted(data: Path, tmp_path: Path, answering: None) -> None:
    folder = f"{data}/cluster_centroids"
    words = ("RUN=container", f"DATASETS={data}")
    here = launcher(*words, f"PAPER_FLAGS=--weights /w/x.pth --output '{tmp_path}/out/words.npy'")
    found = mounted(here.command(vocabulary.paper_vocabulary(here)))
    assert (found["/w"], found[f"{tmp_path}/out"][1], found[folder][1]) == (("/w", False), True, True)
    here = launcher(*words, f"VERIFY_KMEANS_FLAGS=--ours '{tmp_path}/own/a.npy' --theirs=/b/b.npy --rows /c/c.h5")
    found = mounted(here.command(vocabulary.verify_kmeans(here)))
    assert {path for path, (_, writable) in found.items() if writable} == {f"{tmp_path}/own", folder}
    assert {"/b", "/c"} <= set(found)


def test_outer_folders_come_first_and_once(tmp_path: Path) -> None:
    (tmp_path / "a/c").mkdir(parents=True)
    (tmp_path / "a/link").symlink_to("c")
    a = tmp_path / "a"
    given = [Mount(a / "b", True), Mount(a), Mount(a / "d"), Mount(a / "b"), Mount(a / "b/c"), Mount(a / "b/d", True),
             Mount(a / "link", True)]  # fmt: skip
    assert without_nested(given) == [Mount(a), Mount(a / "b", True), Mount(a / "c", True), Mount(a / "b/c")]


@pytest.mark.parametrize(
    "path",
    ["/", "/usr", "/usr/lib/x", "/etc", "/etc/x", "/app", "/app/kmeans", "/opt", "/opt/venv/x", "/tmp", "/proc/1"],
)
def test_what_would_hide_the_image_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="cannot be mounted under its own name"):
        refuse_hiding(Path(path))


@pytest.mark.parametrize("path", ["/data", "/tmp/x", "/home/me/data", "/root/x", "/usr/local/data", "/app/datasets",
                                  "/app/feature_extraction/mask_rcnn_ckpt", "/opt/data", "/apple", "/srv"])  # fmt: skip
def test_any_other_place_is_free(path: str) -> None:
    refuse_hiding(Path(path))


def test_links_are_followed_by_every_name_on_the_way(data: Path, tmp_path: Path) -> None:
    """Inside, a link finds what it names, not where that really lies: `/datasets` is often a link itself."""
    for name in ("disk/vg", "pool/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "disk/vg/1.jpg").touch()
    (tmp_path / "pool/deep/2.jpg").touch()
    (tmp_path / "datasets").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/vg/2.jpg").symlink_to(tmp_path / "pool/deep/2.jpg")
    (tmp_path / "disk/vg/round").symlink_to("../../datasets/vg")
    images = data / "VG/images"
    (images / "more").symlink_to(tmp_path / "datasets/vg")
    expected = {tmp_path / name for name in ("datasets/vg", "pool/deep")}
    assert set(checks.survey(images, "*.jpg").folders) == expected
    (data / "vg").symlink_to(tmp_path / "datasets/vg")
    assert links_out_of(data, (data,), 1) == {tmp_path / "datasets/vg"}
    (tmp_path / "loop").symlink_to("loop")
    assert unseen(tmp_path / "loop", {tmp_path}) is None
