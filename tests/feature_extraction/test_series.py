"""A series of tars: a file each, the same features as of files, whoever is killed or split."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from helpers.common import ROOT, finish
from helpers.file_server import serving
from helpers.tars import jpeg, member, samples, tar_bytes, write_folder, write_tar
from hypothesis import given
from hypothesis import strategies as st

from feature_extraction import cli, pipeline
from feature_extraction.config import (
    EXIT_ALL,
    EXIT_NOTHING,
    EXIT_SOME_FAILED,
    EXIT_USAGE,
    Boxes,
    ExtractConfig,
    Grid,
    Spec,
)
from feature_extraction.errors import UsageError
from feature_extraction.images import tar
from feature_extraction.series import Refused, Summary, extract_series, outputs, shares
from feature_extraction.storage.store import image_ids, open_features, provenance, work_dir

Command = Callable[..., subprocess.Popen[str]]
Features = dict[str, np.ndarray]


def features(path: Path) -> Features:
    with open_features(path) as file:
        return {image_id: file[image_id]["features"][()] for image_id in image_ids(file)}


def assert_equal(found: Features, expected: Features) -> None:
    assert list(found) == list(expected)
    for image_id in expected:
        np.testing.assert_array_equal(found[image_id], expected[image_id])


class Run:
    """Runs extractions of a series of three tars of eight images."""

    def __init__(self, root: Path, checkpoint: Path) -> None:
        self.root, self.checkpoint, self.output = root, checkpoint, root / "features"
        self.images: str | Path = root / "cc/{00000..00002}.tar"
        self.said: list[str] = []
        self.results: list[pipeline.Report | Refused] = []
        for number in range(3):
            write_tar(self.tar(number), range(8 * number, 8 * number + 8))

    def tar(self, number: int) -> Path:
        return self.root / f"cc/{number:05}.tar"

    def file(self, number: int) -> Path:
        return self.output / f"{number:05}_grid8_imsize64.h5"

    def __call__(self, *specs: Spec, **settings: object) -> Summary:
        self.said.clear()
        values = {"images": self.images, "output": self.output, "checkpoint_dir": self.checkpoint, "device": "cpu"}
        configs = [ExtractConfig(spec=spec, **{**values, **settings}) for spec in specs or (Grid(imsize=64),)]
        summary = Summary()
        self.results = list(extract_series(configs, threading.Event(), self.said.append))
        for result in self.results:
            summary.add(result)
        return summary

    def all_features(self) -> Features:
        return {k: v for number in range(3) for k, v in features(self.file(number)).items()}


@pytest.fixture
def run(tmp_path: Path, tiny_checkpoint: Path) -> Run:
    return Run(tmp_path, tiny_checkpoint)


@pytest.fixture(scope="module")
def as_files(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Features:
    """The same 24 images unpacked."""
    root = tmp_path_factory.mktemp("files")
    config = ExtractConfig(
        spec=Grid(imsize=64), images=write_folder(root / "images", range(24)), output=root / "f.h5",
        checkpoint_dir=tiny_checkpoint, device="cpu",
    )  # fmt: skip
    assert pipeline.extract(config, threading.Event()).exit_code == EXIT_ALL
    return features(root / "f.h5")


# --- what is made of what ---------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_file_is_made_once_by_however_many_processes(files: int, count: int) -> None:
    done: dict[int, list[tuple[int, int]]] = {}
    for index in range(count):
        for number, share in shares(files, index, count):
            done.setdefault(number, []).append(share)
    assert sorted(done) == list(range(files))
    for found in done.values():
        assert sorted(found) == [(i, len(found)) for i in range(len(found))]
        assert max(len(f) for f in done.values()) - len(found) <= 1  # evenly


def planned(images: str | Path, output: str, *specs: Spec) -> list[list[tuple[str | Path, Path]]]:
    configs = [ExtractConfig(spec=spec, images=images, output=Path(output)) for spec in specs or (Grid(),)]
    return [[(config.images, config.output) for config in one] for one in outputs(configs)]


def test_a_series_makes_a_file_per_tar_and_anything_else_one() -> None:
    grid, boxes = Path("f/9_grid8.h5"), Path("f/9_boxes36.h5")
    ten = Path("f/10_grid8.h5"), Path("f/10_boxes36.h5")
    assert planned("s3://b/{9..10}.tar", "f", Grid(), Boxes()) == [
        [("s3://b/9.tar", grid), ("s3://b/9.tar", boxes)],
        [("s3://b/10.tar", ten[0]), ("s3://b/10.tar", ten[1])],
    ]
    assert planned(Path("9.tar"), "f") == [[(Path("9.tar"), grid)]]
    assert planned(Path("9.tar"), "f.h5") == [[(Path("9.tar"), Path("f.h5"))]]
    assert planned(Path("images"), "f.h5") == [[(Path("images"), Path("f.h5"))]]


@pytest.mark.parametrize(
    ("images", "output", "said"),
    [
        ("{0..3}.tar", "f.h5", r"one file, where \{0..3\}.tar names 4 tars; give a folder"),
        ("images", "f", r"ends in \.h5"),
        ("{a,b}/0.tar", "f", "names 2 tars called 0, which would make one file"),
    ],
)
def test_outputs_that_do_not_fit(images: str, output: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        planned(Path(images), output)


def test_a_series_that_the_shell_has_expanded_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--images", *(f"cc/{n:05}.tar" for n in range(300)), "--output", "f"])
    assert caught.value.code == EXIT_USAGE
    said = capsys.readouterr().err
    assert said.startswith(
        "python -m feature_extraction: error: unexpected cc/00001.tar: values stand after their flags; quote a name "
        "with blanks, and a series"
    )
    assert len(said) < 200


# --- the same features ----------------------------------------------------------------------------------


def test_features_of_tars_are_those_of_the_files(run: Run, as_files: Features) -> None:
    assert run().exit_code == EXIT_ALL
    assert_equal(run.all_features(), as_files)
    assert sum("loading the detector" in line for line in run.said) == 1
    assert sum("other members" in line for line in run.said) == 3
    with open_features(run.file(0)) as file:
        assert provenance(file)["archive"] == str(run.tar(0))


@pytest.mark.parametrize("count", [2, 5])
def test_shares_take_every_nth_tar_and_split_them_where_they_are_fewer(
    run: Run, as_files: Features, count: int
) -> None:
    for index in range(count):
        assert run(shard=(index, count)).exit_code == EXIT_ALL
    assert_equal(run.all_features(), as_files)
    assert not any(work_dir(run.file(number)).exists() for number in range(3))


def test_of_a_remote_series_every_tar_is_fetched_once(run: Run, as_files: Features) -> None:
    memory = fsspec.filesystem("memory")
    for number in range(3):
        memory.pipe(f"/cc/{number:05}.tar", run.tar(number).read_bytes())
    try:
        run.images = "memory://cc/{00000..00002}.tar"
        assert run().exit_code == EXIT_ALL
        assert_equal(run.all_features(), as_files)
        assert sum(line.startswith("fetching") for line in run.said) == 3
        assert run().exit_code == EXIT_ALL
        assert not any(line.startswith("fetching") for line in run.said)
        memory.pipe("/cc/00001.tar", run.tar(1).read_bytes())  # the same bytes, written anew
        run()
        assert [line for line in run.said if line.startswith("fetching")] == [
            f"fetching memory://cc/00001.tar ({run.tar(1).stat().st_size / 1e6:.1f} MB)"
        ]
        assert any("8 done before" in line for line in run.said)
    finally:
        memory.store.clear()


# --- again ------------------------------------------------------------------------------------------------


def test_a_tar_made_before_is_not_even_opened(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    before = [run.file(number).read_bytes() for number in range(3)]
    monkeypatch.setattr(tar, "list_archive", None)
    summary = run()
    assert (summary.exit_code, summary.images) == (EXIT_ALL, 24)
    assert [run.file(number).read_bytes() for number in range(3)] == before
    assert sum("done before" in line for line in run.said) == 3


def test_of_a_changed_tar_only_the_changed_members_are_computed_again(run: Run, as_files: Features) -> None:
    run()
    members = [m for m in samples(range(8, 16)) if "000000010" not in m[0].name]
    run.tar(1).write_bytes(tar_bytes([member("000000010.jpg", jpeg(99)), *reversed(members)]))
    assert run().exit_code == EXIT_ALL
    assert any("7 done before" in line for line in run.said)
    assert "1 images have changed since their features were made: computed again" in run.said
    found = run.all_features()
    assert list(found) == list(as_files)
    assert [i for i in found if not np.array_equal(found[i], as_files[i])] == ["000000010"]


def test_a_member_that_is_gone_leaves_the_file(run: Run) -> None:
    run()
    write_tar(run.tar(2), range(17, 24))
    run()
    assert [r.outcome.dropped for r in run.results] == [[], [], ["000000016"]]


def test_one_image_that_fails_is_tried_again_and_the_others_are_not(run: Run, as_files: Features) -> None:
    good = run.tar(1).read_bytes()
    content = [
        m if m[0].name != "000000009.jpg" else member("000000009.jpg", b"no image") for m in samples(range(8, 16))
    ]
    run.tar(1).write_bytes(tar_bytes(content))
    assert run().exit_code == EXIT_SOME_FAILED
    report = json.loads(run.file(1).with_suffix(".report.json").read_text())
    assert [(f["path"], f["reason"]) for f in report["failed"]] == [
        (f"{run.tar(1)}!/000000009.jpg", "not an image: a text file")
    ]
    assert run().exit_code == EXIT_SOME_FAILED
    run.tar(1).write_bytes(good)
    assert run().exit_code == EXIT_ALL
    assert_equal(run.all_features(), as_files)


def test_stopped_between_two_tars_it_is_not_done(run: Run, as_files: Features) -> None:
    stopping, summary = threading.Event(), Summary()
    config = ExtractConfig(
        spec=Grid(imsize=64), images=run.images, output=run.output, checkpoint_dir=run.checkpoint, device="cpu"
    )
    for result in extract_series([config], stopping, lambda _: None):
        summary.add(result)
        stopping.set()
    assert (summary.images, summary.stopped, summary.exit_code) == (8, True, EXIT_NOTHING)
    assert run().exit_code == EXIT_ALL
    assert_equal(run.all_features(), as_files)


# --- bad tars ---------------------------------------------------------------------------------------------


def test_bad_tars_hold_nothing_up_and_are_told(run: Run, as_files: Features) -> None:
    whole = run.tar(2).read_bytes()
    run.tar(0).unlink()
    run.tar(2).write_bytes(whole[: len(whole) // 2])
    summary = run()
    assert (summary.exit_code, summary.refused) == (EXIT_SOME_FAILED, [str(run.tar(0))])
    assert isinstance(run.results[0], Refused)
    assert run.results[0].images == str(run.tar(0))
    assert_equal(features(run.file(1)), {i: as_files[i] for i in list(as_files)[8:16]})
    truncated = features(run.file(2))
    assert 0 < len(truncated) < 8
    assert any("cut" in failure["reason"] for failure in run.results[2].outcome.failed)
    write_tar(run.tar(0), range(8))
    run.tar(2).write_bytes(whole)
    assert run().exit_code == EXIT_ALL
    assert_equal(run.all_features(), as_files)


def test_where_no_tar_is_good_nothing_is_done(run: Run) -> None:
    for number in range(3):
        run.tar(number).write_bytes(b"")
    assert run().exit_code == EXIT_NOTHING


def test_hostile_names_are_keys_of_features(run: Run) -> None:
    names = ["../../x.jpg", "/etc/y.jpg", "a\nb.jpg", "\x1b[2Jc.jpg"]
    run.tar(0).write_bytes(tar_bytes([member(name, jpeg(n)) for n, name in enumerate(names)]))
    run.images = run.tar(0)
    assert run().exit_code == EXIT_ALL
    assert list(features(run.file(0))) == sorted(["x", "y", "a\nb", "\x1b[2Jc"], key=str.encode)
    assert all(line.isprintable() for line in run.said)
    assert sorted(os.listdir(run.root)) == ["cc", "features"]


def test_grids_and_boxes_of_a_series_in_one_pass(run: Run) -> None:
    for number in range(2):
        write_tar(run.tar(number), [number])
    run.images = run.root / "cc/{00000..00001}.tar"
    specs = (Grid(imsize=64), Boxes(num_boxes=5))
    assert run(*specs).exit_code == EXIT_ALL
    names = [f"{n:05}_{suffix}.h5" for n in range(2) for suffix in ("boxes5", "grid8_imsize64")]
    assert sorted(path.name for path in run.output.glob("*.h5")) == names
    assert [list(features(run.output / name)) for name in names] == [[f"{n:09}"] for n in (0, 0, 1, 1)]
    assert run(*specs).exit_code == EXIT_ALL
    assert sum("done before" in line for line in run.said) == 2


# --- real processes ---------------------------------------------------------------------------------------


def flags(run: Run, *more: object) -> list[object]:
    common = ["-m", "feature_extraction", "--images", run.images, "--output", run.output, "--imsize", 64]
    return [*common, "--checkpoint_dir", run.checkpoint, "--device", "cpu", *more]


def test_killed_at_random_instants_the_files_are_the_same(run: Run, as_files: Features, command: Command) -> None:
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 10**6))
    print("KILL_SEED", seed)
    rng = random.Random(seed)
    for _ in range(3):
        process = command(*flags(run), cwd=ROOT)
        grown, deadline = work_size(run), time.monotonic() + 60
        while work_size(run) == grown and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    returncode, printed = finish(command(*flags(run), cwd=ROOT))
    assert returncode == 0, printed
    assert_equal(run.all_features(), as_files)
    assert sorted(p.name for p in run.output.iterdir() if p.suffix == ".h5") == [run.file(n).name for n in range(3)]
    assert not list(run.output.glob("*.work"))


def work_size(run: Run) -> int:
    """Bytes of all that was written so far."""
    found = 0
    for path in run.output.rglob("*") if run.output.exists() else ():
        try:
            found += path.stat().st_size
        except FileNotFoundError:
            continue
    return found


def test_killed_while_a_tar_is_fetched_nothing_is_left(run: Run, as_files: Features, command: Command) -> None:
    """The copy has no name, so nobody has to remove it."""
    with serving() as server:
        server.files["/00000.tar"] = run.tar(0).read_bytes()
        server.trouble["/00000.tar"] = ["stall:9000"]
        run.images = server.url("/00000.tar")
        process = command(*flags(run), cwd=ROOT)
        deadline = time.monotonic() + 60
        while not (copies := open_below(process, run.output)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(copies) == 1
        process.kill()
        process.wait()
        assert os.listdir(run.output) == []
        returncode, printed = finish(command(*flags(run), cwd=ROOT))
    assert returncode == 0, printed
    assert_equal(features(run.file(0)), {i: as_files[i] for i in list(as_files)[:8]})


def open_below(process: subprocess.Popen[str], folder: Path) -> list[str]:
    """The files in ``folder`` that a process has open, also those without a name."""
    found = []
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(descriptor))
    return [name for name in found if name.startswith(f"{folder}/")]


def test_torchrun_over_a_series_with_a_bad_tar(run: Run, as_files: Features, command: Command) -> None:
    """The rank that has the bad tar must not take the others with it."""
    good = run.tar(1).read_bytes()
    run.tar(1).write_bytes(b"")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    returncode, printed = finish(command(*launch, *flags(run), cwd=ROOT))
    assert returncode == 1, printed  # torchrun's own code
    assert "no features: archive" in printed
    assert_equal(features(run.file(2)), {i: as_files[i] for i in list(as_files)[16:]})
    run.tar(1).write_bytes(good)
    assert run().exit_code == EXIT_ALL
    assert_equal(run.all_features(), as_files)


def test_a_series_and_a_list_over_http_and_no_secret_of_an_address_is_kept(
    run: Run, as_files: Features, command: Command
) -> None:
    printed: list[str] = []
    with serving() as server:

        def address(path: str) -> str:
            return server.url(f"{path}?sig=s3cr3t").replace("//", "//user:pa55word@", 1)

        for number in range(3):
            server.files[f"/cc/{number:05}.tar?sig=s3cr3t"] = run.tar(number).read_bytes()
        run.images = address("/cc/{00000..00002}.tar")
        returncode, text = finish(command(*flags(run), cwd=ROOT))
        printed.append(text)
        assert returncode == 0, text
        assert_equal(run.all_features(), as_files)
        server.files |= {f"/{number:09}.jpg?sig=s3cr3t": jpeg(number) for number in range(24)}
        server.trouble["/000000024.jpg?sig=s3cr3t"] = ["status:403"] * 9
        server.files["/000000024.jpg?sig=s3cr3t"] = b"forbidden"
        (run.root / "list").mkdir()
        run.images, run.output = run.root / "list/list.txt", run.root / "f.h5"
        run.images.write_text("".join(address(f"/{number:09}.jpg") + "\n" for number in range(26)))
        run(shard=(0, 2))
        journals = _bytes_below(work_dir(run.output))
        assert b"/000000000.jpg" in journals
        returncode, text = finish(command(*flags(run, "--shard", "2/2", "--batch_size", 1), cwd=ROOT))
        printed += [text, *run.said]
        assert returncode == 3, text
        assert "is not there" in text
        assert "ClientResponseError 403" in text
        assert_equal(features(run.output), as_files)
    run.images.unlink()
    kept = journals + _bytes_below(run.root) + "\n".join(printed).encode()
    assert not [secret for secret in (b"user:", b"pa55word", b"s3cr3t") if secret in kept]


def _bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_the_command_line_says_what_became_of_a_series(run: Run, command: Command) -> None:
    run.tar(1).write_bytes(run.tar(1).read_bytes() + b"behind")
    with tarfile.open(run.tar(2), "w:gz"):
        pass
    returncode, printed = finish(command(*flags(run), cwd=ROOT))
    assert returncode == 3, printed
    assert "compressed (gzip)" in printed
    assert f"in all 2 files, features of 16 images, 1 failed; no file of 1 tars: {run.tar(2)}" in printed
