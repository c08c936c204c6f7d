"""docker/apt_mirror.sh: every form of a package source, and what is not the distribution's stays."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from helpers.common import ROOT

MIRROR = "https://mirror.example/ubuntu&co"

# before -> after, in a file of one-line sources; NAME stands for the mirror
LINES = {
    "deb http://archive.example/ubuntu noble main universe": "deb NAME noble main universe",
    "deb-src http://archive.example/ubuntu noble-updates main": "deb-src NAME noble-updates main",
    "deb [signed-by=/usr/share/keyrings/a.gpg] http://archive.example/ubuntu noble main": (
        "deb [signed-by=/usr/share/keyrings/a.gpg] NAME noble main"
    ),
    "  deb\t[ arch=amd64 signed-by=/a.gpg ]\thttp://archive.example/ubuntu\tnoble-security main": (
        "  deb\t[ arch=amd64 signed-by=/a.gpg ]\tNAME\tnoble-security main"
    ),
    # a flat repository, as NVIDIA's; other suites; a commented line
    "deb [signed-by=/usr/share/keyrings/cuda.gpg] https://cuda.example/ubuntu2404/x86_64 /": None,
    "deb https://other.example/debian stable main": None,
    "deb https://other.example/ubuntu nobler main": None,
    "# deb http://archive.example/ubuntu noble main": None,
    "": None,
}

STANZAS = """\
# the distribution
Types: deb
URIs: http://archive.example/ubuntu/ http://second.example/ubuntu/
  http://third.example/ubuntu/
Suites: noble noble-updates
Components: main
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Types: deb
uris:  http://security.example/ubuntu/
suites:
 noble-security
Components: main

Types: deb
URIs: https://other.example/
Suites: stable
Components: main
"""
STANZAS_AFTER = """\
# the distribution
Types: deb
URIs: NAME
Suites: noble noble-updates
Components: main
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Types: deb
URIs: NAME
suites:
 noble-security
Components: main

Types: deb
URIs: https://other.example/
Suites: stable
Components: main
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    parts = tmp_path / "etc" / "apt" / "sources.list.d"
    parts.mkdir(parents=True)
    (tmp_path / "etc/os-release").write_text('NAME="Ubuntu"\nVERSION_CODENAME=noble\n')
    (tmp_path / "etc/apt/sources.list").write_text("".join(f"{line}\n" for line in LINES))
    (parts / "more.list").write_text("".join(f"{line}\n" for line in LINES))
    (parts / "ubuntu.sources").write_text(STANZAS)
    (parts / "off.list.disabled").write_text("deb http://archive.example/ubuntu noble main\n")
    return tmp_path


def run(mirror: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", ROOT / "docker/apt_mirror.sh", mirror, root]
    return subprocess.run(command, check=False, text=True, capture_output=True)


def contents(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def test_every_form_of_a_source(root: Path) -> None:
    parts = root / "etc/apt/sources.list.d"
    for _ in range(2):  # a second time nothing changes
        done = run(MIRROR, root)
        assert (done.returncode, done.stderr) == (0, "")
        expected = [(after or before).replace("NAME", MIRROR) for before, after in LINES.items()]
        assert (root / "etc/apt/sources.list").read_text().splitlines() == expected
        assert (parts / "more.list").read_text().splitlines() == expected
        assert (parts / "ubuntu.sources").read_text() == STANZAS_AFTER.replace("NAME", MIRROR)
        assert (parts / "off.list.disabled").read_text() == "deb http://archive.example/ubuntu noble main\n"
    assert len(contents(root)) == 5, "nothing is left beside them"


def test_without_a_mirror_nothing_changes(root: Path) -> None:
    before = contents(root)
    assert run("", root).returncode == 0
    assert contents(root) == before


def test_a_mirror_without_effect_is_said(tmp_path: Path) -> None:
    """Where the base's sources are of a form or place that is not known, the build does not go on without it."""
    (tmp_path / "etc/apt").mkdir(parents=True)
    (tmp_path / "etc/os-release").write_text("VERSION_CODENAME=noble\n")
    done = run(MIRROR, tmp_path)
    assert done.returncode == 1
    assert "APT_MIRROR has no effect" in done.stderr


def test_two_addresses_are_refused(root: Path) -> None:
    before = contents(root)
    done = run("http://a.example http://b.example", root)
    assert done.returncode == 1
    assert "is not one address" in done.stderr
    assert contents(root) == before
