"""PyTorch's settings belong to a detector, not to the process: looked at from inside a call, and after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from feature_extraction.detector import arithmetic
from feature_extraction.detector.arithmetic import Arithmetic
from feature_extraction.detector.build import Detector, load_detector
from feature_extraction.detector.config import read_config
from feature_extraction.detector.files import find_checkpoint
from feature_extraction.regions import grid_cells

CPU = torch.device("cpu")
backends = torch.backends
NEW = hasattr(torch._C, "_get_fp32_precision_getter")  # from PyTorch 2.9 on


@pytest.fixture(autouse=True)
def settings_of_before() -> Iterator[None]:
    before = arithmetic._read()
    yield
    arithmetic._write(before)


class Looking:
    """A model that notes the settings it is called under."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def region_features(self, images: Any, regions: Any = None) -> Any:
        self.seen.append({**arithmetic._read(), "autocast": torch.is_autocast_enabled("cpu")})
        return images

    detect = region_features


def looking(folder: Path, precision: str) -> Detector:
    config = read_config(find_checkpoint(folder).config)
    return Detector("native", Looking(), config, CPU, precision, (), False)


def set_by(name: str) -> Callable[[], None]:
    """Ways in which a program around the library may have set PyTorch."""

    def finely(backend: Any, value: str) -> None:
        if not NEW:
            pytest.skip("this PyTorch has no precision by operation")
        backend.fp32_precision = value

    def tf32(value: bool) -> None:
        backends.cuda.matmul.allow_tf32 = value
        backends.cudnn.allow_tf32 = value

    def by_timing() -> None:
        backends.cudnn.benchmark, backends.cudnn.deterministic = True, False

    return {
        "nothing": lambda: None,
        "matmul medium": lambda: torch.set_float32_matmul_precision("medium"),
        "tf32 everywhere": lambda: tf32(True),
        "tf32 nowhere": lambda: tf32(False),
        "benchmark": by_timing,
        "reductions": lambda: setattr(backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", True),
        "fine matmul": lambda: finely(backends.cuda.matmul, "tf32"),
        "fine convolutions": lambda: finely(backends.cudnn.conv, "ieee"),
        "oneDNN bf16": lambda: finely(backends.mkldnn.matmul, "bf16"),
    }[name]


WAYS = ["nothing", "matmul medium", "tf32 everywhere", "tf32 nowhere", "benchmark", "reductions", "fine matmul",
        "fine convolutions", "oneDNN bf16"]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_each_detector_has_its_own_settings_and_leaves_none(tiny_checkpoint: Path, way: str) -> None:
    exact, faster = looking(tiny_checkpoint, "float32"), looking(tiny_checkpoint, "tf32")
    set_by(way)()
    before = arithmetic._read()
    for detector in (exact, faster, exact):
        detector.region_features(None, [])
        detector.detect(None)
        assert arithmetic._read() == before
    for detector, tf32 in ((exact, False), (faster, True)):
        for seen in detector.model.seen:
            assert seen.get("matmul", "unasked") in (("high", "unasked") if tf32 else ("highest", "unasked"))
            assert seen.get("cudnn.allow_tf32", tf32) is tf32
            assert (seen["cudnn.benchmark"], seen["cudnn.deterministic"]) == (False, True)
            assert (seen["bf16_reduction"], seen["fp16_reduction"]) == (False, False)
            if NEW:
                assert seen["cuda.matmul"] == seen["cuda.conv"] == ("tf32" if tf32 else "ieee")
                assert seen["mkldnn.matmul"] == seen["mkldnn.conv"] == "ieee"
            assert seen["autocast"] is False


def test_an_error_leaves_no_setting(tiny_checkpoint: Path) -> None:
    detector = looking(tiny_checkpoint, "tf32")
    before = arithmetic._read()

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    detector.model.detect = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        detector.detect(None)
    assert arithmetic._read() == before
    looking(tiny_checkpoint, "float32").detect(None)  # and nobody waits for the one that failed


def test_loading_a_detector_sets_nothing(tiny_checkpoint: Path) -> None:
    torch.set_float32_matmul_precision("medium")
    before, threads = arithmetic._read(), torch.get_num_threads()
    load_detector(find_checkpoint(tiny_checkpoint), engine="native", device=CPU, precision="float32")
    assert arithmetic._read() == before
    assert torch.get_num_threads() == threads


def test_float32_is_float32_whatever_the_program_around_it_has_set(tiny_checkpoint: Path) -> None:
    """On a processor with bfloat16 matrix instructions these settings change a product by 1e-3."""
    detector = load_detector(find_checkpoint(tiny_checkpoint), engine="native", device=CPU, precision="float32")
    images = torch.randn(1, 3, 256, 320, generator=torch.Generator().manual_seed(5)) * 60
    cells = [grid_cells(256, 320)]
    expected, found = detector.region_features(images, cells), detector.detect(images)[0]
    torch.set_float32_matmul_precision("medium")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(detector.region_features(images, cells), expected)
        again = detector.detect(images)[0]
    assert torch.equal(again.logits, found.logits)
    assert torch.equal(again.proposals, found.proposals)


def test_calls_of_one_precision_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=20)

    def call() -> None:
        with Arithmetic("cpu", False).applied():
            both.wait()  # passes only when both are inside

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not both.broken


def test_calls_of_different_precision_wait_for_each_other_and_each_has_its_turn() -> None:
    before = arithmetic._read()
    wrong: list[Any] = []
    done = {False: 0, True: 0}
    counting = threading.Lock()

    def calls(tf32: bool) -> None:
        for _ in range(60):
            with Arithmetic("cpu", tf32).applied():
                seen = [arithmetic._read()["cuda.matmul" if NEW else "matmul"]]
                time.sleep(0.001)
                seen.append(arithmetic._read()["cuda.matmul" if NEW else "matmul"])
            expected = ("tf32" if tf32 else "ieee") if NEW else ("high" if tf32 else "highest")
            with counting:
                wrong.extend(value for value in seen if value != expected)
                done[tf32] += 1

    threads = [threading.Thread(target=calls, args=(tf32,)) for tf32 in (False, True) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert done == {False: 180, True: 180}
    assert not wrong
    assert arithmetic._read() == before
