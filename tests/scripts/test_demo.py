"""The demo's own part: where it puts the photographs, what it says at the end, its picture; not the extraction."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.album import K, make_album, words_file
from helpers.common import finish
from PIL import Image, ImageChops

from feature_extraction.drawing import word_colour
from feature_extraction.errors import UsageError
from scripts import demo
from scripts.report.photographs import CELL_SIDE
from scripts.report.picture import CAPTIONS, GAP, PANEL, picture_of, save_picture

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_album(tmp_path_factory.mktemp("album") / "datasets")


def test_the_photographs_lie_where_the_data_sets_have_theirs(tmp_path: Path) -> None:
    demo.lay_out(tmp_path)
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.jpg"))
    assert found == [
        *(f"COCO/images/val2014/COCO_val2014_00000000000{n}.jpg" for n in (1, 2, 3)),
        *(f"VG/images/VG_100K/{n}.jpg" for n in (1, 2, 3)),
    ]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.jpg")}
    demo.lay_out(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.jpg")} == before


def test_it_ends_with_the_pages_path(album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.look_at(album, tmp_path / "report.html", None, synthetic=True)
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"The page to look at, in a browser: {tmp_path / 'report.html'}"
    assert "SYNTHETIC" in said
    text = (tmp_path / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "6 of 40,504 images of COCO valid" in text


def test_with_the_published_weights_nothing_is_synthetic(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.look_at(album, tmp_path / "report.html", None, synthetic=False)
    assert "SYNTHETIC" not in capsys.readouterr().out


def test_the_picture_is_photograph_boxes_and_words(album: Path, tmp_path: Path) -> None:
    picture = picture_of(album, demo.PICTURED)
    width = len(CAPTIONS) * (PANEL[0] + GAP) + GAP
    assert picture.width == width
    assert PANEL[1] * 2 < picture.height < PANEL[1] * 2 + 230
    panels = [picture.crop((GAP + c * (PANEL[0] + GAP), 60, (c + 1) * (PANEL[0] + GAP), 300)) for c in range(3)]
    assert len({panel.tobytes() for panel in panels}) == 3
    save_picture(picture, tmp_path / "picture.jpg")
    assert (tmp_path / "picture.jpg").stat().st_size < 300_000
    with Image.open(tmp_path / "picture.jpg") as read:
        assert (read.format, read.size) == ("JPEG", picture.size)


def test_a_picture_of_synthetic_weights_says_so(tmp_path: Path) -> None:
    synthetic = picture_of(make_album(tmp_path / "s"), demo.PICTURED)
    real = picture_of(make_album(tmp_path / "r", synthetic=False), demo.PICTURED)
    changed = ImageChops.difference(synthetic, real).getbbox()
    assert changed is not None
    x1, y1, _, y2 = changed  # the note alone
    assert x1 > synthetic.width / 2
    assert y2 - y1 < 30
    loud = sum(n for n, (r, g, b) in synthetic.crop(changed).getcolors(1 << 20) if r > g + 80)
    assert loud > 100


def test_below_the_picture_stand_words_in_their_colours(album: Path) -> None:
    """The most frequent word of each of the two images, then the second ones."""
    picture = picture_of(album, demo.PICTURED)
    with np.load(words_file(album, "mscoco_valid")) as file:
        grids = [dict(zip(file["image_ids"], file["cluster_ids"], strict=True))[i].ravel() for i in demo.PICTURED]
    most = [np.argsort(-np.bincount(grid, minlength=K), kind="stable") for grid in grids]
    expected = list(dict.fromkeys(int(word) for pair in zip(*most, strict=True) for word in pair))[:4]
    top, step = picture.height - 2 * (CELL_SIDE + GAP), (picture.width - GAP) // 2
    corners = [(GAP + 2 + x * step, top + y * (CELL_SIDE + GAP)) for y in (0, 1) for x in (0, 1)]
    assert ["#{:02x}{:02x}{:02x}".format(*picture.getpixel(corner)) for corner in corners] == [
        word_colour(word) for word in expected
    ]


def test_a_picture_of_what_is_not_there(album: Path) -> None:
    with pytest.raises(UsageError, match="image none: expected a photograph, boxes, a grid and words of it"):
        picture_of(album, ["none"])


def test_the_readmes_picture_is_small_and_of_the_size_the_demo_makes() -> None:
    path = ROOT / "docs/picture.jpg"
    assert "docs/picture.jpg" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert path.stat().st_size < 300_000
    with Image.open(path) as picture:
        assert picture.width == len(CAPTIONS) * (PANEL[0] + GAP) + GAP


def test_a_command_that_fails_ends_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise subprocess.CalledProcessError(3, ["coco_extract_grid_feature.py"])

    monkeypatch.setattr(demo, "checkpoint", lambda _: tmp_path)
    monkeypatch.setattr(demo, "run_all", fails)
    assert demo.main(["--output", str(tmp_path / "demo")]) == 1
    assert "coco_extract_grid_feature.py ended with 3" in capsys.readouterr().err


CHILD = """
import pathlib, signal, time
def stop(*_):
    time.sleep(1)
    pathlib.Path({file!r}).touch()
    raise SystemExit(1)
signal.signal(signal.SIGINT, stop)
print("ready", flush=True)
time.sleep(60)
"""
DEMO = """
import pathlib
from scripts import demo
demo.checkpoint = lambda _: pathlib.Path()
demo.run_all = lambda *_: demo.run("feature_extraction", "-c", {child!r})
raise SystemExit(demo.main(["--output", {output!r}]))
"""


def test_an_interrupt_waits_for_the_command_that_it_stops(tmp_path: Path) -> None:
    finished = tmp_path / "finished"
    program = DEMO.format(child=CHILD.format(file=str(finished)), output=str(tmp_path / "demo"))
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    while (line := process.stdout.readline()) != "ready\n":
        assert line, "it has ended"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    code, said = finish(process)
    assert code == 130
    assert finished.exists()
    assert said.splitlines()[-1] == "stopped: the same command goes on there"
    assert "Traceback" not in said
