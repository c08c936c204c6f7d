"""jpeg.py: a JPEG that lacks data is refused where libjpeg warns, a whole one is read whatever lies behind it.

What libjpeg says is heard from OpenCV's copy of it, which prints its warnings.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import bad_images
from helpers.common import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from feature_extraction.errors import ImageError
from feature_extraction.images.decode import decode_image
from feature_extraction.images.jpeg import read_layout

END = b"\xff\xd9"


def encode(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def kinds() -> Iterator[tuple[str, bytes]]:
    """Whole JPEGs of every kind that libjpeg writes."""
    photograph = Image.fromarray(data.coffee()[100:163, 100:187])
    for quality in (30, 75, 97):
        for name, options in {
            "baseline": {}, "444": {"subsampling": 0}, "422 optimised": {"subsampling": 1, "optimize": True},
            "progressive": {"progressive": True}, "restart rows": {"restart_marker_rows": 1},
            "restart blocks": {"restart_marker_blocks": 3},
            "progressive restarts": {"progressive": True, "restart_marker_rows": 1},
        }.items():  # fmt: skip
            yield f"{name} {quality}", encode(photograph, quality=quality, **options)
        yield f"gray {quality}", encode(photograph.convert("L"), quality=quality)
        yield f"gray progressive {quality}", encode(photograph.convert("L"), quality=quality, progressive=True)
        yield f"cmyk {quality}", encode(photograph.convert("CMYK"), quality=quality)
        yield f"rgb {quality}", encode(photograph, quality=quality, keep_rgb=True)
    for size in ((1, 1), (3, 20), (9, 9), (16, 16), (17, 33), (200, 1)):
        yield f"{size}", encode(photograph.resize(size))
    yield "mid-gray", encode(Image.new("RGB", (50, 40), (128, 128, 128)))
    yield "black", encode(Image.new("RGB", (50, 40)))
    for path in sorted((DATA / "jpeg").glob("*.jpg")):
        yield path.stem, path.read_bytes()


KINDS = dict(kinds())


@pytest.fixture
def verdict(tmp_path: Path) -> Callable[[bytes], str]:
    path = tmp_path / "1.jpg"

    def judge(content: bytes) -> str:
        path.write_bytes(content)
        try:
            decode_image(path)
        except ImageError as error:
            return "refused" if "truncated" in str(error) else f"damaged: {error}"
        return "read"

    return judge


@pytest.fixture
def warns(capfd: pytest.CaptureFixture[str]) -> Callable[[bytes], str]:
    """What libjpeg prints about these bytes."""

    def ask(content: bytes) -> str:
        capfd.readouterr()
        cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        return capfd.readouterr().err.strip()

    return ask


@pytest.mark.parametrize("name", KINDS)
def test_whole_files_are_read(name: str, verdict: Callable[[bytes], str], warns: Callable[[bytes], str]) -> None:
    content = KINDS[name]
    assert warns(content) == ""
    for behind in (
        b"", bytes(1), bytes(5000), b"SEFH text of a phone" * 9, content, b"\0\0\0\x18ftypmp42" + bytes(2040),
        b"\xff" * 700, b"\xff\xd8\xff\xe1\0\x20Exif", content[: len(content) // 2],
    ):  # fmt: skip
        assert verdict(content + behind) == "read"
    for stretch in reversed(read_layout(content).stretches):  # any number of FF may precede a marker
        content = content[: stretch.end] + b"\xff\xff" + content[stretch.end :]
    assert verdict(content) == "read"


@pytest.mark.parametrize("name", KINDS)
def test_files_cut_anywhere_are_refused_where_libjpeg_warns(
    name: str, verdict: Callable[[bytes], str], warns: Callable[[bytes], str]
) -> None:
    """Every one of the last 12 bytes, and a dozen further in front, an end marker behind each."""
    content = KINDS[name]
    layout = read_layout(content)
    first, last = content.index(b"\xff\xda") + 14, layout.stretches[-1].end
    for cut in [*range(max(first, last - 12), last), *np.linspace(first, last - 13, 12).astype(int)]:
        if not first <= cut < last or content[cut - 1] == 0xFF:
            continue
        damaged = content[:cut] + END
        warning = warns(damaged)
        if "premature end" in warning or "instead of RST" in warning:
            assert verdict(damaged) != "read", last - cut
            assert verdict(damaged + bytes(700)) != "read"
        elif not name.startswith("arithmetic"):  # an arithmetic decoder puts zeros in place of what lacks, silently
            assert verdict(damaged) != "read" or warning == "", warning


def test_zeros_and_nothing_at_the_end_are_told(verdict: Callable[[bytes], str], tmp_path: Path) -> None:
    content = KINDS["baseline 75"]
    for cut in (len(content) // 2, len(content) - 300, len(content) - 2):
        assert verdict(content[:cut]) == "refused"
        assert verdict(content[:cut] + bytes(40)) == "refused"
        assert verdict(content[:cut] + bytes(4000)) == "refused"
    path = tmp_path / "1.jpg"
    path.write_bytes(content[:1000] + bytes(4000))
    with pytest.raises(ImageError, match="truncated JPEG: the last 4,000 of 5,000 bytes are zeros"):
        decode_image(path)


def test_a_stretch_in_the_middle_that_is_too_short_is_refused(verdict: Callable[[bytes], str]) -> None:
    for name in ("restart rows 75", "restart blocks 97", "scans", "progressive restarts 30"):
        content = KINDS[name]
        ends = [stretch.end for stretch in read_layout(content).stretches]
        starts = [content.index(b"\xff\xda") + 14, *(end + 2 for end in ends)]
        longest = max(range(len(ends)), key=lambda i: ends[i] - starts[i])
        cut = (starts[longest] + ends[longest]) // 2
        assert verdict(content[:cut] + content[ends[longest] :]) != "read", name
        for end in ends[:-1]:
            if content[end - 5] != 0xFF and "progressive" not in name:
                assert verdict(content[: end - 4] + content[end:]) != "read", (name, end)


def test_missing_restarts_are_noticed(verdict: Callable[[bytes], str]) -> None:
    """Whole stretches between restart markers gone: nothing is cut short, and libjpeg fills up all the same."""
    for name in ("restart rows 75", "restart blocks 97", "restart blocks 30"):
        content = KINDS[name]
        ends = [stretch.end for stretch in read_layout(content).stretches]
        for first in range(len(ends) - 1):
            for count in (1, 2, 8):
                if first + count < len(ends):
                    gone = content[: ends[first]] + content[ends[first + count] :]
                    assert verdict(gone) != "read", (name, first, count)


def test_arithmetic_codes_are_refused_where_much_is_missing(verdict: Callable[[bytes], str]) -> None:
    content = KINDS["arithmetic"]
    found = Counter(verdict(content[:cut] + END) for cut in range(400, len(content) - 300, 23))
    assert found["refused"] > 5 * found["read"]  # libjpeg says nothing of any


def test_a_taller_header_than_image_is_refused(verdict: Callable[[bytes], str]) -> None:
    content = bytearray(KINDS["baseline 75"])
    at = read_layout(bytes(content)).frame + 4
    height = int.from_bytes(content[at : at + 2])
    content[at : at + 2] = (height + 64).to_bytes(2)
    assert verdict(bytes(content)) == "refused"


def test_previews_do_not_count(verdict: Callable[[bytes], str]) -> None:
    """Markers inside a segment are its content: a whole preview in front of half an image, and the other way round."""
    content = KINDS["baseline 75"]
    preview = KINDS["gray 30"]
    segment = b"\xff\xe1" + (2 + len(preview)).to_bytes(2) + preview
    assert verdict(content[:2] + segment + content[2:]) == "read"
    assert verdict(content[:2] + segment + content[2 : len(content) // 2] + END) == "refused"
    half = preview[: len(preview) // 2]
    segment = b"\xff\xe1" + (2 + len(half)).to_bytes(2) + half
    assert verdict(content[:2] + segment + content[2:]) == "read"


def test_pixels_are_those_of_the_file_itself(tmp_path: Path) -> None:
    for name, content in KINDS.items():
        path = tmp_path / "1.jpg"
        path.write_bytes(content)
        with Image.open(path) as image:
            np.testing.assert_array_equal(decode_image(path), np.asarray(image.convert("RGB")), name)


def test_an_open_image_is_judged_as_its_file(tmp_path: Path) -> None:
    content = KINDS["baseline 75"]
    path = tmp_path / "1.jpg"
    path.write_bytes(content[: len(content) // 2] + END)
    with Image.open(path) as image, pytest.raises(ImageError, match="truncated JPEG"):
        decode_image(image)
    path.write_bytes(content)
    with Image.open(path) as image:
        image.draft("RGB", (20, 20))
        assert decode_image(image).shape == (*image.size[::-1], 3)
    assert decode_image(path, "as_published").shape == (63, 87, 3)
    path.write_bytes(content[: len(content) // 2] + END)
    assert decode_image(path, "as_published").shape == (63, 87, 3)  # as the published scripts do


def test_what_flipped_bytes_do(
    verdict: Callable[[bytes], str], warns: Callable[[bytes], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Most flips give other pixels and no word; those that leave data missing are refused."""
    random = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for name in ("baseline 75", "444 97", "gray 30", "restart rows 75"):
        content = KINDS[name]
        for _ in range(50):
            damaged = bytearray(content)
            damaged[random.integers(content.index(b"\xff\xda") + 14, len(content) - 2)] ^= int(random.integers(1, 256))
            warning = warns(bytes(damaged)).lower()
            kind = "missing data" if "premature" in warning else "another warning" if warning else "silent"
            result = verdict(bytes(damaged))
            counts[f"{kind}: {result.partition(':')[0]}"] += 1
            assert (kind, result) != ("missing data", "read"), name
    with capfd.disabled():
        print("\nflipped bytes in JPEGs, what libjpeg says and what we do:", dict(counts))


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=300))
def test_any_bytes_have_a_layout(content: bytes) -> None:
    for prefix in (b"\xff\xd8", bad_images.JPEG[:700], b""):
        layout = read_layout(prefix + content)
        assert 0 <= layout.end <= len(prefix + content)
        assert layout.stretches == sorted(layout.stretches)


def test_depths_that_are_not_read_are_named(tmp_path: Path) -> None:
    content = bytearray(KINDS["baseline 75"])
    content[read_layout(bytes(content)).frame + 3] = 12
    path = tmp_path / "1.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"^JPEG of 12 bits a sample: not read; save it as RGB of 8 bits$"):
        decode_image(path)
