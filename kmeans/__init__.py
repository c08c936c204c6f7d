"""X-LXMERT's visual vocabulary: k-means over grid features, and what it makes of an image.

The public Python API is loaded on first use; importing this package imports neither torch nor faiss.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .nearest_cells import Cell
    from .options import Options
    from .pipeline import Outcome, run
    from .vocabulary import Vocabulary, load_vocabulary

__all__ = ["Cell", "Options", "Outcome", "Vocabulary", "load_vocabulary", "run"]

_HOME = {
    "Cell": "nearest_cells",
    "Options": "options",
    "Outcome": "pipeline",
    "run": "pipeline",
    "Vocabulary": "vocabulary",
    "load_vocabulary": "vocabulary",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
