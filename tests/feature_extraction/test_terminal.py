"""Where nobody reads what a command prints any more, it ends without a word."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.common import ROOT

from feature_extraction import cli, errors, places, terminal
from feature_extraction.commands import COMMANDS
from feature_extraction.terminal import EXIT_UNREAD
from kmeans import cli as kmeans_cli


def unread(*arguments: str, stream: str = "stdout") -> tuple[int, str]:
    """Exit code and what the other stream says, of a command whose one stream is a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    try:
        done = subprocess.run([sys.executable, *arguments], check=False, cwd=ROOT, text=True, timeout=120, **streams)
    finally:
        os.close(write)
    return done.returncode, (done.stderr if stream == "stdout" else done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "scripts.launch", "--list"),
        ("-m", "scripts.launch", "--dry-run", "extract-all"),
        ("-m", "scripts.download", "--help"),
        ("-m", "feature_extraction", "--help"),
        ("-c", "from feature_extraction.commands import console; console()", "--help"),
        ("feature_extraction/coco_extract_grid_feature.py", "--help"),
        ("kmeans/run_kmeans.py", "--help"),
    ],
    ids=" ".join,
)
def test_a_closed_pipe_ends_a_command_quietly(arguments: tuple[str, ...]) -> None:
    assert unread(*arguments) == (EXIT_UNREAD, "")


def test_make_help_may_be_cut_off() -> None:
    done = subprocess.run(
        ["bash", "-c", "make --no-print-directory help | true; exit ${PIPESTATUS[0]}"],
        check=False, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_streams_are_no_files_of_ours(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from feature_extraction.terminal import run_main\n"
        "def main():\n"
        "    with open(sys.argv[1], 'xb'):\n"
        "        print('said'), print('said', file=sys.stderr), os.write(2, b'by a library')\n"
        "    return os.system('echo by another program >&2')\n"
        "run_main(main)\n"
    )
    words = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", sys.executable, "-c", program, str(tmp_path / "journal")]
    assert subprocess.run(words, cwd=ROOT, check=False).returncode == 0
    assert (tmp_path / "journal").read_bytes() == b""


def test_an_error_that_nobody_reads_ends_it_too() -> None:
    assert unread("-m", "scripts.launch", "nothing", stream="stderr") == (EXIT_UNREAD, "")


def test_what_it_held_is_let_go_of() -> None:
    program = (
        "import sys\n"
        "from feature_extraction.terminal import run_main\n"
        "def main():\n"
        "    try:\n"
        "        print('x' * 100_000)\n"
        "    except Exception:\n"
        "        print('taken for an error', file=sys.stderr)\n"
        "    finally:\n"
        "        print('let go', file=sys.stderr)\n"
        "run_main(main)\n"
    )
    assert unread("-c", program) == (EXIT_UNREAD, "let go\n")


def test_an_interrupt_is_one_word() -> None:
    program = (
        "import os, signal\n"
        "from feature_extraction.terminal import run_main\n"
        "run_main(lambda: os.kill(os.getpid(), signal.SIGINT) or signal.pause())"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")


STARTS = [*sorted((ROOT / "feature_extraction").glob("*_extract_*_feature.py")), ROOT / "kmeans/run_kmeans.py"]


@pytest.mark.parametrize(
    "path", [*STARTS, ROOT / "feature_extraction/__init__.py", ROOT / "scripts/__init__.py"], ids=lambda p: p.name
)
def test_an_old_python_reads_as_far_as_where_it_is_told(path: Path) -> None:
    """X-LXMERT's own environment has Python 3.7: what is read before the message has to be Python there too."""
    ast.parse(path.read_text(), feature_version=(3, 6))
    assert "from __future__" not in path.read_text()


def test_an_old_python_is_told_which_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ((3, 6, 15), (3, 10, 13)):
        monkeypatch.setattr(sys, "version_info", version)
        with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer, not .*: make PYTHON=python3\.12"):
            exec((ROOT / "feature_extraction/__init__.py").read_text(), {})


@pytest.mark.parametrize(("code", "said"), [("main = lambda: print('a') or 3", 3), ("main = lambda: sys.exit(2)", 2)])
def test_otherwise_the_exit_code_is_the_commands(code: str, said: int) -> None:
    program = f"import sys\nfrom feature_extraction.terminal import run_main\n{code}\nrun_main(main)"
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert done.returncode == said


PROGRAMS = [
    ("feature_extraction/VG_extract_grid_feature.py", "--vgroot", "{}"),
    ("kmeans/run_kmeans.py", "--datasets_dir", "{}"),
    ("-m", "feature_extraction", "check", "x.h5"),
    ("-m", "feature_extraction", "info", "x.h5"),
    *[("-m", f"scripts.{name}") for name in ("verify", "report", "demo", "verify_kmeans", "paper_vocabulary")],
    ("-c", "from feature_extraction.commands import console; console()", "verify"),
]


@pytest.mark.parametrize("arguments", PROGRAMS, ids=lambda words: words[0] if len(words) == 1 else words[-1])
def test_a_python_without_the_packages_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """-S: all installed packages are left out."""
    images = tmp_path / "images/VG_100K"
    images.mkdir(parents=True)
    (images / "1.jpg").write_bytes(b"x")
    words = [word.format(tmp_path) for word in arguments]
    done = subprocess.run([sys.executable, "-S", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.match(r"error: this Python \(/.+\) has no \w+; `make setup` installs all into ", line), line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), "has no cv2; "),
        (ModuleNotFoundError("No module named 'h5py._x'", name="h5py._x"), "has no h5py; "),
        (ImportError("libGL.so.1: cannot open", name="cv2"), "cannot load cv2: libGL.so.1: cannot open; "),
        (ModuleNotFoundError("No module named 'kmeans.none'", name="kmeans.none"), None),
        (ImportError("cannot import name 'x'", name="scripts.verify"), None),
    ],
)
def test_a_package_that_cannot_be_loaded(error: ImportError, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    told = terminal.lacking(error)
    assert (said is None and told is None) or (said is not None and told is not None and said in told)
    monkeypatch.setattr(terminal, "IS_CHECKOUT", False)
    if "cv2" in str(error.name):
        assert str(terminal.lacking(error)).endswith("; pip install opencv-python-headless")


TARGETS = "|".join(re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
OF_A_CHECKOUT = re.compile(rf"\bmake ({TARGETS})\b|python -m|run_kmeans\.py|``|\b(READER|BASE_URL|FOR|[A-Z]+_FLAGS)=")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_needs_the_standard_library_only_and_says_how_it_was_called(name: str) -> None:
    """-S: all installed packages are left out."""
    program = f"from feature_extraction.commands import main; main([{name!r}, '--help'])"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: xlxmert-features {name} ")
    assert not OF_A_CHECKOUT.search(done.stdout)
    assert re.search(r"Exit codes: 0 .+ 1 .+ 2 usage", " ".join(done.stdout.split()))


@pytest.mark.parametrize(
    "error", [errors.UsageError("x"), errors.UnknownName("x"), errors.StoreError("x"), OSError(2, "x")]
)
def test_a_wrong_command_line_exits_with_2_wherever_it_is_seen(error: Exception) -> None:
    expected = 2 if isinstance(error, errors.UsageError) else 1

    def fail() -> int:
        raise error

    with pytest.raises(SystemExit, match="2") if expected == 2 else contextlib.nullcontext(), cli.explained():
        fail()
    assert kmeans_cli.guarded(fail) == expected


def test_an_installed_kit_works_in_the_current_folder(tmp_path: Path) -> None:
    """Nothing is downloaded into, or looked for, among the packages of a Python."""
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "mask_rcnn_ckpt")
    for name in ("feature_extraction", "kmeans", "scripts"):
        shutil.copytree(ROOT / name, site / name, ignore=ignore, symlinks=True)
    program = (
        "from feature_extraction import places\n"
        "from scripts.download.__main__ import arguments\n"
        "from scripts.verify.__main__ import arguments as of_verify\n"
        "from scripts.xlxmert.__main__ import parser\n"
        "from kmeans.cli import parse\n"
        "from pathlib import Path\n"
        "args, verify = arguments(['checkpoint']), of_verify().parse_args([])\n"
        "paths = [args.datasets, args.lock, args.published, args.checkpoint_dir, verify.ours, verify.published,\n"
        "    parser().parse_args([]).datasets, places.checkpoint_folders({})[0]]\n"
        "for path in paths: print(Path(path).absolute().relative_to(Path.cwd()))\n"
        "print(places.__file__)\n"
        "print(places.to_type('verify'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=work,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "datasets", "downloads.lock.json", "datasets/published", "mask_rcnn_ckpt", "datasets", "datasets/published",
        "datasets", "mask_rcnn_ckpt", str(site / "feature_extraction/places.py"), "xlxmert-features verify",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "command"),
    {
        "download": "download checkpoint",
        "download-images-coco": "download images coco",
        "extract-coco-train-grid": "extract --dataset coco --split train --kinds grid",
        "extract-vg-boxes": "extract --dataset vg --kinds boxes",
        "extract-gqa": "extract --dataset gqa",
        "extract-all": "extract",
        "paper-vocabulary": "paper-vocabulary",
    }.items(),
)
def test_an_installed_kit_names_its_own_commands(target: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.to_type(target, "kmeans") == f"make {target} kmeans"
    monkeypatch.setattr(places, "IS_INSTALLED", True)
    assert places.to_type(target, "kmeans") == f"xlxmert-features {command} && xlxmert-features kmeans"
    assert command.split()[0] in COMMANDS
