"""Rows about speed: the card's matrix rate, each stage alone, both kinds at several batch sizes, waits of the host."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from feature_extraction.config import Precision
from feature_extraction.detector.arithmetic import PRECISIONS, Arithmetic, check_precision
from feature_extraction.detector.build import Detector
from feature_extraction.detector.faster_rcnn import FasterRCNN
from feature_extraction.detector.layers import Conv
from feature_extraction.errors import DeviceError
from feature_extraction.features import NetworkInput, compute, page_locked
from feature_extraction.images.decode import read_image
from feature_extraction.progress import Clock

from . import waits
from .bench import KINDS, Bench, arrays, made_up_picture, network_input, on_device
from .table import Finding, NotRun

ROOT: Final = Path(__file__).resolve().parents[2]
Stages = dict[str, float]
"""Seconds by name."""
MOST_WAITS: Final = {"grid": (1, "batch"), "boxes": (8, "image")}
"""How often the host may wait for the device, and per what."""


def matrix_rate(bench: Bench, precision: Precision) -> Finding:
    """What the device reaches on one large product: the measure of everything below."""
    n = bench.sizes.matrix
    try:
        check_precision(bench.device, precision)
    except DeviceError as error:
        raise NotRun(str(error)) from error
    a, b = (torch.randn(n, n, device=bench.device).to(PRECISIONS[precision]) for _ in range(2))
    with Arithmetic(bench.device.type, precision == "tf32").applied():
        torch.mm(a, b)
        seconds = min(bench.seconds(lambda: torch.mm(a, b)) for _ in range(5))
    rate = 2 * n**3 / seconds / 1e12
    bench.figures[f"rate {precision}"] = rate
    return Finding(f"{rate:.3g} TFLOP/s ({n} x {n}, {1e3 * seconds:.2f} ms)", (), {"TFLOP/s": rate})


def stages(bench: Bench) -> Finding:
    """Decoding, resizing, handing over and writing, one image at a time in one thread."""
    path = bench.scratch / "picture.jpg"
    Image.fromarray(made_up_picture()).save(path, "JPEG", quality=90)
    least = bench.sizes.speed_seconds / 2
    found = {"decode": _each(lambda: read_image(path), least)}
    pixels, _ = read_image(path)
    for kind, computation in KINDS.items():
        found[f"resize {kind}"] = _each(lambda c=computation: c.network_input(pixels), least)
    item = network_input("boxes", made_up_picture())

    found["page lock"] = _each(lambda: page_locked(item, bench.device), least)
    locked = page_locked(item, bench.device)

    def transfer() -> None:
        torch.from_numpy(locked.pixels).to(bench.device, non_blocking=True)
        bench.synchronize()

    found["transfer"] = _each(transfer, least)
    found["write"] = _written(bench, least)
    bench.figures |= {f"stage {name}": seconds for name, seconds in found.items()}
    text = ", ".join(f"{name} {1e3 * seconds:.2f} ms ({1 / seconds:.0f}/s)" for name, seconds in found.items())
    return Finding(f"a JPEG of 640 x 480, per image: {text}", (), found)


def _each(work: Any, least: float) -> float:
    """Seconds of one ``work()``, over at least ``least`` seconds."""
    work()
    start, number = time.perf_counter(), 0
    while number < 3 or time.perf_counter() - start < least:
        work()
        number += 1
    return (time.perf_counter() - start) / number


def _written(bench: Bench, least: float) -> float:
    """Seconds to append one image's grid features to a journal, synced to the disk."""
    from feature_extraction.storage.journal_writer import JournalWriter

    folder = bench.scratch / "journal"
    folder.mkdir(exist_ok=True)
    writer = JournalWriter(folder, 0, 1)
    features = {"features": np.zeros((8, 8, 2048), np.float32)}

    def write() -> None:
        writer.add("1", features, None, None)
        writer.sync()

    try:
        return _each(write, least)
    finally:
        writer.close()


def speed(bench: Bench, kind: str, precision: Precision) -> Finding:
    """Images per second from network input to arrays in memory, by batch size."""
    detector = bench.detector(bench.sizes.model, precision)
    item = page_locked(network_input(kind, made_up_picture()), bench.device)
    flops = operations(detector, kind, item)
    rate = bench.figures.get(f"rate {'float32' if detector.emulated else precision}", 0)
    parts = [f"{flops / 1e12:.2f} TFLOP an image"]
    data: dict[str, Any] = {"TFLOP": flops / 1e12}
    for size in bench.sizes.batch_sizes:
        try:
            each, clock, memory = _speed(bench, detector, kind, [item] * size)
        except torch.OutOfMemoryError:
            parts.append(f"batch {size}: out of memory")
            bench.empty_cache()
            continue
        share = flops / each / 1e12 / rate if rate else 0
        named = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in clock.items())
        parts.append(
            f"batch {size}: **{1 / each:.3g} images/s** ({1e3 * each:.1f} ms: {named}), {100 * share:.0f} % of the "
            f"matrix rate, {memory:.2g} GB"
        )
        data[f"batch {size}"] = {"images/s": 1 / each, "share": share, "GB": memory, **clock}
    return Finding("; ".join(parts), (), data)


def _speed(bench: Bench, detector: Detector, kind: str, batch: list[NetworkInput]) -> tuple[float, Stages, float]:
    """(seconds an image, seconds an image by stage, peak memory in GB)."""
    cuda = bench.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
    arrays(detector, kind, batch)  # warms up, and refuses what is not finite
    clock, number = Clock(), 0
    bench.synchronize()
    start = time.perf_counter()
    while number < 2 or time.perf_counter() - start < bench.sizes.speed_seconds:
        compute(detector, KINDS[kind], batch, clock)  # ends with its results on the CPU
        number += 1
    images = number * len(batch)
    each = (time.perf_counter() - start) / images
    peak = torch.cuda.max_memory_allocated(bench.device) / 1e9 if cuda else _resident()
    return each, {name: seconds / images for name, seconds in clock.seconds.items()}, peak


def _resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def operations(detector: Detector, kind: str, item: NetworkInput) -> float:
    """Multiplications and additions of the matrix products of one image (the rest does not count beside them)."""
    model = detector.model
    assert isinstance(model, FasterRCNN)
    counted: defaultdict[str, float] = defaultdict(float)

    def count(module: Any, _: Any, result: torch.Tensor) -> None:
        counted["convolutions"] += 2.0 * result.numel() * module.weight[0].numel()

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, Conv)]
    try:
        (found,) = arrays(detector, kind, [item])
    finally:
        for hook in hooks:
            hook.remove()
    head = model.head
    regions = np.prod(found["features"].shape[:2]) if "boxes" not in found else detector.config.fpn_post_nms_top_n
    weights = head.fc6_weight.numel() + ("boxes" in found) * (head.fc7_weight.numel() + head.cls_weight.numel())
    return counted["convolutions"] + 2.0 * float(regions) * weights


def host_waits(bench: Bench, kind: str) -> Finding:
    """How often the host waits for the device: it cannot run ahead across such a point."""
    model = bench.sizes.model if bench.device.type == "cuda" else "tiny"
    detector = bench.detector(model, "float32")
    size = 2
    batch = [network_input(kind, made_up_picture())] * size
    if bench.device.type == "cuda":
        arrays(detector, kind, batch)
        counted = waits.on_gpu(lambda: compute(detector, KINDS[kind], batch, Clock()))
        how = "reported by PyTorch"
    else:
        with waits.counting() as counted:
            KINDS[kind].features(detector, waits.mark(on_device(detector, batch)), batch)
        how = "counted on the CPU"
    total = sum(counted.values())
    where = ", ".join(f"{n} {name}" for name, n in counted.most_common(12))
    most, what = MOST_WAITS[kind]
    number = total / {"batch": 1, "image": size}[what]
    wrong = (f"{number:g} waits per {what}, at most {most}",) if number > most else ()
    return Finding(f"{number:g} per {what}, batch {size}, {how}: {where}", wrong, {"waits": number, **counted})


def kernels(bench: Bench, kind: str) -> Finding:
    """Where the device's time goes: its kernels by name, in float32 and bfloat16."""
    if bench.device.type != "cuda":
        raise NotRun("kernels are a GPU's")
    parts: list[str] = []
    data: dict[str, Any] = {}
    batch = [network_input(kind, made_up_picture())] * 4
    for precision in ("float32", "bfloat16"):
        detector = bench.detector(bench.sizes.model, precision)
        arrays(detector, kind, batch)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            arrays(detector, kind, batch)
        times = {
            event.key: getattr(event, "self_device_time_total", 0.0) / 1e3 / len(batch)
            for event in profile.key_averages()
        }
        total = sum(times.values())
        if not total:
            raise NotRun("PyTorch's profiler sees no kernels here")
        best = sorted(times.items(), key=lambda pair: -pair[1])[:25]
        data[precision] = dict(best)
        named = ", ".join(f"{name[:50]} {100 * ms / total:.0f} %" for name, ms in best[:4])
        parts.append(f"{precision}: {total:.1f} ms an image in kernels: {named}")
    return Finding("; ".join(parts), (), data)


def command(bench: Bench, kind: str, precision: Precision, batch_size: int, images: int) -> Finding:
    """The whole command: decoding, computing, writing and assembling, as a user runs it."""
    folder = bench.scratch / f"pictures{images}"
    if not folder.is_dir():
        folder.mkdir()
        for i in range(images):
            Image.fromarray(np.roll(made_up_picture(), 7 * i, 1)).save(folder / f"{i}.jpg", "JPEG", quality=90)
    files = bench.files(bench.sizes.model)
    output = bench.scratch / f"{kind}_{precision}_{batch_size}.h5"
    arguments = [
        "--images", folder, "--output", output, "--kind", kind, "--checkpoint_dir", files.model.parent,
        "--device", bench.device.type, "--precision", precision, "--batch_size", batch_size,
    ]  # fmt: skip
    start = time.monotonic()
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "feature_extraction", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=240, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    seconds = time.monotonic() - start
    said = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode != 0 or not output.is_file():
        return Finding("", (f"exit code {done.returncode}: {' / '.join(said[-3:])[:400]}",))
    stages = next((line for line in said if "images/s" in line), said[-1] if said else "")
    text = f"{images} JPEGs, batch {batch_size}: {seconds:.1f} s with start and assembly. {stages.strip()}"
    return Finding(text, (), {"seconds": seconds, "output": said})
