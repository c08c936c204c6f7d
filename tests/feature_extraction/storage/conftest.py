"""What tests of files in the making share."""

from __future__ import annotations

import pytest

from feature_extraction.storage import files


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else's change of the folder is waited for."""
    monkeypatch.setattr(files, "PATIENCE_HERE", 0.2)
