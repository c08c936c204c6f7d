"""The shim (shim.c): compiled, told what to fail, asked how many calls there were."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("shim.c")

FULL: Final = ("ENOSPC", "EDQUOT")
SHORTENED: Final = ("EIO", "EINTR", "SHORT", "KILL")
BEFALLS: Final = {
    "open": ("EIO", *FULL, "EINTR", "KILL"),
    "write": (*FULL, *SHORTENED),
    "pwrite": (*FULL, *SHORTENED),
    "fsync": ("EIO", *FULL, "EINTR", "KILL"),
    "rename": ("EIO", *FULL, "KILL"),
    "unlink": ("EIO", "KILL"),
    "ftruncate": ("EIO", "ENOSPC", "EINTR", "KILL"),
    "read": SHORTENED,
    "pread": SHORTENED,
    "mmap": ("EIO", "ENOMEM", "KILL"),
    "close": ("EIO", *FULL, "EINTR", "KILL"),
    "mkdir": ("EIO", *FULL, "KILL"),
}
"""Kind of call -> what can befall it. open: also openat; unlink: also rmdir; mkdir: also symlink."""
LASTING: Final = ("EIO", *FULL)
"""What may befall all later calls of the kind too: a dead or a full disk."""


@dataclass(frozen=True, order=True)
class Fault:
    """What befalls the ``number``-th call (from 1) of a kind; ``lasting``: and all later ones."""

    call: str
    what: str
    number: int
    lasting: bool = False

    @classmethod
    def parse(cls, text: str) -> Fault:
        """From ``str(fault)``. Raises ValueError."""
        call, what, number, *more = text.split(":")
        if what not in BEFALLS.get(call, ()) or more not in ([], ["lasting"]):
            raise ValueError(f"{text!r} is no fault: expected CALL:WHAT:K or CALL:WHAT:K:lasting, of {BEFALLS}")
        return cls(call, what, int(number), bool(more))

    def __str__(self) -> str:
        return f"{self.call}:{self.what}:{self.number}" + ":lasting" * self.lasting

    def environment(self) -> dict[str, str]:
        return {
            "FAULT_CALL": self.call,
            "FAULT_WHAT": self.what if self.what in ("SHORT", "KILL") else str(getattr(errno, self.what)),
            "FAULT_AT": str(self.number),
            "FAULT_STICKY": str(int(self.lasting)),
        }


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the shim into ``folder``."""
    made, gcc = folder / "shim.so", compiler()
    if gcc is None:
        raise SystemExit("the fault campaign compiles its shim: it needs gcc (Debian: apt-get install gcc libc6-dev)")
    subprocess.run([gcc, "-shared", "-fPIC", "-O2", "-o", str(made), str(SOURCE), "-ldl"], check=True)
    return made


def configure(folder: Path, log: Path, fault: Fault | None) -> None:
    """In a process with the shim loaded: count calls below ``folder`` from now on, and let ``fault`` befall them."""
    for name in [name for name in os.environ if name.startswith("FAULT_")]:
        del os.environ[name]
    os.environ.update({"FAULT_FOLDER": str(folder), "FAULT_LOG": str(log), **(fault.environment() if fault else {})})
    ctypes.CDLL(None).fault_configure()


def counts() -> dict[str, int]:
    """Kind of call -> how many there were since ``configure``."""
    count = ctypes.CDLL(None).fault_count
    count.restype = ctypes.c_ulong
    return {call: int(count(call.encode())) for call in BEFALLS}
