"""List and show feature views."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson

if TYPE_CHECKING:
    from rempart.features.catalogue.entries import Catalogue
    from rempart.web.facts import CockpitFacts

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.DATA,
    help="Feature views: list them, and show origin and users of their features.",
)


@group.command("list")
def list_features(as_json: AsJson = False) -> None:
    """Show the feature views of all pipelines: owner, classification, key, moment, and the champions that read them.

    Exit code 1: a source of these facts did not answer.

    Example:

        rempart feature list
        rempart feature list --json
    """
    from rempart.cli.views import facts
    from rempart.web.read_models.catalogue.views import of_facts

    json_documents.begin(as_json)
    found = facts.gather()
    _list(found, of_facts(found), as_json=as_json)


def _list(found: CockpitFacts, catalogue: Catalogue, *, as_json: bool) -> None:
    """Show the views of a catalogue, and exit: with code 1 if a source did not answer."""
    from rempart.cli import feature_lines
    from rempart.cli.views import facts, pipelines
    from rempart.web.facts import Unknown
    from rempart.web.read_models.messages import moment

    if as_json:
        json_documents.show({"at": found.at, "unknown": found.unknown(), **asdict(catalogue)})
    else:
        listed = () if isinstance(found.pipelines, Unknown) else feature_lines.listing(catalogue)
        rendering.show((*listed, *pipelines.unknown(moment(found, found.at))))
    raise typer.Exit(0 if facts.complete(found) else 1)


@group.command("show")
def show_feature(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the view, as PIPELINE.VIEW, or of a pipeline: to list its views.", metavar="PIPELINE[.VIEW]"
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show a feature view: each feature with its type and origin, the loaded snapshot, and the champions that read it.

    Exit code 1: a source of these facts did not answer.

    Example:

        rempart feature show hotel_bookings.agent_trend
        rempart feature show hotel_bookings
    """
    from rempart.cli import feature_lines
    from rempart.cli.views import facts, names, pipelines
    from rempart.flows.shared.platform import open_platform
    from rempart.flows.training.materialize import loaded_snapshot
    from rempart.web.facts import Unknown, known
    from rempart.web.read_models.catalogue.views import of_facts
    from rempart.web.read_models.messages import moment

    json_documents.begin(as_json)
    found = facts.gather()
    names.require_pipelines(found)
    catalogue = of_facts(found)
    if own := tuple(view for view in catalogue.views if view.pipeline == name):
        _list(found, replace(catalogue, views=own, faults={}), as_json=as_json)
    views = {view.name: view for view in catalogue.views}
    view = views[names.require("feature view", name, views, "See which pipelines are valid: `rempart pipeline list`.")]
    loaded = known("the feature store", lambda: loaded_snapshot(open_platform(), view.pipeline))
    if as_json:
        unknown = found.unknown() | ({"feature store": loaded.why} if isinstance(loaded, Unknown) else {})
        snapshot = None if isinstance(loaded, Unknown) else loaded
        json_documents.show({"at": found.at, "unknown": unknown, **asdict(view), "loaded_snapshot": snapshot})
    else:
        told = f"unknown: {loaded.why}" if isinstance(loaded, Unknown) else loaded or "none"
        rendering.show((*feature_lines.lines(view, told), *pipelines.unknown(moment(found, found.at))))
    raise typer.Exit(0 if facts.complete(found) and not isinstance(loaded, Unknown) else 1)
