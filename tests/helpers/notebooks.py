"""Notebooks, run afresh by this very Python.

PYTHONPATH=tests python -m helpers.notebooks kmeans/tour.ipynb      stores what it shows now
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient


class ThisPython(AsyncKernelManager):
    """Starts the kernel with the Python that runs the tests, whatever kernels the user has installed."""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        return [sys.executable, "-m", "ipykernel_launcher", "-f", self.connection_file, *(extra_arguments or [])]


def executed(path: Path, timeout: int = 600) -> Any:
    """The notebook with its outputs of now, run in its own folder. Raises CellExecutionError where a cell does."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, kernel_manager_class=ThisPython, timeout=timeout, startup_timeout=timeout, record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    client.execute()
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def store(path: Path) -> None:
    """Run the notebook and keep its outputs in it, but for what tells of this machine's pace."""
    notebook = executed(path, timeout=3600)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    store(Path(sys.argv[1]))
