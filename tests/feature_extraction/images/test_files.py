"""files.py: pixels and digest of the same bytes, whatever happens to the file meanwhile."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import bad_images

from feature_extraction.errors import ImageError
from feature_extraction.images import files
from feature_extraction.images.decode import decode_image, read_image
from feature_extraction.images.files import file_sha256, stamp


@pytest.fixture(params=["in memory", "on the disk"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small files are read once; larger ones stay where they are."""
    if request.param == "on the disk":
        monkeypatch.setattr(files, "IN_MEMORY", 100)
    return str(request.param)


def test_the_source_is_what_was_decoded(tmp_path: Path, anywhere: str) -> None:
    (tmp_path / "real").mkdir()
    path = tmp_path / "real" / "1.jpg"
    path.write_bytes(bad_images.JPEG)
    os.utime(path, ns=(5, 1_234_567_890_123_456_789))
    (tmp_path / "linked").symlink_to("real")
    pixels, source = read_image(tmp_path / "linked" / "1.jpg")
    np.testing.assert_array_equal(pixels, decode_image(path))
    assert source.path == str(path.resolve())
    assert (source.size, source.mtime_ns) == (len(bad_images.JPEG), 1_234_567_890_123_456_789)
    assert source.sha256 == hashlib.sha256(bad_images.JPEG).hexdigest() == file_sha256(path)
    assert stamp(tmp_path / "linked" / "1.jpg") == (source.path, source.size, source.mtime_ns)


@pytest.mark.parametrize("case", [c for c in bad_images.CASES if c.fails_in == ""], ids=lambda c: ascii(c.name)[1:31])
def test_every_format_gives_the_same_pixels_from_memory_and_disk(
    case: bad_images.Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / case.name
    case.make(path)
    pixels, source = read_image(path)
    monkeypatch.setattr(files, "IN_MEMORY", 1)
    again, other = read_image(path)
    assert pixels.tobytes() == again.tobytes()
    assert source == other


def change(path: Path, how: str) -> None:
    if how == "replaced":
        (path.parent / "new").write_bytes(bad_images.PNG)
        (path.parent / "new").rename(path)
    elif how == "grown":
        with path.open("ab") as file:
            file.write(b"more")
    elif how == "shorter":
        os.truncate(path, 999)
    elif how == "other bytes, same size and time":
        before = path.stat()
        path.write_bytes(bad_images.JPEG[:-1] + b"\0")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif how == "removed":
        path.unlink()


@pytest.mark.parametrize("how", ["grown", "shorter", "replaced", "removed", "other bytes, same size and time"])
def test_a_file_that_changes_while_it_is_read(
    how: str, tmp_path: Path, anywhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never pixels of one file with the digest of another."""
    path = tmp_path / "1.jpg"
    path.write_bytes(bad_images.JPEG)
    expected = decode_image(path)
    wait: Callable[..., object] = files._check_kind

    def changing(info: os.stat_result) -> None:  # between opening and reading
        wait(info)
        monkeypatch.setattr(files, "_check_kind", wait)
        real = os.fstat

        def later(descriptor: int) -> os.stat_result:
            result = real(descriptor)
            monkeypatch.setattr(os, "fstat", real)
            change(path, how)
            return result

        monkeypatch.setattr(os, "fstat", later)

    monkeypatch.setattr(files, "_check_kind", changing)
    try:
        pixels, source = read_image(path)
    except ImageError as error:
        reason = str(error)
        assert how in ("grown", "shorter", "other bytes, same size and time"), reason
        assert reason.startswith("changed while it was read") or "truncated" in reason
        return
    # the file that was opened is read to its end, though its name is another's by now
    if how == "other bytes, same size and time":
        assert source.sha256 == file_sha256(path)
    else:
        assert how in ("replaced", "removed")
        assert source.sha256 == hashlib.sha256(bad_images.JPEG).hexdigest()
        np.testing.assert_array_equal(pixels, expected)


def test_a_large_file_that_changes_between_digest_and_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same size and time: the second digest tells."""
    monkeypatch.setattr(files, "IN_MEMORY", 100)
    path = tmp_path / "1.bmp"
    path.write_bytes(bad_images.BMP)
    before = path.stat()

    def read() -> None:
        with files.open_for_good(str(path)) as (file, _):
            path.write_bytes(bad_images.BMP[:-1] + b"\1")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            file.read()

    with pytest.raises(ImageError, match="changed while it was read"):
        read()


def test_a_file_written_all_the_time(tmp_path: Path, anywhere: str) -> None:
    """Two images of one size take turns: what comes back is one of them, with its own digest, or an error."""
    path = tmp_path / "1.bmp"
    contents = [bad_images.BMP[:54] + bytes([value]) * (len(bad_images.BMP) - 54) for value in (10, 200)]
    digests = {hashlib.sha256(content).hexdigest(): value for content, value in zip(contents, (10, 200), strict=True)}
    path.write_bytes(contents[0])
    stopping = threading.Event()

    def rewrite() -> None:
        while not stopping.is_set():
            for content in contents:
                with path.open("r+b") as file:
                    file.write(content)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(150):
            try:
                pixels, source = read_image(path)
            except ImageError:
                continue
            if source.sha256 in digests:
                assert (pixels == digests[source.sha256]).all()
            else:  # half of each, and so are the pixels
                assert len(np.unique(pixels)) > 1
    finally:
        stopping.set()
        writer.join()


def test_files_that_cannot_be_asked(tmp_path: Path) -> None:
    gone = tmp_path / "gone.jpg"
    assert stamp(gone) == (str(gone.resolve()), -1, -1)
    assert file_sha256(gone) == ""
    (tmp_path / "loop").symlink_to("loop")
    assert stamp(tmp_path / "loop")[1:] == (-1, -1)
    os.mkfifo(tmp_path / "pipe")
    assert file_sha256(tmp_path / "pipe") == ""
    assert file_sha256(tmp_path) == ""


def test_names_are_printable(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\x1b[2J\n\xe9.jpg")
    path.write_bytes(bad_images.JPEG)
    _, source = read_image(path)
    assert source.path.endswith(r"/a\x1b[2J\x0a\xe9.jpg")
    assert stamp(path).path == source.path
