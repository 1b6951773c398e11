"""List the records of a DAG, or of one run, in the ledger: by topic, each record as a sentence. Pure.

A record names the run that wrote it (`rempart.ledger.attributed`). Older records without this mark are found by the
pipeline or pair of the DAG, and belong to no run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, get_args

from rempart.backup.databases.not_held import is_whole, of_record
from rempart.backup.drill.checks import passed_of
from rempart.ingestion.acceptance import COUNTS
from rempart.ledger.attributed import run_name, writer
from rempart.ledger.port import Evidence, Kind
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.training.placement import Option, plan, request_of
from rempart.training.waiting import waiting_times
from rempart.web.facts import NEWEST, CockpitFacts, Unknown
from rempart.web.read_models.feature_store.views import STATES
from rempart.web.read_models.gate import rules as gate
from rempart.web.read_models.gate.rules import RuleRow
from rempart.web.read_models.messages import Message, Moment, State, moment
from rempart.web.read_models.overview import against
from rempart.web.read_models.watched.drift import VERDICTS

Topic = Literal[
    "snapshot",
    "quarantine",
    "features",
    "candidate",
    "gate",
    "point",
    "drill",
    "replication",
    "usage",
    "placement",
    "monitoring",
]
TOPICS: tuple[Topic, ...] = get_args(Topic)
KINDS: Mapping[Topic, tuple[Kind, ...]] = {
    "snapshot": ("snapshot", "removal"),
    "quarantine": ("deliveries", "look", "acceptance"),
    "features": ("materialization", "skew"),
    "candidate": ("search", "candidate"),
    "gate": ("approval", "answer", "promotion", "refusal", "rollback", "retirement"),
    "point": ("restore-point", "prune"),
    "drill": ("drill",),
    "replication": ("replication",),
    "usage": ("usage",),
    "placement": ("placement", "decision", "denial", "egress-denial"),
    "monitoring": ("monitoring",),
}
NEWEST_OF_A_DAG = 5
"""Records of each topic that the page of a DAG shows."""
OF_PIPELINES = (
    "ingest", "profile_data", "preview_quarantine", "materialize_features", "train", "search", "validate_model",
    "approve_model", "roll_back_model", "score", "monitor",
)  # fmt: skip
OF_PLATFORM: Mapping[str, Topic] = {
    "backup_platform": "point",
    "restore_drill": "drill",
    "restore_to_sandbox": "point",
    "retire_models": "gate",
}


@dataclass(frozen=True)
class RecordSummary:
    """One record: its message, its recorded reasons, its state. `point`: the restore point that it is about.

    `rules`: those of the gate that it tells one by one.
    """

    seq: int
    at: datetime
    kind: str
    subject: str
    state: State
    message: Message
    why: tuple[str, ...]
    task: str | None
    point: str | None
    rules: tuple[RuleRow, ...] = ()


@dataclass(frozen=True)
class Section:
    """Records of one topic, newest first."""

    topic: Topic
    records: tuple[RecordSummary, ...]


@dataclass(frozen=True)
class RunRecords:
    """Records of a DAG (`run` is None), of one run, or of one task of that run. Topics without records are omitted.

    `pipeline`: the DAG's pipeline, if any. `reach`: number of the newest records of each kind that were searched; older
    records are only in the ledger's pages. `waits`: for a DAG that trains in pools, how long jobs waited for each pool,
    in its order.
    """

    moment: Moment
    dag: str
    run: str | None
    task: str | None
    pipeline: str | None
    sections: tuple[Section, ...]
    reach: Mapping[str, int]
    waits: tuple[Message, ...] = ()


def of_run(facts: CockpitFacts, dag: str, run: str, task: str | None, now: datetime) -> RunRecords:
    """Return everything that a run, or one task of it, wrote."""
    name = run_name(run)

    def wrote(record: Evidence) -> bool:
        by = writer(record)
        return by is not None and (by.dag, by.run) == (dag, name) and task in (None, by.task)

    return _left(facts, now, dag, run, task, wrote, None)


def of_dag(facts: CockpitFacts, dag: str, now: datetime) -> RunRecords:
    """Return the newest evidence of the DAG's pipeline, pair or stage, and of everything else that it wrote."""
    pipeline = pipeline_of(dag, facts)
    loaded = None if isinstance(facts.pipelines, Unknown) or pipeline is None else facts.pipelines[pipeline]
    handled = loaded.classification if isinstance(loaded, Pipeline) else None
    pair = dag.removeprefix("replicate_").replace("_to_", "->", 1) if dag.startswith("replicate_") else None
    topic = OF_PLATFORM.get(dag)

    def concerns(record: Evidence) -> bool:
        by = writer(record)
        if by is not None and by.dag == dag:
            return True
        if topic and record.kind in KINDS[topic]:
            return True
        if pipeline is None:
            return pair is not None and record.kind == "replication" and record.subject == pair
        if record.kind in ("decision", "denial"):
            return by is None and record.body.get("classification") == handled
        return pipeline in (record.subject, record.body.get("pipeline"))

    waits = _waits(facts, loaded, now) if isinstance(loaded, ModelPipeline) and dag == f"train_{pipeline}" else ()
    return replace(_left(facts, now, dag, None, None, concerns, NEWEST_OF_A_DAG), waits=waits)


def _waits(facts: CockpitFacts, pipeline: ModelPipeline, now: datetime) -> tuple[Message, ...]:
    if isinstance(facts.config, Unknown) or facts.config.training.backend != "kubernetes":
        return ()
    waiting = waiting_times(record.body for record in facts.of("placement"))
    unknown = "wait.unread" if isinstance(facts.evidence, Unknown) else "wait.unknown"
    found = plan(facts.config, request_of(facts.config, pipeline), on=now.date(), waiting=waiting)
    return tuple(_wait(option, unknown) for option in found.options)


def _wait(option: Option, unknown: str) -> Message:
    if (known := option.waiting) is None:
        return Message(unknown, {"pool": option.pool})
    told: dict[str, str | int | float] = {"pool": option.pool, "wait_seconds": known.seconds, "jobs_count": known.jobs}
    return Message("wait.jobs" if known.jobs > 1 else "wait.job", told)


def pipeline_of(dag: str, facts: CockpitFacts) -> str | None:
    """Return the pipeline of a DAG, by its id."""
    known = () if isinstance(facts.pipelines, Unknown) else facts.pipelines
    return next((name for name in known for stage in OF_PIPELINES if dag == f"{stage}_{name}"), None)


def _left(
    facts: CockpitFacts,
    now: datetime,
    dag: str,
    run: str | None,
    task: str | None,
    concerns: Callable[[Evidence], bool],
    limit: int | None,
) -> RunRecords:
    found = []
    for topic in TOPICS:
        records = [entry for kind in KINDS[topic] for entry in facts.of(kind) if concerns(entry)]
        newest = sorted(_once(records) if limit else records, key=lambda record: -record.seq)[:limit]
        if newest:
            found.append(Section(topic, tuple(summarize(entry) for entry in newest)))
    reach = {str(kind): NEWEST[kind] for kinds in KINDS.values() for kind in kinds}
    return RunRecords(moment(facts, now), dag, run, task, pipeline_of(dag, facts), tuple(found), reach)


def _once(records: Iterable[Evidence]) -> list[Evidence]:
    """Yield only the newest decision about each placement, because each task records its own."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for record in records:
        asked = (record.kind, str(record.body.get("what")), str(record.body.get("classification")), record.subject)
        if record.kind not in ("decision", "denial") or asked not in seen:
            kept.append(record)
        seen.add(asked)
    return kept


def summarize(record: Evidence) -> RecordSummary:
    """Return a record as a sentence. A record whose body has another form is described by its kind alone."""
    try:
        state, params, why = _SAYERS[record.kind](record.body)
        loss = record.kind == "acceptance" and "lost" in record.body
        message = Message("told.loss" if loss else f"told.{record.kind}", params)
        asked = gate.rules(record.body) if record.kind in KINDS["gate"] else ()
    except (KeyError, TypeError, ValueError):
        state, message, why, asked = "unknown", Message("told.other"), (), ()
    by = writer(record)
    point = record.subject if record.kind in ("restore-point", "drill") else None
    return RecordSummary(
        record.seq,
        record.at,
        record.kind,
        record.subject,
        state,
        message,
        why,
        by.task if by else None,
        point,
        asked,
    )


_ROWS = ("written", "online")
Body = Mapping[str, Any]
Sentence = tuple[State, dict[str, str | int | float], tuple[str, ...]]


def _snapshot(body: Body) -> Sentence:
    counts = {f"{name}_count": int(body.get(name, 0)) for name in (*COUNTS, "rows")}
    return ("warning" if body["quarantined"] else "good"), {"snapshot": str(body["snapshot"]), **counts}, ()


def _deliveries(body: Body) -> Sentence:
    told = body["deliveries"]
    counts = {f"{name}_count": sum(int(delivery.get(name, 0)) for delivery in told) for name in COUNTS}
    return ("warning" if counts["quarantined_count"] else "good"), {"deliveries_count": len(told), **counts}, ()


def _look(body: Body) -> Sentence:
    counts = {f"{name}_count": int(body[name]) for name in ("rows", "of")}
    return "good", {"delivery": str(body["delivery"])[:12], "by": str(body["by"]), **counts}, ()


def _acceptance(body: Body) -> Sentence:
    if "lost" in body:
        return "warning", {"snapshot": str(body["lost"]), "by": str(body["by"])}, ()
    counts = {f"{name}_count": int(body[name]) for name in ("refused", "delivered")}
    return "warning", {"delivery": str(body["delivery"])[:12], "by": str(body["by"]), **counts}, ()


def _removal(body: Body) -> Sentence:
    return (
        ("good" if body["state"] == "ended" else "warning"),
        {"what": str(body["what"]), "at": str(body["state"])},
        (),
    )


def _usage(body: Body) -> Sentence:
    parts = [*body["buckets"].values(), *body["locks"].values()]
    blind = tuple(str(part["why"]) for part in parts if "why" in part)
    counts = {
        "buckets_count": len(body["buckets"]),
        "lapsing_count": sum(int(part.get("lapsing", 0)) for part in parts),
    }
    return ("unknown" if blind else "warning" if counts["lapsing_count"] else "good"), {**counts}, blind


def _materialization(body: Body) -> Sentence:
    counts = {"views_count": len(body["views"])} | {f"{name}_count": int(body[f"rows_{name}"]) for name in _ROWS}
    return "good", {"snapshot": str(body["snapshot"]), "time_seconds": float(body["seconds"]), **counts}, ()


def _skew(body: Body) -> Sentence:
    state = STATES[str(body["outcome"])]
    compared = body.get("compared", {})
    counts = {f"{name}_count": sum(int(view[name]) for view in compared.values()) for name in ("compared", "different")}
    named = tuple(f"{name}: {view['different']}" for name, view in compared.items() if view["different"])
    return state, {"views_count": len(compared), **counts}, (*named, *_words([body.get("why")]))


def _monitoring(body: Body) -> Sentence:
    told = {name: str(body[name]) for name in ("version", "outcome")}
    counts = {f"{name}_count": int(body[name]) for name in ("watched", "moved")}
    rows = {"rows_count": int(body["window"]["rows"])}
    return VERDICTS[told["outcome"]], {**told, **counts, **rows}, _words(body["reasons"])


def _candidate(body: Body) -> Sentence:
    rows = {f"{name}_count": int(body["dataset"][f"rows_{name}"]) for name in ("train", "holdout")}
    return "good", {"version": str(body["version"]), "snapshot": str(body.get("snapshot")), **rows}, ()


def _judged(state: State) -> Callable[[Body], Sentence]:
    return lambda body: (state, {"version": str(body["version"])}, _words(body.get("reasons")))


def _answer(body: Body) -> Sentence:
    return (
        "warning",
        {"version": str(body["version"]), "by": str(body["by"]), "what": str(body["answer"])},
        _words([body.get("why"), body.get("reason")]),
    )


def _rollback(body: Body) -> Sentence:
    return "warning", {"version": str(body["champion"]), "replaces": str(body["replaces"])}, ()


def _retirement(body: Body) -> Sentence:
    ended = body["state"] == "ended"
    return ("good" if ended else "warning"), {"version": str(body["version"])}, _words([body.get("why")])


def _point(body: Body) -> Sentence:
    absent = of_record(body)
    lacking = (*_words(body.get("dangling")), *(str(store) for store in absent))
    counts = {"databases_count": len(body["databases"]), "objects_count": int(body["objects"])}
    state: State = "bad" if not is_whole(body) else "warning" if absent else "good"
    return state, {"size_bytes": int(body["bytes"]), **counts}, lacking


def _drill(body: Body) -> Sentence:
    checks = body.get("checks") or ()
    red = tuple(f"{check['what']}: {check.get('detail', '')}" for check in checks if check["ok"] is not True)
    passed, count = passed_of(check["ok"] for check in checks)
    counts = {"passed_count": passed, "checks_count": count}
    return ("good" if body["ok"] is True else "bad"), {"rto_seconds": float(body["rto_seconds"]), **counts}, red


def _replication(body: Body) -> Sentence:
    counts = {f"{name}_count": int(body[name]) for name in ("objects", "verified", "copied", "failures")}
    state: State = "warning" if body["failures"] else "good"
    grade = str(body.get("grade", "grade unknown"))
    return state, {"lag_seconds": float(body["lag_seconds"]), "grade": grade, **counts}, _words(body.get("failed"))


def _placement(body: Body) -> Sentence:
    state: State = "good" if body["outcome"] == "succeeded" else "warning"
    return state, {"job": str(body["job_id"]), "outcome": str(body["outcome"])}, _words([body.get("cause")])


def _decision(body: Body) -> Sentence:
    asked = {name: str(body[name]) for name in ("what", "classification")}
    return "good", {**asked}, tuple(f"{reason['rule']}: {reason['fact']}" for reason in body["reasons"])


def _denial(body: Body) -> Sentence:
    return "bad", {}, against(body)


def _words(found: Any) -> tuple[str, ...]:
    return tuple(str(word) for word in found or () if word)


_SAYERS: Mapping[str, Callable[[Body], Sentence]] = {
    "snapshot": _snapshot,
    "deliveries": _deliveries,
    "look": _look,
    "acceptance": _acceptance,
    "removal": _removal,
    "usage": _usage,
    "materialization": _materialization,
    "skew": _skew,
    "monitoring": _monitoring,
    "candidate": _candidate,
    "search": lambda body: ("bad" if body["best"] is None else "good", {"trials_count": len(body["trials"])}, ()),
    "approval": _judged("warning"),
    "answer": _answer,
    "promotion": _judged("good"),
    "refusal": _judged("bad"),
    "rollback": _rollback,
    "retirement": _retirement,
    "restore-point": _point,
    "prune": lambda body: ("good", {"points_count": len(body["deleted"])}, ()),
    "drill": _drill,
    "replication": _replication,
    "placement": _placement,
    "decision": _decision,
    "denial": _denial,
    "egress-denial": _denial,
}
