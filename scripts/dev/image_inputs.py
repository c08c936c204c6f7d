"""What scripts/dev/image_test.sh needs besides an image: python -m scripts.dev.image_inputs packages|data FOLDER

packages: pip's settings of this machine as FOLDER/pip.conf, the local folders they name in FOLDER/folders, and an index
of one file, PyTorch as this machine gets it, in FOLDER/index. data: a few photographs as all of COCO and VG, below
FOLDER/photographs, and the narrow detector of the tests in FOLDER/checkpoint.
"""

from __future__ import annotations

import configparser
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PIP_KEYS: Final = ("index-url", "extra-index-url", "find-links", "trusted-host", "cert")
PHOTOGRAPHS: Final = {
    "COCO/images/train2014": ("astronaut", "chelsea"),
    "COCO/images/val2014": ("coffee",),
    "COCO/images/test2015": ("rocket",),
    "VG/images/VG_100K": ("cat", "camera"),
}


def packages(work: Path) -> None:
    """How the build gets Python packages here."""
    pip = [sys.executable, "-m", "pip"]
    listing = subprocess.run([*pip, "config", "list"], check=True, text=True, stdout=subprocess.PIPE).stdout
    settings: dict[str, str] = {}
    for name, value in re.findall(r"^(\S+?)='(.*)'$", listing, re.M):
        section, _, key = name.partition(".")
        if section in (":env:", "global") and key in PIP_KEYS:
            settings.setdefault(key, value)
    config = configparser.RawConfigParser()
    config["global"] = settings
    with open(work / "pip.conf", "w", encoding="utf-8") as file:
        config.write(file)
    folders = set()
    for word in " ".join(settings.values()).replace("\\n", " ").split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.is_dir():
            # an index's pages point beside it ("../files"), so its parent is what has to be seen
            folders.add(path.parent if path.name == "simple" else path)
    (work / "folders").write_text("".join(f"{folder}\n" for folder in sorted(folders)), encoding="utf-8")
    _index_of_torch(work / "index" / "torch", pip)


def _index_of_torch(index: Path, pip: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (pin,) = [p for p in extras["exact"] if p.startswith("torch==")]
    index.mkdir(parents=True, exist_ok=True)
    if not list(index.glob("*.whl")):
        subprocess.run([*pip, "download", "--quiet", "--no-deps", "--dest", str(index), pin], check=True)
    (wheel,) = index.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    link = f'<a href="{wheel.name.replace("+", "%2B")}#sha256={digest}">{wheel.name}</a>\n'
    (index / "index.html").write_text(link, encoding="utf-8")
    print(f"image-test: {wheel.name}")


def data(work: Path) -> None:
    """The images of the jobs, and their detector."""
    import skimage.data
    from PIL import Image

    from . import synthetic_checkpoint

    synthetic_checkpoint.write(work / "checkpoint", (ROOT / "tests/data/tiny/config.yaml").read_text())
    for folder, names in PHOTOGRAPHS.items():
        for name in names:
            path = work / "photographs" / folder / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(getattr(skimage.data, name)()).save(path, quality=95)


if __name__ == "__main__":
    {"packages": packages, "data": data}[sys.argv[1]](Path(sys.argv[2]))
