"""Real processes: the published commands, doubled, split, told to stop and fed with bad images."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import bad_images
from helpers.common import ROOT, finish
from helpers.forking import Forks
from helpers.process_runs import assert_equal, contents, crops, grid_command, wait_for_features

from feature_extraction.storage.store import image_ids, open_features, work_dir

Command = Callable[..., subprocess.Popen[str]]


def test_torchrun_with_two_processes_makes_the_same_file(
    coco: Path, tiny_checkpoint: Path, uninterrupted: dict, tmp_path: Path, command: Command
) -> None:
    output = tmp_path / "f.h5"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    returncode, printed = finish(command(*launch, *grid_command(coco, tiny_checkpoint, output)))
    assert returncode == 0, printed
    assert printed.count("the one that ends last") == 1  # one ends first, the other assembles
    assert_equal(contents(output), uninterrupted)


def test_torchrun_with_bad_images_in_every_share(tmp_path: Path, tiny_checkpoint: Path, command: Command) -> None:
    """A rank that reports bad images must not be taken for a dead one, which would stop the others."""
    crops(tmp_path / "images", 20)
    for i in (2, 3):  # one for each rank
        next((tmp_path / "images").glob(f"*{i:012d}.png")).write_bytes(b"")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "feature_extraction"]
    flags = ["--checkpoint_dir", tiny_checkpoint, "--device", "cpu", "--output", tmp_path / "f.h5"]
    returncode, printed = finish(command(*launch, "--images", tmp_path / "images", *flags, cwd=ROOT))
    assert returncode == 1, printed  # torchrun's own code for "a process exited with 3"
    assert "exitcode  : 3" in printed
    assert len(contents(tmp_path / "f.h5")) == 18
    report = json.loads((tmp_path / "f.report.json").read_text())
    assert sorted(failure["reason"] for failure in report["failed"]) == ["empty file (0 bytes)"] * 2


def test_a_dead_rank_leaves_a_run_that_resumes(
    coco: Path, tiny_checkpoint: Path, uninterrupted: dict, tmp_path: Path, command: Command
) -> None:
    output = tmp_path / "f.h5"
    ranks = [
        command(*grid_command(coco, tiny_checkpoint, output), RANK=str(r), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
        for r in range(2)
    ]
    part = work_dir(output) / "part-00001-of-00002.log"
    while not part.exists() or part.stat().st_size < 100_000:
        assert ranks[1].poll() is None
        time.sleep(0.01)
    ranks[1].kill()
    returncode, printed = finish(ranks[0])
    assert returncode == 0, printed
    assert not output.exists()
    returncode, printed = finish(command(*grid_command(coco, tiny_checkpoint, output)))  # resumed by one process
    assert returncode == 0, printed
    assert ", 0 done before" not in printed
    assert_equal(contents(output), uninterrupted)


def test_shards_of_a_job_array(
    coco: Path, tiny_checkpoint: Path, uninterrupted: dict, tmp_path: Path, forks: Forks
) -> None:
    output = tmp_path / "f.h5"
    for shard in ("2/3", "1/3", "3/3"):
        returncode, printed = finish(forks.start(*grid_command(coco, tiny_checkpoint, output), "--shard", shard))
        assert returncode == 0, printed
    assert_equal(contents(output), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cleanly_and_says_how_to_go_on(
    coco: Path, tiny_checkpoint: Path, uninterrupted: dict, tmp_path: Path, forks: Forks, number: signal.Signals
) -> None:
    output = tmp_path / "f.h5"
    process = forks.start(*grid_command(coco, tiny_checkpoint, output))
    wait_for_features(process, output)
    process.send_signal(number)
    returncode, printed = finish(process)
    assert returncode == 128 + number, printed
    assert "The same command goes on from here" in printed
    assert not output.exists()
    returncode, printed = finish(forks.start(*grid_command(coco, tiny_checkpoint, output)))
    assert returncode == 0, printed
    assert_equal(contents(output), uninterrupted)


def test_a_second_run_on_the_same_output_stops(
    coco: Path, tiny_checkpoint: Path, uninterrupted: dict, tmp_path: Path, forks: Forks
) -> None:
    output = tmp_path / "f.h5"
    first = forks.start(*grid_command(coco, tiny_checkpoint, output))
    wait_for_features(first, output)
    first.send_signal(signal.SIGSTOP)  # it cannot end before the second has looked
    returncode, printed = finish(forks.start(*grid_command(coco, tiny_checkpoint, output)))
    first.send_signal(signal.SIGCONT)
    assert returncode == 1, printed
    assert "another run is making f.h5" in printed
    assert finish(first)[0] == 0
    assert_equal(contents(output), uninterrupted)


def test_a_full_disk_keeps_what_was_computed(
    coco: Path, tiny_checkpoint: Path, uninterrupted: dict, tmp_path: Path, forks: Forks
) -> None:
    """A real full file system: a small tmpfs, whose free space other data eat up while the run goes on."""
    mount = tmp_path / "small"
    mount.mkdir()
    needed = 2 * 240 * (64 * 64 * 4 + 1024)
    result = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={needed + 4_000_000}", "tmpfs", mount],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        pytest.skip(f"only root may mount a file system, and not in every container: {result.stderr.strip()}")
    try:
        output = mount / "f.h5"
        process = forks.start(*grid_command(coco, tiny_checkpoint, output))
        wait_for_features(process, output)
        with (mount / "others").open("wb") as file:
            file.truncate(0)
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(mount).free - 64_000)
        returncode, printed = finish(process)
        assert returncode == 1, printed
        assert "No space left" in printed
        assert "run the same command again" in printed
        assert not output.exists()
        (mount / "others").unlink()
        returncode, printed = finish(forks.start(*grid_command(coco, tiny_checkpoint, output)))
        assert returncode == 0, printed
        assert ", 0 done before" not in printed
        assert_equal(contents(output), uninterrupted)
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_bad_images_among_good_ones(tmp_path: Path, tiny_checkpoint: Path, forks: Forks) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    bad_images.write(folder)
    output = tmp_path / "f.h5"
    flags = ["--checkpoint_dir", tiny_checkpoint, "--device", "cpu", "--output", output]
    returncode, printed = finish(forks.start("-m", "feature_extraction", "--images", folder, *flags, cwd=ROOT), 900)
    assert returncode == 3, printed
    report = json.loads((tmp_path / "f.report.json").read_text())
    failed = {Path(failure["path"]).name: failure["reason"] for failure in report["failed"]}
    with open_features(output) as file:
        extracted = set(image_ids(file))
    bad = [case for case in bad_images.CASES if case.fails_in]
    assert len(bad) >= 25
    for case in bad:
        shown = case.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        match = [reason for name, reason in failed.items() if name == shown or Path(name).stem == case.id]
        assert any(case.reason in reason for reason in match), (case.name, match)
    good = {case.id for case in bad_images.CASES if not case.fails_in}
    assert good - extracted == set()
    assert len(failed) == len(bad)


def test_the_published_command_as_written(tmp_path: Path, tiny_checkpoint: Path, command: Command) -> None:
    """From a copy of the folder layout, without a flag of ours: ./mask_rcnn_ckpt and ../datasets are found."""
    for folder in ("feature_extraction", "kmeans"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    crops(tmp_path / "datasets/COCO/images/train2014", 3)
    crops(tmp_path / "datasets/VG/images/VG_100K", 2, "{}.jpg")
    here = tmp_path / "feature_extraction"
    readme_names = {
        "detectron_model.pth": "model_final.pth",
        "detectron_config.yaml": "e2e_faster_rcnn_X-152-32x8d-FPN_1x_MLP_2048_FPN_512_train.yaml",
    }
    (here / "mask_rcnn_ckpt").mkdir()
    for script_name, readme_name in readme_names.items():
        os.link(tiny_checkpoint / script_name, here / "mask_rcnn_ckpt" / readme_name)
    assert finish(command("coco_extract_grid_feature.py", "--split", "train", cwd=here))[0] == 0
    assert finish(command("VG_extract_bbox_feature.py", cwd=here))[0] == 0
    with h5py.File(tmp_path / "datasets/COCO/features/maskrcnn_train_grid8.h5") as f:
        assert list(f) == [f"COCO_val2014_{i:012d}" for i in range(3)]
        features = np.zeros((8, 8, 64), np.float32)
        f["COCO_val2014_000000000000/features"].read_direct(features)
        assert features.max() > 0
    with h5py.File(tmp_path / "datasets/VG/features/maskrcnn_boxes36.h5") as f:
        assert {name: (d.shape, d.dtype.str) for name, d in f["1"].items()} == {
            "features": ((36, 64), "<f4"), "boxes": ((36, 4), "<f4"), "obj_id": ((36,), "<i8"),
            "img_w": ((), "<i8"), "img_h": ((), "<i8"),
        }  # fmt: skip
        assert (f["1/img_w"][()], f["1/img_h"][()]) == (56, 48)


@pytest.mark.parametrize("kind", ["grid", "boxes"])
def test_batches_do_not_depend_on_what_was_done_before(
    tmp_path: Path, tiny_checkpoint: Path, forks: Forks, kind: str
) -> None:
    crops(tmp_path / "images", 12)
    common = ["-m", "feature_extraction", "--images", tmp_path / "images", "--kind", kind, "--device", "cpu"]
    common += ["--checkpoint_dir", tiny_checkpoint, "--batch_size", "2"]
    whole, split = tmp_path / "whole.h5", tmp_path / "split.h5"
    assert finish(forks.start(*common, "--output", whole, cwd=ROOT))[0] == 0
    assert finish(forks.start(*common, "--output", split, "--shard", "1/2", cwd=ROOT))[0] == 0
    assert finish(forks.start(*common, "--output", split, cwd=ROOT))[0] == 0
    assert_equal(contents(whole), contents(split))
    single = tmp_path / "single.h5"
    assert finish(forks.start(*common[:-1], "1", "--output", single, cwd=ROOT))[0] == 0
    one, many = contents(single), contents(whole)
    assert one.keys() == many.keys()
    for key in one:
        if key.endswith("features"):
            assert np.abs(one[key] - many[key]).max() <= 1e-5 * np.abs(one[key]).max(), key


def test_an_unexpected_precision_is_refused_on_resuming(
    coco: Path, tiny_checkpoint: Path, tmp_path: Path, forks: Forks
) -> None:
    output = tmp_path / "f.h5"
    assert finish(forks.start(*grid_command(coco, tiny_checkpoint, output), "--shard", "1/2"))[0] == 0
    returncode, printed = finish(forks.start(*grid_command(coco, tiny_checkpoint, output), "--precision", "bfloat16"))
    assert returncode == 1
    assert "precision 'float32', now 'bfloat16'" in printed
