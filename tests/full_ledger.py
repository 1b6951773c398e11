"""A ledger with every kind of record that a page, a figure or a command reads, and its facts with some records gone."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from datetime import timedelta
from typing import Any, get_args

from rempart.ingestion.deliveries import HELD_BACK, REFUSED
from rempart.ledger.attributed import KEY
from rempart.ledger.memory import MemoryLedger
from rempart.ledger.port import Evidence, Kind
from rempart.sites.capabilities import CAPABILITIES
from rempart.web.facts import NEWEST, CockpitFacts
from tests import searched
from tests.cockpit import CHALLENGER, DOMAIN, GATE, NOW, POINT, Watched
from tests.unit.models.card import carded

NAME = "hotel_bookings"
VIEWS = ["booking", "agent_trend", "segment_trend"]
OLDER_POINT, GONE_POINT = "20260301T104500Z-0a0b0d", "20260201T104500Z-0a0b0e"
APPROVAL = {"by": "operator", "four_eyes": True, "within": "P2D", "notify": []}
DAY = timedelta(days=1)


def full() -> Watched:
    """Return the ledger. Version 1 was champion, then 2 by a red verdict; 3 was rolled back to 2; 4 was refused, 5 was
    rejected by a person, 6 awaits approval. Versions 7 and 8 were retired, 8 in part.
    """
    watched = Watched()
    _deliveries(watched)
    _features(watched)
    _versions(watched)
    _watch(watched)
    _sites(watched)
    _points(watched)
    _decisions(watched)
    return watched


def kinds_without_a_record(watched: Watched) -> set[str]:
    return {*get_args(Kind)} - {record.kind for record in watched.ledger.records}


def without(ledger: MemoryLedger, gone: Collection[int]) -> MemoryLedger:
    """Return the ledger as it is read after the records with these numbers were altered or deleted."""
    found = MemoryLedger()
    found.chain = ledger.chain
    found.records = [record for record in ledger.records if record.seq not in gone]
    return found


def facts_of(ledger: MemoryLedger, known: CockpitFacts, newest: int | None = None) -> CockpitFacts:
    """Return the facts with the evidence of a ledger: of each kind the `newest` records at most, if fewer are read."""
    limits = {kind: most if newest is None else min(most, newest) for kind, most in NEWEST.items()}
    evidence: dict[Kind, tuple[Evidence, ...]] = {kind: tuple(ledger.find(kind, limit=limits[kind])) for kind in NEWEST}
    return dataclasses.replace(known, evidence=evidence)


def _by(dag: str, task: str = "validate") -> dict[str, Any]:
    return {KEY: {"dag": f"{dag}_{NAME}", "run": "asset__1", "task": task}}


def _deliveries(watched: Watched) -> None:
    watched.record("removal", NAME, {"id": "r0", "what": "remove", "state": "began"}, 60 * DAY)
    watched.record("removal", NAME, {"id": "r0", "what": "remove", "state": "ended"}, 59 * DAY)
    watched.record("classification", NAME, {"classification": "personal"}, 59 * DAY)
    previous = None
    for number, snapshot in enumerate(("s1", "s2", "s3")):
        ago = (30 - number * 10) * DAY
        outcome = ("accepted", HELD_BACK, REFUSED)[number]
        watched.delivery(f"{number}a" * 32, ago, snapshot=snapshot, outcome=outcome)
        counts = {"rows": 90, "deliveries": 1, "delivered": 100, "accepted": 90, "quarantined": 10, "repeated": 0}
        body = {"snapshot": snapshot, "previous": previous, "site": "primary", "sources": [f"{number}a" * 32]} | counts
        watched.record("snapshot", NAME, body | _by("ingest", "ingest"), ago)
        previous = snapshot
    watched.delivery("1a" * 32, DAY, snapshot="s3", again=1, outcome="accepted", quarantined=0, reasons={})
    watched.record("extraction", NAME, {"site": "primary", "derived_from": {"input:other": "o1"}}, 2 * DAY)
    watched.record("derivation", NAME, {"lineage": {"adults": ["other.adults"], "meal": None}}, 2 * DAY)
    seen = {"delivery": "2a" * 32, "site": "primary", "rows": 2, "of": 3, "by": "user 1"}
    watched.record("look", NAME, seen, DAY)
    accepted = {"delivery": "1a" * 32, "site": "primary", "refused": 3, "delivered": 20, "by": "user 1"}
    watched.record("acceptance", NAME, accepted, DAY)
    watched.record("acceptance", NAME, {"lost": "s0", "shown": None, "site": "primary", "by": "user 1"}, DAY)
    watched.record("erasure", NAME, {"state": "rewritten", "successors": {}}, DAY)


def _features(watched: Watched) -> None:
    watched.materialization(VIEWS, 20 * DAY)
    watched.materialization(VIEWS, timedelta(hours=3))
    watched.skew(VIEWS, timedelta(hours=2), different=1)
    watched.skew(VIEWS, timedelta(hours=2))
    watched.record("skew", NAME, {"seed": 1, "size": 9, "outcome": "unknown", "why": "no answer", "views": {}})
    for other in [record for record in watched.ledger.records if record.subject == "stays"]:
        watched.record(other.kind, NAME, dict(other.body), NOW - other.at)


def candidate(watched: Watched, version: str, ago: timedelta, **body: Any) -> int:
    """Record a trained version, with everything that its pages tell."""
    feature = {"type": "number", "values": [], "definition": "ab" * 8}
    held_out = {"bucket": "lake", "key": f"training/{version}-h", "sha256": "e" * 64, "examples": "f" * 64}
    dataset = {"bucket": "lake", "key": f"training/{version}", "sha256": version * 64, "held_out": held_out}
    dataset |= {"rows_train": 12_000, "rows_holdout": 3_000, "opening": int(version)}
    trainer = {"use": "lightgbm", "params": {"num_leaves": 9}, "seed": 7}
    validation = {"begins": "2026-01-01", "rows": 900, "rows_fit": 9000, "chosen": {"trees": 90}, "refit": True}
    validation["operating"] = {"threshold": 0.4}
    backtest = [{"begins": f"2025-0{month}-01", "rows": 300, "metrics": {"mae": 20.0 + month}} for month in (7, 8)]
    ran = {"pool": "gpu-a", "operator": "scaleway", "region": "par", "node": "n", "pod": "p", "gpu_type": "L4"}
    found = {"name": NAME, "version": version, "dataset": dataset, "snapshot": f"s{min(int(version), 3)}"}
    found |= {"trainer": trainer, "run_id": f"r{version}", "job_id": f"j{version}", "model_id": f"m{version}"}
    found |= {"features": [{"name": "booking__adults", **feature}, {"name": "booking__meal", **feature}]}
    found |= {"metrics": {"rmse": 40.0, "mae": 23.3, "validation_mae": 23.0}, "code_version": "1+ab", "files": {}}
    found |= {"classification": "personal", "placement": ran if version == "2" else None, "outputs": {}}
    found |= {"validation": validation, "backtest": backtest, "used": {"other": "o1"}, "verdict": None}
    found |= {"labels": {"pipeline": "other", "snapshot": "o1", "rows": {"labelled": 9, "unlabelled": 1}}}
    return watched.record("candidate", NAME, found | _by("train", "train") | body, ago)


def _versions(watched: Watched) -> None:
    opened = {"held_out": "e" * 64, "examples": "f" * 64, "why": "registration", "job_id": "j1", "versions": []}
    verdict = 0
    for number, version in enumerate(("7", "8", "1", "2", "3", "4", "5", "6"), 1):
        ago = (20 - number) * DAY
        watched.record("opening", NAME, opened | {"opening": number, "job_id": f"j{version}"}, ago)
        candidate(watched, version, ago, verdict=verdict if version == "2" else None)
        passed = {"version": version, "metrics": {"mae": 22.0}, "baselines": {"mae": 39.9}, "gate": GATE}
        passed |= {"reasons": ["passed: mae 22.0 is at most 25 (the limit)"], "rules": _rules(), "previous": "1"}
        if version in ("1", "2", "3"):
            promoted = passed | {"champion_metrics": {"mae": 23.0}} | _by("validate_model")
            watched.record("promotion", NAME, promoted, ago)
            body = carded.kept() | {"version": version}
            watched.record("model-card", f"{NAME}/{version}", body, ago)
        if version == "1":
            verdict = watched.monitoring(NAME, 17 * DAY, "red", reasons=["adults is higher"], moved=1)
            watched.retraining(NAME, 17 * DAY, verdict)
            watched.retraining(NAME, 16 * DAY, verdict, "2")
        if version == "3":
            watched.record("rollback", NAME, {"champion": "2", "replaces": "3", "alias_was": "3"}, 2 * DAY)
        if version in ("4", "7", "8"):
            refused = {"reasons": ["passed: leakage", "refused: mae 29.0 is above 25 (the limit)"]}
            watched.record("refusal", NAME, passed | refused | _by("validate_model"), ago)
        if version in ("5", "6"):
            asked = passed | {"gate": GATE | {"approval": APPROVAL}, "authors": {"users": [3], "known": False}}
            seq = watched.record("approval", NAME, asked | _by("validate_model"), DAY)
            answer = {"version": version, "approval": seq, "answer": "approve", "by": "user 4", "reason": "it is good"}
            answer |= {
                "answered_at": NOW.isoformat(),
                "counted": {"by": 4, "place_of": None},
                "why": "the first of two",
            }
            watched.record("answer", NAME, answer, DAY)
            if version == "5":
                watched.record(
                    "refusal", NAME, asked | {"rejected_by": "user 5", "reason": "too late", "approval": seq}
                )
    for version, states in (("7", ("began", "ended")), ("8", ("began",))):
        for state in states:
            why = {"why": "unused for long enough"} if state == "began" else {"deleted": 4, "locked": []}
            watched.record("retirement", NAME, {"version": version, "state": state} | why)
    watched.record("search-rows", NAME, {"search": "0123456789abcdef", "dataset": {"sha256": "da" * 32}})
    watched.record("search", NAME, searched.body(), 3 * DAY)
    watched.record("search", NAME, searched.body(search="f" * 16, best=None, trials=[], importances={}), 2 * DAY)
    scored = {"scoring": "sc1", "version": "2", "rows_of": NAME, "rows": 9, "quarantined": 1, "bucket": "lake"}
    watched.record("scoring", NAME, scored | {"into": {"connection": "dwh", "table": "public.scores"}}, DAY)
    watched.record("scoring", NAME, {"brought": {"version": "2"}}, DAY)


def _rules() -> list[dict[str, Any]]:
    group = {"group": "adults=2", "rows": 90, "value": 21.0, "outcome": "passed"}
    band = {"of": "meal", "rows": 90, "chance": 0.4, "share": 0.5}
    rule = {
        "rule": "subgroups",
        "outcome": "passed",
        "what": "each group",
        "metric": "mae",
        "value": 21.0,
        "bound": 25.0,
    }
    return [rule | {"details": [group, group | {"value": None, "outcome": "unknown"}]}, rule | {"details": [band]}]


def _watch(watched: Watched) -> None:
    intervals = {"promised": 0.9, "rows": 900, "covered": 0.88, "short": False}
    more = {"challenger": CHALLENGER | {"version": "4"}, "domain": DOMAIN, "intervals": intervals}
    for days, outcome in ((5, "green"), (4, "unknown"), (3, "green"), (1, "red")):
        watched.monitoring(NAME, days * DAY, outcome, version="2", **(more if days < 5 else {}))
    verdict = watched.monitoring(NAME, timedelta(hours=5), "red", version="2", reasons=["meal moved"], **more)
    watched.retraining(NAME, timedelta(hours=4), verdict)
    watched.retraining(NAME, timedelta(hours=3), verdict, "4")
    watched.monitoring(NAME, timedelta(hours=1), "red", version="2", reasons=["meal moved"], **more)


def _sites(watched: Watched) -> None:
    due = (NOW - DAY).isoformat()
    watched.replication(3 * DAY, copied=4, throughput=2e6, failures=1, failed=["lake/x"])
    watched.replication(timedelta(hours=1), grade="digests", pending=2, accepted=3, read_back_due=due, unvouched=1)
    watched.replication()
    for site in ("primary", "haven"):
        watched.usage(site, 4 * DAY)
        watched.usage(site)
        proofs = [{"capability": each.name, "outcome": "proven", "found": "tried"} for each in CAPABILITIES]
        body = {"site": site, "endpoint": f"http://{site}", "at": NOW.isoformat(), "proofs": proofs}
        watched.record("capabilities", site, body | {"figures": {"write_mb_s": 90.0}}, DAY)
    told = {"protects": "restore-points", "why": "refused"}
    watched.usage("haven", timedelta(hours=1), buckets={"lake": {"why": "refused"}}, locks={"backups": told})
    watched.record("failover", "primary->haven", {"step": "diff", "outcome": "done"}, 9 * DAY)
    watched.record("checkpoint", "checkpoints/1.json", {"file": "{}"}, DAY)
    watched.record("repair", "haven", {"healed": []}, DAY)


def _points(watched: Watched) -> None:
    made = {"databases": {"airflow": "ab"}, "champions": {NAME: "2"}, "object_bytes": 9, "barrier_seconds": 0.4}
    watched.point(GONE_POINT, 28 * DAY, **made)
    watched.point(OLDER_POINT, timedelta(hours=1, minutes=15), bytes_added=4, **made)
    watched.point(**made)
    watched.point("20260301T115500Z-0a0b0f", timedelta(minutes=5), **made | {"dangling": ["lake/x"]})
    watched.drill(OLDER_POINT, timedelta(hours=1), scenario="cyber-attack")
    watched.drill()
    red = [{"what": "rows", "ok": False, "detail": "7 are missing"}]
    watched.drill(POINT, timedelta(minutes=4), ok=False, proved=False, checks=red)
    watched.drill(POINT, timedelta(minutes=3))
    watched.record("prune", "haven", {"state": "begins", "deletes": {"points": [GONE_POINT]}}, DAY)
    watched.record("prune", "haven", {"deleted": {GONE_POINT: 9}, "held": [], "state": "ended"}, DAY)
    hold = {"held": True, "site": "haven", "role": "data-protection-officer", "why": "court order"}
    watched.record("hold", OLDER_POINT, hold, DAY)
    watched.record("hold", POINT, hold)
    watched.record("hold", POINT, hold | {"held": False})
    watched.record("restore", OLDER_POINT, {"ok": True}, DAY)
    watched.record("drill-report", POINT, {"profile": "nis2"})
    watched.record("base-backup", "haven", {"bytes": 9}, DAY)


def _decisions(watched: Watched) -> None:
    reason = {"rule": "policy.personal.jurisdictions", "ok": True, "fact": "FR is in EU", "remedy": ""}
    asked = {"what": "data", "classification": "personal", "place": "site 'primary'"}
    refused = asked | {"allowed": False, "reasons": [reason | {"ok": False}]}
    watched.record("denial", "site 'primary'", refused, 2 * DAY)
    watched.record("decision", "site 'primary'", asked | {"allowed": True, "reasons": [reason]}, DAY)
    watched.record("denial", "site 'haven'", refused, timedelta(hours=1))
    watched.record("egress-denial", "203.0.113.9:443", {"rule": "not in the allow-list"}, timedelta(hours=1))
    alias = {"what": "champion-alias", "classification": "", "found": "4", "champion": "2", "reasons": ["moved"]}
    watched.record("denial", NAME, alias, timedelta(hours=1))
    to_points = asked | {"what": "restore-point", "allowed": True, "reasons": [reason]}
    watched.record("decision", "site 'haven'", to_points, 30 * DAY)
    ran = {"job_id": "j2", "attempt": 1, "outcome": "succeeded", "ran": {"pool": "gpu-a", "waited": 90.0}}
    watched.record("placement", f"{NAME} j2", ran, 16 * DAY)
    watched.record("placement", f"{NAME} j3", ran | {"outcome": "failed", "cause": "evicted"}, 15 * DAY)
    watched.record("configuration", "rempart.yaml", {"sha256": "ab" * 32}, 50 * DAY)
    watched.record("policy", "rempart.yaml", {"policy": {}}, 50 * DAY)
    watched.record("access", "person 1", {"roles": ["admin"]}, 50 * DAY)
