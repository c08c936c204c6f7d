"""The page's figures: SVG inside the page, in its own colours, so that they are readable on light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

INK: Final = "#010203"
"""Stands for the page's own text colour in what matplotlib writes ..."""
MARK: Final = "#040506"
"""... and this for its accent."""
SIZE: Final = (4.6, 2.7)
"""Inches."""
MARGINS: Final = {"left": 0.1, "right": 0.97, "bottom": 0.18, "top": 0.92}
"""In parts of a figure. Fixed: a layout that matplotlib finds by itself is drawn twice."""
FEW: Final = 40
"""Words up to which each is a point: a line through one is nothing."""
LETTER: Final = 0.013
"""Width of a letter of the numbers on the left, in parts of the figure."""
COLOURS: Final = {INK: "currentColor", MARK: "var(--accent)"}
SETTINGS: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # the same data give the same page
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Plots:
    """Figures of one page; each gets names of its own inside the SVG."""

    def __init__(self) -> None:
        self._count = 0

    def objective(self, values: Sequence[float]) -> Markup:
        """The sum of squared distances after each iteration."""
        with mpl.rc_context(SETTINGS):
            figure, axes = _figure("iteration", "objective", max(values))
            numbers = np.arange(1, len(values) + 1)
            axes.plot(numbers, values, color=MARK, marker="o", markersize=3, linewidth=1.4)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            _whole(axes)
            told = f"Objective: {values[0]:,.0f} after iteration 1, {values[-1]:,.0f} after iteration {len(values)}"
            return self._svg(figure, told)

    def sizes(self, sizes: NDArray[np.int64]) -> Markup:
        """Cells of each word, words in the order of their size."""
        with mpl.rc_context(SETTINGS):
            ordered = np.sort(sizes[sizes > 0])[::-1]
            figure, axes = _figure("words, the largest first", "cells of a word", ordered[0])
            some = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), 600)).astype(int))
            marker = "o" if len(some) <= FEW else ""
            axes.plot(some + 1, ordered[some], color=MARK, marker=marker, markersize=3, linewidth=1.4)
            if ordered[0] > 20 * max(1, ordered[-1]):
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
            else:
                axes.set_ylim(bottom=0)
                _whole(axes)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
            told = f"Cells of a word: the largest has {ordered[0]:,}, the smallest that is used {ordered[-1]:,}"
            return self._svg(figure, told)

    def histogram(self, values: NDArray[Any], below: str, of: str) -> Markup:
        """How often values occur; ``of``: what is counted."""
        with mpl.rc_context(SETTINGS):
            counts, edges = np.histogram(values, bins=40)
            figure, axes = _figure(below, of, counts.max())
            axes.stairs(counts, edges, fill=True, color=MARK)
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(6))
            _whole(axes)
            told = (
                f"Histogram of {below}: median {np.median(values):.3g}, from {values.min():.3g} to {values.max():.3g}"
            )
            return self._svg(figure, told)

    def heat_map(self, values: NDArray[Any], title: str) -> Markup:
        """A value of each cell of the grid."""
        with mpl.rc_context(SETTINGS):
            figure = Figure(figsize=SIZE)
            axes = figure.subplots(gridspec_kw=MARGINS)  # rows have one digit or two
            bar = figure.colorbar(axes.imshow(values, cmap="viridis"))
            bar.outline.set_visible(False)
            axes.set_title(title, fontsize=9)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            return self._svg(figure, f"{title}: {values.min():.3g} to {values.max():.3g}")

    def _svg(self, figure: Figure, told: str) -> Markup:
        """The figure as an element of the page; ``told``: the same in words."""
        figure.patch.set_visible(False)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(
            r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.S
        )  # its rules would hold outside
        self._count += 1
        own = f"f{self._count}-"
        text = re.sub(r'\bid="', f'id="{own}', text)
        text = re.sub(r"url\(#", f"url(#{own}", text)
        text = re.sub(r'href="#', f'href="#{own}', text)
        text = re.sub(
            r'<svg ([^>]*?)width="[^"]*" height="[^"]*"|<svg height="[^"]*" ([^>]*?)width="[^"]*"', "<svg ", text
        )
        for stand_in, colour in COLOURS.items():
            text = text.replace(stand_in, colour)
        label = Markup.escape(told)
        return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))


def _figure(below: str, left: str, largest: float) -> tuple[Figure, Axes]:
    """``largest``: of the numbers on the left."""
    figure = Figure(figsize=SIZE)
    margin = MARGINS["left"] + LETTER * len(_thousands(1.1 * largest, None))
    axes = figure.subplots(gridspec_kw={**MARGINS, "left": margin})
    axes.set_xlabel(below)
    axes.set_ylabel(left)
    axes.tick_params(width=0.6, length=3)
    return figure, axes


def _whole(axes: Axes) -> None:
    """Whole numbers upwards."""
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(_thousands))


def _thousands(value: float, _: Any) -> str:
    return f"{value:,.0f}"
