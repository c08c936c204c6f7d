"""Which commit runs, whatever surrounds it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from feature_extraction.places import source_revision


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit, and another one."""
    if not shutil.which("git"):
        pytest.skip("there is no git here")
    for name in ("checkout", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        git(tmp_path / name, "init", "--quiet")
        git(tmp_path / name, "add", "file")
        git(tmp_path / name, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--message", name)
    return tmp_path / "checkout"


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks of git, and `git rebase --exec`, name the repository that they work in."""
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(checkout.parent / "other/.git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(checkout.parent / "other"))
    assert source_revision(checkout) == commit
    (checkout / "file").write_text("edited")
    assert source_revision(checkout) == f"{commit}+changes"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_somebody_elses_checkout_has_a_commit_too(checkout: Path) -> None:
    """One checkout of a group, or one mounted into a container: git itself asks who owns it."""
    commit = git(checkout, "rev-parse", "HEAD")
    for path in [checkout, *checkout.rglob("*")]:
        os.chown(path, 4321, 4321)
    assert source_revision(checkout) == commit


def test_without_git_the_commit_is_not_known(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert source_revision(checkout) == "unknown"
