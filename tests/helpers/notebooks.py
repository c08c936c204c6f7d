"""Notebooks, run afresh by this very Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient


class ThisPython(AsyncKernelManager):
    """Starts the kernel with the Python that runs the tests, whatever kernels the user has installed, and speaks to it
    through sockets of the file system."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.transport = "ipc"

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        return [sys.executable, "-m", "ipykernel_launcher", "-f", self.connection_file, *(extra_arguments or [])]


def executed(path: Path, timeout: int = 600) -> Any:
    """The notebook with its outputs of now, run in its own folder. Raises CellExecutionError where a cell does."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, kernel_manager_class=ThisPython, timeout=timeout, record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    client.execute()
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook
