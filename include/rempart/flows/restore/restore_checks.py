"""Check a platform that was restored in place: secrets, ledger, champions, online features."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rempart.backup.databases import postgresql
from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.keys import platform_secrets
from rempart.counts import counted
from rempart.errors import BackupError, PipelineError, RempartError
from rempart.features import online
from rempart.features.databases import FeatureDatabases
from rempart.features.databases import session as feature_session
from rempart.features.plan import ViewTable, view_tables
from rempart.features.tables import holds
from rempart.features.tables import name as quoted
from rempart.features.tables import names as quoted_names
from rempart.flows.shared import erasures
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates.record import candidate_record
from rempart.flows.training.materialize import feature_databases
from rempart.ledger.keys import from_base64
from rempart.ledger.port import Ledger
from rempart.ledger.verification import verify
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site
from rempart.training import datasets

logger = logging.getLogger(__name__)

ROWS = 20
"""Number of entities of each view whose online features are read through Feast."""
_ENCRYPTED = (
    "SELECT password FROM public.connection WHERE is_encrypted AND password <> ''",
    "SELECT extra FROM public.connection WHERE is_extra_encrypted AND extra <> ''",
    "SELECT val FROM public.variable WHERE is_encrypted AND val <> ''",
)
_CANARY = "SELECT val FROM public.variable WHERE key = %s AND is_encrypted"


def log(checks: Iterable[RestoreCheck]) -> None:
    """Log each check: a failed one as a warning."""
    for check in checks:
        logger.log(logging.WARNING if check.ok is False else logging.INFO, "%s", check.line)


def of_service(
    platform: Platform,
    versions: Mapping[str, str],
    ledger_head: tuple[int, str | None],
    environment: Mapping[str, str],
    site: Site,
) -> Iterator[RestoreCheck]:
    """Run every check of a restored service as its users would.

    The champions must be these versions, and the ledger must hold this record. `site` holds the restored objects. An
    error counts as a failed check with its reason.
    """
    steps: dict[str, Callable[[], Iterable[RestoreCheck]]] = {
        "Airflow's encrypted connections": lambda: [decrypts(platform.database("airflow"), environment)],
        "the ledger": lambda: [ledger_verifies(platform.ledger, ledger_head)],
        "the champions": lambda: champions(platform.tracking, platform.ledger, versions, site),
        "the online features": lambda: online_features(feature_databases(platform)),
    }
    for what, step in steps.items():
        try:
            yield from step()
        except RempartError as error:
            yield RestoreCheck(what, False, error.what)


def decrypts(connection: Connection, environment: Mapping[str, str]) -> RestoreCheck:
    """Check that the key of the restore point decrypts Airflow's connections and variables in the restored database.

    The canary variable must have its value. Raises BackupError, DatabaseUnavailable.
    """
    what = "Airflow's encrypted connections and variables can be read"
    with postgresql.session(connection, "read the encrypted values of Airflow") as opened:
        if opened.execute("SELECT to_regclass('public.variable')").fetchone() == (None,):
            return RestoreCheck(what, None, "not run: the database had no schema when the restore point was created")
        found = [str(row[0]) for query in _ENCRYPTED for row in opened.execute(query).fetchall()]
        canary = opened.execute(_CANARY, [platform_secrets.CANARY]).fetchone()
    key = next((environment[name] for name in platform_secrets.FERNET_KEYS if environment.get(name)), None)
    if key is None:
        return RestoreCheck(what, False, "the restore point's secrets lack the Fernet key")
    lost = sum(_opened(key, text) is None for text in found)
    if lost:
        return RestoreCheck(
            what, False, f"{lost} of {len(found)} cannot be decrypted with the Fernet key of the restore point"
        )
    if canary and _opened(key, str(canary[0])) != platform_secrets.CANARY_VALUE:
        return RestoreCheck(what, False, f"variable {platform_secrets.CANARY} has another value than expected")
    told = f"{len(found)} values" + (f", {platform_secrets.CANARY} among them" if canary else "")
    return RestoreCheck(what, True if found else None, told if found else "not run: nothing is encrypted")


def _opened(key: str, text: str) -> str | None:
    """Return the decrypted value, or None if the key does not open it."""
    from cryptography.fernet import Fernet, InvalidToken, MultiFernet

    try:
        return MultiFernet([Fernet(part.strip()) for part in key.split(",")]).decrypt(text.encode()).decode()
    except (InvalidToken, ValueError):
        return None


def ledger_verifies(ledger: Ledger, head: tuple[int, str | None]) -> RestoreCheck:
    """Verify the whole chain of the ledger, and find the record that the signed manifest names."""
    what, (seq, digest) = "the ledger verifies up to the record that the point names", head
    introduced = [from_base64(record.body.get("public")) for record in ledger.find("key")]
    verdict = verify((entry.line for entry in ledger.entries()), [key for key in introduced if key], {})
    if not seq:
        return RestoreCheck(what, None, "not run: the ledger was empty when the restore point was created")
    if verdict.broken:
        return RestoreCheck(what, False, f"record {verdict.broken.seq}: {verdict.broken.what}")
    found = next(iter(ledger.entries(seq - 1)), None)
    if found is None or found.hash != digest:
        return RestoreCheck(what, False, f"record {seq} is {'a different one' if found else 'missing'}")
    return RestoreCheck(what, True, counted(seq, "record"))


def champions(
    tracking_of: Callable[[], Connection],
    ledger: Ledger,
    versions: Mapping[str, str],
    site: Site,
    rewritten: erasures.Rewritten | None = None,
) -> Iterator[RestoreCheck]:
    """Check that each champion loads by its URI and predicts on held-out rows of the restored site.

    `rewritten` has the replacements of training sets after erasures, if another ledger has newer ones. `tracking_of`
    returns the connection of the MLflow server, if the policy allows it.
    """
    known = erasures.rewritten(ledger) if rewritten is None else rewritten
    for name, version in sorted(versions.items()):
        yield _predicts(tracking_of(), ledger, site, name, version, known)


def _predicts(
    tracking: Connection, ledger: Ledger, site: Site, name: str, version: str, rewritten: erasures.Rewritten
) -> RestoreCheck:
    from rempart.models import registry

    what = f"champion {name} version {version} loads and predicts"
    moved = ""
    if (found := registry.champion(tracking, name)) != version:
        registry.promote(tracking, name, version, None, ("champion by the decisions in the ledger",))
        moved = f"; moved the restored alias from {found or 'none'} to the champion on record"
    record = training_record(ledger, name, version)
    table = held_out(site, record["dataset"], rewritten)
    predictions = predicted(tracking, record, table)
    finite = sum(math.isfinite(prediction) for prediction in predictions)
    return RestoreCheck(
        what, finite == len(predictions) > 0, f"{finite} of {len(predictions)} predictions are numbers{moved}"
    )


def predicted(tracking: Connection, record: Mapping[str, Any], table: Any) -> list[float]:
    """Return the figures that a recorded model predicts for rows with its features, each after the other.

    The model is that of an MLflow server, whose files are compared with the record. Raises ModelRefused, TrainingError.
    """
    from rempart.models import loading, predictions

    figures: list[float] = predictions.figures(loading.load(tracking, record).predict(table)).ravel().tolist()
    return figures


def training_record(ledger: Ledger, name: str, version: str) -> Mapping[str, Any]:
    """Return the evidence of a version's training in the restored ledger. Raises BackupError."""
    if (record := candidate_record(ledger, name, version)) is not None:
        return record
    raise BackupError(
        f"The restored ledger has no evidence of {name} version {version}'s training",
        "Promote only models that the train DAG registered, then back up again.",
    )


def held_out(site: Site, dataset: Mapping[str, Any], rewritten: erasures.Rewritten) -> Any:
    """Return the held-out rows of a frozen training set, or of its replacement after an erasure, as a pyarrow Table.

    Raises IntegrityError, ObjectMissing.
    """
    return datasets.decoded(erasures.read_dataset(rewritten, site, dataset["held_out"]))


def online_features(databases: FeatureDatabases) -> Iterator[RestoreCheck]:
    """Compare some entities of each view in the online store with the newest rows of the offline store."""
    for name, pipeline in load_all().items():
        if isinstance(pipeline, PipelineError):
            yield RestoreCheck(f"online features of {name}", None, "not run: its pipeline file does not load")
            continue
        if isinstance(pipeline, ModelPipeline):
            for table in view_tables(pipeline):
                yield _view(databases, pipeline, table)


def _view(databases: FeatureDatabases, pipeline: ModelPipeline, table: ViewTable) -> RestoreCheck:
    what = f"online features of {pipeline.name}.{table.view} equal the newest offline ones"
    rows = newest(databases.offline, pipeline, table)
    if not rows:
        return RestoreCheck(what, None, "not run: nothing was materialized")
    with online.reader(databases, pipeline, table.view) as reader:
        found = reader.stored([key for key, _ in rows])
    fields = [field.name for field in table.fields]
    wrong = sum(
        any(not _same(got[field], wanted[field]) for field in fields)
        for (_, wanted), got in zip(rows, found, strict=True)
    )
    return RestoreCheck(what, not wrong, f"{len(rows) - wrong} of {len(rows)} rows are equal")


def _same(left: Any, other: Any) -> bool:
    if isinstance(left, float) and isinstance(other, float):
        return math.isclose(left, other, rel_tol=1e-6, abs_tol=1e-9) or (math.isnan(left) and math.isnan(other))
    return bool(left == other)


def newest(
    offline: Connection, pipeline: ModelPipeline, table: ViewTable
) -> Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return key and features of the newest row of some entities in the offline store."""
    from psycopg import sql

    fields = [field.name for field in table.fields]
    with feature_session(offline, f"read some of '{pipeline.name}'") as opened:
        row = opened.execute("SELECT to_regclass(%s)", [f'public."{table.table}"']).fetchone()
        if not row or row[0] is None:
            return []
        mark = opened.execute(
            "SELECT watermark FROM feature_views WHERE pipeline = %s AND view = %s", (pipeline.name, table.view)
        ).fetchone()
        if mark is None or mark[0] is None:
            return []
        query = sql.SQL(
            "SELECT DISTINCT ON ({key}) {columns} FROM {table} WHERE {holds} ORDER BY {key}, event_timestamp DESC"
            " LIMIT {n}"
        )
        rows = opened.execute(
            query.format(
                key=quoted(table.join_key),
                columns=quoted_names([table.join_key, *fields]),
                table=quoted(table.table),
                holds=holds(table, mark[0]),
                n=sql.Literal(ROWS),
            )
        ).fetchall()
    return [(key_columns(pipeline, table, row[0]), dict(zip(fields, row[1:], strict=True))) for row in rows]


def key_columns(pipeline: ModelPipeline, table: ViewTable, joined: int | str) -> dict[str, Any]:
    """Return the columns that form a value of `join_key` (`features.plan.entity_key`)."""
    if isinstance(joined, int) or len(table.by) == 1:
        values: list[Any] = [joined]
    else:
        values = [re.sub(r"\\(.)", r"\1", value) for value in re.findall(r"(?:^|\|)((?:\\.|[^\\|])*)", joined)]
    columns = dict(zip(table.by, values, strict=True))
    return {
        name: value == "true" if pipeline.columns[name].type == "boolean" and isinstance(value, str) else value
        for name, value in columns.items()
    }
