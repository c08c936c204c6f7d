"""The page in a browser: a cell brings its word's row, by mouse and by keyboard, in every width and both colours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.album import coco_id, make_album
from helpers.browser import Browser, chromium

from scripts.report.__main__ import main

CELL = f'.grid[aria-label^="Grid of {coco_id(2)}"] a:nth-of-type({{}})'
ENTER, ESCAPE, RIGHT, DOWN, TAB = 13, 27, 39, 40, 9
SHIFT = 8


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chromium()  # where there is none, nothing is computed
    folder = tmp_path_factory.mktemp("page")
    output = folder / "report.html"
    assert main(["--datasets", str(make_album(folder / "datasets")), "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, written: Path) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(shared: Browser, written: Path) -> Browser:
    """With the page freshly loaded, 1280 pixels wide."""
    shared.look(1280, 900, False)
    shared.open(written)
    return shared


def word_at(browser: Browser, cell: int) -> str:
    link = browser.run(f"document.querySelector('{CELL.format(cell)}').getAttribute('href')")
    assert isinstance(link, str)
    return link.removeprefix("#w")


def panel(browser: Browser) -> str:
    """The text of the panel; empty where it is hidden."""
    text = browser.run("(p => p.hidden ? '' : p.innerText)(document.getElementById('panel'))")
    assert isinstance(text, str)
    return text


def test_a_click_on_a_cell_shows_its_words_row(browser: Browser) -> None:
    assert panel(browser) == ""
    word = word_at(browser, 28)
    browser.click(CELL.format(28))
    assert f"word {word} " in panel(browser)
    assert "Nearest words:" in panel(browser)
    cells = "document.querySelectorAll('#panel .cells svg').length"
    row = f"document.querySelectorAll('#w{word} .cells svg').length"
    assert 0 < browser.run(cells) == browser.run(row)
    marked = browser.run("[...document.querySelectorAll('.grid a.same')].map(a => a.getAttribute('href'))")
    assert set(marked) == {f"#w{word}"}
    r = browser.run(
        f"(r => [r.top, r.bottom, document.getElementById('panel').getBoundingClientRect().top])"
        f"(document.querySelector('{CELL.format(28)}').getBoundingClientRect())"
    )
    assert 0 <= r[0] <= r[1] <= r[2]  # the cell is still seen, above the panel


def test_the_pictures_of_the_cells_are_drawn(browser: Browser, tmp_path: Path) -> None:
    browser.click(CELL.format(28))
    browser.screenshot(tmp_path / "seen.png")
    from PIL import Image

    x, y, w, h = browser.run(
        "(r => [r.x, r.y, r.width, r.height])(document.querySelector('#panel .cells svg').getBoundingClientRect())"
    )
    with Image.open(tmp_path / "seen.png") as seen:
        tile = seen.convert("RGB").crop((int(x), int(y), int(x + w), int(y + h)))
    assert len(tile.getcolors(1 << 16) or ()) > 100  # a photograph, no field of one colour


def test_a_grid_is_used_by_keyboard(browser: Browser) -> None:
    browser.run(f"document.querySelector('{CELL.format(1)}').focus()")
    browser.press("ArrowRight", RIGHT)
    browser.press("ArrowDown", DOWN)
    told = browser.run("document.activeElement.getAttribute('aria-label')")
    assert told == f"row 2, column 2: word {word_at(browser, 10)}"
    assert browser.run("getComputedStyle(document.activeElement.querySelector('text')).opacity") == "1"
    browser.press("Enter", ENTER, "\r")
    assert f"word {word_at(browser, 10)} " in panel(browser)
    browser.press("Escape", ESCAPE)
    assert panel(browser) == ""
    assert browser.run("document.activeElement.getAttribute('aria-label')") == told
    browser.press("Tab", TAB)  # one stop for each grid
    assert not browser.run(
        f"document.querySelector('{CELL.format(1)}').closest('.grid').contains(document.activeElement)"
    )


def test_the_tab_key_goes_into_the_panel_and_back(browser: Browser) -> None:
    browser.run(f"document.querySelector('{CELL.format(28)}').focus()")
    browser.press("Enter", ENTER, "\r")
    browser.press("Tab", TAB)
    assert browser.run("document.activeElement.className") == "close"
    browser.press("Tab", TAB)
    near = browser.run("document.activeElement.textContent")
    browser.press("Enter", ENTER, "\r")
    assert f"word {near} " in panel(browser)
    assert browser.run("document.activeElement.className") == "close"  # its link is gone with the row
    browser.press("Tab", TAB, modifiers=SHIFT)
    assert browser.run(f"document.activeElement === document.querySelector('{CELL.format(28)}')")


def test_everything_the_tab_key_stops_at_is_seen_and_marked(browser: Browser) -> None:
    seen = []
    for _ in range(60):
        browser.press("Tab", TAB)
        told = browser.run(
            "(e => { const r = e.getBoundingClientRect(), s = getComputedStyle(e);"
            "return e === document.body ? null : [e.tagName, e.getAttribute('aria-label') || e.textContent.trim(),"
            "r.width * r.height, Boolean(e.closest('.grid')?.querySelector('.cursor')) || s.outlineWidth === '3px'] })"
            "(document.activeElement)"
        )
        if told is None:
            break
        seen.append(told)
    assert len(seen) > 20
    assert [one for one in seen if not (one[1] or one[0] == "INPUT") or one[2] <= 0 or not one[3]] == []


def test_a_word_is_found_by_its_number(browser: Browser) -> None:
    browser.run("document.querySelector('.find input').focus()")
    browser.run("document.querySelector('.find input').value = '7'")
    browser.press("Enter", ENTER, "\r")
    assert "word 7 " in panel(browser)
    browser.run("document.querySelector('.find input').value = '99'")
    browser.press("Enter", ENTER, "\r")
    assert "no row of word 99" in browser.run("document.querySelector('.find output').textContent")


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_is_wider_than_the_window(browser: Browser, width: int, dark: bool) -> None:
    browser.look(width, 900, dark)
    browser.click(CELL.format(28))
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.getElementById('panel').scrollWidth") <= width


def test_dark_is_dark(browser: Browser) -> None:
    colour = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    assert min(browser.run(colour)) > 200
    browser.look(1280, 900, True)
    assert max(browser.run(colour)) < 60


@pytest.mark.parametrize("width", [400, 768, 1280])
def test_a_long_verdict_stays_in_the_window(browser: Browser, width: int) -> None:
    browser.look(width, 900, False)
    browser.run(
        "document.querySelector('h1 span').textContent = 'all images of COCO train, '.repeat(8) + 'x'.repeat(9)"
    )
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_nothing_is_fetched_and_nothing_goes_wrong(browser: Browser) -> None:
    browser.click(CELL.format(28))
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    told = [e["params"] for e in browser.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert told == []


def test_without_scripts_a_cell_is_a_link_to_the_row(written: Path, tmp_path: Path) -> None:
    with Browser(tmp_path, scripts=False) as plain:
        plain.open(written)
        selector = CELL.format(28)
        links = plain.run(f"document.querySelector('{selector}').getAttribute('href')")
        plain.click(selector)
        assert plain.run("location.hash") == links
        at = "document.querySelector(':target').getBoundingClientRect().top"
        deadline = time.monotonic() + 10  # the page glides there
        while not 0 <= plain.run(at) < 900:
            assert time.monotonic() < deadline
            time.sleep(0.05)
