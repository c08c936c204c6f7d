"""The worked examples of CONTRIBUTING.md, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from helpers.common import ROOT, photograph
from PIL import Image

from feature_extraction import open_features

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


def test_all_examples_are_there() -> None:
    assert len(EXAMPLES) == 4


def test_a_new_data_set_is_one_row(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(photograph("coffee")).save(tmp_path / "images" / "a.jpg")
    arguments = ["--dataset", "flickr", "--root", str(tmp_path), "--checkpoint_dir", str(tiny_checkpoint)]
    done = run(
        "from feature_extraction.catalog import DATA_SETS, DataSet, Split, feature_files, kmeans_sources\n"
        f"{EXAMPLES[0]}\n"
        "assert 'flickr-grid' in {file.name for file in feature_files()} and 'flickr' in kmeans_sources()\n"
        f"from feature_extraction import cli\nraise SystemExit(cli.main({[*arguments, '--device', 'cpu']}))\n"
    )
    assert done.returncode == 0, done.stderr
    assert "1 image of the 31,783 of the published split" in done.stdout
    assert (tmp_path / "features" / "maskrcnn_grid8.h5").is_file()


def test_a_new_recipe_is_one_row_and_a_new_format_one_class(tmp_path: Path, tiny_checkpoint: Path) -> None:
    Image.fromarray(photograph("coffee")).save(tmp_path / "a.png")
    features, out = tmp_path / "f.h5", tmp_path / "out"
    extract = ["--images", tmp_path / "a.png", "--output", features, "--checkpoint_dir", tiny_checkpoint]
    done = run(
        "from feature_extraction.config import Boxes\nfrom feature_extraction.recipes import RECIPES, X_152, Recipe\n"
        f"{EXAMPLES[1]}\n"
        "from feature_extraction.exports.form import Format\nfrom feature_extraction.exports.keys import why_no_file\n"
        "from feature_extraction.exports.pickles import npy_of\nfrom feature_extraction.exports.places import Folder\n"
        "from feature_extraction.exports.spec import FORMATS, Row\nfrom feature_extraction.exports.table import FORMS\n"
        f"{EXAMPLES[2]}\n"
        "from feature_extraction import cli\n"
        f"assert cli.main({[*map(str, extract), '--device', 'cpu', '--recipe', 'ten']}) == 0\n"
        f"raise SystemExit(cli.main({['export', str(features), '--to', 'npy', str(out)]}))\n"
    )
    assert done.returncode == 0, done.stderr
    with open_features(features) as file:
        assert file["a/obj_conf"].shape == (10,)
        assert np.array_equal(np.load(out / "a.npy"), file["a/features"][()])


def test_a_new_kind_is_one_class_in_each_half(tmp_path: Path, tiny_checkpoint: Path) -> None:
    Image.fromarray(photograph("coffee")).save(tmp_path / "a.png")
    arguments = ["--images", str(tmp_path / "a.png"), "--checkpoint_dir", str(tiny_checkpoint), "--device", "cpu"]
    done = run(
        "from dataclasses import dataclass\nfrom typing import ClassVar\n"
        "from feature_extraction.config import SPECS, Grid\n"
        "from feature_extraction.features import COMPUTATIONS, ComputeGrid\n"
        f"{EXAMPLES[3]}\n"
        "from feature_extraction import cli\n"
        f"for kind in 'mean', 'grid':\n"
        f"    assert cli.main([*{arguments}, '--kind', kind, '--output', {str(tmp_path)!r} + f'/{{kind}}.h5']) == 0\n"
        "from feature_extraction import open_features\n"
        f"mean = open_features(__import__('pathlib').Path({str(tmp_path / 'mean.h5')!r}))\n"
        f"grid = open_features(__import__('pathlib').Path({str(tmp_path / 'grid.h5')!r}))\n"
        "import numpy as np\n"
        "np.save(" + repr(str(tmp_path / "difference.npy")) + ", mean['a/features'][()]"
        " - grid['a/features'][()].mean((0, 1)))\n"
    )
    assert done.returncode == 0, done.stderr
    assert not np.load(tmp_path / "difference.npy").any()
