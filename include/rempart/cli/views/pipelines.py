"""Write the list and the state of pipelines as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rempart.cli.views import text
from rempart.counts import counted
from rempart.orchestration import run_notes
from rempart.web.read_models.feature_store.views import FeatureView
from rempart.web.read_models.messages import Moment
from rempart.web.read_models.pipeline_states import PipelineState
from rempart.web.read_models.quarantine import Delivery

HEAD = ("PIPELINE", "SOURCE", "NEWEST DELIVERY", "SNAPSHOT", "CHAMPION", "IN QUARANTINE NOW", "INGESTS (UTC)")


def unknown(moment: Moment) -> Iterator[str]:
    """Yield the sources that did not answer, with the reason, as lines."""
    for why, sources in moment.silent.items():
        yield from f"UNKNOWN: {' and '.join(sources)}: {why}".split("\n")
    if moment.unknown:
        yield "What to do: start the stack with `rempart up`, or see `rempart status`."


def listing(states: Sequence[PipelineState], landing: str) -> Iterator[str]:
    """Yield the table of pipelines. `landing`: the bucket of deliveries."""
    if not states:
        yield "There is no pipeline yet. Draft one from a file: rempart pipeline new your.csv"
        return
    yield from text.table(HEAD, (_row(state, landing) for state in states))
    for state in states:
        if state.error:
            yield from f"{state.name}: {state.error[0]}".split("\n")


def _row(state: PipelineState, landing: str) -> tuple[str, ...]:
    if state.error:
        return (state.name, "INVALID FILE", "", "", "", "", "")
    source = f"{landing}/{state.prefix}"
    if not state.known:
        return (state.name, source, *(text.UNKNOWN,) * 4, state.schedule or "by hand")
    newest = state.newest[0] if state.newest else None
    return (
        state.name,
        source,
        f"{text.counted(newest.delivered, 'row')} {text.moment(newest.landed_at)}" if newest else "none",
        f"{state.snapshot.id[:12]} {text.counted(state.snapshot.rows, 'row')}" if state.snapshot else "none",
        f"version {state.champion.version}" if state.champion else "none",
        text.counted(state.quarantined, "row") + (f", {state.held_back} held back" if state.held_back else ""),
        state.schedule or state.event or "by hand",
    )


def state_lines(
    state: PipelineState,
    landing: str,
    objects: Iterable[str] = (),
    waiting: Iterable[str] = (),
    model: Iterable[str] = (),
) -> Iterator[str]:
    """Yield the state of one pipeline.

    `objects`, `waiting`, `model`: lines about its snapshot's objects, what waits, and the champion's files.
    """
    yield f"{state.name}: {text.folded(state.description) or 'no description'}"
    if state.error:
        yield from f"  INVALID FILE: {state.error[0]}".split("\n")
    else:
        yield from text.pairs(
            [
                ("source", f"{landing}/{state.prefix} ({state.classification})"),
                ("predicts", _predicts(state)),
                ("ingests", _ingests(state)),
            ]
        )
    yield ""
    yield from waiting
    if state.known:
        yield from _known(state, objects)
        yield from model
    step = state.next
    yield ""
    yield f"Next: {step.sentence}"
    if step.command:
        yield f"  {step.command}"


def _predicts(state: PipelineState) -> str:
    if state.target is None:
        return "nothing: the pipeline ends at its snapshot"
    return f"{state.target}, from pipeline '{state.labels}'" if state.labels else state.target


def _ingests(state: PipelineState) -> str:
    told = [f"{state.schedule} (UTC)"] if state.schedule else []
    return " and ".join([*told, *([state.event] if state.event else [])]) or "by hand: the file has no schedule"


def _known(state: PipelineState, objects: Iterable[str]) -> Iterator[str]:
    yield f"Deliveries: {state.deliveries}" + (f", the newest {len(state.newest)}:" if state.newest else "")
    yield from (f"  {row}" for row in deliveries(state.newest))
    found = state.snapshot
    yield ""
    if found:
        yield f"Snapshot: {found.id}, {counted(found.rows, 'row')}, {text.moment(found.at)}, at site '{found.site}'"
    else:
        yield "Snapshot: none"
    yield from (f"  {line}" for line in objects)
    held = f", {text.counted(state.held_back, 'delivery', 'deliveries')} held back" if state.held_back else ""
    yield f"Quarantine: {text.counted(state.quarantined, 'row waits', 'rows wait')} there now{held}"
    yield from (f"  {count:>7,} x {reason}" for reason, count in state.rules.items())
    if sum(state.rules.values()) > state.quarantined:
        yield "  (a row may have several reasons)"
    if state.held_rows:
        yield f"  {state.held_rows:>7,} good {'row' if state.held_rows == 1 else 'rows'} held back with them"
    yield from _features(state)
    yield from _champion(state)


def _features(state: PipelineState) -> Iterator[str]:
    """Yield the age of the online values of each feature view, and their comparison with the snapshot."""
    if not state.features:
        return
    yield "Features online:"
    head = ("VIEW", "STATE", "NEWEST VALUE", "IT MAY BE", "LOADED", "ENTITIES", "COMPARED WITH THE SNAPSHOT")
    rows = (
        (
            found.view,
            found.freshness,
            _newest(found),
            "any age: no `max_age`" if found.limit_seconds is None else f"{text.span(found.limit_seconds)} old",
            text.moment(found.loaded_at),
            text.UNKNOWN if found.entities is None else f"{found.entities:,}",
            _compared(found),
        )
        for found in state.features
    )
    yield from (f"  {line}" for line in text.table(head, rows))
    passed = {found.view: found.passed_days for found in state.features if found.passed_days}
    if passed:
        windows = ", ".join(f"'{view}' of {days} days" for view, days in passed.items())
        yield "  Predictions asked for now are made without the views whose newest value is older than their longest"
        yield f"  window: {windows}. They are less exact than the gate's figure. Deliver newer rows."


def _newest(found: FeatureView) -> str:
    """Tell the time or the date of the newest value, and how long ago that is; a planned event counts from its load."""
    planned = found.newest and found.loaded_at and found.newest > found.loaded_at
    age = "" if found.age_seconds is None or planned else f", {text.span(found.age_seconds)} ago"
    return f"{found.newest_day or text.moment(found.newest)}{age}"


def _entities(count: int | None) -> str:
    return text.UNKNOWN if count is None else counted(count, "entity", "entities")


def _compared(found: FeatureView) -> str:
    if found.skew == "equal":
        return f"equal: {_entities(found.compared)}, {text.moment(found.compared_at)}"
    if found.skew == "different":
        since = "" if found.is_current else " (unknown since)"
        return f"DIFFERENT: {found.different:,} of {_entities(found.compared)}, {text.moment(found.compared_at)}{since}"
    return "not yet; twice a day" if found.skew == "not compared" else f"unknown, {text.moment(found.compared_at)}"


def _champion(state: PipelineState) -> Iterator[str]:
    model = state.model
    if model is None or model.champion is None:
        yield "Champion: none"
        return
    champion = model.champion
    judged = champion.judged
    told = text.figures(judged.metrics, model.metric) if judged else "-"
    yield f"Champion: version {champion.version} since {text.moment(model.champion_since)}: {told}"
    if judged and judged.reasons:
        yield f"  {run_notes.folded(judged.reasons)}"
    if last := state.scoring:
        yield (
            f"Last scoring: {last.rows:,} rows of {last.rows_of} by version {last.version}, {text.moment(last.at)}, "
            f"{last.quarantined:,} in quarantine; table {last.table}{f', {last.into}' if last.into else ''}"
        )
        yield from (f"{rows:>9,} x {reason}" for reason, rows in last.reasons.items())


def deliveries(found: Sequence[Delivery]) -> Iterator[str]:
    """Yield deliveries as a table, with counts alone. They are known by their SHA-256.

    Bytes that came again have a second line: what they brought when they came first.
    """
    if not found:
        return
    head = ("SHA-256", "LANDED", "DELIVERED", "ACCEPTED", "REPEATED", "IN QUARANTINE", "OUTCOME")
    yield from text.table(head, (line for delivery in found for line in _of_bytes(delivery)))


def _of_bytes(delivery: Delivery) -> Iterator[tuple[str, ...]]:
    """Yield the lines of a delivery: its newest coming, and its first one if the same bytes came again."""
    if not delivery.earlier:
        yield _delivered(delivery, delivery.quarantined, "")
        return
    first, times = delivery.earlier[-1], len(delivery.earlier) + 1
    often = f", delivered {times} times" if times > 2 else ""
    yield _delivered(delivery, delivery.quarantined, f"; the same bytes again{often}")
    judged = text.counted(first.quarantined, "refused row was", "refused rows were")
    again = f"; {judged} judged again since" if first.quarantined else ""
    yield _delivered(first, 0, f"; these bytes came first{again}")


def _delivered(delivery: Delivery, waiting: int, remark: str) -> tuple[str, ...]:
    return (
        delivery.sha256[:12],
        text.moment(delivery.landed_at),
        f"{delivery.delivered:,}",
        f"{delivery.accepted:,}",
        f"{delivery.repeated:,}",
        f"{waiting:,}",
        delivery.outcome
        + (f": {delivery.fault}" if delivery.fault else "")
        + (f", {delivery.replaced:,} replaced older rows" if delivery.replaced else "")
        + remark,
    )


def as_json(state: PipelineState, landing: str) -> Mapping[str, Any]:
    """Return the state of a pipeline for a JSON document. Deliveries have no name: SHA-256 alone, as in the ledger.

    What only the ledger knows is null while it does not answer.
    """
    found, model, champion = state.snapshot, state.model, state.champion
    return {
        "name": state.name,
        "description": state.description,
        "classification": state.classification,
        "source": f"{landing}/{state.prefix}" if state.prefix else None,
        "target": state.target,
        "labels": state.labels,
        "schedule": state.schedule,
        "event": state.event,
        "error": dict(zip(("what", "hint"), state.error, strict=True)) if state.error else None,
        "known": state.known,
        "deliveries": state.deliveries if state.known else None,
        "newest_deliveries": state.newest if state.known else None,
        "snapshot": {"id": found.id, "rows": found.rows, "at": found.at, "site": found.site} if found else None,
        "quarantined": state.quarantined if state.known else None,
        "held_back": state.held_back if state.known else None,
        "rules": state.rules if state.known else None,
        "features": state.features if state.known else None,
        "champion": {
            "version": champion.version,
            "since": model.champion_since,
            "metric": model.metric,
            "metrics": champion.judged.metrics if champion.judged else champion.metrics,
        }
        if champion and model
        else None,
        "next": state.next,
    }
