"""Take deliveries in on Spark: executors read, judge and write; the rules for keys are the statements that DuckDB runs.

The job reads waiting deliveries and known parts at the site, and writes new parts, and for each delivery its refused
rows, to its own place. It commits nothing: whoever ordered it checks what it made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.engine_connection import EngineConnection
from rempart.errors import SparkError
from rempart.flows.distributed import grown, staging
from rempart.flows.distributed.grown import DISPLACED, FLAG, NEW, PARTITION, STAYS, Grown, JobFolder
from rempart.flows.distributed.known import GONE, KnownForm, known_rows
from rempart.flows.distributed.staging import DELIVERY, GOOD, KIND, REFUSED
from rempart.flows.distributed.world import World
from rempart.ingestion.content import evolution
from rempart.ingestion.content.growth import PART_BYTES, SMALL_PARTS
from rempart.ingestion.engine import deliveries as engine
from rempart.ingestion.engine import keys, parts
from rempart.ingestion.engine.batches import LINE, RAW
from rempart.ingestion.engine.database import batches
from rempart.ingestion.engine.deliveries import HeldRows, StagedDelivery
from rempart.ingestion.engine.identity import quote
from rempart.ingestion.engine.keys import FILE, KeyVerdict, Relations
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.engine.parts import WrittenPart
from rempart.ingestion.refused import REASONS, Refused, write
from rempart.ingestion.snapshots import PART_TYPE
from rempart.settings.pipeline import Pipeline
from rempart.sites.digests import file_sha256
from rempart.sites.once import keep_file
from rempart.spark import credentials
from rempart.spark.connection import SparkConnection
from rempart.spark.definitions import defined
from rempart.spark.order import InputObject, Made, MadeObject, SparkOrder
from rempart.spark.sites import OpenSite

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DELIVERIES, KNOWN, MADE_PART, MADE_REFUSED = "delivery", "known", "part", "refused"
"""Roles of the objects that an order names, and of those that its job made."""
_AT_A_TIME = 5_000


@dataclass(frozen=True)
class Parameters:
    """Facts of an order beside its objects.

    `partitions`: of each known part (by its SHA-256) the partition. `form`: of the known rows. `same_form`: the known
    parts have the pipeline's schema, key and partition. `changed`: the schema changed, which makes a snapshot without
    new rows too. `struck`: by the SHA-256 of a delivery the lines of erased rows, from 1.
    """

    limits: Limits
    partitions: Mapping[str, str]
    form: KnownForm = field(default_factory=KnownForm)
    same_form: bool = True
    changed: bool = False
    struck: Mapping[str, Sequence[int]] = field(default_factory=dict)
    part_bytes: int = PART_BYTES
    small_parts: int = SMALL_PARTS

    def as_json(self) -> dict[str, Any]:
        """Return the parameters as plain JSON."""
        return asdict(self)

    @staticmethod
    def of(found: Mapping[str, Any]) -> Parameters:
        """Return the parameters in an order. Raises SparkError."""
        try:
            read = {"limits": Limits(**found["limits"]), "form": KnownForm(**found.get("form", {}))}
            return Parameters(**{**found, **read})
        except (KeyError, TypeError) as cause:
            raise SparkError(
                f"read the order: its parameters are not those of an ingestion ({type(cause).__name__})",
                "Order the job by the version of Rempart that runs it.",
            ) from None


def run(order: SparkOrder, session: SparkSession, world: World, open_site: OpenSite | None = None) -> Made:
    """Do the work of an order. `open_site`: opens its site in executors; by default with the job's credentials.

    Raises PipelineError for expectations that cannot be applied, IntegrityError, SparkError.
    """
    pipeline, given = defined(order.pipelines, order.pipeline), Parameters.of(order.parameters)
    opened = open_site or partial(credentials.site_of, order)
    arrived, known = order.of_role(DELIVERIES), order.of_role(KNOWN)
    with SparkConnection(session) as kept:
        typed = kept.keep(staging.staged(session, opened, arrived, pipeline, given.limits, given.struck))
        found = _read(typed, len(arrived))
        world.progress("judged", deliveries=len(found), good=sum(d.good for d in found))
        if known:
            _check_known(session, opened, known, pipeline, given.form)
        rows = _OnSpark(session, typed, known, pipeline, opened, given.form)
        try:
            taken = engine.decide_with(rows, found, pipeline, given.limits)
            for was, now in zip(found, taken.deliveries, strict=True):
                if not now.fault and now.delivered != was.delivered:
                    raise SparkError(
                        f"judge keys on Spark: of {was.delivered} rows of a delivery {now.delivered} were told of",
                        "Run the job again.",
                    )
            world.progress("decided", held=len(taken.held))
            used = any(d.good for i, d in enumerate(taken.deliveries) if i not in taken.held)
            made = _write(order, rows, given, opened, accepted=used)
            world.progress("written", parts=len(made[0].parts), rows=sum(rows for _, rows, _, _ in made[0].parts))
            refused = list(_keep_refused(order, world, typed, taken))
        finally:
            rows.close()
    return _made(order, taken, *made, refused)


def _check_known(
    session: SparkSession, open_site: OpenSite, known: Sequence[InputObject], pipeline: Pipeline, form: KnownForm
) -> None:
    """Raise IngestError if known rows have values that the pipeline does not list any more."""
    if not (listed := evolution.listed_columns(pipeline)):
        return
    with SparkConnection(session) as connection:
        rows = known_rows(session, open_site, known, pipeline, form)
        connection.register("listed", rows.where(f"NOT {GONE}").select(*listed))
        evolution.check_listed(connection, "listed", pipeline, form.snapshot)


@dataclass
class _OnSpark:
    """Staged and known rows with the executors, for `decide_with`. `connection`: that of the last decision."""

    session: SparkSession
    typed: DataFrame
    parts: Sequence[InputObject]
    pipeline: Pipeline
    open_site: OpenSite
    form: KnownForm
    connection: SparkConnection | None = None
    verdict: KeyVerdict = field(default_factory=lambda: KeyVerdict({}))

    def opened(self, used: Sequence[StagedDelivery]) -> AbstractContextManager[EngineConnection]:
        self.close()
        self.connection = SparkConnection(self.session)
        self.connection.register("typed", self.typed)
        if self.parts:
            self.connection.register("known", self.known_rows(self.parts).where(f"NOT {GONE}").drop(GONE))
        return nullcontext(self.connection)

    def known_rows(self, some: Sequence[InputObject]) -> DataFrame:
        """Return the rows of known parts, with the SHA-256 of their part, and whether they were erased."""
        return known_rows(self.session, self.open_site, some, self.pipeline, self.form, named=FILE)

    def staged(self, used: Mapping[int, StagedDelivery]) -> Relations:
        names = ", ".join(map(quote, self.pipeline.columns))
        numbers = ", ".join(map(str, used))
        return (
            f"(SELECT {names}, {LINE}, {RAW}, {keys.row_number(DELIVERY)} AS _row FROM typed "  # noqa: S608 - our own names
            f"WHERE {KIND} = {GOOD} AND {DELIVERY} IN ({numbers}))"
        )

    def known(self) -> str | None:
        return "known" if self.parts else None

    def written(
        self, connection: EngineConnection, verdict: KeyVerdict
    ) -> tuple[Sequence[WrittenPart], Mapping[Path, Path]]:
        """Remember the verdict: nothing is written before it is known which deliveries are held back."""
        self.verdict = verdict
        return (), {}

    def close(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None


def _read(typed: DataFrame, count: int) -> list[StagedDelivery]:
    """Return the deliveries as executors judged them. Raises PipelineError, SparkError."""
    rows = SparkConnection(typed.sparkSession)
    rows.register("typed", typed)
    try:
        summaries = rows.execute(f"SELECT {DELIVERY}, _told FROM typed WHERE {KIND} = {staging.SUMMARY}").fetchall()  # noqa: S608
        chosen = f"SELECT {DELIVERY}, {LINE}, {REASONS}, {RAW} FROM typed WHERE {KIND} = {REFUSED}"  # noqa: S608
        refused = staging.refused_of(batches(rows, chosen, _AT_A_TIME), count)
    finally:
        rows.close()
    return staging.told([(int(number), str(text)) for number, text in summaries], refused)


def _write(
    order: SparkOrder, rows: _OnSpark, given: Parameters, open_site: OpenSite, *, accepted: bool
) -> tuple[Grown, frozenset[str] | None]:
    """Write the parts of the accepted rows, and of known rows in another form or beside erased ones.

    Return what was made, and which partitions are written as a whole: None for all.
    """
    pipeline, names = rows.pipeline, ", ".join(map(quote, rows.pipeline.columns))
    period, query, new = parts.period_of(pipeline), list[str](), set[str]()
    if accepted and rows.connection:
        found = rows.connection.execute(f"SELECT DISTINCT {period} AS name FROM {keys.ACCEPTED}").fetchall()  # noqa: S608
        new = {str(name) for (name,) in found}
        query.append(f"SELECT {period} AS {PARTITION}, {NEW} AS {FLAG}, {names} FROM {keys.ACCEPTED}")  # noqa: S608
    elif given.changed:
        rows.opened([])
    connection = rows.connection
    if connection is None or not (new or given.changed):
        return Grown(), frozenset()
    displaced = rows.verdict.displaced if accepted else ()
    touched = frozenset(given.partitions[name] for name in {*displaced, *given.form.gone})
    before = [part for part in rows.parts if given.partitions[part.sha256] in new | touched or not given.same_form]
    rewritten = touched | _crowded(before, given) if given.same_form else None
    if before:
        marked = rows.known_rows(before)
        connection.register("before", marked.where(f"NOT {GONE}"))
        known = f"SELECT {period} AS {PARTITION}, {{}} AS {FLAG}, {names} FROM {{}}"  # noqa: S608 - our own names
        if displaced:
            by = ", ".join(map(quote, pipeline.key))
            query.append(known.format(DISPLACED, f"before SEMI JOIN replacing USING ({by})"))
            query.append(known.format(STAYS, f"before ANTI JOIN replacing USING ({by})"))
        else:
            query.append(known.format(STAYS, "before"))
        if given.form.gone:
            connection.register("erased", marked.where(GONE))
            query.append(known.format(DISPLACED, "erased"))
    if not query:
        return Grown(), rewritten
    frame = connection.sql(" UNION ALL ".join(query)).frame
    made = grown.grown(rows.session, frame, pipeline, open_site, _place(order), rewritten, given.part_bytes)
    return made, rewritten


def _place(order: SparkOrder) -> JobFolder:
    return JobFolder(order.output.bucket, order.key(""))


def _crowded(before: Sequence[InputObject], given: Parameters) -> frozenset[str]:
    """Return the partitions that have many small parts: these are written again with the new rows."""
    small: dict[str, int] = {}
    for part in before:
        name = given.partitions[part.sha256]
        small[name] = small.get(name, 0) + (part.bytes < given.part_bytes // 2)
    return frozenset(name for name, count in small.items() if count + 1 > given.small_parts)


def _keep_refused(order: SparkOrder, world: World, typed: DataFrame, taken: engine.TakenIn) -> Iterator[MadeObject]:
    """Store the refused rows of each delivery; of one that is held back all of its rows."""
    for i, delivery in enumerate(taken.deliveries):
        rows: Refused = delivery.refused
        if i in taken.held:
            rows = HeldRows(delivery, partial(_good_rows, typed, i))
        if not len(rows):
            continue
        file = world.work / "refused.parquet"
        write(rows.tables(), file)
        sha256 = file_sha256(file)
        key, size = order.key(f"refused-{sha256}.parquet"), file.stat().st_size
        keep_file(world.site, order.output.bucket, key, file, sha256, metadata={}, content_type=PART_TYPE)
        file.unlink()
        yield MadeObject(role=MADE_REFUSED, key=key, sha256=sha256, bytes=size, rows=len(rows), facts={"delivery": i})


def _good_rows(typed: DataFrame, delivery: int) -> Iterator[Any]:
    """Yield the good rows of a delivery in order of lines."""
    with SparkConnection(typed.sparkSession) as connection:
        connection.register("held", typed.drop(KIND, REASONS, "_told"))
        query = f"SELECT * FROM held WHERE {DELIVERY} = {delivery} ORDER BY {LINE}"  # noqa: S608 - a number
        for batch in batches(connection, query, _AT_A_TIME):
            yield batch.drop_columns([DELIVERY])


def _made(
    order: SparkOrder,
    taken: engine.TakenIn,
    made: Grown,
    rewritten: frozenset[str] | None,
    refused: Sequence[MadeObject],
) -> Made:
    place = _place(order)
    new = [
        MadeObject(
            role=MADE_PART,
            key=place.part(sha256),
            sha256=sha256,
            bytes=size,
            rows=count,
            facts={"partition": name},
        )
        for name, count, sha256, size in made.parts
    ]
    deliveries = [
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
    contents = {
        name: {
            "had": list(made.had[name]),
            "has": list(made.has[name]),
            "whole": rewritten is None or name in rewritten,
        }
        for name in sorted(made.has)
    }
    facts = {"deliveries": deliveries, "held": sorted(taken.held), "partitions": contents}
    return Made(made=(*new, *refused), facts=facts)
