"""Run the demo as a user would: deliveries, REST calls, a promoted model and a restore point.

Only the deliveries are put in place directly, as a supplier would do. Every stage starts through Airflow's REST API, or
by the asset that the stage before it updated. The report states the result of each check; the exit code is 0 only if
all passed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rempart import private_files
from rempart.airflow_api import AirflowApi
from rempart.backup.drill.checks import passed_told
from rempart.cli import progress
from rempart.cli.demo import demo_flights
from rempart.cli.demo.demo_champion import AtWork
from rempart.cli.demo.demo_stages import STAGES, NextSteps, Stages, steps, summary
from rempart.counts import size
from rempart.errors import RempartError
from rempart.flows.shared.platform import Platform, open_platform
from rempart.ingestion.acceptance import COUNTS
from rempart.orchestration import run_notes
from rempart.settings import config, pipelines

PIPELINE = "hotel_bookings"
BAD_PARAMS = {"learning_rate": 0.00001}
"""Steps so small that it predicts little more than the mean, so the gate must refuse it. Each trainer of trees knows
the parameter."""


@dataclass
class Demo:
    """One run of the demo: the stage that follows another, and the report that grows with them.

    `by_asset`: the newest run that an asset started.
    """

    platform: Platform
    api: AirflowApi
    out: Callable[[str], None]
    report: dict[str, Any] = field(default_factory=lambda: {"ok": False, "seconds": {}})
    failures: list[str] = field(default_factory=list)
    by_asset: str = ""
    stages: Stages = field(init=False)

    def __post_init__(self) -> None:
        self.stages = Stages(progress.Repeated(self.out))

    def check(self, ok: bool, fact: str) -> None:
        """Check a fact that must be true for the demo to succeed."""
        if not ok:
            self.failures.append(fact)
        self.stages.checked(ok, fact)

    def run(
        self,
        stage: str,
        dag_id: str,
        task_id: str,
        *,
        conf: dict[str, Any] | None = None,
        since: datetime | None = None,
        source: str | None = None,
    ) -> dict[str, Any]:
        """Wait for the end of a run and return its task's result.

        The run is the one that an asset started since a time, with `source` an asset that this run updated; or, without
        a time, one triggered here.
        """
        if since is None:
            self.stages.begin(stage, f"POST /api/v2/dags/{dag_id}/dagRuns {json.dumps(conf or {})}")
            return self.api.run(dag_id, task_id, conf, self.stages.event)
        self.stages.begin(stage, f"{dag_id}, started by its asset")
        self.by_asset = run_id = self.api.await_run(dag_id, since, source_run=source)
        self.api.follow(dag_id, run_id, self.stages.event)
        return self.api.result(dag_id, run_id, task_id)

    def deliver(self) -> int:
        """Put the sample's weekly deliveries into the landing bucket. Return their number."""
        from rempart.ingestion.sample import deliveries

        site = self.platform.active_site(pipelines.named(PIPELINE).classification)
        prefix = pipelines.named(PIPELINE).source.prefix
        count = 0
        for name, body in deliveries(config.project_root() / "data" / "hotel_bookings.csv.gz"):
            site.write(self.platform.config.buckets.landing, prefix + name, body, content_type="text/csv")
            count += 1
        return count

    def chain(self) -> datetime:
        """Run ingestion, features, candidate and gate: started once by REST, then by assets. Return the start time."""
        began = time.monotonic()
        self.stages.begin("deliver")
        self.stages.result(f"{self.deliver()} weekly deliveries in the landing bucket")
        since = datetime.now(UTC) - timedelta(seconds=1)
        ingested = self.run("ingest", f"ingest_{PIPELINE}", "ingest")
        rows = self.rows()
        parts = [name for name in COUNTS[1:] if rows[name] or name != "repeated"]
        counted = f"{rows['delivered']} = {' + '.join(f'{name} {rows[name]}' for name in parts)}"
        self.stages.result(f"rows delivered {counted}")
        # an unchanged snapshot starts nothing: a warm demo starts the next stage itself, and assets do the rest
        by_asset = since if ingested["changed"] else None
        features = self.run("features", f"materialize_features_{PIPELINE}", "materialize", since=by_asset)
        self.stages.result(run_notes.online(features))
        trained = self.run("train", f"train_{PIPELINE}", "train", since=since)
        self.stages.result(f"version {trained['version']} is a candidate")
        judged = self.run("validate", f"validate_model_{PIPELINE}", "validate", since=since)
        verdict = "is champion" if judged["promoted"] else "is refused"
        self.stages.result(
            f"version {judged['version']} {verdict}: mae {judged['metrics']['mae']:.2f}, "
            f"naive baseline {judged['baselines']['mae']:.2f}"
        )
        self.report["seconds"]["pipeline"] = round(time.monotonic() - began, 1)
        self.report |= {
            "rows": rows,
            "features": {"views": features["views"], "rows_online": features["rows_online"]},
            "model": {
                "name": PIPELINE,
                "version": judged["version"],
                "mae": judged["metrics"]["mae"],
                "baseline_mae": judged["baselines"]["mae"],
                "alias": "champion" if judged["promoted"] else None,
            },
        }
        self.check(
            rows["delivered"] == sum(rows[name] for name in COUNTS[1:]) == 15402,
            f"delivered {counted}",
        )
        self.check(features["rows_online"] > 0, run_notes.online(features))
        self.check(
            judged["promoted"] and judged["version"] == trained["version"],
            f"version {judged['version']} is champion: mae {judged['metrics']['mae']:.2f}, "
            f"baseline {judged['baselines']['mae']:.2f}",
        )
        self.check(judged["metrics"]["mae"] <= 25.0, "its mae on arrivals from 2017-06-01 on is at most 25.0")
        return since

    def rows(self) -> dict[str, int]:
        """Return delivered, accepted, repeated and quarantined rows over all recorded deliveries."""
        from rempart.ingestion.deliveries import totals

        totalled = totals(
            self.platform.active_site(pipelines.named(PIPELINE).classification),
            self.platform.config.buckets.lake,
            PIPELINE,
        )
        return {key: totalled[key] for key in COUNTS}

    def continuity(self, since: datetime) -> None:
        """Check the restore point that the promotion started, the replica, and the drill."""
        # by its source: one that was due by its time may not hold the champion
        point = self.run("backup", "backup_platform", "back_up", since=since, source=self.by_asset)
        self.stages.result(
            f"restore point {point['id']}: it holds {point['databases']} databases ({size(point['bytes'])}) and "
            f"{point['objects']} objects"
        )
        self.report["restore_point"] = {"id": point["id"], "bytes": point["bytes"]}
        pair = self.platform.config.replication[0]
        copied = self.run("replicate", f"replicate_{pair.source}_to_{pair.target}", "conclude")
        self.stages.result(f"{copied['verified']} of {copied['objects']} objects at {pair.target} verified")
        self.report["replica"] = {key: copied[key] for key in ("objects", "bytes", "verified", "lag_seconds")}
        self.check(
            copied["verified"] == copied["objects"] > 0 and not copied["failed"],
            f"{copied['verified']} of {copied['objects']} objects at {pair.target} verified by SHA-256",
        )
        drilled = self.run("drill", "restore_drill", "report", conf={"point": point["id"]})
        told = f"{passed_told(check['ok'] for check in drilled['checks'])}, RTO {drilled['rto_seconds']:.0f} s"
        self.stages.result(f"restored and proved: {told}")
        self.report["drill"] = {"ok": drilled["ok"], "rto_seconds": drilled["rto_seconds"], "checks": drilled["checks"]}
        self.check(drilled["ok"], f"restore point {point['id']} proved: {told}")

    def refusal(self) -> None:
        """Check that a deliberately bad candidate is refused, and the champion stays."""
        since = datetime.now(UTC)
        trained = self.run("bad model", f"train_{PIPELINE}", "train", conf={"trainer_params": BAD_PARAMS})
        self.stages.result(f"version {trained['version']} is a candidate that learned almost nothing")
        judged = self.run("gate", f"validate_model_{PIPELINE}", "validate", since=since)
        verdict = "is promoted" if judged["promoted"] else "is refused"
        self.stages.result(f"version {judged['version']} {verdict}: mae {judged['metrics']['mae']:.2f}")
        self.report["refused"] = {"mae": judged["metrics"]["mae"], "reasons": judged["reasons"]}
        self.check(not judged["promoted"], f"the bad candidate is refused: mae {judged['metrics']['mae']:.2f}")
        self.check(
            judged["champion"] == self.report["model"]["version"], f"the champion is still version {judged['champion']}"
        )


def run(start_stack: Callable[[], None], out: Callable[[str], None] = print, *, flights: bool = False) -> bool:
    """Run the demo against this project's stack and write var/demo-report.json. Return whether every check passed.

    `flights`: run the second part, too.
    """
    file = config.var_dir() / "demo-report.json"
    before = _before(time.time())
    planned = steps(_last(file), {**STAGES, **demo_flights.STAGES} if flights else STAGES)
    with progress.shown("", planned) as view, progress.repeated(out) as plain:
        stages = Stages(plain, view, before)
        stages.ended("set-up", before, "the locked environment is installed")
        stages.begin("start", "PostgreSQL, two S3 sites, MLflow and Airflow")
        start_stack()
        connection = config.environment_connections("airflow_api")
        demo = Demo(open_platform(), AirflowApi(connection), out)
        demo.stages = stages
        stages.result("PostgreSQL, two S3 sites, MLflow and Airflow work")
        whole = False
        try:
            demo.continuity(demo.chain())
            demo.refusal()
            AtWork(demo).run()
            if flights:
                demo_flights.Flights(demo).run()
            whole = True
        except RempartError as error:
            demo.failures.append(str(error))
            raise
        finally:
            tracking = demo.platform.tracking()
            demo.report["urls"] = {"airflow": demo.api.url, "mlflow": f"http://{tracking.host}:{tracking.port}"}
            demo.report["seconds"] |= {
                "setup": stages.seconds["set-up"],
                "stack": stages.seconds["start"],
                "stages": stages.seconds,
                "total": stages.total,
            }
            demo.report |= {"ok": whole and not demo.failures, "failures": demo.failures}
            _write(file, demo.report)
    urls = demo.report["urls"]
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    after = NextSteps(urls["airflow"], connection.login or "", urls["mlflow"], tracking.login or "", str(shown))
    for line in (*summary(demo.report), *after.lines()):
        out(line)
    for failure in demo.failures:
        out(f"FAILED: {failure}")
    return not demo.failures


def _before(now: float) -> float:
    """Return the seconds before the demo: since `make demo` began, else since this process started."""
    began = os.environ.get("REMPART_DEMO_BEGAN")
    return max(0.0, now - float(began)) if began else progress.since_start()


def _last(file: Path) -> dict[str, Any]:
    """Return the report of the last demo; empty without a readable one."""
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _write(file: Path, report: dict[str, Any]) -> None:
    private_files.write(file, json.dumps(report, indent=2) + "\n")
