"""Every statement that loads and joins features has a translation for Spark, or is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rempart.features import training_set
from rempart.features.parquet_store import joining, loading, scratch
from rempart.features.parquet_store.scratch import ScratchDatabase
from rempart.settings.pipeline import ModelPipeline
from rempart.spark import (
    dialect,
    functions,  # noqa: F401 - it adds its rewrites
)
from tests.unit.features import aggregated, expressed
from tests.unit.features.stays import stays


class Recorded:
    """A connection of DuckDB that keeps the statements."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.statements = connection, list[str]()

    def execute(self, query: str) -> Any:
        self.statements.append(query)
        return self.connection.execute(query)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


def statements(folder: Path, pipeline: ModelPipeline) -> list[str]:
    columns = {name: pa.string() for name in ()} | dict(training_set.tables.rows_columns(pipeline))
    schema = pa.schema([(name, training_set.arrow_type(kind)) for name, kind in columns.items()][:-1])
    with scratch.created(ScratchDatabase(folder), "try") as connection:
        recorded = Recorded(connection)
        loading.load(recorded, pipeline, schema.empty_table().to_reader(), None, exact=True)
        shaped: list[Any] = []
        for view, unique in zip(joining.of_pipeline(pipeline), ["entity", "moment", "none"] * 9, strict=False):
            joining.uniqueness(recorded, view)
            shaped.append((view, unique))
    entities = loading.in_duckdb(training_set.entity_query(pipeline))
    return [
        *recorded.statements,
        joining.joined(entities, training_set.entity_columns(pipeline), "event_timestamp", shaped),
    ]


@pytest.mark.parametrize(
    "pipeline",
    [
        stays(),
        aggregated.orders(windows=["30m", "6h"]),
        aggregated.orders(days=[1, 3]),
        aggregated.orders(history=True, windows=["1h"]),
        aggregated.orders(at="day", history=True, days=[1, 3]),
        expressed.visits(own={"a": "round(x / y, 2)", "b": "extract(week from begun)", "c": "days_since(left)"}),
    ],
    ids=["days", "windows", "daily", "versions", "versions by day", "expressions"],
)
def test_each_statement_has_a_translation(tmp_path: Path, pipeline: ModelPipeline) -> None:
    for text in statements(tmp_path, pipeline):
        for made in dialect.statements(text):
            assert "ASOF" not in made.query and "AT TIME ZONE" not in made.query and "::" not in made.query
