"""Proof: a search of 30 trials through Airflow finds parameters on the validation part; the hold-out is opened once.

    make prove-search            # REMPART_TRIALS=6 for a short look

On a stack of its own, the hotel bookings get a section `trainer.search` (LightGBM). The sample lands, is ingested, and
its features are loaded. Then `search_hotel_bookings` is started by REST, and after it Airflow, the ledger, MLflow and
the site are read: each trial ran once, no trial opened the held-out rows, and the candidate has the parameters of the
best trial. The best trial is measured again from its stored model. The candidate's error on the held-out rows is told
with its 95 % interval (2,000 resamples). Beside it, a plain script with LightGBM and Optuna searches the same space
on the same rows and the same split, in one process, and must not be better by more than 1 %.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from bench.prove_failover import Check, check
from bench.prove_pods import own_stack, write
from bench.searching import PIPELINE, VALIDATED, Script, interval, plain_script, project, trial_tasks, with_features
from rempart.airflow_api import AirflowApi
from rempart.cli import rendering
from rempart.deployment.embedded import lifecycle
from rempart.flows.search.records import Search, searches
from rempart.flows.shared.platform import Platform, open_platform
from rempart.models.encoding import Feature, encode, features_of
from rempart.models.isolated_model import IsolatedModel
from rempart.models.onnx_format import MODEL_FILE
from rempart.models.tracking import session
from rempart.settings import config
from rempart.settings.pipelines import named, with_model
from rempart.training import datasets

OFFSET, NAME = "7200", "search"
TRIALS = int(os.environ.get("REMPART_TRIALS") or 30)
AT_ONCE = 3
BETTER = 0.01
"""Share by which the plain script may be better."""


def prove(platform: Platform, api: AirflowApi) -> tuple[list[Check], dict[str, Any]]:
    with_features(platform, api)
    print("--- the search", flush=True)
    since, began = platform.clock(), time.monotonic()
    run = api.trigger(f"search_{PIPELINE}")
    api.follow(f"search_{PIPELINE}", run, print, timeout=3600)
    searched = round(time.monotonic() - began, 1)
    gate = api.await_run(f"validate_model_{PIPELINE}", since)
    api.follow(f"validate_model_{PIPELINE}", gate, print)
    judged = api.result(f"validate_model_{PIPELINE}", gate, "validate")
    print("--- a plain script", flush=True)
    began = time.monotonic()
    rows = Rows(platform)
    script = rows.by_script()
    scripted = round(time.monotonic() - began, 1)
    (found,) = searches(platform.ledger, PIPELINE)
    errors = rows.errors(rows.candidate["features"], _outputs(rows.candidate), rows.held_out)
    ours, theirs = interval(errors), interval(script.errors)
    apart = interval(errors - script.errors)
    checks = [
        *of_trials(platform, api, run, found),
        *of_choice(rows, found),
        *of_openings(platform, rows.candidate, found),
        check(
            "the candidate's error is the recorded one",
            abs(ours.value - rows.candidate["metrics"]["mae"]) < 1e-4 * ours.value,
            f"mae {ours.told()} on {len(errors)} held-out rows; on record {rows.candidate['metrics']['mae']:.4f}",
        ),
        check(
            "a plain script in one process is no better by more than 1 %",
            theirs.value >= (1 - BETTER) * ours.value,
            f"mae {theirs.told()} after {script.trials} trials; the difference is {apart.told()}",
        ),
    ]
    figures = {
        "trials": len(found.trials),
        "search_seconds": searched,
        "script_seconds": scripted,
        "validation_mae": found.best_trial().value,
        "script_validation_mae": script.validated,
        "mae": vars(ours),
        "script_mae": vars(theirs),
        "difference": vars(apart),
        "params": dict(found.best_trial().params),
        "chosen": rows.candidate["validation"]["chosen"],
        "script_params": dict(script.params),
        "importances": dict(found.importances),
        "promoted": judged["promoted"],
    }
    return checks, figures


class Rows:
    """The candidate's training set, as the site holds it."""

    def __init__(self, platform: Platform) -> None:
        (record,) = platform.ledger.find("candidate", PIPELINE)
        self.candidate: Mapping[str, Any] = record.body
        self._site = platform.active_site(named(PIPELINE).classification)
        self._artifacts = platform.config.buckets.artifacts
        self._target = str(self.candidate["target"]["name"])
        self._day = str(with_model(named(PIPELINE)).holdout.column)
        self.learn, self.held_out = map(self._read, (self.candidate["dataset"], self.candidate["dataset"]["held_out"]))

    def _read(self, place: Mapping[str, Any]) -> pa.Table:
        return datasets.decoded(self._site.read(place["bucket"], place["key"], sha256=place["sha256"]))

    def later(self) -> pa.Table:
        """Return the validation part: the last days of the rows to learn from."""
        days = self.learn[self._day].to_numpy()
        return self.learn.filter(pa.array(days >= days.max() - np.timedelta64(VALIDATED.days, "D")))

    def errors(self, features: Any, model: tuple[str, str | None], rows: pa.Table) -> np.ndarray[Any, Any]:
        """Return the absolute errors [rows] of a stored model. `model`: key and SHA-256, if known."""
        seen = [Feature.from_json(feature) for feature in features]
        opened = IsolatedModel(self._site.read(self._artifacts, model[0], sha256=model[1]))
        try:
            predicted = opened.run(encode(seen, rows), "regression", 0)
        finally:
            opened.close()
        return np.abs(predicted - rows[self._target].to_numpy().astype(float))

    def of_trial(self, job: str) -> float:
        """Return the error of a trial's stored model on the validation part."""
        features = json.loads(self._site.read(self._artifacts, f"jobs/{job}/features.json"))
        return float(self.errors(features, (f"jobs/{job}/{MODEL_FILE}", None), self.later()).mean())

    def by_script(self) -> Script:
        names = [feature.name for feature in features_of(with_model(named(PIPELINE)))]
        return plain_script(self.learn, self.held_out, names, self._target, self._day, TRIALS)


def _outputs(candidate: Mapping[str, Any]) -> tuple[str, str]:
    return next((key, digest) for key, digest in candidate["outputs"].items() if key.endswith(f"/{MODEL_FILE}"))


def of_trials(platform: Platform, api: AirflowApi, run: str, found: Search) -> list[Check]:
    """Check by Airflow, the ledger and MLflow that each trial ran once."""
    tasks = trial_tasks(api, run)
    tries = Counter((task["state"], task["try_number"]) for task in tasks)
    jobs = {trial.job for trial in found.trials}
    with session(platform.tracking(), "read the search") as client:
        (experiment,) = client.search_experiments(filter_string=f"name = '{PIPELINE}'")
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = Counter(run.data.tags.get("mlflow.parentRunId") for run in runs if "mlflow.parentRunId" in run.data.tags)
    known = {run.info.run_id for run in runs}
    logged = [trial.run for trial in found.trials if trial.run is not None]
    states = Counter(trial.state for trial in found.trials)
    return [
        check(
            f"Airflow ran {TRIALS} tasks of trials, each once",
            tries == {("success", 1): TRIALS},
            ", ".join(f"{count} {state} at try {number}" for (state, number), count in tries.items()),
        ),
        check(
            f"the ledger tells {TRIALS} trials, each of a job of its own",
            len(found.trials) == len(jobs) == TRIALS and found.ended == "trials" and states["complete"] > TRIALS / 2,
            f"{len(jobs)} jobs in record {found.seq}; {dict(states)}",
        ),
        check(
            "MLflow has each trial once, under one parent run",
            len(set(logged)) == len(logged) and set(logged) <= known and list(parents.values()) == [len(logged)],
            f"{len(logged)} runs of trials; runs by parent {dict(parents)}",
        ),
    ]


def of_choice(rows: Rows, found: Search) -> list[Check]:
    """Check that the best trial was chosen by the validation part, and that the candidate has its parameters."""
    best = found.best_trial()
    values = {trial.number: trial.value for trial in found.trials if trial.state == "complete" and trial.value}
    again = rows.of_trial(best.job)
    params = rows.candidate["trainer"]["params"]
    differs = {name: params.get(name) for name, value in best.params.items() if params.get(name) != value}
    return [
        check(
            "the best trial has the smallest error on the validation part",
            best.value == min(values.values()),
            f"trial {best.number}: mae {best.value:.4f} of {len(values)} values up to {max(values.values()):.4f}",
        ),
        check(
            "its stored model has this error",
            best.value is not None and abs(again - best.value) < 1e-4 * again,
            f"measured again from jobs/{best.job}: {again:.4f}",
        ),
        check(
            "the candidate has its parameters", not differs, f"{dict(best.params)}; other values: {differs or 'none'}"
        ),
    ]


def of_openings(platform: Platform, candidate: Mapping[str, Any], found: Search) -> list[Check]:
    """Check that the held-out rows were opened for the candidate alone: to register it, and by the gate."""
    opened = platform.ledger.find("opening", PIPELINE)
    told = ", ".join(f"{record.seq} ({record.body['why']})" for record in opened)
    trials = {trial.job for trial in found.trials} - {candidate["job_id"]}
    return [
        check(
            "the hold-out was opened once for the candidate, and once by the gate",
            sorted(record.body["why"] for record in opened) == ["gate", "registration"],
            f"records {told}",
        ),
        check(
            "no trial opened it",
            not [record for record in opened if record.body["job_id"] in trials],
            f"{len(trials)} jobs of trials",
        ),
    ]


@rendering.on_terminal()
def main() -> int:
    began, folder = time.monotonic(), config.var_dir() / "prove-search"
    project(folder / "home", TRIALS, AT_ONCE)
    offset = os.environ.get("REMPART_PORT_OFFSET") or OFFSET
    with own_stack(folder / "home", folder / "var", offset, {}) as stack:
        lifecycle.up(stack)
        platform, api = open_platform(), AirflowApi(config.environment_connections("airflow_api"))
        checks, figures = prove(platform, api)
    return 0 if write(NAME, checks, round(time.monotonic() - began, 1), figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
