"""X-LXMERT's visual vocabulary: k-means over grid features, and what it makes of an image.

The public Python API is loaded on first use; importing this package imports neither torch nor faiss.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kmeans.job import run
    from kmeans.options import Options
    from kmeans.vocabulary import Vocabulary, load_vocabulary

__all__ = ["Options", "Vocabulary", "load_vocabulary", "run"]

_HOME = {"Options": "options", "run": "job", "Vocabulary": "vocabulary", "load_vocabulary": "vocabulary"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
