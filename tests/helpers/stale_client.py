"""One share of a run, on a machine whose view of a shared folder is old, as NFS and sshfs make it.

    python -m helpers.stale_client SECONDS OUTPUT INDEX COUNT IMAGES WORK [REPORT]

Whatever this process has once looked up in the folder (a name that is there or not, a size, a listing) it is told
again for SECONDS, and it reads a file no further than the size it knows. What it creates, renames or removes itself it
sees at once; exclusive creates and renames are decided by the folder itself. WORK: seconds of the share's images.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

from helpers.storing import IDENTITY, features, source, stamps


class StaleView:
    """Replaces this process's system calls for all that lies below ``folder``."""

    def __init__(self, folder: str, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.seen: dict[tuple[str, str], tuple[float, Any]] = {}
        self.real = {
            n: getattr(os, n) for n in ("stat", "fstat", "open", "pread", "write", "pwrite", "scandir", "listdir")
        }
        self.real |= {n: getattr(os, n) for n in ("rename", "replace", "unlink", "mkdir", "rmdir", "ftruncate")}
        self.real["io.open"] = io.open
        os.stat, os.fstat, os.open, os.pread = self.stat, self.fstat, self.open, self.pread
        os.write, os.pwrite, os.scandir = self.write, self.pwrite, self.scandir
        for name in ("rename", "replace", "unlink", "mkdir", "rmdir"):
            setattr(os, name, self.own(name))
        io.open = builtins.open = self.io_open

    def inside(self, path: Any) -> str | None:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        path = os.path.abspath(os.fspath(path))
        return path if isinstance(path, str) and path.startswith(self.folder) else None

    def remembered(self, what: str, path: str, ask: Any) -> Any:
        """The answer of before, if it is not too old; OSErrors too."""
        when, answer = self.seen.get((what, path), (0.0, None))
        if time.monotonic() - when > self.seconds or not when:
            try:
                answer = ask()
            except OSError as error:
                answer = error
            self.seen[what, path] = (time.monotonic(), answer)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def forget(self, path: str) -> None:
        for name in (path, os.path.dirname(path)):
            self.seen.pop(("stat", name), None)
            self.seen.pop(("list", name), None)

    def forget_all_of(self, path: str) -> None:
        """What is known of ``path``, of all below it and of the folder that holds it."""
        for what, known in list(self.seen):
            if known.startswith(path):
                self.seen.pop((what, known))
        self.forget(path)

    def stat(self, path: Any, **more: Any) -> os.stat_result:
        mine = self.inside(path) if not more.get("dir_fd") else None
        return (
            self.remembered("stat", mine, lambda: self.real["stat"](path)) if mine else self.real["stat"](path, **more)
        )

    def fstat(self, fd: int) -> os.stat_result:
        mine = self.inside(fd)
        try:
            return self.remembered("stat", mine, lambda: self.real["fstat"](fd)) if mine else self.real["fstat"](fd)
        except FileNotFoundError:
            return self.real["fstat"](fd)

    def scandir(self, path: Any = ".") -> Any:
        mine = self.inside(path)
        if mine is None:
            return self.real["scandir"](path)
        entries = self.remembered("list", mine, lambda: list(self.real["scandir"](path)))

        class Listing(list[Any]):
            def __enter__(self) -> Listing:
                return self

            def __exit__(self, *_: object) -> None: ...

        return Listing(entries)

    def _before_opening(self, path: Any, creates: bool, exclusive: bool) -> None:
        mine = self.inside(path)
        if mine and creates:
            when, answer = self.seen.get(("stat", mine), (0.0, None))
            there = time.monotonic() - when <= self.seconds and when and not isinstance(answer, OSError)
            if exclusive and there:
                raise FileExistsError(17, "File exists (as seen before)", mine)
            if not there:
                self.forget(mine)
        elif mine:
            self.stat(path)  # ENOENT as remembered

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        self._before_opening(path, bool(flags & os.O_CREAT), bool(flags & os.O_EXCL))
        return int(self.real["open"](path, flags, mode, **more))

    def io_open(self, file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        if not isinstance(file, int) and self.inside(file):
            self._before_opening(file, any(c in mode for c in "wax"), "x" in mode)
            if mode in ("r", "rb") and os.fspath(file).endswith(".json"):
                data = self.real["io.open"](file, "rb").read()[: self.stat(file).st_size]
                return io.BytesIO(data) if mode == "rb" else io.StringIO(data.decode())
        return self.real["io.open"](file, mode, *args, **more)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        known = self.fstat(fd).st_size
        return bytes(self.real["pread"](fd, max(0, min(size, known - offset)), offset))

    def write(self, fd: int, data: Any) -> int:
        mine = self.inside(fd)
        if mine:
            self.forget(mine)
        return int(self.real["write"](fd, data))

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        mine = self.inside(fd)
        if mine:
            self.forget(mine)
        return int(self.real["pwrite"](fd, data, offset))

    def own(self, name: str) -> Any:
        def act(*paths: Any, **more: Any) -> Any:
            try:
                return self.real[name](*paths, **more)
            finally:
                for path in paths:
                    if not isinstance(path, int) and (mine := self.inside(path)):
                        self.forget_all_of(mine)

        return act


def main() -> int:
    from feature_extraction.storage import files

    seconds, path = float(sys.argv[1]), Path(sys.argv[2]).absolute()
    index, count, images, work = int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
    files.PATIENCE, files.PATIENCE_HERE, files.ONE_KERNEL = 4 * seconds + 2, 0.5, frozenset()
    # what a machine saw of the folder before it was used
    StaleView(str(path.parent), seconds)
    for name in (path, path.with_name(path.name + ".work")):
        name.exists()
    print("ready", flush=True)
    sys.stdin.readline()
    return share(path, index, count, images, work)


def plain() -> int:
    """The share alone, on whatever file system OUTPUT lies: OUTPUT INDEX COUNT IMAGES WORK."""
    return share(Path(sys.argv[1]), *map(int, sys.argv[2:5]), float(sys.argv[5]))


def share(path: Path, index: int, count: int, images: int, work: float) -> int:
    from feature_extraction.errors import KitError
    from feature_extraction.storage.output import Output

    try:
        output = Output(path, IDENTITY, {"note": "x"}, index, count, say=print)
        ids = [str(i) for i in range(images)]
        for n, i in enumerate(ids):
            if n % count == index and not output.is_current(i, *source(i).stamp, lambda i=i: source(i).sha256):
                output.add(i, features(int(i)), source(i))
                output.sync()
                time.sleep(work * count / images)
        outcome = output.finish(stamps(ids), [])
        output.close()
    except KitError as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    print("waits" if outcome is None else f"wrote {outcome.images}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
