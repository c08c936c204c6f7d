"""Everything on a few photographs, on any machine, without a network: features of a small COCO and a small VG, a
vocabulary of visual words over them, and a page to look at. The commands are the published ones; they are printed as
they run.
Exit codes: 0 done; 1 not, the reason in one line; 2 usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from feature_extraction.arguments import Parser
from feature_extraction.config import EXIT_ALL, EXIT_NOTHING
from feature_extraction.errors import KitError, reason_of
from feature_extraction.names import printable
from feature_extraction.places import CHECKOUT, PUBLISHED_CHECKPOINT, to_type
from feature_extraction.storage.files import atomic_file
from feature_extraction.terminal import run_main

from .report.__main__ import write
from .report.options import PageOptions

COCO_PHOTOGRAPHS: Final = ("astronaut", "chelsea", "coffee")
VG_PHOTOGRAPHS: Final = ("camera", "coins", "rocket")
PICTURED: Final = ("COCO_val2014_000000000003", "COCO_val2014_000000000002")
"""The images of ``--picture``: coffee and chelsea, both half as wide again as high."""
CENTROIDS: Final = 16
EXTRACTIONS: Final = 4


def lay_out(datasets: Path) -> None:
    """Photographs of the scikit-image wheel as COCO val2014 and Visual Genome have theirs."""
    for number, name in enumerate(COCO_PHOTOGRAPHS, 1):
        _save(name, datasets / "COCO/images/val2014" / f"COCO_val2014_{number:012d}.jpg")
    for number, name in enumerate(VG_PHOTOGRAPHS, 1):
        _save(name, datasets / "VG/images/VG_100K" / f"{number}.jpg")


def _save(name: str, path: Path) -> None:
    import skimage.data
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with atomic_file(path) as file:
            Image.fromarray(getattr(skimage.data, name)()).save(file, "JPEG", quality=95)


def checkpoint(output: Path) -> Path:
    """The folder of the published checkpoint where it was downloaded, else of a synthetic one."""
    published = CHECKOUT / "feature_extraction" / PUBLISHED_CHECKPOINT
    if (published / "detectron_model.pth").exists():
        return published
    folder = output / "synthetic_ckpt"
    if not (folder / "detectron_model.pth").exists():
        say(f"no checkpoint in {published}: writing a synthetic one of the same architecture, 0.8 GB")
        from .dev import synthetic_checkpoint  # it imports torch

        synthetic_checkpoint.write(folder)
    return folder


def say(text: str) -> None:
    print(printable(text), flush=True)


def run(folder: str, *command: str) -> None:
    """Run one published command in ``folder`` as a user would. Raises CalledProcessError where it fails,
    KeyboardInterrupt where the user stopped it."""
    say("")
    say(f"$ cd {folder} && python {shlex.join(command)}")
    interrupts: list[int] = []
    # the command is interrupted too, and finishes what it has begun: it is waited for
    before = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        code = subprocess.run([sys.executable, *command], cwd=CHECKOUT / folder, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt
    if code:
        raise subprocess.CalledProcessError(code, command)


def run_all(datasets: Path, checkpoint_dir: Path) -> None:
    """The features of both data sets, then the vocabulary."""
    common = ("--checkpoint_dir", str(checkpoint_dir))
    coco, vg = str(datasets / "COCO"), str(datasets / "VG")
    for kind in ("grid", "bbox"):
        script = f"coco_extract_{kind}_feature.py"
        run("feature_extraction", script, "--split", "valid", "--cocoroot", coco, *common)
        run("feature_extraction", f"VG_extract_{kind}_feature.py", "--vgroot", vg, *common)
    run(
        "kmeans", "run_kmeans.py", "--src=mscoco_valid", "--tgt", "mscoco_valid", "vg",
        "--n_centroids", str(CENTROIDS), "--datasets_dir", str(datasets), "--verbose", "no",
    )  # fmt: skip


def what_was_written(datasets: Path) -> None:
    """One line for each file, and for each array of its first image."""
    from feature_extraction.storage.store import image_ids, open_features

    for path in sorted(datasets.glob("*/features/*.h5")):
        with open_features(path) as file:
            ids = image_ids(file)
            say(f"{path}  ({len(ids)} images, {path.stat().st_size / 1e6:.1f} MB)")
            for name, dataset in sorted(file[ids[0]].items()):
                say(f"    {ids[0]}/{name:<9} {dataset.dtype} {dataset.shape}")
    for path in sorted((datasets / "cluster_centroids").glob("*.*")):
        say(f"{path}  ({path.stat().st_size / 1e3:.1f} kB)")


def look_at(datasets: Path, page: Path, picture: Path | None, synthetic: bool) -> None:
    """Write the page, and the picture if it was asked for; say where they are and what comes next."""
    write(PageOptions(datasets=datasets), page)
    say("")
    if picture is not None:
        from .report.picture import picture_of, save_picture

        save_picture(picture_of(datasets, PICTURED), picture)
        say(f"picture: {picture}")
    if synthetic:
        say("The weights were SYNTHETIC: right architecture, shapes and cost, but these features carry no meaning.")
        say(f"next: {to_type('download')}, the published checkpoint; then {to_type('demo')} shows what it sees")
    say(f"next: {to_type('download-images')}, the photographs of the paper")
    say(f"next: {to_type('extract-all', 'kmeans')}, its files; {to_type('report')} shows them as this page does")
    say("")
    say(f"The page to look at, in a browser: {page}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, prog="python -m scripts.demo", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to work in (./%(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE.jpg", help="also make a picture of two photographs")
    args = parser.parse_args(argv)
    output, start = args.output.resolve(), time.monotonic()
    datasets = output / "datasets"
    say(f"six photographs, {EXTRACTIONS} extractions, one k-means and a page, in {output}: about three minutes")
    try:
        lay_out(datasets)
        folder = checkpoint(output)
        run_all(datasets, folder)
        say("")
        say(f"Done in {time.monotonic() - start:.0f} s. What was written:")
        what_was_written(datasets)
        look_at(datasets, output / "report.html", args.picture, (folder / "SYNTHETIC").exists())
    except KeyboardInterrupt:
        say("")
        say("stopped: the same command goes on there")
        return 128 + signal.SIGINT
    except (KitError, OSError) as error:
        print(f"error: {printable(reason_of(error) if isinstance(error, OSError) else str(error))}", file=sys.stderr)
        return EXIT_NOTHING
    except subprocess.CalledProcessError as error:
        print(f"error: {error.cmd[0]} ended with {error.returncode}: what is above says why", file=sys.stderr)
        return EXIT_NOTHING
    return EXIT_ALL


if __name__ == "__main__":
    run_main(main)
