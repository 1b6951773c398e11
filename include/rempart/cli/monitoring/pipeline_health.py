"""Look how each pipeline stands, for `rempart status`: champion, its objects and the snapshot's, run, quarantine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from rempart.cli.views import model_files, snapshot_objects, text
from rempart.cli.views.snapshot_objects import SnapshotObjects
from rempart.deployment.servers import scorer_server
from rempart.errors import RempartError
from rempart.flows.shared import time_limit
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates.stored_objects import ChampionObjects
from rempart.web.read_models.pipeline_states import PipelineState

if TYPE_CHECKING:
    from rempart.airflow_api import AirflowApi

AT_MOST = 10.0
"""Seconds for the looks at the site and at Airflow, which go on side by side; for each champion there is one more."""
HEAD = ("PIPELINE", "CHAMPION", "ITS OBJECTS", "NEWEST RUN", "IN QUARANTINE NOW")
_NAMED = 3
_KINDS = (
    "deliveries",
    "snapshot",
    "extraction",
    "candidate",
    "approval",
    "promotion",
    "refusal",
    "rollback",
    "removal",
)
"""Kinds of evidence that tell champions and quarantine."""
_DECIDE = ("promotion", "rollback", "removal")
"""All records of these: a champion may be older than many decisions on other models."""


@dataclass(frozen=True)
class NewestRun:
    """The newest run of a pipeline's stages; a stage whose newest run failed comes first."""

    stage: str
    state: str
    at: datetime | None


@dataclass(frozen=True)
class PipelineHealth:
    """How a pipeline stands.

    `objects`: those of the champion, None without one. `run`: None without a run, or why it is not known. `snapshot`:
    the objects of the current snapshot, None without one.
    """

    state: PipelineState
    objects: ChampionObjects | None
    run: NewestRun | str | None
    snapshot: SnapshotObjects | None = None

    @property
    def is_red(self) -> bool:
        """Return whether objects of the champion or of the snapshot are not there, or nobody knows."""
        champion = self.objects is not None and not self.objects.is_whole
        return champion or (self.snapshot is not None and not self.snapshot.is_whole)


def look(platform: Platform, seconds: float = AT_MOST) -> tuple[Sequence[PipelineHealth], dict[str, str]]:
    """Return each pipeline that has a file, by name, and the sources that did not answer, with the reason.

    What is not whole is looked at again if another champion or snapshot is on record afterwards: whoever replaced the
    former one, or removes the pipeline, deletes its objects.
    """
    from rempart.flows.training.candidates import stored_objects
    from rempart.settings import pipelines
    from rempart.web import facts
    from rempart.web.read_models.pipeline_states import pipeline_states

    kinds = {kind: None if kind in _DECIDE else most for kind, most in facts.NEWEST.items() if kind in _KINDS}

    def on_record() -> tuple[Sequence[PipelineState], dict[str, str]]:
        found = facts.gather(lambda: platform, platform.clock, kinds=kinds)
        return pipeline_states(found, found.at), found.unknown()

    def snapshot_of(name: str, snapshot: str) -> SnapshotObjects:
        return snapshot_objects.objects_of(platform, pipelines.named(name), snapshot)

    look_at = partial(_look, partial(stored_objects.look, platform), snapshot_of, seconds)
    states, unknown = on_record()
    found = look_at(states)
    if any(health.is_red for health in found):
        now, unknown_now = on_record()
        if not unknown_now and (_champions(now), _snapshots(now)) != (_champions(states), _snapshots(states)):
            found, unknown = look_at(now), unknown_now
    return found, unknown


def _champions(states: Sequence[PipelineState]) -> dict[str, str]:
    return {state.name: state.champion.version for state in states if state.champion}


def _snapshots(states: Sequence[PipelineState]) -> dict[str, str]:
    return {state.name: state.snapshot.id for state in states if state.snapshot and not state.error}


def _look(
    objects_of_champions: Callable[[Mapping[str, str], dict[str, ChampionObjects]], object],
    objects_of: Callable[[str, str], SnapshotObjects],
    seconds: float,
    states: Sequence[PipelineState],
) -> Sequence[PipelineHealth]:
    """Look at the objects of champions and snapshots, and at the newest runs."""
    from rempart.airflow_api import AirflowApi
    from rempart.settings import config

    champions, snapshots = _champions(states), _snapshots(states)
    by_now: dict[str, ChampionObjects] = {}
    seen: dict[str, SnapshotObjects] = {}
    asked: dict[str, Any] = time_limit.answers(
        {
            "site": lambda: objects_of_champions(champions, by_now),
            "lake": lambda: _objects_of_snapshots(objects_of, snapshots, seen),
            "Airflow": lambda: newest_runs(
                AirflowApi(config.environment_connections("airflow_api")),
                {state.name: _stages(state) for state in states},
            ),
        },
        seconds + len(champions) + len(snapshots),
    )
    objects, parts, runs = asked["site"], asked["lake"], asked["Airflow"]
    if isinstance(objects, BaseException):
        objects = dict.fromkeys(champions, ChampionObjects(silent=time_limit.reason(objects))) | by_now
    if isinstance(parts, BaseException):
        parts = dict.fromkeys(snapshots, SnapshotObjects(silent=time_limit.reason(parts))) | seen
    if isinstance(runs, BaseException):
        runs = {state.name: time_limit.reason(runs) for state in states}
    return [
        PipelineHealth(state, objects.get(state.name), runs.get(state.name), parts.get(state.name)) for state in states
    ]


def _objects_of_snapshots(
    objects_of: Callable[[str, str], SnapshotObjects], snapshots: Mapping[str, str], seen: dict[str, SnapshotObjects]
) -> dict[str, SnapshotObjects]:
    """Look at each pipeline's current snapshot, and enter what was found in `seen` at once."""
    for name, snapshot in snapshots.items():
        try:
            seen[name] = objects_of(name, snapshot)
        except RempartError as error:
            seen[name] = SnapshotObjects(silent=error.what)
    return seen


def _stages(state: PipelineState) -> tuple[str, ...]:
    """Return the stages of a pipeline. Runs of a stage that it has no more, such as of a former model, are over."""
    from rempart.cli import run_follow

    return tuple(run_follow.DAGS) if state.error or state.target else ("ingest",)


def newest_runs(api: AirflowApi, pipelines: Mapping[str, Sequence[str]]) -> dict[str, NewestRun]:
    """Return the newest run of each pipeline's stages; a pipeline without a run is absent. Raises AirflowApiError."""
    from rempart.cli import run_follow

    stages = {
        dag_id: (name, stage)
        for name, of_pipeline in pipelines.items()
        for stage, dag_id in zip(of_pipeline, run_follow.dag_ids(name, of_pipeline), strict=True)
    }
    newest: dict[str, list[NewestRun]] = {}
    for dag_id, run in _newest(api, list(stages)).items():
        name, stage = stages[dag_id]
        at = run.get("start_date") or run.get("queued_at")
        told = NewestRun(stage, str(run["state"]), datetime.fromisoformat(at) if at else None)
        newest.setdefault(name, []).append(told)
    return {name: max(runs, key=_rank) for name, runs in newest.items()}


def _newest(api: AirflowApi, dag_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return the newest run of each DAG that has one, with the fields of Airflow's list. Mostly it is one question."""
    from rempart.airflow_api import PAGE

    if not dag_ids:
        return {}
    question = {"dag_ids": list(dag_ids), "order_by": "-run_after", "page_limit": PAGE}
    listed = api.ask(path := "/api/v2/dags/~/dagRuns/list", question)
    found: dict[str, Mapping[str, Any]] = {}
    for run in listed["dag_runs"]:
        found.setdefault(str(run["dag_id"]), run)
    if listed["total_entries"] > len(listed["dag_runs"]):
        for dag_id in sorted(set(dag_ids) - set(found)):
            question |= {"dag_ids": [dag_id], "page_limit": 1}
            if runs := api.ask(path, question)["dag_runs"]:
                found[dag_id] = runs[0]
    return found


def _rank(run: NewestRun) -> tuple[bool, float]:
    return run.state == "failed", run.at.timestamp() if run.at else 0.0


def lines(found: Sequence[PipelineHealth], unknown: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield a table of the pipelines, and what a person does about what is wrong. Pure.

    `unknown`: the sources that did not answer, and why.
    """
    yield from (f"UNKNOWN: {source}: {why}" for source, why in (unknown or {}).items())
    if not found and unknown:
        return
    if not found:
        yield "There is no pipeline yet. Draft one from a file: rempart pipeline new your.csv"
        return
    yield from text.table(HEAD, map(_row, found))
    for health in found:
        yield from _wrong(health)


def _row(health: PipelineHealth) -> tuple[str, ...]:
    state, run = health.state, health.run
    if state.error:
        return (state.name, "INVALID FILE", "", "", "")
    if not state.known:
        return (state.name, *(text.UNKNOWN,) * 4)
    champion = "none"
    if state.champion and state.model:
        champion = f"version {state.champion.version} since {text.moment(state.model.champion_since)}"
    newest = text.UNKNOWN if isinstance(run, str) else "none"
    if isinstance(run, NewestRun):
        newest = f"{run.stage} {'FAILED' if run.state == 'failed' else run.state} {text.moment(run.at)}"
    held = f", {state.held_back} held back" if state.held_back else ""
    return (state.name, champion, _objects(health.objects), newest, text.counted(state.quarantined, "row") + held)


def _objects(found: ChampionObjects | None) -> str:
    if found is None:
        return "-"
    if found.silent:
        return text.UNKNOWN
    wrong = [
        f"{len(keys)} {word}" for keys, word in ((found.missing, "MISSING"), (found.different, "DIFFERENT")) if keys
    ]
    return f"{' and '.join(wrong)} of {found.needed}" if wrong else f"all {found.needed} at {found.site}"


def _wrong(health: PipelineHealth) -> Iterator[str]:
    state, objects, run = health.state, health.objects, health.run
    if state.error:
        yield f"{state.name}: {state.error[0]} See: rempart pipeline check {state.name}".replace("\n", " ")
    if objects and objects.silent:
        yield f"UNKNOWN whether the champion of {state.name} can be loaded: {objects.silent}"
    if objects and (lost := _lost(objects)):
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        word = "MISSING" if objects.missing else "DIFFERENT from its record"
        yield (
            f"{word} at site '{objects.site}': of the champion of {state.name}: {', '.join(lost[:_NAMED])}{more}. "
            f"Bring them back: {model_files.STEP.command}"
        )
    if health.snapshot:
        yield from (f"{state.name}: {line}" for line in snapshot_objects.lines(health.snapshot, state.name))
    if isinstance(run, NewestRun) and run.state == "failed":
        yield f"The newest {run.stage} of {state.name} failed. Run it again: rempart pipeline run {state.name} --follow"
    elif isinstance(run, str):
        yield f"UNKNOWN: the newest run of {state.name}: {run}"
    if state.held_back:
        yield f"A delivery of {state.name} is held back. Look: rempart quarantine show {state.name}"


def ending(found: Sequence[PipelineHealth]) -> Iterator[str]:
    """Yield the last lines of the status: what is lost, with the one command, and what nobody knows. Pure."""
    lost = [(health.state.name, health.objects) for health in found if health.objects and _lost(health.objects)]
    silent = [health.state.name for health in found if health.objects and health.objects.silent]
    if silent:
        yield f"UNKNOWN: whether the champion can be loaded of: {', '.join(silent)}. Look again: rempart status"
    if lost:
        each = "; ".join(f"{len(_lost(objects))} of {objects.needed} of {name}" for name, objects in lost)
        word = "LOST" if any(objects.missing for _, objects in lost) else "ALTERED"
        yield (
            f"{word}: objects of champions at site '{lost[0][1].site}': {each}. "
            f"Bring them back: {model_files.STEP.command}"
        )
    for health in found:
        if health.snapshot and health.snapshot.missing:
            yield (
                f"LOST: objects of the snapshot of {health.state.name}. "
                f"Bring them back: {snapshot_objects.step(health.state.name).command}"
            )
        elif health.snapshot and health.snapshot.behind:
            yield (
                f"BEHIND: the site shows an older snapshot of {health.state.name}: "
                "docs/runbooks/current-snapshot-is-gone.md"
            )


def of_scorer(line: str, found: Sequence[PipelineHealth]) -> str:
    """Return the scorer's line; it tells that a champion whose objects are lost answers from memory only. Pure."""
    if not line or line.startswith(scorer_server.NOT_READY):
        return line
    lost = [health.state.name for health in found if health.objects and _lost(health.objects)]
    memory = f"from memory only; a restart of the scorer loses what it cannot load again: {', '.join(lost)}"
    return f"{line} ({memory})" if lost else line


def _lost(objects: ChampionObjects) -> Sequence[str]:
    return objects.missing + objects.different


def as_json(found: Sequence[PipelineHealth]) -> list[Mapping[str, Any]]:
    """Return the pipelines for a JSON document; null for what is unknown. Pure."""
    return [
        {
            "name": state.name,
            "error": state.error[0] if state.error else None,
            "champion": state.champion.version if state.champion else None,
            "since": state.model.champion_since if state.model and state.champion else None,
            "objects": health.objects,
            "snapshot": snapshot_objects.as_json(health.snapshot),
            "newest_run": None if isinstance(health.run, str) else health.run,
            "newest_run_unknown": health.run if isinstance(health.run, str) else None,
            "quarantined": state.quarantined if state.known else None,
            "held_back": state.held_back if state.known else None,
        }
        for health in found
        for state in [health.state]
    ]
