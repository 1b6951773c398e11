"""Show one pipeline: its state, its objects, and what to do next."""

from __future__ import annotations

from dataclasses import replace

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson
from rempart.cli.lifecycle.remove import Name


def show(name: Name, as_json: AsJson = False) -> None:
    """Show a pipeline: files that wait, what runs, deliveries, snapshot, quarantine, champion, and what to do next.

    Of a derived pipeline, also its inputs, and from which of their columns each of its columns comes.

    It asks Airflow which stages run (half a minute at most), looks for the current snapshot's objects at the active
    site (ten seconds at most), and compares the champion's files with their record (a minute at most). Exit code 1:
    something is missing, or a source did not answer.

    Example:

        rempart pipeline show hotel_bookings
        rempart pipeline show hotel_bookings --json
    """
    from rempart.airflow_api import AirflowApi
    from rempart.cli import run_follow
    from rempart.cli.lifecycle import running
    from rempart.cli.views import derivations, facts, model_files, names, pipelines, snapshot_objects, text, waiting
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import config
    from rempart.settings import pipelines as files
    from rempart.web.read_models.messages import moment
    from rempart.web.read_models.pipeline_states import pipeline_states

    json_documents.begin(as_json)
    found = facts.gather()
    names.require_pipelines(found)
    states = {state.name: state for state in pipeline_states(found, found.at)}
    state, landing = states[names.pipeline(name, states)], config.load().buckets.landing
    objects, waits, runs = None, None, None
    spec = None if state.error else files.named(name)
    if spec:
        waits = waiting.look(open_platform, spec)
        runs = running.look(
            lambda: AirflowApi(config.environment_connections("airflow_api")), name, run_follow.stages_of(spec)
        )
        state = replace(state, next=running.step(runs, name, waiting.step(waits, name, state.next)))
    if state.snapshot and spec:
        objects = snapshot_objects.look(open_platform, spec, state.snapshot.id)
        if objects.missing:
            state = replace(state, next=snapshot_objects.step(name))
    model = model_files.look(open_platform, name, state.champion.version) if state.champion else None
    if model and model.fault:
        state = replace(state, next=model_files.STEP)
    silent = [look.silent for look in (waits, runs, objects, model) if look]
    if as_json:
        document = {"at": found.at, "unknown": found.unknown(), **pipelines.as_json(state, landing)}
        derived = derivations.as_json(spec) if spec else None
        document |= {"waiting": waiting.as_json(waits), "running": running.as_json(runs)}
        document |= {"objects": snapshot_objects.as_json(objects), "model_files": model_files.as_json(model)}
        json_documents.show({**document, "derived": derived})
    else:
        told = snapshot_objects.lines(objects, name) if objects else ()
        now_lines = (*([waiting.line(waits)] if waits else ()), *(running.lines(runs, found.at) if runs else ()))
        derived_lines = derivations.all_lines(spec) if spec else ()
        lines = (
            *pipelines.state_lines(state, landing, told, now_lines, model_files.lines(model) if model else ()),
            *derived_lines,
            *pipelines.unknown(moment(found, found.at)),
            *text.look_again(f"rempart pipeline show {name}", *silent),
        )
        rendering.show(lines)
    whole = (objects is None or objects.is_whole) and model in (None, model_files.ModelFiles())
    raise typer.Exit(0 if facts.complete(found) and whole and not any(silent) else 1)
