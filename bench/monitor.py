"""Drift of columns: false alarms, shifts found, and the time for a million rows, beside Evidently where it is there.

make bench BENCH=monitor ARGS="200"        # simulated windows of each kind
make bench BENCH=monitor ARGS="200 /path/to/python"        # a Python with Evidently, which is no dependency

A window has 1,000 rows of 50 columns, and is compared with 10,000 rows: half of the columns are normal, the others
log-normal, of a few whole numbers, yes or no, and categories. Nothing moved in the first kind; in the second, one
normal column moved by 0.3 standard deviations. Seeds are fixed. Evidently compares the same files, with its defaults
and with the same tests as ours; its false alarms are windows in which it finds a drifted column.
"""

from __future__ import annotations

import datetime
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.report import Row, write
from rempart.monitoring import columns, counting
from rempart.monitoring.columns import ColumnVerdict
from rempart.monitoring.profiles import NO_PERIOD, Column
from rempart.settings.champions.monitoring import Monitoring

ROWS, REFERENCE, COLUMNS = 1_000, 10_000, 50
SHIFT = 0.3
FEW = 10
"""Windows that Evidently compares."""
MODELS = 10
"""Windows of each kind that a model is asked to tell apart, at most."""
VALUES = tuple("abcdefgh")
EVIDENTLY = """
import json, sys, time
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
before, tests = sys.argv[1], json.loads(sys.argv[2])
reference = pd.read_parquet(before).drop(columns="day")
for line in sys.stdin:
    began = time.perf_counter()
    window = pd.read_parquet(line.strip()).drop(columns="day")
    made = Report([DataDriftPreset(**tests)]).run(window, reference).dict()
    seconds = time.perf_counter() - began
    counts = [m["value"]["count"] for m in made["metrics"] if m["metric_name"].startswith("DriftedColumnsCount")]
    drifted = {}
    for m in made["metrics"]:
        if m["metric_name"].startswith("ValueDrift"):
            column = m["metric_name"].split("column=")[1].split(",")[0].rstrip(")")
            drifted[column] = m["value"]
    print(json.dumps({"count": counts[0], "first": drifted.get("c0"), "seconds": seconds}), flush=True)
"""
SAME_TESTS = {"num_method": "ks", "cat_method": "chisquare"}
"""The tests of ours by Evidently's names. Its own choice for 10,000 rows is a distance."""


def watched() -> list[Column]:
    """Return the columns: five kinds in turn."""
    return [
        Column(f"c{place}", "category", VALUES) if place % 10 == 9 else Column(f"c{place}", "number")
        for place in range(COLUMNS)
    ]


def table(rows: int, seed: int, shift: float = 0.0, month: int | None = None) -> pa.Table:
    """Return rows of equal distributions; the first column is moved by `shift` standard deviations.

    They are of all months of a year, or of the n-th month after it.
    """
    random = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for place in range(COLUMNS):
        match place % 10:
            case 1 | 3:
                values: Any = random.lognormal(0, 1, rows)
            case 5:
                values = random.poisson(1.5, rows)
            case 7:
                values = random.random(rows) < 0.1
            case 9:
                values = np.array(VALUES)[np.minimum(random.geometric(0.4, rows) - 1, len(VALUES) - 1)]
            case _:
                values = random.normal(0, 1, rows)
        made[f"c{place}"] = values + shift if place == 0 else values
    months = 1 + np.arange(rows) % 12 if month is None else np.full(rows, month % 12 + 1)
    year = 2025 if month is None else 2026 + month // 12
    days = [datetime.date(year, int(each), 1) for each in months]
    return pa.table(made | {"day": pa.array(days, pa.date32())})


def verdicts(before: Path, windows: Path) -> tuple[list[tuple[ColumnVerdict, ...]], float]:
    """Return the verdict on each window, and the seconds for all. The months of the file are windows."""
    began, chosen = time.perf_counter(), watched()
    grid = counting.edges(read(before), pq.ParquetFile(before).metadata.num_rows, chosen)
    training = counting.profile(read(before), chosen, grid, "day")
    seen = counting.profile(read(windows), chosen, grid, "day")
    months = next(iter(seen.values())).periods
    made = [
        columns.judge(
            training,
            # without its month, a window is compared with all 10,000 rows
            {name: replace(profile.of([month]), periods=(NO_PERIOD,)) for name, profile in seen.items()},
            Monitoring(),
        )
        for month in months
    ]
    return made, time.perf_counter() - began


def read(file: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file, a row group at a time: `iter_batches` keeps what it has read."""
    with pq.ParquetFile(file) as opened:
        for group in range(opened.num_row_groups):
            yield from counting.batches(opened.read_row_group(group))


def simulated(folder: Path, count: int) -> tuple[Path, Path, Path]:
    """Write the reference, windows in which nothing moved, and windows with a shift: each month of a file is one."""
    before = _write(folder / "before.parquet", [table(REFERENCE, 1)])
    same = _write(folder / "same.parquet", [table(ROWS, 1_000 + n, month=n) for n in range(count)])
    moved = _write(folder / "moved.parquet", [table(ROWS, 9_000 + n, SHIFT, month=n) for n in range(count)])
    return before, same, moved


def alarms(found: list[tuple[ColumnVerdict, ...]]) -> int:
    """Return in how many windows a column is at fault."""
    return sum(any(column.findings for column in window) for window in found)


def hits(found: list[tuple[ColumnVerdict, ...]]) -> int:
    """Return in how many windows the moved column is at fault."""
    return sum(any(column.findings and column.column == "c0" for column in window) for window in found)


def large(folder: Path, rows: int) -> dict[str, float]:
    """Return seconds and peak memory (MiB) of a comparison of this many rows with as many, in a process of its own."""
    files = []
    for name, seed in (("reference", 5), ("window", 6)):
        file = folder / f"{name}.parquet"
        with pq.ParquetWriter(file, table(10_000, seed).schema) as writer:
            for part in range(rows // 50_000):
                writer.write_table(table(50_000, seed * 1_000 + part))
        files.append(str(file))
    done = subprocess.run([sys.executable, "-m", "bench.monitor", "compare", *files], check=True, capture_output=True)
    return dict(json.loads(done.stdout))


def apart(count: int) -> dict[str, float]:
    """Return what a model tells of windows of 1,000 rows: alarms if nothing moved, and if only a combination did.

    Two normal columns are then correlated by 0.8, each with its own distribution as before. `shift_area`: mean AUC of
    windows with a shift in one column, which the tests of columns find.
    """
    from rempart.monitoring import domain

    names = [f"c{place}" for place in range(COLUMNS)]

    def side(made: pa.Table) -> domain.WindowRows:
        def matrix(places: Any) -> Any:
            taken = made.take(places)
            places_of = pa.array(VALUES)
            numbers = [
                pc.index_in(taken[name], value_set=places_of) if place % 10 == 9 else taken[name]
                for place, name in enumerate(names)
            ]
            return np.column_stack([column.cast(pa.float32()).to_numpy() for column in numbers])

        return domain.WindowRows(counting.months(made["day"]), matrix)

    def combined(made: pa.Table) -> pa.Table:
        first, second = (made[name].to_numpy() for name in ("c0", "c2"))
        return made.set_column(made.column_names.index("c2"), "c2", pa.array(0.8 * first + 0.6 * second))

    reference, found = side(table(REFERENCE, 1)), dict[str, list[Any]](same=[], combined=[], shift=[])
    began = time.perf_counter()
    for n in range(count):
        plain = table(ROWS, 1_000 + n, month=n % 12)
        shifted = table(ROWS, 9_000 + n, SHIFT, month=n % 12)
        for kind, made in (("same", plain), ("combined", combined(plain)), ("shift", shifted)):
            found[kind].append(domain.separate(reference, side(made), names, Monitoring().least_rows))
    seconds = (time.perf_counter() - began) / (3 * count)
    moved = {kind: sum(each.moved for each in all_) for kind, all_ in found.items()}
    area = statistics.mean(each.area for each in found["shift"])
    return {"windows": count, "false_alarms": moved["same"], "combinations_found": moved["combined"],
            "shift_area": round(area, 3), "seconds": round(seconds, 2)}  # fmt: skip


def _write(file: Path, parts: Sequence[pa.Table]) -> Path:
    pq.write_table(pa.concat_tables(parts), file)
    return file


def main(given: list[str]) -> None:
    """Run all cases and write the figures."""
    count, other = int(given[0]) if given else 200, given[1] if len(given) > 1 else ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, same, moved = simulated(folder, count)
        (quiet, seconds), (shifted, _) = (verdicts(before, windows) for windows in (same, moved))
        figures: dict[str, Any] = {
            "windows": count,
            "false_alarms": alarms(quiet),
            "shifts_found": hits(shifted),
            "other_columns_at_fault": sum(any(c.findings and c.column != "c0" for c in window) for window in shifted),
            "seconds": round(seconds, 2),
        }
        print(json.dumps(figures), flush=True)
        for name, size in (("quarter_million", 250_000), ("million", 1_000_000)):
            figures[name] = large(folder, size)
            print(name, json.dumps(figures[name]), flush=True)
        rows: list[Row] = []
        if other:
            for name, tests in (("defaults", {}), ("the same tests", SAME_TESTS)):
                figures[f"evidently, {name}"], row = compared_by_evidently(other, folder, before, name, tests)
                rows.append(row)
        figures["told_apart"] = apart(min(count, MODELS))
    print(json.dumps(figures, indent=1))
    write("monitor", rows, **figures)


def compared_by_evidently(
    python: str, folder: Path, before: Path, name: str, tests: Mapping[str, str]
) -> tuple[dict[str, Any], Row]:
    """Return what Evidently finds in some windows with and without a shift, and the seconds of both for a window.

    Both take turns with the same files. For each window, ours reads and counts the reference again.
    """
    found: dict[str, Any] = {"windows": FEW, "same": [], "moved": []}
    mine, theirs = list[float](), list[float]()
    command = [python, "-c", EVIDENTLY, str(before), json.dumps(tests)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdin and peer.stdout
        for kind, shift in (("same", 0.0), ("moved", SHIFT)):
            for n in range(FEW):
                window = _write(folder / f"{kind}{n}.parquet", [table(ROWS, 1_000 + n, shift, month=n)])
                print(window, file=peer.stdin, flush=True)
                told = json.loads(peer.stdout.readline())
                theirs.append(told.pop("seconds"))
                columns.natural.cache_clear()
                mine.append(verdicts(before, window)[1])
                found[kind].append(told)
    case = f"a window of 1,000 rows and 50 columns beside 10,000, elapsed ({name})"
    return found, Row(case, "s", statistics.median(mine), statistics.median(theirs), "Evidently", "lower")


if __name__ == "__main__":
    if sys.argv[1:2] == ["compare"]:
        _, seconds = verdicts(*map(Path, sys.argv[2:]))
        used = resource.getrusage(resource.RUSAGE_SELF)
        told = {"seconds": round(seconds, 2), "processor_seconds": round(time.process_time(), 2)}
        print(json.dumps(told | {"peak_mib": round(used.ru_maxrss / 1024)}))
    else:
        main(sys.argv[1:])
