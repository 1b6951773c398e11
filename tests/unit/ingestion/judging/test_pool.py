"""The processes that apply expectations: the same result, a named error when one fails, and none is left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pytest

from rempart.errors import IngestError, PipelineError
from rempart.ingestion import expectations
from rempart.ingestion.judging import pool as pools
from rempart.ingestion.judging.pool import JudgePool
from rempart.settings.pipeline import Expectation

TABLE = pa.table({"n": pa.array(range(10), pa.int64()), "d": pa.array([date(2020, 1, 1)] * 9 + [date(1999, 1, 1)])})
DECLARED = [
    Expectation.model_validate(
        {"expect": "expect_column_values_to_be_between", "column": column, "min_value": least, "reason": "too small"}
    )
    for column, least in {"n": 3, "d": date(2000, 1, 1)}.items()
]
READ = "import sys, json; line = sys.stdin.buffer.readline(); sys.stdin.buffer.read(json.loads(line)['bytes']); "


def stub(code: str) -> Sequence[str]:
    """A process in place of Great Expectations."""
    return (sys.executable, "-c", code)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_great_expectations_in_a_process_gives_the_same_and_names_what_does_not_fit() -> None:
    with JudgePool(1, many=1) as pool:
        assert pool.places(DECLARED, TABLE) == expectations.places(DECLARED, TABLE) == {0: [0, 1, 2], 1: [9]}
        wrong = DECLARED[0].model_copy(update={"min_value": "three"})
        with pytest.raises(PipelineError, match="expectations, rule 1"):
            pool.places([wrong], TABLE)


def test_slices_are_put_together_in_order() -> None:
    code = f"{READ} print(json.dumps({{'places': {{'0': [0, 1]}}}}), flush=True); sys.stdin.read()"
    with JudgePool(3, many=1, command=stub(code)) as pool:
        assert pool.places(DECLARED, TABLE) == {0: [0, 1, 4, 5, 8, 9]}
        pids = [process.pid for process in pool._running]
        assert len(pids) == 3
    assert not any(map(alive, pids))


def test_few_rows_start_no_process() -> None:
    with JudgePool(2, many=11, command=stub("raise SystemExit(3)")) as pool:
        assert pool.places(DECLARED, TABLE) == {0: [0, 1, 2], 1: [9]}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit(3)", "ended with 3"),
        (f"{READ} import os; os.kill(os.getpid(), 9)", "ended with -9"),
        (f"{READ} print(json.dumps({{'failed': 'MemoryError'}}), flush=True)", "MemoryError"),
    ],
)
def test_a_process_that_fails_is_an_error_and_the_next_table_gets_new_ones(code: str, told: str) -> None:
    with JudgePool(2, many=1, command=stub(code)) as pool:
        with pytest.raises(IngestError, match=told):
            pool.places(DECLARED, TABLE)
        assert not pool._running
        pool.command = stub(f"{READ} print(json.dumps({{'places': {{}}}}), flush=True); sys.stdin.read()")
        assert pool.places(DECLARED, TABLE) == {}


def test_an_interrupt_ends_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pools, "_answer", interrupted)
    pool = JudgePool(1, many=1, command=stub("import sys; sys.stdin.read()"))
    started: list[int] = []
    begin = pool._start

    def start() -> None:
        begin()
        started.extend(process.pid for process in pool._running)

    monkeypatch.setattr(pool, "_start", start)
    with pytest.raises(KeyboardInterrupt):
        pool.places(DECLARED, TABLE)
    assert started
    assert not any(map(alive, started))


def test_a_process_that_reads_nothing_is_given_up_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "SECONDS", 0.3)
    many = pa.table({"n": pa.array(range(200_000), pa.int64())})
    with JudgePool(1, many=1, command=stub("import time; time.sleep(60)")) as pool:
        with pytest.raises(IngestError, match="read nothing for"):
            pool.places(DECLARED[:1], many)
        assert not pool._running
