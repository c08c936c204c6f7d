"""What a run says of itself where there is no terminal."""

from __future__ import annotations

import pytest

from feature_extraction import progress
from feature_extraction.progress import Progress


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False)
    return clock


def test_one_line_a_minute_with_rate_time_left_and_failures(now: list[float], capsys) -> None:
    shown = Progress(1000, "coco")
    shown.skip(100)
    for _ in range(12):
        now[0] += 10
        shown.advance(20, failed=3)
    lines = capsys.readouterr().err.splitlines()
    # 2 images a second; after a minute 100 + 120 are through, 780 left; after two 660
    assert lines == [
        "coco: 220 of 1,000 images, 2.00 images/s, 6 min 30 s left, 3 failed",
        "coco: 340 of 1,000 images, 2.00 images/s, 5 min 30 s left, 3 failed",
    ]


def test_images_done_before_do_not_count_as_speed(now: list[float]) -> None:
    shown = Progress(1000, "x")
    shown.skip(900)
    assert "unknown time left" in shown.line()
    now[0] += 50
    shown.advance(10, 0)
    assert shown.line() == "x: 910 of 1,000 images, 0.20 images/s, 7 min 30 s left, 0 failed"


def test_stages_are_summed(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 2.0, 5.0, 5.5])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(ticks))
    shown = Progress(10, "x")
    for _ in range(2):
        with shown.clock("compute"):
            pass
    now[0] += 3700
    shown.advance(37, 0)
    assert shown.stages() == "37 images in 1 h 01 min (0.01 images/s): compute 2.5 s"
