"""One page about what has been made: feature files, where they came from, what failed, and the vocabularies.

    python -m scripts.report --datasets datasets --output report.html        (make report)

The page is one file, figures included. Of each feature file at most 200 images, evenly spread, are read.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import h5py
import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from feature_extraction import catalog
from feature_extraction.catalog import Kind
from feature_extraction.errors import StoreError
from feature_extraction.storage.store import image_ids, open_features, provenance, report_path, work_dir

SAMPLE: Final = 200
"""Images read of each file."""
COLOUR: Final = "#2b6cb0"


@dataclass
class FileEntry:
    """One of the 16 published feature files, as it lies here."""

    name: str
    published: int
    state: str = "missing"
    why: str = ""
    images: int | None = None
    size: str = ""
    summary: str = ""
    made: dict[str, Any] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)


def as_uri(figure: Figure) -> str:
    """A figure as the source of an <img>, so that the page is one file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def histogram(values: NDArray[Any], title: str, bins: int = 60) -> str:
    figure = Figure(figsize=(4, 2.4))
    axes = figure.subplots()
    axes.hist(values, bins=bins, color=COLOUR)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    return as_uri(figure)


def line(values: Any, title: str, below: str, logarithmic: bool = False) -> str:
    figure = Figure(figsize=(4, 2.4))
    axes = figure.subplots()
    axes.plot(values, color=COLOUR)
    if logarithmic:
        axes.set_yscale("log")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(below, fontsize=8)
    axes.tick_params(labelsize=7)
    return as_uri(figure)


def heat_map(values: NDArray[Any], title: str) -> str:
    figure = Figure(figsize=(2.6, 2.4))
    axes = figure.subplots()
    figure.colorbar(axes.imshow(values, cmap="viridis")).ax.tick_params(labelsize=7)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    return as_uri(figure)


def sampled(file: h5py.File, ids: list[str], name: str) -> NDArray[Any]:
    """Dataset ``name`` of up to SAMPLE images spread over the file, stacked (images, ...)."""
    chosen = [ids[i] for i in sorted(set(np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids)), dtype=int)))]
    return np.stack([file[i][name][()] for i in chosen])


def describe(entry: FileEntry, path: Path, kind: Kind) -> None:
    """Fill ``entry`` from the file. Raises StoreError."""
    with open_features(path) as file:
        ids = image_ids(file)
        entry.state, entry.images, entry.made = "whole", len(ids), provenance(file)
        size = path.stat().st_size
        entry.size = f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
        if not ids:
            return
        features = sampled(file, ids, "features")
        entry.summary = (
            f"Of {len(features)} images: {np.mean(features > 0):.1%} of all feature values are above zero, "
            f"their mean is {features.mean():.4g}, the largest {features.max():.4g}."
        )
        norms = np.linalg.norm(features, axis=-1)
        entry.figures.append(histogram(norms.ravel(), "length of a feature"))
        if kind == "grid":
            entry.figures.append(heat_map(norms.mean(0), "mean length by cell"))
        else:
            boxes, w, h = (sampled(file, ids, name) for name in ("boxes", "img_w", "img_h"))
            area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) / (w * h)[:, None]
            entry.figures.append(histogram(area.ravel(), "area of a box, parts of the image"))
            classes = np.bincount(sampled(file, ids, "obj_id").ravel())
            entry.figures.append(line(np.sort(classes[classes > 0])[::-1], "boxes per class", "classes by size"))


def file_entries(datasets: Path) -> list[FileEntry]:
    """All 16 files of the catalogue, made or not."""
    entries = []
    for data in catalog.DATA_SETS.values():
        for split in data.splits:
            for kind in catalog.KINDS:
                path = data.features_file(datasets / data.folder, split, kind)
                entry = FileEntry(str(path.relative_to(datasets)), split.images)
                entries.append(entry)
                if path.exists():
                    try:
                        describe(entry, path, kind)
                    except (StoreError, KeyError, OSError) as error:
                        entry.state, entry.why = "unfinished", str(error)
                elif work_dir(path).is_dir():
                    entry.state = "unfinished"
                report = report_path(path)
                if report.is_file():
                    entry.failures = json.loads(report.read_text(encoding="utf-8"))["failed"]
    return entries


def vocabularies(datasets: Path) -> list[dict[str, Any]]:
    """Every vocabulary in cluster_centroids/ with the statistics that run_kmeans.py left beside it."""
    found = []
    for stats_path in sorted((datasets / "cluster_centroids").glob("*.npy.stats.json")):
        stats = json.loads(stats_path.read_text(encoding="utf-8"))
        name = stats_path.name.removesuffix(".npy.stats.json")
        prefix, _, suffix = name.partition("_centroids")
        words = int(stats["training"]["n_centroids"])
        rounds = stats["iterations"]
        figures = [line([r["objective"] for r in rounds], "objective", "iteration")]
        targets = []
        for index_path in sorted(stats_path.parent.glob(f"{prefix}_*_cluster_index_centroids{suffix}.npy")):
            sizes = np.bincount(np.load(index_path, mmap_mode="r").ravel(), minlength=words)
            target = index_path.name.removeprefix(f"{prefix}_").partition("_cluster_index")[0]
            counts = {"rows": int(sizes.sum()), "used": int((sizes > 0).sum()), "largest": int(sizes.max())}
            targets.append({"name": target, **counts})
            figures.append(line(np.sort(sizes)[::-1] + 1, f"rows of a word (+ 1), {target}", "words by size", True))
        summary = (
            f"{words:,} words from {stats['rows_used']:,} of {stats['rows']:,} rows of "
            f"{stats['training']['source']['path']}, {len(rounds)} iterations, faiss {stats['training']['faiss']}; "
            f"imbalance {rounds[-1]['imbalance']:.2f}, {sum(r['empty_split'] for r in rounds)} empty clusters split."
        )
        found.append({"name": name, "summary": summary, "figures": figures, "targets": targets})
    return found


def write(datasets: Path, output: Path) -> None:
    """Write the page about ``datasets`` to ``output``."""
    mpl.rcParams["svg.hashsalt"] = "report"  # the same data give the same page
    template = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True).get_template(
        "report.html.j2"
    )
    page = template.render(
        datasets=datasets,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        files=file_entries(datasets),
        vocabularies=vocabularies(datasets),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=Path, default=Path("datasets"), help="(./%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="(./%(default)s)")
    args = parser.parse_args()
    if not args.datasets.is_dir():
        print(
            f"error: {args.datasets} is not a folder: --datasets names the one with COCO, VG, ... in it",
            file=sys.stderr,
        )
        return 1
    write(args.datasets.resolve(), args.output)
    print(f"{args.output}: open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
