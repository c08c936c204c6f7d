"""Several processes on one output: started and ended together, in any order, on machines whose views of it are old."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.common import ROOT
from helpers.storing import IDENTITY, check, extract, features, make, source, stamps

from feature_extraction.errors import StoreError
from feature_extraction.storage import files, shares
from feature_extraction.storage.output import Output
from feature_extraction.storage.shares import FolderClosed, Register
from feature_extraction.storage.store import work_dir

IDS = [str(i) for i in range(12)]


def start(*args: object) -> subprocess.Popen[str]:
    """A share in a process of its own; it waits for a line before it begins."""
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.stale_client", *map(str, args)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def go(processes: list[subprocess.Popen[str]], pause: float = 0) -> list[tuple[int, str]]:
    """Let them run together, one ``pause`` after the other; exit code and what each said."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(pause)
    said = [process.communicate(timeout=120)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("finished", [False, True])
def test_shares_that_start_and_end_together_make_the_file(
    tmp_path: Path, seconds: float, count: int, finished: bool
) -> None:
    """``seconds``: how old each one's view of the folder is."""
    path = tmp_path / "f.h5"
    if finished:
        make(path, IDS[:4])
    results = go([start(seconds, path, index, count, len(IDS), 0.1) for index in range(count)])
    assert [code for code, _ in results] == [0] * count, results
    assert sum("wrote 12" in text for _, text in results) == 1, results
    check(path, IDS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5", "f.report.json"]


def test_runs_that_follow_each_other_on_machines_with_old_views_go_on_from_each_other(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    processes = [start(1.0, path, 0, 1, images, 0) for images in (4, 8, 12)]  # all have looked before the first began
    assert [go([process])[0][0] for process in processes] == [0, 0, 0]
    check(path, IDS)


def test_two_shares_that_start_at_once_both_work(tmp_path: Path) -> None:
    for round_ in range(20):
        path = tmp_path / f"{round_}.h5"
        if round_ % 2:
            make(path, IDS[:2])
        barrier, errors = threading.Barrier(2), []

        def share(index: int, path: Path = path, barrier: threading.Barrier = barrier, errors: list = errors) -> None:
            try:
                barrier.wait()
                output = Output(path, IDENTITY, {}, index, 2)
                extract(output, IDS)
                assert output._journal.path.exists()
                output.finish(stamps(IDS), [])
                output.close()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=share, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        check(path, IDS)
        assert not work_dir(path).exists()


def test_a_share_that_was_killed_is_waited_for_and_run_again(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    victim = start(0, path, 0, 2, len(IDS), 60)
    assert victim.stdin is not None
    victim.stdin.write("\n")
    victim.stdin.flush()
    while not (work_dir(path) / "part-00000-of-00002.log").exists():
        time.sleep(0.01)
    other = Output(path, IDENTITY, {}, 1, 2)
    extract(other, IDS)
    assert other.finish(stamps(IDS), []) is None
    assert other.waiting == [0]
    other.close()
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert make(path, IDS, 0, 2).images == 12
    check(path, IDS)


def test_one_that_begins_while_another_writes_the_file_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal is not removed from under it, and it makes a right file of all of them."""
    path = tmp_path / "f.h5"
    make(path, IDS, 0, 2)
    late: list[Output] = []
    real = shares.Register.close

    def close(register: Register) -> bool:
        if not late:
            late.append(Output(path, IDENTITY, {}, 0, 2))
            late[0].add("40", features(40), source("40"))
            late[0].sync()
        return real(register)

    monkeypatch.setattr(shares.Register, "close", close)
    assert make(path, IDS, 1, 2).images == 12
    assert late[0]._journal.path.exists()
    extract(late[0], [*IDS, "40"])
    with pytest.raises(StoreError, match="process 2 of 2 again"):  # it ended over the list before
        late[0].finish(stamps([*IDS, "40"]), [])
    late[0].close()
    assert make(path, [*IDS, "40"], 1, 2).images == 13
    check(path, [*IDS, "40"])
    assert not work_dir(path).exists()


def test_two_that_write_the_file_at_once_both_leave_it_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks may hold on one machine only: here they hold nowhere."""
    monkeypatch.setattr(files.fcntl, "flock", lambda *_: None)
    monkeypatch.setattr("feature_extraction.storage.assemble.socket.gethostname", lambda: str(threading.get_ident()))
    monkeypatch.setattr(files, "ONE_KERNEL", frozenset())
    path = tmp_path / "f.h5"
    for index in range(2):
        output = Output(path, IDENTITY, {}, index, 2)
        extract(output, IDS)
        output.close()
    outputs = [Output(path, IDENTITY, {}, index, 2) for index in range(2)]
    monkeypatch.setattr(Output, "_all_ended", lambda self, plan: barrier.wait() >= 0)
    results: list[object] = []
    barrier = threading.Barrier(2)

    def finish(output: Output) -> None:
        try:
            results.append(output.finish(stamps(IDS), []))
        except StoreError as error:
            results.append(error)

    threads = [threading.Thread(target=finish, args=(output,)) for output in outputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [getattr(r, "images", r) for r in results] == [12, 12]
    check(path, IDS)


def test_numbers_are_taken_once_and_in_order(tmp_path: Path) -> None:
    registers = [Register(tmp_path) for _ in range(8)]
    taken: list[int] = []

    def take(register: Register, share: int) -> None:
        for _ in range(10):
            taken.append(register.append({"event": "begun", "share": share, "of": 8}))

    threads = [threading.Thread(target=take, args=(r, n)) for n, r in enumerate(registers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 81))
    assert all(register.state_of(n, 8) is not None for n, register in enumerate(registers))


def test_an_event_whose_writer_was_killed_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE_HERE", 0.2)
    (tmp_path / "event-000001.json").touch()
    (tmp_path / "event-000002.json").write_text('{"event": "ended", "sha')
    register = Register(tmp_path)
    assert register.append({"event": "begun", "share": 0, "of": 1}) == 3
    assert register.close()
    with pytest.raises(FolderClosed):
        Register(tmp_path).append({})


def let_the_first_write_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than others wait for it."""
    monkeypatch.setattr(files, "PATIENCE_HERE", 0.2)
    real = files.write_fully

    def slow(fd: int, data: bytes) -> None:
        time.sleep(0.1)
        real(fd, data)
        monkeypatch.setattr(files, "write_fully", real)

    monkeypatch.setattr(files, "write_fully", slow)


def test_an_event_written_so_slowly_that_others_gave_up_is_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_the_first_write_be_slow(monkeypatch)
    register = Register(tmp_path)
    register.append({"event": "ended", "share": 0, "of": 1})
    said = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert len(said) >= 2  # more where the second, too, was slow
    assert set(said) == {said[0]}


def test_one_that_closed_so_slowly_that_others_may_have_given_it_up_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_the_first_write_be_slow(monkeypatch)
    assert not Register(tmp_path).close()
    with pytest.raises(FolderClosed):
        Register(tmp_path).append({})


def test_a_name_that_is_taken_may_be_refused_as_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sshfs answers an exclusive create of a name that its own view lacks with EPERM."""
    first, second = Register(tmp_path), Register(tmp_path)
    first.append({"event": "begun", "share": 0, "of": 2})
    real = os.open

    def as_sshfs(path: object, flags: int, *more: object, **named: object) -> int:
        try:
            return real(path, flags, *more, **named)
        except FileExistsError:
            raise PermissionError(1, "Operation not permitted", str(path)) from None

    monkeypatch.setattr(os, "open", as_sshfs)
    assert second.append({"event": "begun", "share": 1, "of": 2}) == 2
    assert second.shares() == {(0, 2), (1, 2)}


def test_a_folder_that_is_really_forbidden_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE_HERE", 0.1)

    def never(path: object, *_: object, **__: object) -> int:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "open", never)
    with pytest.raises(PermissionError):
        Register(tmp_path).append({"event": "begun", "share": 0, "of": 1})


# --- a real shared folder -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Two sshfs mounts of one folder with their defaults: each keeps its own view of it for 20 seconds."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("needs root and /dev/fuse")
    if not shutil.which("sshfs") or not Path("/usr/sbin/sshd").exists():
        pytest.skip("needs sshfs and sshd: apt-get install sshfs openssh-server")
    top = tmp_path_factory.mktemp("sshfs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("key", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", top / name], check=True)
    options = {
        "ListenAddress": "127.0.0.1", "Port": port, "AuthorizedKeysFile": top / "key.pub", "HostKey": top / "host",
        "StrictModes": "no", "PidFile": top / "pid", "PermitRootLogin": "yes",
    }  # fmt: skip
    subprocess.run(["/usr/sbin/sshd", *(f"-o{k}={v}" for k, v in options.items())], check=True)
    (top / "export").mkdir()
    login = f"IdentityFile={top / 'key'},StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
    mounted = []
    try:
        for name in "ab":
            (top / name).mkdir()
            where = f"root@127.0.0.1:{top / 'export'}"
            done = subprocess.run(
                ["sshfs", "-p", str(port), "-o", login, where, top / name], capture_output=True, check=False
            )
            if done.returncode:
                pytest.skip(f"sshfs cannot mount here: {done.stderr.decode(errors='replace').strip()}")
            mounted.append(top / name)
        yield mounted[0], mounted[1]
    finally:
        for place in mounted:
            subprocess.run(["fusermount", "-u", place], check=False)
        os.kill(int((top / "pid").read_text()), signal.SIGTERM)


@pytest.mark.parametrize("finished", [False, True])
def test_two_shares_on_two_sshfs_mounts(mounts: tuple[Path, Path], finished: bool) -> None:
    a, b = mounts
    name = f"{finished}.h5"
    if finished:
        make(a / name, IDS[:4])
        list(b.iterdir())
    program = "import sys; from helpers.stale_client import plain; sys.exit(plain())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, place / name, str(index), "2", str(len(IDS)), "0.5"],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index, place in enumerate((a, b))
    ]  # fmt: skip
    said = [process.communicate(timeout=150)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sum("wrote 12" in text for text in said) == 1, said
    check(a.parent / "export" / name, IDS)
    assert not work_dir(a.parent / "export" / name).exists()
