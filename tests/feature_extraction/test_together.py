"""Several files in one pass: the bits of separate passes, each file resumed and finished by itself."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from helpers.common import ROOT, finish, photograph
from helpers.file_server import serving
from PIL import Image

from feature_extraction import pipeline
from feature_extraction.batching import Looked, plan_batches
from feature_extraction.config import Boxes, ExtractConfig, GivenBoxes, Grid, Spec
from feature_extraction.images import decode
from feature_extraction.images.listed import ImageFile
from feature_extraction.progress import Clock
from feature_extraction.recipes import RECIPES
from feature_extraction.storage.check import check_file
from feature_extraction.storage.store import image_ids, open_features, read_image, work_dir

SPECS: list[Spec] = [
    Grid(),
    Grid(grid_size=5),
    Boxes(num_boxes=60, min_boxes=5, threshold=0.3, layer="both", obj_conf=True, class_probs="foreground"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven flat crops, cheap to compute: of two sizes for the grid, grouped otherwise for the boxes; and one that is
    too narrow for a grid and not for boxes."""
    folder = tmp_path_factory.mktemp("images")
    astronaut = photograph("astronaut")
    for n, (height, width) in enumerate(((20, 300), (22, 300), (20, 300), (21, 300), (22, 290), (20, 300), (21, 300))):
        Image.fromarray(astronaut[40 * n : 40 * n + height, 30 * n : 30 * n + width]).save(folder / f"{n}.png")
    Image.fromarray(astronaut[:1, :64]).save(folder / "narrow.png")
    return folder


def config(spec: Spec, images: Path, output: Path, checkpoint: Path, **settings: Any) -> ExtractConfig:
    return ExtractConfig(
        spec=spec, images=images, output=output, checkpoint_dir=checkpoint, device="cpu", threads=1, **settings
    )


def contents(path: Path) -> dict[str, dict[str, np.ndarray]]:
    with open_features(path) as file:
        return {image_id: read_image(file, image_id) for image_id in image_ids(file)}


def assert_same(one: Path, other: Path) -> None:
    found, expected = contents(one), contents(other)
    assert found.keys() == expected.keys()
    for image_id, arrays in expected.items():
        assert found[image_id].keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[image_id][name].dtype == array.dtype
            np.testing.assert_array_equal(found[image_id][name], array, err_msg=f"{image_id}/{name}")


@pytest.fixture(scope="module")
def separate(images: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Path]]:
    """Batch size -> a file of each of SPECS, each made by itself."""
    made: dict[int, list[Path]] = {}
    for batch_size in (1, 2):
        folder = tmp_path_factory.mktemp(f"batch{batch_size}")
        made[batch_size] = [folder / f"{n}.h5" for n in range(len(SPECS))]
        for spec, output in zip(SPECS, made[batch_size], strict=True):
            pipeline.extract(config(spec, images, output, tiny_checkpoint, batch_size=batch_size), threading.Event())
    return made


@pytest.mark.parametrize("batch_size", [1, 2])
def test_one_pass_gives_the_bits_of_each(
    separate: dict[int, list[Path]], images: Path, tiny_checkpoint: Path, tmp_path: Path, batch_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    read: list[int] = []
    from feature_extraction import extract

    def counted(*args: Any) -> Any:
        read.append(1)
        return decode.read_opened(*args)

    monkeypatch.setattr(extract, "read_opened", counted)
    outputs = [tmp_path / f"{n}.h5" for n in range(len(SPECS))]
    configs = [
        config(spec, images, output, tiny_checkpoint, batch_size=batch_size)
        for spec, output in zip(SPECS, outputs, strict=True)
    ]
    reports = pipeline.extract_together(configs, threading.Event())
    assert len(read) == 8, "each image once"
    assert [report.output for report in reports] == outputs
    assert [(report.exit_code, report.outcome.images) for report in reports] == [(3, 7), (3, 7), (0, 8)]
    assert [f["id"] for report in reports for f in report.outcome.failed] == ["narrow"] * 2
    for output, alone in zip(outputs, separate[batch_size], strict=True):
        assert_same(output, alone)
        assert [f.text for f in check_file(output) if f.level == "error"] == []
        assert not work_dir(output).exists()
    rows = {len(arrays["features"]) for arrays in contents(outputs[2]).values()}
    assert len(rows) > 1, "the number of boxes varies"


@pytest.fixture(params=["http", "memory"])
def far(request: pytest.FixtureRequest, images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """(name -> address of the images on a server or in fsspec's memory, the names that were opened there so far)."""
    contents = {path.name: path.read_bytes() for path in images.iterdir()}
    if request.param == "http":
        with serving() as server:
            server.files |= {f"/{name}": content for name, content in contents.items()}
            yield lambda name: server.url(f"/{name}"), lambda: [path[1:] for _, path, _ in server.requests]
        return
    memory, opened = fsspec.filesystem("memory"), []
    memory.pipe({f"/far/{name}": content for name, content in contents.items()})
    really = memory._open

    def counted(path: str, *args: Any, **settings: Any) -> Any:
        opened.append(path.rpartition("/")[2])
        return really(path, *args, **settings)

    monkeypatch.setattr(memory, "_open", counted)
    yield lambda name: f"memory://far/{name}", lambda: opened
    memory.rm("/far", recursive=True)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_remote_image_is_fetched_once_and_its_header_is_read_once(
    separate: dict[int, list[Path]], images: Path, far: tuple[Any, Any], tiny_checkpoint: Path, tmp_path: Path,
    batch_size: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    address_of, opened = far
    headers: list[int] = []
    from feature_extraction import extract

    def counted(*args: Any) -> Any:
        headers.append(1)
        return decode.size_opened(*args)

    monkeypatch.setattr(extract, "size_opened", counted)
    names = sorted(path.name for path in images.iterdir())
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{address_of(name)}\n" for name in names))
    outputs = [tmp_path / f"{n}.h5" for n in range(len(SPECS))]
    configs = [
        config(spec, listed, output, tiny_checkpoint, batch_size=batch_size)
        for spec, output in zip(SPECS, outputs, strict=True)
    ]
    pipeline.extract_together(configs, threading.Event())
    assert sorted(opened()) == names
    assert len(headers) == (0 if batch_size == 1 else len(names))
    for output, alone in zip(outputs, separate[batch_size], strict=True):
        assert_same(output, alone)


def test_what_one_file_lacks_is_computed_for_it_alone(
    separate: dict[int, list[Path]], images: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / f"{n}.h5" for n in range(len(SPECS))]
    settings = {"checkpoint": tiny_checkpoint, "batch_size": 2}
    pipeline.extract(config(SPECS[1], images, outputs[1], **settings), threading.Event())
    before = outputs[1].read_bytes()
    some = tmp_path / "some"  # of the third file a few images only
    some.mkdir()
    for name in ("0.png", "3.png"):
        (some / name).write_bytes((images / name).read_bytes())
    pipeline.extract(config(SPECS[2], some, outputs[2], checkpoint=tiny_checkpoint, batch_size=2), threading.Event())
    configs = [config(spec, images, output, **settings) for spec, output in zip(SPECS, outputs, strict=True)]
    pipeline.extract_together(configs, threading.Event())
    assert outputs[1].read_bytes() == before
    for n in (0, 1):
        assert_same(outputs[n], separate[2][n])
    assert contents(outputs[2]).keys() == contents(separate[2][2]).keys()


def test_two_shares_of_several_files(
    separate: dict[int, list[Path]], images: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / f"{n}.h5" for n in range(2)]
    for share in ((0, 2), (1, 2)):
        configs = [
            config(spec, images, output, tiny_checkpoint, shard=share)
            for spec, output in zip(SPECS[1:3], outputs, strict=True)
        ]
        reports = pipeline.extract_together(configs, threading.Event())
        assert [report.outcome is None for report in reports] == [share[0] == 0] * 2
    for output, alone in zip(outputs, separate[1][1:3], strict=True):
        assert_same(output, alone)


def test_killed_again_and_again_it_ends_as_uninterrupted(
    images: Path, tiny_checkpoint: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    more = tmp_path / "images"
    more.mkdir()
    for n in range(9):
        (more / f"{n:02}.png").write_bytes((images / f"{n % 7}.png").read_bytes())
    flags = ["--images", more, "--checkpoint_dir", tiny_checkpoint, "--device", "cpu", "--kinds", "grid,boxes",
             "--grid_size", 8, 14, "--imsize", 64, "--recipe", "bottom-up-10-100", "--layer", "fc7"]  # fmt: skip
    names = ["grid8_imsize64", "grid14_imsize64", "boxes10to100_fc7"]

    run = ["-m", "feature_extraction", *flags, "--output", tmp_path / "killed.h5"]
    seed = time.time_ns() % 10**6
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(2):
        process = command(*run, cwd=ROOT)
        before, deadline = _stored(tmp_path), time.monotonic() + 60
        while _stored(tmp_path) <= before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    returncode, printed = finish(command(*run, cwd=ROOT))
    assert returncode == 0, printed
    recipe = replace(RECIPES["bottom-up-10-100"].spec, layer="fc7")
    specs = [Grid(imsize=64), Grid(grid_size=14, imsize=64), recipe]
    whole = [config(s, more, tmp_path / f"{n}.h5", tiny_checkpoint) for n, s in zip(names, specs, strict=True)]
    pipeline.extract_together(whole, threading.Event())
    for name in names:
        assert_same(tmp_path / f"killed_{name}.h5", tmp_path / f"{name}.h5")


def _stored(folder: Path) -> int:
    return sum(part.stat().st_size for part in folder.glob("killed_*.work/part-*") if part.exists())


def test_given_boxes_and_proposals_are_not_one_input(tmp_path: Path) -> None:
    from feature_extraction.features import computation_of

    (tmp_path / "b.json").write_text("{}")
    keys = {computation_of(s).input_key for s in (Boxes(), Grid(), GivenBoxes(boxes_from=tmp_path / "b.json"))}
    assert len(keys) == 3


def test_when_stopped_nothing_more_is_looked_at(images: Path) -> None:
    """A window of images behind a slow server must not be waited for."""
    from feature_extraction.extract import look

    stopping, image = threading.Event(), ImageFile("0", images / "0.png")
    assert look(Clock(), stopping, image) == Looked(image, (20, 300))
    stopping.set()
    assert look(Clock(), stopping, image) == Looked(image)


def test_nothing_is_planned_where_nothing_is_to_do() -> None:
    assert list(plan_batches([], [], 4, lambda _: None)) == []
