"""A Spark job whose work DuckDB does: for rows that are refused if their key is known."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from rempart.flows.distributed.ingest import Parameters
from rempart.flows.distributed.known import GONE, _PresentForm
from rempart.ingestion import expectations, isolated, snapshots
from rempart.ingestion.engine import parts
from rempart.ingestion.engine.database import opened, parquet
from rempart.ingestion.engine.deliveries import decide
from rempart.ingestion.engine.identity import by_duckdb
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.judging import typed_rows
from rempart.ingestion.refused import schema, table_of
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Site
from rempart.spark.definitions import defined
from rempart.spark.order import MadeObject, SparkOrder, SparkResult

Job = Callable[[SparkOrder], SparkResult]


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Work:
    """Does a job's work. `orders`: what it was asked for."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder, self.orders = site, folder, list[SparkOrder]()

    @property
    def jobs(self) -> int:
        return len(self.orders)

    def __call__(self, order: SparkOrder) -> SparkResult:
        self.orders.append(order)
        place = self.folder / f"job-{self.jobs}"
        place.mkdir()
        pipeline, given = defined(order.pipelines, order.pipeline), Parameters.of(order.parameters)
        known = {each.sha256: self._known(place, each, pipeline, given) for each in order.of_role("known")}
        staged = []
        for i, each in enumerate(order.of_role("delivery")):
            file = self._brought(place, f"{i}-{each.name}", each)
            staged.append(isolated.stage(file, each.name, pipeline, given.limits, place / f"staged-{i}"))

        def judge(table: Any) -> dict[int, list[str]]:
            return expectations.broken(pipeline.expectations, table)

        struck = [given.struck.get(each.sha256, ()) for each in order.of_role("delivery")]
        read = typed_rows.judged(staged, judge, given.limits, place / "judged", struck)
        resources = Resources(200 << 20, 1, place / "spill")
        stays = [file for file, _ in known.values()]
        taken = decide(read, stays, pipeline, place, resources, given.limits)
        made, contents = list[MadeObject](), dict[str, Any]()
        if taken.accepted or given.changed:
            made, contents = self._written(order, pipeline, given, known, taken.parts, place)
        for i, delivery in enumerate(taken.deliveries):
            if len(delivery.refused):
                sink = io.BytesIO()
                pq.write_table(table_of(delivery.refused).cast(schema()), sink)
                key = order.key(f"refused-{i}.parquet")
                refused = self._stored("refused", key, sink.getvalue(), len(delivery.refused))
                made.append(refused.model_copy(update={"facts": {"delivery": i}}))
        told = [
            {
                "good": delivery.good,
                "judged": delivery.judged,
                "refused": len(delivery.refused),
                "fault": delivery.fault,
                "replaced": delivery.replaced,
                "repeated": delivery.repeated,
            }
            for delivery in taken.deliveries
        ]
        facts = {"deliveries": told, "held": sorted(taken.held), "partitions": contents}
        return SparkResult(
            order_id=order.order_id, status="succeeded", made=tuple(made), facts=facts, decision="0" * 64
        )

    def _known(self, place: Path, each: Any, pipeline: Pipeline, given: Parameters) -> tuple[Path, Path]:
        """Files of a known part in the present form: without erased rows, and with them."""
        brought = pq.read_table(io.BytesIO(self.site.read(each.bucket, each.key, sha256=each.sha256)))
        form = given.form
        rows = _PresentForm(pipeline, form)(brought.cast(snapshots.arrow_schema(form.snapshot_columns)), each.sha256, 0)
        gone = rows[GONE]
        whole, stays = place / f"{each.sha256}.whole", place / each.sha256
        pq.write_table(rows.drop_columns([GONE]), whole)
        pq.write_table(rows.drop_columns([GONE]).filter(pc.invert(gone)), stays)
        return stays, whole

    def _written(
        self,
        order: SparkOrder,
        pipeline: Pipeline,
        given: Parameters,
        known: dict[str, tuple[Path, Path]],
        new: Sequence[parts.WrittenPart],
        place: Path,
    ) -> tuple[list[MadeObject], dict[str, Any]]:
        lost = {sha256 for sha256 in known if given.form.gone.get(sha256)}
        whole = {given.partitions[sha256] for sha256 in lost}
        contents: dict[str, Any] = {}
        written = list(new)
        if not given.same_form or whole:
            some = [s for s in known if not given.same_form or given.partitions[s] in whole]
            files = [known[sha256][0] for sha256 in some]
            written = [each for each in new if given.same_form and each.partition not in whole]
            files += [each.file for each in new if not given.same_form or each.partition in whole]
            with opened(Resources(200 << 20, 1, place / "spill"), [place]) as connection:
                columns, period = snapshots.snapshot_columns(pipeline), parts.period_of(pipeline)
                again = place / "again"
                written += parts.write(
                    connection, parquet(files), columns, pipeline.row_key, period, again, most=64 << 20
                )
        had = self._by_partition(pipeline, [whole for _, whole in known.values()], place)
        has = self._by_partition(pipeline, [*(stays for stays, _ in known.values()), *(p.file for p in new)], place)
        for name in sorted({part.partition for part in written} | whole | (set() if given.same_form else {*had})):
            is_whole = name in whole or not given.same_form
            none = [0, sha256_of(b"")]
            contents[name] = {"had": had.get(name, none), "has": has.get(name, none), "whole": is_whole}
        made = []
        for part in written:
            key = order.key(f"part-{part.sha256}.parquet")
            stored = self._stored("part", key, part.file.read_bytes(), part.rows)
            made.append(stored.model_copy(update={"facts": {"partition": part.partition}}))
        return made, contents

    def _by_partition(self, pipeline: Pipeline, files: Sequence[Path], place: Path) -> dict[str, Any]:
        if not files:
            return {}
        found: dict[str, Any] = {}
        columns, period = snapshots.snapshot_columns(pipeline), parts.period_of(pipeline)
        with opened(Resources(200 << 20, 1, place / "spill"), sorted({file.parent for file in files})) as connection:
            names = connection.execute(f"SELECT DISTINCT {period} FROM {parquet(files)}").fetchall()
            for (name,) in names:
                rows = f"(SELECT * FROM {parquet(files)} WHERE {period} = '{name}')"
                content = by_duckdb(connection, rows, columns, pipeline.row_key).content(name)
                found[name] = [content.rows, content.sha256]
        return found

    def _brought(self, place: Path, name: str, each: Any) -> Path:
        file = place / name
        file.write_bytes(self.site.read(each.bucket, each.key, sha256=each.sha256))
        return file

    def stored_part(self, body: bytes, rows: int) -> MadeObject:
        return self._stored("part", f"{self.orders[-1].key('')}{sha256_of(body)}", body, rows)

    def _stored(self, role: str, key: str, body: bytes, rows: int) -> MadeObject:
        self.site.write("lake", key, body)
        return MadeObject(role=role, key=key, sha256=sha256_of(body), bytes=len(body), rows=rows)

    def content(self, pipeline: Pipeline, files: Sequence[Path]) -> list[Any]:
        """Rows and hash of some files."""
        if not files:
            return [0, sha256_of(b"")]
        resources = Resources(200 << 20, 1, self.folder / "spill")
        with opened(resources, sorted({file.parent for file in files})) as connection:
            columns = snapshots.snapshot_columns(pipeline)
            found = by_duckdb(connection, parquet(files), columns, pipeline.row_key).content("")
        return [found.rows, found.sha256]
