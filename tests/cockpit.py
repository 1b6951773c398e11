"""A platform in memory for tests of the cockpit: the shipped configuration, and a ledger that a test fills."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from rempart.web import facts
from rempart.web.facts import CockpitFacts, Unknown

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
POINT = "20260301T114500Z-0a0b0c"
DELIVERY = "ab" * 32
RULES = ("a booking needs at least one adult", "price is out of range")
GATE = {"metric": "mae", "limit": 25.0, "baseline_margin": 0.2, "champion_tolerance": 0.02}
CHALLENGER = {
    "version": "2", "standing": "refused", "metric": "mae", "rows": 800, "champion": 22.9, "challenger": 21.4,
    "difference": -1.5, "low": -2.1, "high": -0.9, "better": "challenger", "why": "",
}  # fmt: skip
DOMAIN = {
    "area": 0.931, "low": 0.92, "high": 0.942, "rows": 3000, "allowed": 0.95, "spans": 6, "moved": False,
    "columns": [{"column": "own__amount", "share": 0.2}],
}  # fmt: skip


class Clock:
    """The time at which the next record is written."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class Watched:
    """A ledger, and the facts that the cockpit makes of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ledger = MemoryLedger(clock=self.clock)

    def record(self, kind: Any, subject: str, body: dict[str, Any], ago: timedelta = timedelta()) -> int:
        self.clock.now = NOW - ago
        return self.ledger.append(kind, subject, body).seq

    def replication(self, ago: timedelta = timedelta(minutes=2), **body: Any) -> int:
        found = {"lag_seconds": 0.0, "objects": 10, "bytes": 100, "verified": 10, "copied": 0, "failures": 0}
        return self.record("replication", "primary->haven", found | body, ago)

    def point(self, point: str = POINT, ago: timedelta = timedelta(minutes=15), **body: Any) -> int:
        made = {"site": "haven", "created_at": (NOW - ago).isoformat(), "manifest_sha256": "ab" * 32, "dangling": []}
        return self.record("restore-point", point, made | {"bytes": 5, "objects": 3, "link": 1} | body, ago)

    def drill(self, point: str = POINT, ago: timedelta = timedelta(minutes=10), **body: Any) -> int:
        checks = [{"what": "the manifest equals its record", "ok": True, "detail": "3 objects"}]
        found = {"ok": True, "proved": True, "rto_seconds": 24.0, "rpo_seconds": 60.0, "checks": checks}
        return self.record("drill", point, found | body, ago)

    def promotion(self, version: str = "1", mae: float = 22.4, **body: Any) -> int:
        found = {"version": version, "previous": None, "metrics": {"mae": mae}, "baselines": {"mae": 39.9}}
        reasons = [f"passed: mae {mae} is at most {bound}" for bound in ("25 (the limit)", "31.92 (a baseline)")]
        found |= {"champion_metrics": None, "reasons": reasons, "gate": GATE}
        return self.record("promotion", "hotel_bookings", found | body)

    def usage(self, site: str = "haven", ago: timedelta = timedelta(hours=2), **body: Any) -> int:
        lake = {"objects": 12, "bytes": 5_000_000, "old_versions": 3, "old_bytes": 1_000_000, "markers": 1}
        lock = {"protects": "restore-points", "looked_at": 40, "within_seconds": 129600.0, "lapsing": 0}
        locks = {"backups": lock | {"first_ends": (NOW + timedelta(days=3)).isoformat(), "named": []}}
        found = {"endpoint": "http://haven", "seconds": 0.4, "buckets": {"lake": lake}, "locks": locks}
        return self.record("usage", site, found | body, ago)

    def materialization(self, names: list[str], ago: timedelta = timedelta(hours=1), **body: Any) -> int:
        """Record a materialization; the newest event of each view is an hour older than the load."""
        at = NOW - ago
        online = {"entities": 90, "newest": (at - timedelta(hours=1)).isoformat(), "loaded_at": at.isoformat()}
        found = {"snapshot": "s1", "rows_written": 90, "rows_online": 90, "seconds": 1.5}
        return self.record("materialization", "stays", found | {"views": dict.fromkeys(names, online)} | body, ago)

    def skew(self, names: list[str], ago: timedelta = timedelta(hours=1), different: int = 0, **body: Any) -> int:
        """Record a comparison of the online values of views with the snapshot."""
        compared = {name: {"compared": 90, "different": different, "differing": different} for name in names}
        found = {"seed": 1, "size": 1000, "snapshot": "s1", "outcome": "different" if different else "equal"}
        return self.record("skew", "stays", found | {"compared": compared, "views": {}} | body, ago)

    def monitoring(
        self, pipeline: str, ago: timedelta = timedelta(hours=1), outcome: str = "green", **body: Any
    ) -> int:
        """Record a verdict on the champion of a pipeline."""
        column = {"column": "own__amount", "rows": 900, "moved": 0.04, "allowed": 0.08, "psi": 0.01, "p": 0.4}
        column |= {"nulls": 0.0, "nulls_before": 0.0, "unknown": 0.0, "findings": []}
        error = {"metric": "mae", "segment": "", "rows": 900, "value": 22.9, "recorded": 22.4, "p": 0.3, "worse": False}
        error |= {
            "reference": "hold-out",
            "segments": [],
            "calibration": None,
            "calibration_recorded": None,
            "miscalibrated": False,
        }
        window = {"source": "snapshot", "snapshot": "s1", "first": "2026-01-01", "last": "2026-02-28", "rows": 900}
        found = {"version": "1", "outcome": outcome, "reasons": [], "window": window, "watched": 22, "moved": 0}
        found |= {"columns": [column], "performance": error, "challenger": None, "domain": None, "intervals": None}
        names = ("rows", "features", "labels")
        ages = [{"what": what, "age": 7200.0, "limit": 172_800.0, "state": "fresh"} for what in names]
        return self.record("monitoring", pipeline, found | {"freshness": ages} | body, ago)

    def retraining(self, pipeline: str, ago: timedelta, verdict: int, version: str | None = None) -> int:
        """Record a training that a verdict on version 1 started; `version`: its candidate."""
        return self.record("retraining", pipeline, {"verdict": verdict, "champion": "1", "version": version}, ago)

    def delivery(self, sha256: str = DELIVERY, ago: timedelta = timedelta(hours=2), **body: Any) -> int:
        """One delivery of 20 rows, of which two broke the first of two rules, and one has a fault besides."""
        found = {"sha256": sha256, "bytes": 9, "landed_at": (NOW - ago).isoformat(), "fault": None}
        found |= {"outcome": "accepted in part", "delivered": 20, "accepted": 17, "quarantined": 3, "added": 17}
        found |= {"reasons": {RULES[0]: 2, "too few fields": 1}, "judged": 19, "unexpected": {RULES[0]: 2, RULES[1]: 0}}
        rules = [
            {"expect": "expect_column_values_to_be_between", "columns": ["adults"], "reason": rule} for rule in RULES
        ]
        told = [found | {"snapshot": "s1", "again": 0} | body]
        site = {"site": "primary", "expectations": rules, "deliveries": told}
        return self.record("deliveries", "hotel_bookings", site, ago)

    def healthy(self) -> Watched:
        """What a platform has that runs well."""
        self.replication(copied=4, throughput=2_000_000.0)
        self.point()
        self.drill()
        self.promotion()
        self.usage("primary")
        self.usage("haven")
        self.delivery()
        return self

    def facts(self, before: CockpitFacts | None = None, **other: Any) -> CockpitFacts:
        self.clock.now = NOW
        platform = Platform(
            config.load(ROOT / "rempart.yaml"),
            config.environment_connections,
            ledger_=self.ledger,
            continuity_=MemoryContinuity(),
        )
        return dataclasses.replace(facts.gather(lambda: platform, self.clock, before), **other)


def apart(found: CockpitFacts) -> CockpitFacts:
    """The same facts, had the two sites no infrastructure in common."""
    if isinstance(found.config, Unknown):
        return found
    operators = dict(found.config.operators)
    two = operators["trial-two"]
    service = two.services["object-storage"].model_copy(update={"runs_on": ["trial-two"]})
    operators["trial-two"] = two.model_copy(update={"services": {"object-storage": service}})
    return dataclasses.replace(found, config=found.config.model_copy(update={"operators": operators}))
