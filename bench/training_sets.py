"""Training sets of `bench.features`: ours from Parquet behind Feast's interface, beside one hand-written statement.

make bench BENCH=features ARGS="training 1000000"        # bookings, then rounds

Both read the same Parquet files of the shipped bookings, multiplied with new ids, and write the training set of
include/pipelines/hotel_bookings.yaml as one Parquet file in order of the key, with the same limits for DuckDB. Each
runs in a process of its own. Ours asks Feast's registry in a PostgreSQL that the bench starts. The statement knows
this one pipeline: it takes a row's own columns from the row, and sums by day before its windows. The bench compares
both results. Seconds are of the processors, memory is the peak of the PSS. The parts are read from a folder; fetching
them from a site and checking them against the snapshot's id is the same work as in a materialization.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.measured_process import Run, measured
from bench.report import Row, write

SAMPLE = Path("data/hotel_bookings.csv.gz")
FIRST_ID, PARTS, BATCH = 1_000_000, 500_000, 65_536
MEMORY, THREADS = 1024, 2
STATEMENT = """
COPY (
    WITH bookings AS (SELECT *, arrival_date - lead_time::integer AS day FROM read_parquet('{files}')),
    agents AS (
        SELECT agent, day + 1 AS tick, {windows} FROM (
            SELECT agent, day, sum(avg_price_per_room) AS total, count(*) AS found FROM bookings GROUP BY ALL
        ) WINDOW {ranges}
    ),
    segments AS (
        SELECT market_segment, reserved_room_type, day + 1 AS tick, {windows} FROM (
            SELECT market_segment, reserved_room_type, day, sum(avg_price_per_room) AS total, count(*) AS found
            FROM bookings GROUP BY ALL
        ) WINDOW {segment_ranges}
    )
    SELECT booking_id, day::timestamp AS event_timestamp, avg_price_per_room, arrival_date,
        r.reserved_room_type, {own},
        month(arrival_date) AS booking__arrival_date_month, isodow(arrival_date) AS booking__arrival_date_day_of_week,
        dayofyear(arrival_date) AS booking__arrival_date_day_of_year, {agent_trend}, {segment_trend}
    FROM bookings r
    ASOF LEFT JOIN agents a ON r.agent = a.agent AND r.day >= a.tick
    ASOF LEFT JOIN segments s ON r.market_segment = s.market_segment
        AND r.reserved_room_type = s.reserved_room_type AND r.day >= s.tick
    ORDER BY booking_id
) TO '{target}' (COMPRESSION zstd)
"""


def statement(files: str, target: Path) -> str:
    """Return the hand-written statement."""
    from rempart.settings.pipelines import named, with_model

    def ranges(keys: str) -> str:
        return ", ".join(
            f"last{days} AS (PARTITION BY {keys} ORDER BY day RANGE BETWEEN {days - 1} PRECEDING AND CURRENT ROW)"
            for days in (90, 365)
        )

    def trend(alias: str, view: str) -> str:
        return ", ".join(
            f"CASE WHEN {alias}.tick >= r.day - 366 THEN {alias}.{name}{days} END AS {view}__{shown}_{days}d"
            for name, shown in (("mean", "avg_price_per_room_mean"), ("found", "rows"))
            for days in (90, 365)
        )

    view: Any = with_model(named("hotel_bookings")).features["booking"]
    windows = ", ".join(
        f"sum(total) OVER last{days} / sum(found) OVER last{days} AS mean{days},"
        f" sum(found) OVER last{days} AS found{days}"
        for days in (90, 365)
    )
    return STATEMENT.format(
        files=files,
        target=target,
        windows=windows,
        ranges=ranges("agent").replace("ORDER BY day", "ORDER BY epoch(day) / 86400"),
        segment_ranges=ranges("market_segment, reserved_room_type").replace(
            "ORDER BY day", "ORDER BY epoch(day) / 86400"
        ),
        own=", ".join(f"r.{column} AS booking__{column}" for column in view.columns),
        agent_trend=trend("a", "agent_trend"),
        segment_trend=trend("s", "segment_trend"),
    )


def multiplied(rows: int, folder: Path) -> None:
    """Write `rows` bookings as Parquet: the shipped ones again and again, each with an id of its own."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    from rempart.ingestion.parsing.schema import arrow_schema, snapshot_columns
    from rempart.settings.pipelines import named

    schema = arrow_schema(snapshot_columns(named("hotel_bookings")))
    convert = csv.ConvertOptions(
        column_types=schema, include_columns=schema.names, null_values=[""], strings_can_be_null=True
    )
    sample = csv.read_csv(SAMPLE, convert_options=convert)
    for start in range(0, rows, PARTS):
        numbers = np.arange(start, min(start + PARTS, rows))
        table = sample.take(pa.array(numbers % sample.num_rows))
        place = table.column_names.index("booking_id")
        table = table.set_column(place, "booking_id", pa.array(numbers + FIRST_ID, pa.int64()))
        pq.write_table(table, folder / f"{start:09d}.parquet", compression="zstd", row_group_size=131_072)


def by_hand(files: str, folder: Path) -> None:
    import duckdb

    limits = {"memory_limit": f"{MEMORY}MiB", "threads": THREADS, "temp_directory": str(folder / "spill")}
    with duckdb.connect(config=limits) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(statement(files, folder / "by_hand.parquet"))


def ours(parts: Path, folder: Path, facts: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rempart.features.databases import FeatureDatabases
    from rempart.features.parquet_store import training_sets
    from rempart.features.parquet_store.training_sets import JoinLimits, SnapshotRows
    from rempart.settings.config import Connection
    from rempart.settings.pipelines import named, with_model

    databases = FeatureDatabases(**{name: Connection(**of) for name, of in json.loads(facts.read_text()).items()})
    files = [pq.ParquetFile(file) for file in sorted(parts.iterdir())]
    batches = (batch for file in files for batch in file.iter_batches(BATCH))
    content = SnapshotRows(pa.RecordBatchReader.from_batches(files[0].schema_arrow, batches), "bench")
    pipeline = with_model(named("hotel_bookings"))
    began = _spent()
    with training_sets.opened(databases, pipeline, content, JoinLimits(MEMORY, THREADS)) as (_, reader, _spilled):
        loaded = _spent()
        with pq.ParquetWriter(folder / "ours.parquet", reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
    print(json.dumps({"start": began, "load and join": loaded - began, "write": _spent() - loaded}))


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def check_same(folder: Path) -> None:
    """Compare both training sets column by column. Fails with the name of the first that differs."""
    import duckdb

    relations = [f"read_parquet('{folder / name}.parquet')" for name in ("ours", "by_hand")]
    with duckdb.connect(config={"memory_limit": f"{MEMORY}MiB", "temp_directory": str(folder)}) as connection:
        names = [[row[0] for row in connection.execute(f"DESCRIBE FROM {of}").fetchall()] for of in relations]
        assert sorted(names[0]) == sorted(names[1]), set(names[0]) ^ set(names[1])
        for name in set(names[0]) - {"event_timestamp"}:
            ours, other = (f"(SELECT {name} AS {letter} FROM {of})" for letter, of in zip("xy", relations, strict=True))  # noqa: S608
            ((differing,),) = connection.execute(
                f"SELECT count(*) FROM {ours} POSITIONAL JOIN {other} WHERE x IS DISTINCT FROM y"  # noqa: S608
                " AND NOT coalesce(abs(try_cast(x AS double) - try_cast(y AS double)) < 1e-6, false)"
            ).fetchall()
            assert differing == 0, (name, differing)


def main(given: Sequence[str]) -> None:
    from rempart.features import quick_feast, repository
    from rempart.features.databases import FeatureDatabases
    from rempart.settings.pipelines import named, with_model
    from tests.integration.own_servers import own_servers

    rows, rounds = int(given[0]) if given else 1_000_000, int(given[1]) if len(given) > 1 else 1
    quick_feast.load()
    with tempfile.TemporaryDirectory() as name, own_servers(Path(name) / "var") as servers:
        folder = Path(name)
        parts, log, facts = folder / "parts", folder / "log", folder / "facts.json"
        parts.mkdir()
        multiplied(rows, parts)
        databases = FeatureDatabases(*(servers.connections(f"pg_feast_{p}") for p in ("registry", "offline", "online")))
        pipeline = with_model(named("hotel_bookings"))
        with repository.feature_store(databases, pipeline) as store:
            repository.apply(store, pipeline)
        facts.touch(mode=0o600)
        facts.write_text(
            json.dumps({part: asdict(getattr(databases, part)) for part in ("registry", "offline", "online")})
        )
        cases: dict[str, list[Run]] = {"ours": [], "by_hand": []}
        steps: list[Any] = []
        env = os.environ | {"TMPDIR": name}
        for _ in range(rounds):
            for case, runs in cases.items():
                command = [sys.executable, "-m", "bench.training_sets", case, str(parts), name, str(facts)]
                run, told = measured(command, env, log, proportional=True)
                runs.append(run)
                steps += [json.loads(told.splitlines()[-1])] if case == "ours" else []
        check_same(folder)
    _report(rows, cases, steps)


def _report(rows: int, cases: dict[str, list[Run]], steps: Sequence[Any]) -> None:
    def median(case: str, of: str) -> float:
        return round(statistics.median(getattr(run, of) for run in cases[case]), 2)

    name, peer = f"{rows:,} bookings, a training set", "one hand-written DuckDB statement"
    found = [
        Row(f"{name}, {told}", "s", median("ours", of), median("by_hand", of), peer, "lower")
        for of, told in (("cpu", "processor time"), ("seconds", "elapsed"))
    ]
    memory = [round(median(case, "memory") / (1 << 20)) for case in cases]
    found.append(Row(f"{name}, peak memory (PSS)", "MiB", memory[0], memory[1], peer, "lower"))
    write(
        "training_sets",
        found,
        steps=list(steps),
        runs={case: [asdict(run) for run in of] for case, of in cases.items()},
    )


if __name__ == "__main__":
    case, *paths = sys.argv[1:]
    if case == "ours":
        ours(*map(Path, paths))
    elif case == "by_hand":
        by_hand(f"{paths[0]}/*.parquet", Path(paths[1]))
    else:
        main(sys.argv[1:])
