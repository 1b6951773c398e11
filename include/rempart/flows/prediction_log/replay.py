"""Compute a logged prediction again: with the version that answered, from what it saw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rempart.backup.keys import age
from rempart.errors import ModelRefused, PredictionError, ServingError
from rempart.features.prediction.plan import plan
from rempart.flows.prediction.champion import check_definitions, version_of
from rempart.flows.prediction_log import files, sealed_values
from rempart.flows.prediction_log.keys import opener, unwrapper
from rempart.flows.shared import removals
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Ledger
from rempart.models.encoding import Feature
from rempart.models.inputs import Input, typed
from rempart.models.loading import LoadedModel
from rempart.serving import hour_files, records, seals, segments
from rempart.serving.entries import time_of
from rempart.serving.records import LoggedValues
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa

_SAME, _TINY = 1e-6, 1e-7
"""Relative and absolute difference that count as none: ONNX Runtime rounds by the rows of a batch (docs/adr/0118)."""


@dataclass(frozen=True)
class Logged:
    """An entry of the log, opened. `where`: the object or the segment that holds it."""

    id: str
    at: datetime
    pipeline: str
    version: str
    sha256: str
    client: str
    place: str
    output: Mapping[str, Any]
    returned: bool
    private: LoggedValues
    where: str


@dataclass(frozen=True)
class Replay:
    """A prediction as it was logged, and as it is now, by column.

    `from_inputs` is None where the inputs alone do not give the features; `note` tells why.
    """

    logged: Logged
    from_features: Mapping[str, Any]
    from_inputs: Mapping[str, Any] | None
    note: str = ""

    @property
    def same(self) -> bool:
        """Return whether every prediction is the logged one."""
        again = [self.from_features, *([] if self.from_inputs is None else [self.from_inputs])]
        return all(equal(self.logged.output, found) for found in again)


def replay(
    platform: Platform,
    pipeline: ModelPipeline,
    entry_id: str,
    journal: Path,
    identity: age.Identity | None = None,
) -> Replay:
    """Find an entry in a pipeline's log, and compute its prediction again. `journal`: folder of the pipeline's journal.

    `identity`: one in escrow that opens sealed entries; default: the platform's own key. Raises ServingError if the log
    does not have it, with the retention or the erasure that may have taken it; KeyDestroyed, KeyWrong, ModelRefused,
    and the errors of stores.
    """
    logged, model = answer_of(platform, pipeline, entry_id, journal, identity, "replay")
    from_features = _predicted(model, seen_features(model.features, logged))
    made, note = _from_inputs(pipeline, model, logged)
    return Replay(logged, from_features, None if made is None else _predicted(model, made), note)


def answer_of(
    platform: Platform,
    pipeline: ModelPipeline,
    entry_id: str,
    journal: Path,
    identity: age.Identity | None,
    doing: str,
) -> tuple[Logged, LoadedModel]:
    """Return an entry of the log, and the verified version that answered. `doing`: a verb, for errors.

    Raises the errors of `replay`.
    """
    logged = find(platform, pipeline, entry_id, journal, identity)
    if logged is None:
        raise ServingError(
            f"{doing} prediction {entry_id}: the log of '{pipeline.name}' does not have it. "
            + " ".join(reasons(platform.ledger, pipeline, entry_id, platform.clock())),
            "Check the id, and the name of the model.",
        )
    model = version_of(platform, pipeline.name, logged.version)
    if model.sha256 != logged.sha256:
        raise ModelRefused(
            f"{doing} prediction {entry_id}: model {pipeline.name} version {logged.version} has another SHA-256 than "
            "the version that answered",
            "Compare the entry with the evidence of its version (`rempart ledger`): one of the two was altered.",
        )
    return logged, model


def find(
    platform: Platform,
    pipeline: ModelPipeline,
    entry_id: str,
    journal: Path,
    identity: age.Identity | None = None,
) -> Logged | None:
    """Return an entry of the log, from the lake or from this machine's journal; None if neither has it.

    Raises IntegrityError for a file that differs from its evidence, BackupError, SiteError.
    """
    name, open_key = pipeline.name, opener(platform, identity)
    for file in segments.all_in(journal):
        try:
            body = file.read_bytes()
        except FileNotFoundError:  # it was shipped just now
            continue
        if entry_id.encode() not in body:
            continue
        content = seals.open_segment(file.stem, body, unwrapper(open_key))
        for entry in content.entries:
            if entry.id == entry_id:
                if not content.is_readable:
                    open_key(content.key)  # it tells when the key was destroyed
                return Logged(
                    entry.id, entry.at, name, entry.version, entry.sha256, entry.client, entry.place, entry.output,
                    entry.returned, LoggedValues(dict(entry.inputs), dict(entry.features)), str(file),
                )  # fmt: skip
    site, bucket = platform.active_site(pipeline.classification), platform.config.buckets.lake
    listed = [info.key for info in site.list(bucket, hour_files.folder(name))]
    hours = {hour for key in listed if (hour := hour_files.hour_of(key))}
    for hour in nearest(hours, time_of(entry_id)):
        for key, body in files.bodies(platform.ledger, site, bucket, name, [hour]):
            if hour_files.having(hour_files.read(body, ["id"]), [entry_id]).num_rows:
                table = hour_files.having(hour_files.read(body), [entry_id])
                row = table.to_pylist()[0]
                if all(row.get(column) is None for column in hour_files.PRIVATE):
                    if row["key"]:
                        open_key(row["key"])  # it tells when the key was destroyed
                    raise _without_values(entry_id)
                output = {column: row[column] for column in hour_files.output_columns(table.column_names)}
                if row["key"]:
                    where, sealed = f"entry {entry_id} of {bucket}/{key}", row["sealed"] or b""
                    found = records.values_of(sealed_values.opened(open_key(row["key"]), name, entry_id, sealed, where))
                else:
                    found = LoggedValues(msgspec.json.decode(row["inputs"]), msgspec.json.decode(row["features"]))
                return Logged(
                    row["id"], row["at"], name, row["version"], row["sha256"], row["client"], row["place"], output,
                    row["returned"], found, f"{bucket}/{key} at site '{site.name}'",
                )  # fmt: skip
    return None


def _without_values(entry_id: str) -> ServingError:
    return ServingError(
        f"replay prediction {entry_id}: an erasure took its inputs and features, since rows of a pipeline of which "
        "these are made were erased",
        "The log still has its time, client, version and answer: docs/how-to/prediction-log.md.",
    )


def nearest(hours: set[datetime], at: datetime | None) -> list[datetime]:
    """Return hours in the order of a search: nearest to `at`, the newest first without it. Pure."""
    if at is None or not hours:
        return sorted(hours, reverse=True)
    return sorted(hours, key=lambda hour: (abs(hour + timedelta(minutes=30) - at), hour))


def reasons(ledger: Ledger, pipeline: ModelPipeline, entry_id: str, now: datetime) -> Iterator[str]:
    """Yield what may have taken an entry, by evidence."""
    name, at, rules = pipeline.name, time_of(entry_id), pipeline.serving.log
    removed = removals.removal_of(ledger, name)
    if removed is not None:
        yield f"The pipeline was removed, with its log (evidence {removed})."
    for record in ledger.each("prediction-log", name):
        if record.body["state"] == "expired":
            yield (
                f"Entries from before {str(record.body['before'])[:10]} are deleted after {rules.keep_days} days "
                f"(evidence {record.seq})."
            )
            break
    is_known = at is not None and abs(now - at) < timedelta(days=36_500)
    within = hour_files.hour_folder(name, at) if at and is_known else hour_files.folder(name)
    for record in ledger.each("erasure", name):
        if any(str(each["key"]).startswith(within) for each in record.body.get("successors", ())):
            yield f"An erasure on {record.at:%Y-%m-%d} took entries from the log (evidence {record.seq})."
            break
    if rules.sample < 1:
        yield f"Of its predictions {rules.sample:.0%} are logged."


def equal(logged: Mapping[str, Any], again: Mapping[str, Any]) -> bool:
    """Return whether two predictions are the same up to rounding. Pure."""
    return logged.keys() == again.keys() and all(_equal(logged[name], again[name]) for name in logged)


def _equal(before: Any, now: Any) -> bool:
    if isinstance(before, (int, float)) and isinstance(now, (int, float)):
        return math.isclose(before, now, rel_tol=_SAME, abs_tol=_TINY)
    if before is None and isinstance(now, float):  # a figure that is none has no form in JSON
        return not math.isfinite(now)
    return bool(before == now)


def _predicted(model: LoadedModel, features: pa.Table) -> dict[str, Any]:
    (row,) = model.predict(features).to_pylist()
    return dict(row)


def seen_features(wanted: Sequence[Feature], logged: Logged, doing: str = "replay") -> pa.Table:
    """Return the logged features as a table of one row. `doing`: what for. Raises ServingError if one is missing."""
    import pyarrow as pa

    types = {"number": pa.float64(), "boolean": pa.bool_(), "category": pa.string()}
    values = logged.private.features
    if missing := [feature.name for feature in wanted if feature.name not in values]:
        raise ServingError(
            f"{doing} prediction {logged.id}: its entry lacks feature '{missing[0]}' of version {logged.version}",
            "The scorer logs every feature that the model saw: find out which program wrote the entry.",
        )
    return pa.table({each.name: pa.array([values[each.name]], types[each.type]) for each in wanted})


def _from_inputs(pipeline: ModelPipeline, model: LoadedModel, logged: Logged) -> tuple[pa.Table | None, str]:
    """Return the features that the inputs give now; or None, and why."""
    from rempart.features.prediction.rows import features

    try:
        check_definitions(pipeline, model)
    except PredictionError as changed:
        return None, changed.what
    made = plan(pipeline, [feature.name for feature in model.features])
    if views := ", ".join(f"'{view.table.view}'" for view in made.stored):
        return None, f"features of view {views} came from the online store, which has other values by now"
    try:
        rows = typed(model.inputs, _rows(model.inputs, logged.private.inputs))
    except (PredictionError, ValueError, TypeError):  # the log keeps the columns that the client gave
        return None, "the entry does not have every column that the features are made of"
    return features(made, rows, logged.at.astimezone(UTC), _no_lookup), ""


def _no_lookup(*view: object) -> pa.Table:
    raise AssertionError("no view of this plan is stored")


def _rows(inputs: Sequence[Input], values: Mapping[str, Any]) -> pa.Table:
    import pyarrow as pa

    return pa.table({each.name: pa.array([_value(each, values[each.name])]) for each in inputs if each.name in values})


def _value(column: Input, value: Any) -> Any:
    if isinstance(value, str) and column.type == "date":
        return date.fromisoformat(value[:10])
    if isinstance(value, str) and column.type == "timestamp":
        return datetime.fromisoformat(value)
    return float(value) if value is not None and column.type in ("number", "decimal") else value
