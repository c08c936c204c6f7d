"""The Dockerfile and the scripts around it: linted, pinned, one address each; the image's own questions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.common import load_docker as load

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
LOCKS = {p.name: p.read_text() for p in sorted((ROOT / "docker").glob("requirements-*.txt"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
check_image = load("check_image")


def program(name: str) -> str:
    """A linter of the environment that runs the tests."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} is a development dependency: make setup"
    return found


def test_hadolint() -> None:
    done = subprocess.run([program("hadolint"), "docker/Dockerfile"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


def test_shellcheck() -> None:
    scripts = [*sorted(ROOT.glob("scripts/**/*.sh")), *sorted((ROOT / "docker").glob("*.sh")), ROOT / ".ci" / "run"]
    assert len(scripts) >= 3
    done = subprocess.run([program("shellcheck"), *scripts], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


def test_targets_and_the_default() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    assert {"cpu", "gpu"} <= set(stages)
    assert stages[-1] == "gpu", "the last stage is the default"
    assert len(re.findall(r"^FROM", DOCKERFILE, re.M)) == len(stages)


def test_bases_are_arguments_pinned_by_tag_and_digest() -> None:
    for name in ("CUDA_BASE", "RUNTIME_BASE"):
        assert re.search(rf"^ARG {name}=docker\.io/\S+:\S+@sha256:[0-9a-f]{{64}}$", DOCKERFILE, re.M)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)) <= {
        "${CUDA_BASE}", "${RUNTIME_BASE}", "runtime", "gpu-tools",
    }  # fmt: skip


def test_every_address_is_an_argument() -> None:
    code = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in code if "://" in line and not line.startswith("ARG ")] == []


def test_no_heredoc_and_no_front_end() -> None:
    assert "<<" not in DOCKERFILE
    assert not re.search(r"^# *syntax *=", DOCKERFILE, re.M)


def test_jobs_do_not_run_as_root() -> None:
    for stage in re.split(r"^FROM ", DOCKERFILE, flags=re.M):
        if re.match(r"\S+ AS (cpu|gpu)$", stage.splitlines()[0]):
            assert "\nUSER ${USER_ID}:${GROUP_ID}\n" in stage


def test_sources_come_last() -> None:
    """A change of the code builds nothing anew but the code's own layers."""
    for stage in re.split(r"^FROM ", DOCKERFILE, flags=re.M):
        if "COPY feature_extraction" in stage:
            assert "pip install" not in stage.partition("COPY feature_extraction")[2]
            assert "apt-get" not in stage.partition("COPY feature_extraction")[2]


def locked(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+) \\$", LOCKS[name], re.M))


def test_a_user_of_the_library_may_have_the_pinned_versions() -> None:
    """The loose bounds name the same packages as the exact pins, and none is above its pin."""

    def numbers(version: str) -> tuple[int, ...]:
        return tuple(int(n) for n in version.split("."))

    loose = dict(line.split(">=") for line in PROJECT["dependencies"])
    exact = dict(line.split("==") for line in PROJECT["optional-dependencies"]["exact"])
    assert loose.keys() == exact.keys()
    assert all(numbers(loose[name]) <= numbers(exact[name]) for name in exact)


def test_everything_is_locked_with_hashes() -> None:
    assert set(LOCKS) == {f"requirements-{n}.txt" for n in ("build", "cpu", "cuda", "gpu")}
    for name, text in LOCKS.items():
        entries = [line for line in text.splitlines() if line and line[0] not in "# "]
        assert entries
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==\S+ \\", line) for line in entries), name
        assert text.count("--hash=sha256:") >= len(entries)
    assert DOCKERFILE.count("--require-hashes") == DOCKERFILE.count("-r /locks/")


def test_locks_agree_with_the_pins() -> None:
    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    pins = {normal(n): v for n, v in (line.split("==") for line in PROJECT["optional-dependencies"]["exact"])}
    cpu, gpu = locked("requirements-cpu.txt"), locked("requirements-gpu.txt")
    assert pins.items() <= cpu.items()
    assert (pins.items() - {("faiss-cpu", pins["faiss-cpu"])}) <= gpu.items()
    assert "faiss-cpu" not in gpu
    assert f"ARG FAISS_VERSION={pins['faiss-cpu']}\n" in DOCKERFILE, "the same faiss inside and outside"
    constraints = (ROOT / "constraints.txt").read_text()
    versions = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", constraints, re.M))
    for name, version in (cpu | gpu | locked("requirements-cuda.txt")).items():
        assert versions.get(name, version) == version, name
    assert locked("requirements-cuda.txt").items() <= gpu.items()


def test_no_index_is_named() -> None:
    files = [ROOT / "Makefile", ROOT / "constraints.txt", ROOT / "docker" / "Dockerfile", *(ROOT / "scripts").glob("*")]
    for text in [p.read_text() for p in files if p.is_file()] + list(LOCKS.values()):
        assert not re.search(r"^--?(i|index-url|extra-index-url|find-links)\b", text, re.M)


def test_context_holds_no_data() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "**" in ignored, "everything is left out that is not let in"
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        word.rstrip("/").split("/")[0]
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
        for word in line.split()[:-1]
    }
    assert copied <= {path.split("/")[0] for path in let_in}
    assert {"datasets", "demo", "build", ".git", ".venv"}.isdisjoint(let_in)


# --- docker/check_image.py -------------------------------------------------------------------------------


def test_this_environment_has_the_pinned_versions() -> None:
    assert list(check_image.wrong_versions(gpu=False)) == []
    assert list(check_image.not_importable(gpu=False)) == []


def test_a_version_beside_the_pins_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_image, "pins", lambda: {"numpy": "0.1", "nosuch": "1"})
    found = list(check_image.wrong_versions(gpu=False))
    assert found[0].startswith("numpy is ")
    assert re.fullmatch(r"nosuch is not installed \(.*\); pinned: 1", found[1])
    monkeypatch.setattr(check_image, "pins", lambda: {"faiss-cpu": "0.1"})
    assert list(check_image.wrong_versions(gpu=True)) != []
    monkeypatch.setattr(check_image, "pins", lambda: {"faiss-cpu": "1.15.1"})
    assert list(check_image.wrong_versions(gpu=True)) == []


def test_an_image_without_cuda_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """faiss-cpu, PyTorch's CPU build and an extension without kernels: every one is named."""
    extension = tmp_path / "_C.so"
    extension.write_bytes(b"\x7fELF")

    class Without:
        __file__ = str(extension)
        version = type("version", (), {"cuda": None})

    monkeypatch.setattr(check_image, "wrong_versions", lambda gpu: [])
    monkeypatch.setattr(check_image.importlib, "import_module", lambda name: Without)
    assert check_image.main(["gpu"]) == 1
    said = capsys.readouterr().err
    for part in ("PyTorch is the CPU build", "without its CUDA part", "faiss has no StandardGpuResources"):
        assert part in said
    extension.write_bytes(b"\x7fELF .nv_fatbin")
    assert check_image.main(["gpu"]) == 1
    assert "without its CUDA part" not in capsys.readouterr().err


def test_wrong_usage() -> None:
    assert check_image.main([]) == 2
    assert check_image.main(["tpu"]) == 2
