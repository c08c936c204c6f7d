"""Centroids from elsewhere, the paper's for one, put under the published name, and their origin beside them.

The name holds one vocabulary at a time, since X-LXMERT's programs look for no other: what is there stays, unless it is
asked to make way; then it moves aside whole, with all that was assigned to it (``former.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from feature_extraction.errors import VocabularyError
from feature_extraction.places import to_type
from feature_extraction.storage import files

from . import former, results
from .blocks import Rows
from .comm import SingleProcess
from .options import Options
from .pipeline import alone, clean_up, prepare, tell_moved
from .progress import Reporter

ORIGIN: Final = "origin"
"""In the statistics of centroids that were not trained here: where they come from."""


def origin_of(centroids: Path) -> dict[str, Any]:
    """What is written beside ``centroids`` of where they come from; empty where they were trained here."""
    found = results.load_json(results.stats_of(centroids)).get(ORIGIN)
    return found if isinstance(found, dict) else {}


def put_in_place(
    options: Options, centroids: Rows, origin: Mapping[str, str], *, make_way: bool, report: Reporter
) -> Path:
    """Write ``centroids`` (k, d) under the name that ``options`` give them; returns the path.

    ``make_way``: other centroids of that name move aside. Without it they are a VocabularyError, which says so."""
    setting = prepare(options, SingleProcess(), report)
    names, new = setting.names, results.digest(centroids)
    with alone(setting):
        old = results.digest_of_centroids(names.centroids)
        if old not in (None, new) and not make_way:
            raise VocabularyError(_taken(names, old or ""))
        if old is None and results.digest_of_centroids(names.alias) not in (None, new):
            raise VocabularyError(f"{names.alias} holds another vocabulary, which would be hidden: move it away")
        if old != new:
            files.check_room(names.folder, 2 * centroids.nbytes, "centroids", VocabularyError)
            tell_moved(setting, former.make_way(names, new))
            results.save_array(names.centroids, names.work, centroids)
        results.link(names.centroids)
        stats = results.load_json(names.stats)
        if stats.get(results.DIGEST) != new:
            stats = {results.DIGEST: new, "targets": {}}
        if "training" not in stats and stats.get(ORIGIN) != origin:
            results.save_json(names.stats, names.work, {**stats, ORIGIN: dict(origin)})
        clean_up(setting, None)
    return names.centroids


def save_beside(path: Path, centroids: Rows, origin: Mapping[str, str], *, replace: bool) -> None:
    """Write ``centroids`` to a file of any name, and what they are beside it.

    Raises VocabularyError where the file holds something else, unless it may be replaced."""
    new = results.digest(centroids)
    if results.digest_of_centroids(path) not in (None, new) and not replace:
        raise VocabularyError(f"{path} is there and holds something else: give another --output, or --force")
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_file(path) as file:
        np.save(file, centroids, allow_pickle=False)
    text = results.json_text({results.DIGEST: new, ORIGIN: dict(origin), "targets": {}})
    files.atomic_write(results.stats_of(path), text)


def _taken(names: results.ResultNames, old: str) -> str:
    aside = names.folder / f"{former.FORMER}{old[:8] or former.UNKNOWN}"
    return (
        f"{names.centroids} holds another vocabulary: --force moves it, whole and with all that was assigned to it, to "
        f"{aside} and gives the name to this one; --output FILE.npy leaves it and writes this one elsewhere; "
        f"{to_type('verify-kmeans')} compares the two as they are"
    )
