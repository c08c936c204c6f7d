"""One extraction from start to finish, in this process: what a run notices of the images since the last one."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.common import photograph
from PIL import Image

from feature_extraction import pipeline
from feature_extraction.config import EXIT_ALL, EXIT_NOTHING, EXIT_SOME_FAILED, Boxes, ExtractConfig, Grid, Spec
from feature_extraction.errors import StoreError, UsageError
from feature_extraction.storage.store import image_ids, open_features, provenance, work_dir

SMALL = Grid(imsize=64)


class Run:
    """Runs extractions of one folder into one output."""

    def __init__(self, root: Path, checkpoint: Path) -> None:
        self.images, self.output, self.checkpoint = root / "images", root / "f.h5", checkpoint
        self.images.mkdir()
        self.said: list[str] = []

    def put(self, name: str, number: int, folder: Path | None = None) -> Path:
        """Crop ``number`` of the photograph as an image file."""
        path = (folder or self.images) / name
        y, x = 31 * number % 400, 47 * number % 400
        Image.fromarray(photograph("astronaut")[y : y + 64, x : x + 64]).save(path)
        return path

    def __call__(self, spec: Spec = SMALL, **settings: object) -> pipeline.Report:
        self.said.clear()
        config = {"images": self.images, "output": self.output, "checkpoint_dir": self.checkpoint, "device": "cpu"}
        return pipeline.extract(ExtractConfig(spec=spec, **{**config, **settings}), threading.Event(), self.said.append)

    def features(self) -> dict[str, np.ndarray]:
        with open_features(self.output) as file:
            return {image_id: file[image_id]["features"][()] for image_id in image_ids(file)}


@pytest.fixture
def run(tmp_path: Path, tiny_checkpoint: Path) -> Run:
    made = Run(tmp_path, tiny_checkpoint)
    for number in range(4):
        made.put(f"{number}.png", number)
    return made


def test_a_second_run_has_nothing_to_do(run: Run) -> None:
    report = run()
    assert (report.exit_code, report.outcome.images) == (EXIT_ALL, 4)
    before = run.output.read_bytes()
    assert run().exit_code == EXIT_ALL
    assert run.output.read_bytes() == before
    assert any("4 done before" in line for line in run.said)


def test_a_replaced_image_is_computed_again_and_said(run: Run) -> None:
    run()
    before = run.features()
    run.put("1.png", 9)
    assert run().outcome.images == 4
    assert any(line.startswith("1 images have changed") for line in run.said)
    after = run.features()
    assert not np.array_equal(before["1"], after["1"])
    assert all(np.array_equal(before[i], after[i]) for i in "023")


def test_a_replaced_image_of_the_same_size_and_time_in_another_folder_is_not_taken_over(
    run: Run, tmp_path: Path
) -> None:
    run()
    before = run.features()
    other = tmp_path / "other"
    other.mkdir()
    for number in range(4):
        path = run.put(f"{number}.png", number + 10, other)
        path.write_bytes(path.read_bytes().ljust((run.images / path.name).stat().st_size, b"\0"))
        shutil.copystat(run.images / path.name, path)
    run(images=other)
    after = run.features()
    assert not any(np.array_equal(before[i], after[i]) for i in before)


def test_a_touched_image_and_a_moved_folder_are_compared_by_content(run: Run, tmp_path: Path) -> None:
    run()
    os.utime(run.images / "2.png")
    run.images = run.images.rename(tmp_path / "moved")
    run()
    assert any("4 done before" in line for line in run.said)


def test_a_renamed_image_leaves_the_file_under_its_old_name(run: Run) -> None:
    run()
    before = run.features()
    (run.images / "3.png").rename(run.images / "z.png")
    report = run()
    assert report.outcome.dropped == ["3"]
    after = run.features()
    assert list(after) == ["0", "1", "2", "z"]
    np.testing.assert_array_equal(after["z"], before["3"])


def test_an_image_that_turned_bad_leaves_the_file_with_its_reason(run: Run) -> None:
    run()
    (run.images / "0.png").write_bytes(b"")
    report = run()
    assert report.exit_code == EXIT_SOME_FAILED
    assert [failure["id"] for failure in report.outcome.failed] == ["0"]
    assert list(run.features()) == ["1", "2", "3"]


def test_a_run_that_stored_nothing_pins_no_recipe(run: Run) -> None:
    for path in run.images.iterdir():
        path.write_bytes(b"x")
    assert run().exit_code == EXIT_NOTHING
    for number in range(4):
        run.put(f"{number}.png", number)
    assert run(Boxes(), batch_size=2).exit_code == EXIT_ALL


def test_another_recipe_is_refused_value_by_value(run: Run) -> None:
    run()
    with pytest.raises(StoreError, match=r"imsize 64, now 96"):
        run(Grid(imsize=96))
    with pytest.raises(StoreError, match="kind 'grid', now 'boxes'"):
        run(Boxes())


def test_two_shares_make_one_file(run: Run) -> None:
    run()
    whole = run.features()
    run.output = run.output.with_name("g.h5")
    first = run(shard=(0, 2))
    assert first.outcome is None
    assert first.exit_code == EXIT_ALL
    assert not run.output.exists()
    assert run(shard=(1, 2)).outcome.images == 4
    found = run.features()
    assert found.keys() == whole.keys()
    assert all(np.array_equal(whole[i], found[i]) for i in whole)
    assert not work_dir(run.output).exists()


def test_the_output_may_lie_among_the_images(run: Run) -> None:
    run.output = run.images / "f.h5"
    assert run().exit_code == EXIT_ALL
    assert run().exit_code == EXIT_ALL
    assert list(run.features()) == ["0", "1", "2", "3"]


def test_one_image_and_a_list_of_them(run: Run, tmp_path: Path) -> None:
    run()
    whole = run.features()
    run.output = tmp_path / "one.h5"
    assert run(images=run.images / "2.png").outcome.images == 1
    np.testing.assert_array_equal(run.features()["2"], whole["2"])
    run.output = tmp_path / "some.h5"
    (tmp_path / "list.txt").write_text("# a list\nimages/1.png\n\nimages/3.png\nimages/none.png\n")
    report = run(images=tmp_path / "list.txt")
    assert (report.outcome.images, len(report.outcome.failed)) == (2, 1)


def test_synthetic_weights_are_marked_in_the_run_the_file_and_the_report(run: Run) -> None:
    report = run()
    assert report.synthetic
    assert any("SYNTHETIC" in line for line in run.said)
    with open_features(run.output) as file:
        assert bool(provenance(file)["synthetic_weights"]) is True
    assert '"synthetic_weights": true' in run.output.with_name("f.report.json").read_text()


def test_the_report_says_how_fast_it_was_made_and_goes_on_saying_so(run: Run) -> None:
    def rate() -> float:
        return json.loads(run.output.with_name("f.report.json").read_text())["images_per_second"]

    run()
    first = rate()
    assert first > 0
    run()  # nothing to do
    assert rate() == first


def test_stopped_before_the_end_it_goes_on_where_it_was(run: Run) -> None:
    stopping = threading.Event()
    stopping.set()
    config = ExtractConfig(
        spec=Grid(imsize=64), images=run.images, output=run.output, checkpoint_dir=run.checkpoint, device="cpu"
    )
    report = pipeline.extract(config, stopping)
    assert (report.stopped, report.exit_code) == (True, EXIT_NOTHING)
    assert run().outcome.images == 4


def test_what_can_be_refused_is_refused_first(run: Run) -> None:
    with pytest.raises(UsageError, match=r"ends in \.h5"):
        run(output=run.output.with_suffix(".npz"))
