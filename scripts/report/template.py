"""The template filled: every name from outside escaped and made printable, no script but the page's own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
from markupsafe import Markup

from feature_extraction.config import Boxes, Grid
from feature_extraction.drawing import ink_on, word_colour
from feature_extraction.names import printable
from feature_extraction.places import to_type

from .verdict import is_troubling

HERE: Final = Path(__file__).parent


def render(**content: Any) -> str:
    """The page as HTML; ``content``: what report.html.j2 names."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # whatever is shown of names, attributes and reasons: no control characters
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters.update(
        number=_number, bytes=_bytes, colour=word_colour, ink=ink_on, short=short, percent=_percent, path=_path
    )
    environment.tests["troubling"] = is_troubling
    environment.globals["to_type"] = to_type
    style = (HERE / "report.css").read_text(encoding="utf-8")
    script = (HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.get_template("report.html.j2")
    specs = {Grid.name: "grid", Boxes.name: "boxes"}
    return template.render(
        style=Markup(style), script=Markup(script), digest=digest, specs=specs, **content
    )  # our own two files


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:,.1f}"


def _bytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _percent(part: float) -> str:
    return f"{100 * part:.2g}%" if part < 0.01 else f"{part:.1%}"


def short(text: Any, limit: int = 300) -> str:
    """At most ``limit`` characters of something from outside."""
    shown = printable(str(text))
    return shown if len(shown) <= limit else shown[: limit - 1] + "\u2026"


def _path(text: Any) -> Markup:
    """The same of a path, which may be broken behind its slashes."""
    return Markup("/<wbr>").join(map(Markup.escape, short(text).split("/")))
