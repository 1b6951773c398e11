"""The world of the proofs of searches: a project whose hotel bookings have a search, and a plain script beside it."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from bench.moving_world import shared_parts
from rempart.airflow_api import AirflowApi
from rempart.cli.demo import demo_run as demo
from rempart.flows.shared.platform import Platform
from rempart.ingestion.sample import deliveries
from rempart.settings import config
from rempart.settings.pipelines import named

PIPELINE = demo.PIPELINE
SEED, VALIDATED = 7, timedelta(days=60)
SPACE: Mapping[str, Mapping[str, Any]] = {
    "num_leaves": {"low": 7, "high": 63, "log": True},
    "learning_rate": {"low": 0.03, "high": 0.3, "log": True},
    "min_data_in_leaf": {"low": 5, "high": 100, "log": True},
    "lambda_l2": {"low": 0.001, "high": 10.0, "log": True},
    "feature_fraction": {"low": 0.5, "high": 1.0},
    "leave_out": {"choose": ["", "*_trend__*_mean_*"]},
}
FIXED: Mapping[str, Any] = {"num_iterations": 600, "early_stopping_rounds": 40}
STAGES = ("ingest", "materialize_features", "search", "validate_model")
"""DAGs of the proofs. The others are paused, so that nothing else opens the hold-out."""
RESAMPLES = 2000


def project(home: Path, trials: int, at_once: int, fixed: Mapping[str, Any] = FIXED) -> None:
    """Make a project folder like this one, whose hotel bookings have a search and a validation part."""
    root = config.project_root()
    shutil.rmtree(home, ignore_errors=True)
    (home / "include" / "pipelines").mkdir(parents=True)
    for name in ("dags", "plugins", "data", "docs", "pyproject.toml", *(f"include/{n}" for n in shared_parts(root))):
        (home / name).symlink_to(root / name)
    shutil.copyfile(root / "rempart.yaml", home / "rempart.yaml")
    file = f"include/pipelines/{PIPELINE}.yaml"
    spec = yaml.safe_load((root / file).read_text(encoding="utf-8"))
    search = {"params": {name: dict(space) for name, space in SPACE.items()}, "trials": trials, "at_once": at_once}
    spec["trainer"] = {"use": "lightgbm", "params": dict(fixed), "seed": SEED, "search": {**search, "pruner": "none"}}
    spec |= {"validation": {"last": f"{VALIDATED.days}d"}, "schedules": {}}
    spec["retrain"] = {"on_features": False}
    (home / file).write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")


def with_features(platform: Platform, api: AirflowApi) -> None:
    """Land the sample, ingest it, and load its features."""
    for stage in STAGES:
        api.await_dag(f"{stage}_{PIPELINE}")
    for dag_id in sorted(set(api.dag_ids()) - {f"{stage}_{PIPELINE}" for stage in STAGES}):
        api._call("PATCH", f"/api/v2/dags/{dag_id}?update_mask=is_paused", json={"is_paused": True})
    site, spec = platform.active_site(named(PIPELINE).classification), named(PIPELINE)
    for name, body in deliveries(config.project_root() / "data" / "hotel_bookings.csv.gz"):
        site.write(platform.config.buckets.landing, f"{spec.source.prefix}{name}", body, content_type="text/csv")
    run = demo.Demo(platform, api, print)
    since = demo.datetime.now(demo.UTC) - timedelta(seconds=1)
    run.run("ingest", f"ingest_{PIPELINE}", "ingest")
    run.run("features", f"materialize_features_{PIPELINE}", "materialize", since=since)


def trial_tasks(api: AirflowApi, run: str) -> list[dict[str, Any]]:
    """Return the task instances of the trials of a run that were not skipped."""
    path = f"/api/v2/dags/search_{PIPELINE}/dagRuns/{run}/taskInstances"
    tasks = api.every(path, "task_instances")
    return [task for task in tasks if "trial" in task["task_id"] and task["state"] != "skipped"]


@dataclass(frozen=True)
class Interval:
    """A mean absolute error with its 95 % interval over resampled rows."""

    value: float
    low: float
    high: float

    def told(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def interval(errors: np.ndarray[Any, Any], seed: int = 0) -> Interval:
    """Return the mean of figures [rows] with its bootstrap interval: rows are drawn with replacement."""
    dice = np.random.default_rng(seed)
    drawn = [float(errors[dice.integers(0, len(errors), len(errors))].mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(errors.mean()), float(low), float(high))


# --- what somebody without the platform would write: LightGBM and Optuna in one process -------------------------------


@dataclass(frozen=True)
class Script:
    """The result of the plain script: absolute errors on the held-out rows, and how it came to them."""

    errors: np.ndarray[Any, Any]
    validated: float
    params: Mapping[str, Any]
    trials: int


def plain_script(
    learn: pa.Table, held_out: pa.Table, features: Iterable[str], target: str, day: str, trials: int
) -> Script:
    """Search the same space on the same rows and the same split, fit again on all of them, and predict once."""
    import lightgbm
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = list(features)
    levels = {name: sorted(set(learn[name].to_pylist()) - {None}) for name in names if _is_text(learn[name])}
    truth, days = learn[target].to_numpy().astype(float), learn[day].to_numpy()
    newest = days.max()
    later = days >= newest - np.timedelta64(VALIDATED.days, "D")

    def columns(params: dict[str, Any]) -> list[str]:
        pattern = params.pop("leave_out", "")
        return [name for name in names if not (pattern and fnmatch.fnmatchcase(name, pattern))]

    def fitted(params: dict[str, Any], rounds: int, stop: bool, rows: Any) -> tuple[Any, list[str]]:
        seen = columns(params)
        own = {"objective": "regression", "verbosity": -1, "seed": SEED, "deterministic": True, "num_threads": 2}
        texts = [place for place, name in enumerate(seen) if name in levels]
        of = lightgbm.Dataset(_matrix(learn, seen, levels)[rows], truth[rows], categorical_feature=texts)
        held = lightgbm.Dataset(_matrix(learn, seen, levels)[later], truth[later], reference=of)
        patience = [lightgbm.early_stopping(FIXED["early_stopping_rounds"], verbose=False)] if stop else []
        made = lightgbm.train(
            {**own, **params}, of, rounds, valid_sets=[held] if stop else None, callbacks=patience or None
        )
        return made, seen

    def tried(trial: optuna.Trial) -> float:
        params = {name: _suggested(trial, name, space) for name, space in SPACE.items()}
        made, seen = fitted(params, FIXED["num_iterations"], True, ~later)
        trial.set_user_attr("rounds", made.best_iteration)
        return float(np.abs(made.predict(_matrix(learn, seen, levels)[later]) - truth[later]).mean())

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=SEED))
    study.optimize(tried, n_trials=trials)
    best = study.best_trial
    model, seen = fitted(dict(best.params), best.user_attrs["rounds"], False, np.ones(len(truth), bool))
    predicted = model.predict(_matrix(held_out, seen, levels))
    errors = np.abs(predicted - held_out[target].to_numpy().astype(float))
    return Script(errors, study.best_value, best.params, len(study.trials))


def _suggested(trial: Any, name: str, space: Mapping[str, Any]) -> Any:
    if "choose" in space:
        return trial.suggest_categorical(name, space["choose"])
    whole = isinstance(space["low"], int) and isinstance(space["high"], int)
    suggest: Callable[..., Any] = trial.suggest_int if whole else trial.suggest_float
    return suggest(name, space["low"], space["high"], log=space.get("log", False))


def _is_text(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_dictionary(column.type))


def _matrix(table: pa.Table, names: list[str], levels: Mapping[str, list[str]]) -> np.ndarray[Any, Any]:
    made = []
    for name in names:
        if name in levels:
            codes = pc.index_in(table[name].cast(pa.string()), value_set=pa.array(levels[name], pa.string()))
            made.append(codes.cast(pa.float64()).to_numpy())
        else:
            made.append(table[name].cast(pa.float32(), safe=False).to_numpy().astype(float))
    return np.column_stack(made)
