"""A feature file from its journals alone, without the images and without a detector."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import StoreError
from . import files, shares
from .assemble import Assembly, Incomplete, Outcome
from .bounded import read_json
from .journal import journal_name, journals, share_of
from .journal_writer import JournalWriter
from .output import MANIFEST, in_one_line, plan_digest, plan_name, recipe_digest, what_it_says
from .shares import Register
from .store import image_ids, open_features, work_dir
from .stored import Stored


def assemble_by_hand(path: Path, *, say: Callable[[str], None] = lambda text: None) -> Outcome:
    """Write the feature file from its journals alone, without images or detector.

    For runs whose last share was killed, or that can no longer be run. Raises StoreError: StoreBusy where a share is at
    work, Incomplete with the ids that are missing, and which shares never ended."""
    folder = work_dir(path)
    shares.remove_leftovers(folder)
    if not folder.is_dir():
        open_features(path).close()  # otherwise what it is instead is told
        raise StoreError(f"{path} is whole: there is nothing to assemble ({folder} is not there)")
    with in_one_line(f"{path} cannot be assembled"), contextlib.ExitStack() as stack:
        journal = JournalWriter(folder, 0, 0)
        stack.callback(journal.close)
        register = Register(folder)
        register.catch_up()
        identity = what_it_says(folder / MANIFEST)
        if identity is None and not register.closed:
            raise StoreError(f"{folder} holds no features yet (no {MANIFEST}): run the command that makes {path.name}")
        if identity is not None and not register.closed:
            outcome = _by_hand(path, folder, identity, register, journal, say)
        else:
            with open_features(path) as file:
                outcome = Outcome(len(image_ids(file)), [], [])
        journal.close()
        if register.closed or register.close():
            shares.remove(folder)
        return outcome


def _by_hand(
    path: Path, folder: Path, identity: dict[str, Any], register: Register, journal: JournalWriter,
    say: Callable[[str], None],
) -> Outcome:  # fmt: skip
    recipe = recipe_digest(identity)
    stored = Stored(None, recipe)
    stored.learn(journals(folder))
    ended = {j: str(end.more.get("plan")) for j, end in stored.ends.items()}
    if not ended:
        raise StoreError(
            f"{path} cannot be assembled: none of its shares has ended, so its images are not known; "
            f"{sum(1 for _ in stored.ids()):,} are stored in {folder}. Run the command that makes it again, it resumes"
        )
    newest = max(ended, key=lambda j: stored.ends[j].time)
    plan, (_, count) = ended[newest], share_of(newest) or (0, 1)
    names = [folder / journal_name(i, count) for i in range(count)]
    unended = [i for i, name in enumerate(names) if ended.get(name) != plan]
    never = f"; never ended: share {', '.join(str(i + 1) for i in unended)} of {count}" if unended else ""
    try:
        ids = read_json(folder / plan_name(plan))
        if plan_digest(ids) != plan:
            raise ValueError
    except (OSError, ValueError, TypeError):
        raise StoreError(
            f"{path} cannot be assembled: {folder / plan_name(plan)}, the list of its images, is missing or damaged"
            f"{never}. Run the command that makes it again, it resumes"
        ) from None

    def void(image_id: str, place: str) -> None:
        journal.void(image_id, place)
        journal.sync()

    assembly = Assembly(
        path, folder, recipe, identity, register.notes(), dict.fromkeys(ids),
        [name for i, name in enumerate(names) if i not in unended], dict.fromkeys(names, 0), void, say,
    )  # fmt: skip
    try:
        with files.exclusive(folder / "assemble.lock", wait=True):
            return assembly.run()
    except Incomplete as error:
        raise Incomplete(f"{error}{never}", error.missing) from None
