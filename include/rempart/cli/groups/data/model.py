"""List, show, compare, explain, reproduce, search for parameters and decide, roll back, retire, predict and replay."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson
from rempart.cli.lifecycle import approve, reproduce, retire
from rempart.cli.models import search
from rempart.cli.monitoring import drift
from rempart.cli.predictions import card, explain, predict, replay

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.DATA,
    help="Models: list, compare, card, predict, replay, explain, reproduce, search, drift, approve, reject, roll back, "
    "retire.",
)

ModelName = Annotated[str, typer.Argument(help="Name of the model, which is the name of its pipeline.")]


@group.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Show each pipeline's model: champion, since when, figures, newest version and the gate's decision.

    Exit code 1: a source of these facts did not answer.

    Example:

        rempart model list
    """
    from rempart.cli.views import facts, models, pipelines
    from rempart.web.facts import Unknown
    from rempart.web.read_models.messages import moment
    from rempart.web.read_models.model_versions import model_states

    json_documents.begin(as_json)
    found = facts.gather()
    states = model_states(found)
    without = models.without_model({} if isinstance(found.pipelines, Unknown) else found.pipelines, states)
    if as_json:
        document = {"at": found.at, "unknown": found.unknown(), "models": list(states.values()), "without": without}
        json_documents.show(document)
    else:
        if not isinstance(found.evidence, Unknown) and (states or not isinstance(found.pipelines, Unknown)):
            rendering.show(models.listing(list(states.values()), without))
        rendering.show(pipelines.unknown(moment(found, found.at)))
    raise typer.Exit(0 if facts.complete(found) else 1)


@group.command("show")
def show_model(
    name: ModelName,
    version: Annotated[str | None, typer.Argument(help="Show this version alone; default: all versions.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the life of a model's versions: training, figures, the gate's decision, times as champion, retirement.

    Each has the number of its evidence. The last line has the page of the model card, which tells where it errs.

    The champion's files are compared with their record (a minute at most). Exit code 1: nobody can load it, or MLflow
    did not answer.

    Example:

        rempart model show hotel_bookings
        rempart model show hotel_bookings 2
    """
    from rempart.cli.views import facts, model_files, models, names
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    found = facts.gather()
    state = names.model(name, found)
    if version is not None:
        state = replace(state, versions=(names.version(state, version),))
    champion = state.champion if state.champion in state.versions else None
    files = model_files.look(open_platform, name, champion.version) if champion else None
    if as_json:
        json_documents.show({"at": found.at, **asdict(state), "model_files": model_files.as_json(files)})
    else:
        told = models.state_lines(state) if version is None else models.version_lines(state.versions[0], state.metric)
        told_files = model_files.lines(files) if files else ()
        rendering.show([*told, *told_files, *models.card_lines(state, facts.card)])
    raise typer.Exit(0 if files in (None, model_files.ModelFiles()) else 1)


@group.command("compare")
def compare_models(
    name: ModelName,
    first: Annotated[str, typer.Argument(help="A version of the model.", metavar="V1")],
    second: Annotated[str, typer.Argument(help="Another version of it.", metavar="V2")],
    as_json: AsJson = False,
) -> None:
    """Show two versions side by side: figures, the gate's bounds, importances, and what differs in their training.

    Example:

        rempart model compare hotel_bookings 1 2
    """
    from rempart.cli.views import facts, models, names
    from rempart.flows.shared.platform import open_platform
    from rempart.flows.training.explained.keep import importances
    from rempart.web.read_models.versions.comparison import compared

    json_documents.begin(as_json)
    state = names.model(name, facts.gather())
    earlier, later = (names.version(state, asked) for asked in (first, second))
    ledger = open_platform().ledger
    known = (importances(ledger, name, earlier.version), importances(ledger, name, later.version))
    comparison = compared(name, earlier, later, known)
    if as_json:
        json_documents.show(comparison)
        return
    rendering.show(models.comparison_lines(comparison, state.metric))


group.command("predict")(predict.predict)
group.command("drift")(drift.drift)
group.command("replay")(replay.replay)
group.command("reproduce")(reproduce.reproduce)
group.command("explain")(explain.explain)
group.command("card")(card.card)
group.command("search")(search.search)


@group.command("roll-back")
def roll_back_model(
    name: ModelName,
    to: Annotated[
        str | None, typer.Option(help="Earlier champion to return to; default: the one before the current champion.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Execute the plan. Without it the plan is shown and nothing is changed.")
    ] = False,
) -> None:
    """Return a model to an earlier champion, whose files are compared with their record first. Airflow may be down.

    Example:

        rempart model roll-back hotel_bookings
        rempart model roll-back hotel_bookings --to 1 --yes
    """
    from rempart.cli.views import names
    from rempart.flows.shared.platform import open_platform
    from rempart.flows.training import roll_back_to
    from rempart.settings import pipelines

    spec = pipelines.with_model(pipelines.named(names.pipeline(name, pipelines.names())))
    platform = open_platform()
    steps = roll_back_to.plan(platform, spec, to)
    for step in steps:
        rendering.tell(f"model {name}: version {step.returns} becomes champion in place of version {step.replaces}")
    if not yes:
        rendering.tell("Nothing was changed. Pass --yes to execute the plan.")
        return
    done = roll_back_to.execute(platform, spec, steps)
    rendering.tell(f"done: version {done.champion} is champion. Clients of models:/{name}@champion get it at once.")
    rendering.tell(f"The gate promotes version {steps[0].replaces} again only if you name it in validate_model_{name}.")


group.command("approve")(approve.approve)
group.command("reject")(approve.reject)
group.command("authors")(approve.authors)
group.command("retire")(retire.retire)
