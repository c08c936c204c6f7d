"""Everything on a few photographs, on any machine, without a network: features of a small COCO and a small VG,
then a vocabulary of visual words over them. The commands are the published ones; they are printed as they run.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import h5py
import skimage.data
from PIL import Image

from feature_extraction.storage.store import image_ids, open_features
from scripts.dev import synthetic_checkpoint

ROOT: Final = Path(__file__).resolve().parents[1]

COCO_PHOTOGRAPHS: Final = ("astronaut", "chelsea", "coffee")
VG_PHOTOGRAPHS: Final = ("camera", "coins", "rocket")
CENTROIDS: Final = 16


def lay_out(datasets: Path) -> None:
    """Photographs of the scikit-image wheel as COCO val2014 and Visual Genome have theirs."""
    for number, name in enumerate(COCO_PHOTOGRAPHS, 1):
        _save(name, datasets / "COCO/images/val2014" / f"COCO_val2014_{number:012d}.jpg")
    for number, name in enumerate(VG_PHOTOGRAPHS, 1):
        _save(name, datasets / "VG/images/VG_100K" / f"{number}.jpg")


def _save(name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        Image.fromarray(getattr(skimage.data, name)()).save(path, quality=95)


def checkpoint(output: Path) -> tuple[Path, bool]:
    """The published checkpoint where it was downloaded, else the synthetic one; and whether it is synthetic."""
    published = ROOT / "feature_extraction" / "mask_rcnn_ckpt"
    if (published / "detectron_model.pth").exists():
        return published, (published / synthetic_checkpoint.SOURCE_FILE).exists()
    folder = output / "synthetic_ckpt"
    if not (folder / "detectron_model.pth").exists():
        print("no checkpoint in feature_extraction/mask_rcnn_ckpt: writing a synthetic one of the same architecture")
        synthetic_checkpoint.write(folder)
    return folder, True


def run(folder: str, *command: str) -> None:
    """Run one published command in ``folder`` as a user would."""
    print(f"\n$ cd {folder} && python {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, *command], cwd=ROOT / folder, check=True)


def describe(path: Path) -> str:
    """One line per dataset of a feature file's first image."""
    with open_features(path) as file:
        ids = image_ids(file)
        lines = [f"{path}  ({len(ids)} images, {path.stat().st_size / 1e6:.1f} MB)"]
        for name, dataset in sorted(file[ids[0]].items()):
            assert isinstance(dataset, h5py.Dataset)
            lines.append(f"    {ids[0]}/{name:<9} {dataset.dtype} {dataset.shape}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to work in (./%(default)s)")
    output = parser.parse_args().output.resolve()
    start = time.monotonic()
    datasets = output / "datasets"
    lay_out(datasets)
    folder, synthetic = checkpoint(output)
    common = ("--checkpoint_dir", str(folder))
    coco, vg = str(datasets / "COCO"), str(datasets / "VG")
    for kind in ("grid", "bbox"):
        script = f"coco_extract_{kind}_feature.py"
        run("feature_extraction", script, "--split", "valid", "--cocoroot", coco, *common)
        run("feature_extraction", f"VG_extract_{kind}_feature.py", "--vgroot", vg, *common)
    run(
        "kmeans", "run_kmeans.py", "--src=mscoco_valid", "--tgt", "mscoco_valid", "vg",
        "--n_centroids", str(CENTROIDS), "--datasets_dir", str(datasets), "--verbose", "no",
    )  # fmt: skip
    print(f"\nDone in {time.monotonic() - start:.0f} s. What was written:\n")
    for path in sorted(datasets.glob("*/features/*.h5")):
        print(describe(path))
    for path in sorted((datasets / "cluster_centroids").glob("*")):
        print(f"{path}  ({path.stat().st_size / 1e3:.1f} kB)")
    if synthetic:
        print(
            "\nThe checkpoint was SYNTHETIC: right architecture, shapes and cost, but these features carry no meaning."
        )
        print("`make download` fetches the published one.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
