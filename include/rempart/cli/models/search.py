"""Start a search for a model's parameters; show the searches, and what the newest one found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson
from rempart.errors import PipelineError

if TYPE_CHECKING:
    from rempart.settings.pipeline import ModelPipeline
    from rempart.web.read_models.searches.views import SearchView

_ENDED = {
    "trials": "ended after its last trial",
    "time": "ended at its time limit",
    "budget": "ended at its limit of GPU hours",
    "unasked": "trials are missing: a task ask failed",
}


def search(
    name: Annotated[str, typer.Argument(help="Name of the model, which is the name of its pipeline.")],
    of: Annotated[
        str | None, typer.Argument(help="Id of a search, or its first letters; default: the newest.", metavar="SEARCH")
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Start a search in Airflow, and show none.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the searches for a model's parameters, and show one: its trials, and the best parameters as YAML to paste.

    Values are of the validation part. --start starts the DAG search_PIPELINE.

    Example:

        rempart model search energy_use --start
        rempart model search hotel_bookings
        rempart model search hotel_bookings --json
    """
    from rempart.cli.views import names
    from rempart.flows.search.records import searches
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines
    from rempart.web.read_models.searches.views import view

    json_documents.begin(as_json)
    spec = pipelines.with_model(pipelines.named(names.pipeline(name, pipelines.names())))
    if start:
        if of is not None:
            raise typer.BadParameter("name no SEARCH with --start: a new search gets an id of its own")
        page = _started(spec)
        if as_json:
            json_documents.show({"pipeline": spec.name, "started": page})
        else:
            done = f"What it found, when it is done: rempart model search {spec.name}"
            rendering.show([f"started search_{spec.name}: {page}", done])
        return
    found = searches(open_platform().ledger, spec.name)
    if of is not None:
        known = [each.search for each in found]
        wanted = next((each for each in known if each.startswith(of)), of)
        names.require("search", wanted, known, f"Start one: rempart model search {spec.name} --start")
        found = [each for each in found if each.search == wanted]
    views = [view(each) for each in found]
    if as_json:
        told = [{**asdict(each.search), "paste": each.paste} for each in views]
        json_documents.show({"pipeline": spec.name, "searches": told})
        return
    rendering.show(lines(spec.name, views, declared=spec.trainer.search is not None))


def _started(spec: ModelPipeline) -> str:
    """Start a search, and return the page of its run. Raises PipelineError, AirflowApiError."""
    from rempart.airflow_api import AirflowApi
    from rempart.settings import config

    if spec.trainer.search is None:
        raise PipelineError(
            f"start a search for {spec.name}: its pipeline file has no `trainer.search`",
            "Declare the ranges there (docs/how-to/search-parameters.md).",
        )
    api, dag_id = AirflowApi(config.environment_connections("airflow_api")), f"search_{spec.name}"
    api.await_dag(dag_id)
    return f"{api.url}/dags/{dag_id}/runs/{api.trigger(dag_id)}"


def lines(pipeline: str, found: Sequence[SearchView], *, declared: bool = True) -> Iterator[str]:
    """Yield the searches of a pipeline (newest first) as a table, and what the newest one found.

    `declared`: the pipeline file has `trainer.search`.
    """
    from rempart.cli.views import text

    if not found:
        first = (
            "A search is recorded when it ends. Start one" if declared else "Declare `trainer.search`, then start one"
        )
        yield f"{pipeline}: no search is on record. {first}: rempart model search {pipeline} --start"
        return
    head = ("SEARCH", "ENDED", "TRAINER", "TRIALS", "COMPLETE", "BEST", "EVIDENCE")
    yield from text.table(head, (_row(each) for each in found))
    newest = found[0]
    search = newest.search
    yield ""
    yield f"Search {search.search}:"
    yield from text.pairs(_facts(newest))
    if newest.best is None:
        yield "No trial was complete, so no parameters were chosen."
        return
    yield ""
    yield f"Parameters for the pipeline file of {pipeline}:"
    yield ""
    yield from newest.paste.rstrip().split("\n")


def _row(found: SearchView) -> tuple[str, ...]:
    from rempart.cli.views import text

    search = found.search
    best = f"{search.metric} {text.number(found.best.value)}" if found.best else "-"
    counts = (f"{len(search.trials):,}", f"{found.complete:,}")
    return (search.search, text.moment(search.at), search.trainer, *counts, best, str(search.seq))


def _facts(found: SearchView) -> Iterator[tuple[str, str]]:
    from rempart.cli.views import text

    search, best = found.search, found.best
    states = f"{found.complete:,} complete, {found.pruned:,} pruned, {found.failed:,} failed"
    yield "trials", f"{states}; {_ENDED[search.ended]}; {text.span(found.seconds)} of training in all"
    if best is not None:
        yield "best", f"{search.metric} {text.number(best.value)} on the validation part, in trial {best.number}"
    if found.important:
        shares = (f"{axis.name} {axis.share or 0.0:.0%}" for axis in found.important)
        yield "importance", ", ".join(shares)
