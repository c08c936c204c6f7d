"""names.py: what is shown moves nothing on a terminal, forges no line, and can be encoded."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_extraction.names import json_printable, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain.jpg", "plain.jpg"),
        ("ünïcödé 写真 🐈", "ünïcödé 写真 🐈"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),  # an emoji of two, joined
        ("a\x1b]0;owned\x07\x1b[2J", r"a\x1b]0;owned\x07\x1b[2J"),
        ("two\nlines\r", r"two\x0alines\x0d"),
        ("\x7f\x85\x9b31m", r"\x7f\x85\x9b31m"),  # delete, and the one-byte forms of line break and escape
        ("\u2028\u2029", r"\u2028\u2029"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),  # shown from right to left
        ("\ufeff\u200b", r"\ufeff\u200b"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        (b"caf\xe9 \xc3\xa9", r"caf\xe9 é"),
        (Path("a\tb"), r"a\x09b"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
    ],
)
def test_by_hand(name: str | bytes | Path, shown: str) -> None:
    assert printable(name) == shown


@given(st.text(st.characters()) | st.binary())
def test_nothing_hidden_is_left(name: str | bytes) -> None:
    shown = printable(name)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert not {unicodedata.category(c) for c in shown.replace("\u200c", "").replace("\u200d", "")} & {
        "Cc", "Cf", "Cs", "Zl", "Zp",
    }  # fmt: skip
    assert printable(shown) == shown


@given(st.dictionaries(st.text(), st.text()))
def test_json_keeps_its_meaning(names: dict[str, str]) -> None:
    shown = json_printable(json.dumps(names, ensure_ascii=False, indent=1))
    assert json.loads(shown) == names
    assert printable(shown.replace("\n", "")) == shown.replace("\n", "")


def test_json_stays_readable() -> None:
    assert json_printable('{"é\x9b🐈": "\u202e"}') == '{"é\\u009b🐈": "\\u202e"}'
