"""Derive rows on Spark: order a job, read its rows back, and sort them into the delivery that DuckDB would make.

How executors derived the rows is believed: to check it is to derive them here. The query is judged before anything is
ordered (`rempart.spark.exact`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rempart.errors import IntegrityError
from rempart.flows.distributed import derive, orders
from rempart.flows.distributed.derive import ROWS, Parameters
from rempart.flows.distributed.known import KnownForm
from rempart.flows.ingestion import ingest_run
from rempart.flows.ingestion.engines import read_back
from rempart.flows.ingestion.engines.known import erased_positions
from rempart.flows.ingestion.engines.spark import RunJob
from rempart.flows.ingestion.ingest_run import IngestionRun
from rempart.ingestion import snapshots
from rempart.ingestion.derived import inputs as files
from rempart.ingestion.derived.binding import Query
from rempart.ingestion.derived.execution import execute
from rempart.ingestion.engine.identity import quote
from rempart.ingestion.parsing.schema import arrow_schema
from rempart.ingestion.sources.port import Input
from rempart.settings.pipeline import Pipeline
from rempart.sites.spool import spool_folder
from rempart.spark.exact import queries
from rempart.spark.order import InputObject, MadeObject, SparkOrder, SparkResult

_DERIVED = "derived_rows"
"""Name of the relation of the rows that are read back."""


@dataclass(frozen=True)
class OnSpark:
    """Derives rows by a job. `run`: of the derived pipeline. `begin`: returns the state of a run of an input.
    `run_job`: returns a function that runs the job, given a folder for the objects that it reads back.
    """

    run: IngestionRun
    begin: Callable[[Pipeline], IngestionRun]
    run_job: Callable[[Path], RunJob]

    def __call__(self, sql: str, query: Query, inputs: Mapping[str, Input], order: Sequence[str], out: Path) -> int:
        """Write the rows of the query to `out`, sorted by `order` and then by all columns. Return their number.

        The job's objects are deleted at the end. Raises IngestError for a query that Spark does not do as DuckDB does,
        before a job runs; IntegrityError, SparkError, SiteError.
        """
        specs = files.declared_inputs(self.run.pipeline)
        types = derive.types({name: specs[name] for name in inputs})
        queries.query(query.text, types, derive.sql_types(query.columns))
        with spool_folder() as folder:
            ordered = self._order(query, {name: specs[name] for name in inputs}, inputs, folder)
            try:
                result = self.run_job(folder)(ordered)
                made = [self._brought(each, query, folder) for each in result.of_role(ROWS)]
                return self._sorted(sql, query, result, made, order, out, folder)
            finally:
                orders.forget(self.run.site, ordered)

    def _order(
        self, query: Query, specs: Mapping[str, Pipeline], inputs: Mapping[str, Input], folder: Path
    ) -> SparkOrder:
        objects, forms = list[InputObject](), dict[str, KnownForm]()
        for name, spec in specs.items():
            own = self.begin(spec)
            found = snapshots.read(self.run.site, self.run.lake, name, inputs[name].snapshot)
            forms[name] = KnownForm.of(found.id, found.columns, erased_positions(own, found, folder / f"of-{name}"))
            objects += [
                InputObject(
                    role=name, bucket=self.run.lake, key=part.key, sha256=part.sha256, bytes=part.bytes, rows=part.rows
                )
                for part in found.parts
            ]
        columns = {name: column.type for name, column in query.columns.items()}
        given = Parameters(query.text, columns, forms).as_json()
        others = [*specs.values()]
        return orders.order(self.run.config, self.run.site.name, self.run.pipeline, "derive", objects, given, others)

    def _brought(self, made: MadeObject, query: Query, folder: Path) -> Path:
        import pyarrow.parquet as pq

        place = folder / "made"
        place.mkdir(exist_ok=True)
        file = place / f"{made.sha256}.parquet"
        if not file.exists():  # two tasks with the same rows made one object
            read_back.brought(self.run, made, folder, file)
        if pq.read_metadata(file).num_rows != made.rows:
            raise read_back.untrue(self.run, "an object of derived rows has another number of rows")
        if not pq.read_schema(file).equals(arrow_schema(query.columns)):
            raise read_back.untrue(self.run, "an object of derived rows has other columns")
        return file

    def _sorted(
        self,
        sql: str,
        query: Query,
        result: SparkResult,
        made: Sequence[Path],
        order: Sequence[str],
        out: Path,
        folder: Path,
    ) -> int:
        """Sort the rows into one file, as with DuckDB. Raises IntegrityError for another number of rows."""
        names = ", ".join(map(quote, query.columns))
        whole = Query(f"SELECT {names} FROM {_DERIVED}", query.columns, frozenset({_DERIVED}))  # noqa: S608 - quoted
        resources = ingest_run.resources(self.run.config, folder)
        rows = execute(sql, whole, {_DERIVED: (query.columns, made)}, order, out, resources)
        if rows != sum(each.rows for each in result.of_role(ROWS)):
            raise IntegrityError(
                f"derive rows of '{self.run.pipeline.name}' on Spark: {rows} rows came of another number",
                "Run the pipeline again. If this repeats, set `engine: duckdb` and report it as a bug.",
            )
        return rows
