"""A hundred faults, as many as `make test` has the time for; `make test-faults` tries a thousand."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import campaign, shim
from tests.faults.campaign import BAD, Campaign, Ended, Prepared, Worker
from tests.faults.careless import CARELESS
from tests.faults.scenarios import SCENARIOS
from tests.faults.shim import BEFALLS, Fault

SEED = 7
needs_compiler = pytest.mark.skipif(shim.compiler() is None, reason="there is no gcc here to compile the shim with")


@needs_compiler
def test_a_hundred_faults_leave_nothing_wrong_and_the_next_run_ends_right(tmp_path: Path) -> None:
    print(f"seed {SEED}; each finding names the flags that repeat it: python -m tests.faults.campaign ...")
    tried = Campaign(tmp_path, SEED)
    tried.run(list(SCENARIOS), 100, jobs=2)
    print(tried.table())
    assert not tried.findings, "\n".join(map(str, tried.findings))
    figures = sum(tried.tally.values(), Counter())
    assert figures.total() - figures["missed"] == 100


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Prepared]]:
    place = tmp_path_factory.mktemp("careless")
    worker = Worker(place, shim.build(place), "")
    yield worker, campaign.prepare(worker, "careless", place / "template")
    worker.close()


@needs_compiler
@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ("write:SHORT:1", "wrong"),
        ("write:ENOSPC:1", "wrong"),
        ("write:KILL:1", "wrong"),
        ("open:KILL:1", "killed"),
        ("open:KILL:2", "not recovered"),
        ("open:EIO:2", "traceback"),
        ("close:EIO:2", "traceback"),
        ("mkdir:EIO:1", "crashed"),
        ("write:EINTR:1", "went on"),
        ("unlink:KILL:1", "killed"),
    ],
)
def test_a_careless_program_is_found_out(fault: str, verdict: str, careless: tuple[Worker, Prepared]) -> None:
    finding, struck = campaign.judge(*careless, Fault.parse(fault))
    assert struck
    assert finding.verdict == verdict


def an_end(code: int, output: str = "error: no", struck: bool = True) -> Ended:
    return Ended(code, output, struck, {})


@pytest.mark.parametrize(
    ("ended", "left", "verdict"),
    [
        (an_end(0), {"file": "new"}, "went on"),
        (an_end(0), {"file": "old"}, "wrong"),
        (an_end(0), {}, "wrong"),
        (an_end(1), {"file": "old"}, "refused in one line"),
        (an_end(1), {}, "refused in one line"),
        (an_end(1), {"file": "neither"}, "wrong"),
        (an_end(1), {"file": "old", "another": "x"}, "wrong"),
        (an_end(1, ""), {"file": "old"}, "wrong"),
        (an_end(1, "Traceback (most recent call last):\nOSError"), {"file": "old"}, "traceback"),
        (an_end(-11), {"file": "old"}, "crashed"),
        (an_end(-14), {"file": "old"}, "crashed"),
        (an_end(-9, struck=False), {"file": "old"}, "crashed"),
        (an_end(-9), {"file": "old"}, "killed"),
        (an_end(-9), {"file": "neither"}, "wrong"),
    ],
)
def test_what_a_run_comes_to(ended: Ended, left: dict[str, str], verdict: str) -> None:
    fault = Fault("write", "KILL" if ended.code == -9 else "EIO", 1)
    prepared = Prepared("any", Path(), {"file": "old"}, {"file": "new"}, {})
    assert campaign.verdict_on(ended, fault, left, prepared)[0] == verdict


def test_faults_are_spread_over_all_kinds_of_calls_and_the_whole_run() -> None:
    counts = dict.fromkeys(BEFALLS, 50)
    draws = campaign.drawn(counts, random.Random(SEED))
    faults = [next(draws) for _ in range(1000)]
    assert {(fault.call, fault.what) for fault in faults} == {
        (c, what) for c, errors in BEFALLS.items() for what in errors
    }
    assert len(set(faults)) > 950
    assert {fault.number for fault in faults} == set(range(1, 51))
    assert not any(fault.lasting for fault in faults if fault.what in ("EINTR", "SHORT", "KILL"))


def test_shares_add_up() -> None:
    assert campaign.shared_out(100, {"a": 2, "b": 1, "c": 0}) == {"a": 67, "b": 33, "c": 0}


def test_a_fault_is_written_and_read_alike() -> None:
    for fault in (Fault("open", "EIO", 3), Fault("pwrite", "ENOSPC", 12, True)):
        assert Fault.parse(str(fault)) == fault
    with pytest.raises(ValueError, match="is no fault"):
        Fault.parse("open:EWRONG:3")


def test_nothing_careless_is_part_of_the_campaign() -> None:
    assert not CARELESS.keys() & SCENARIOS.keys()
    assert set(BAD) == {"wrong", "crashed", "traceback", "not recovered"}
