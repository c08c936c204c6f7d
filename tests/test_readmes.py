"""Every command and every program in every README is run, or as much of it as a machine without data can."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.common import ROOT, photograph
from PIL import Image

READMES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md")]
    if path.parent.name in ("docker", "feature_extraction", "kmeans", "scripts", "tests", ROOT.name)
)
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.S | re.M)


def blocks(language: str) -> list[tuple[str, str]]:
    """(place, text) of every block of a language."""
    return [
        (path.relative_to(ROOT).as_posix(), text)
        for path in READMES
        for found, text in BLOCK.findall(path.read_text())
        if found == language
    ]


def commands() -> list[tuple[str, Path, list[str]]]:
    """(README, folder it is to be run in, words) of every command line."""
    found = []
    for readme, text in blocks("sh"):
        folder = ROOT
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["cd"]:
                folder = (folder / words[1]).resolve()
            elif words:
                found.append((readme, folder, words))
    return found


def test_there_is_something_to_run() -> None:
    assert len(commands()) > 15
    assert {"README.md", "feature_extraction/README.md", "kmeans/README.md"} <= {readme for readme, _, _ in commands()}


@pytest.mark.parametrize(("readme", "folder", "words"), commands(), ids=lambda value: str(value)[-60:])
def test_a_command_is_understood(readme: str, folder: Path, words: list[str]) -> None:
    """A make target exists and its recipe can be written out; of a Python program, every flag and choice is known."""
    while "=" in words[0]:
        words = words[1:]  # VARIABLE=value before a command
    if words[0] == "make":
        done = subprocess.run(
            ["make", "--dry-run", "--no-print-directory", *words[1:]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{readme}: {' '.join(words)}: {done.stderr}"
        return
    launchers = {"torchrun", "srun"}
    if words[0] in launchers:
        words = words[next(i for i, word in enumerate(words) if word.endswith((".py", "python"))) :]
    if words[0].endswith("xlxmert-features"):
        words = ["python", "-m", "feature_extraction.commands", *words[1:]]
    if words[0].endswith(".py"):
        words = ["python", *words]
    assert words[0].endswith(("python", "python3")), f"{readme}: {words}: neither make nor Python"
    done = subprocess.run(
        [sys.executable, *words[1:], "--help"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{readme}: {' '.join(words)}: {done.stderr}"
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert flag in done.stdout, f"{readme}: {' '.join(words)}: --help does not know {flag}"


@pytest.mark.parametrize(("readme", "text"), [b for b in blocks("python") if b[0] != "CONTRIBUTING.md"])
def test_a_program_runs(readme: str, text: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    Image.fromarray(photograph("coffee")).save(tmp_path / "photo.jpg")
    (tmp_path / "mask_rcnn_ckpt").symlink_to(tiny_checkpoint)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{readme}: {done.stderr}"


def anchors(path: Path) -> set[str]:
    """What links can name of a Markdown file: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_program_of_scripts_is_in_its_readme() -> None:
    """But for parts of others: what ``make setup`` and ``make image-test`` run, which stand in their rows."""
    told = (ROOT / "scripts/README.md").read_text(encoding="utf-8")
    for path in (ROOT / "scripts").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        part = module.startswith(("scripts.dev.image_", "scripts.launch.", "scripts.gpu_test."))
        assert part or '__name__ == "__main__"' not in path.read_text(encoding="utf-8") or f"`{module}`" in told, module


def test_every_link_of_every_readme_leads_somewhere() -> None:
    for path in [*READMES, *ROOT.glob("docs/*.md")]:
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", path.read_text()):
            there = path.parent / target if target else path
            assert there.exists(), f"{path}: {target}"
            assert not anchor or anchor in anchors(there), f"{path}: {target}#{anchor}"
