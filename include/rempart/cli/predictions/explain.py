"""Show what explains a model, or one logged prediction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson
from rempart.counts import counted

if TYPE_CHECKING:
    from rempart.flows.prediction_log.explain import Explained
    from rempart.models.card.facts import Card


def explain(
    name: Annotated[str, typer.Argument(help="Name of the model, which is the name of its pipeline.")],
    prediction: Annotated[
        str | None, typer.Option("--prediction", help="Id of a logged prediction, as the scorer returned it.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version whose importances are shown; default: the champion.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="Class whose probability is explained; default: the predicted one.")
    ] = None,
    values: Annotated[
        bool, typer.Option("--values", help="Show the features' values too. They may be personal.")
    ] = False,
    identity: Annotated[
        Path | None,
        typer.Option("--identity", help="Identity file of an escrow recipient that opens sealed entries."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which features count for a model; with --prediction, what each contributed to one logged prediction.

    A prediction is found and checked as by `model replay`. Its contributions and the reference, the mean prediction of
    rows that the version learned from, add up to the prediction. The same prediction gives the same contributions.

    Example:

        rempart model explain hotel_bookings
        rempart model explain hotel_bookings --prediction 01981f0e2b3c4d5e6f708192a3b4c5d6
    """
    from rempart.backup.keys.age import read_identity_file
    from rempart.cli.views import names
    from rempart.flows.prediction_log import explain as flow
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines
    from rempart.settings.champions.serving import log_folder

    json_documents.begin(as_json)
    pipeline = pipelines.with_model(pipelines.named(names.pipeline(name, pipelines.names())))
    if prediction is None:
        if label is not None or values or identity is not None:
            raise typer.BadParameter("--class, --values and --identity belong to --prediction")
        _show_model(name, version, as_json)
        return
    if version is not None:
        raise typer.BadParameter("--version does not go with --prediction: the log tells which version answered")
    found = flow.explain(
        open_platform(),
        pipeline,
        prediction.replace("-", "").lower(),
        log_folder() / pipeline.name,
        read_identity_file(identity) if identity else None,
        label,
    )
    if as_json:
        json_documents.show(document(found, with_values=values))
    else:
        rendering.show(lines(found, with_values=values))


def _show_model(name: str, version: str | None, as_json: bool) -> None:
    from rempart.cli.predictions.card import gathered
    from rempart.models.card.facts import as_json as plain

    card = gathered(name, version)
    if as_json:
        told = plain(card)
        json_documents.show({key: told[key] for key in ("model", "version", "target", "explanations", "limits")})
    else:
        rendering.show(model_lines(card))


def document(found: Explained, *, with_values: bool) -> dict[str, Any]:
    """Return an explained prediction as plain JSON; the features' values only if asked for."""
    logged, made = found.logged, found.found
    return {
        "prediction": logged.id,
        "model": logged.pipeline,
        "version": logged.version,
        "at": logged.at,
        "class": found.label,
        "value": made.prediction,
        "reference": made.reference,
        "reference_rows": made.rows,
        "difference": made.difference,
        "contributions": [
            {
                "feature": each.feature,
                "part": each.part,
                "spread": each.spread,
                **({"value": found.values[each.feature]} if with_values else {}),
            }
            for each in made.contributions
        ],
    }


def lines(found: Explained, *, with_values: bool) -> Iterator[str]:
    """Yield an explained prediction as lines for people."""
    from rempart.cli.views import text

    logged, made = found.logged, found.found
    of = f"probability of {found.label}" if found.label is not None else "prediction"
    yield f"prediction {logged.id} of {logged.pipeline}, {logged.at:%Y-%m-%d %H:%M:%S} UTC, by version {logged.version}"
    mean = f"mean of {counted(made.rows, 'row')} of its training set"
    yield f"{of} {made.prediction:.6g}; reference {made.reference:.6g}: {mean}"
    yield ""
    head = ("FEATURE", *(("VALUE",) if with_values else ()), "CONTRIBUTION", "±")
    rows = (
        (
            each.feature,
            *((str(found.values[each.feature]),) if with_values else ()),
            f"{each.part:+.4g}",
            f"{each.spread:.2g}",
        )
        for each in made.contributions
    )
    yield from text.table(head, rows)
    yield ""
    yield f"Reference and contributions add up to the prediction; rounding {made.difference:+.1g}."
    yield "± is the standard error of the sampling. A contribution tells how the model answers, not what is the cause."


def model_lines(card: Card) -> Iterator[str]:
    """Yield what explains a version, and its limits, as lines for people."""
    from rempart.cli.views import text
    from rempart.models.card.svg import groups_of
    from rempart.models.card.wording import told

    found = card.explanations
    yield f"{card.model}: version {card.version} ({card.standing}), {card.target}"
    if found is not None:
        yield ""
        rises = ((each.feature, f"{each.rise:.4g}", f"{each.spread:.2g}") for each in found.importance)
        yield from text.table(("FEATURE", f"RISE OF {found.metric} WHEN SHUFFLED", "±"), rises)
        for segment in groups_of((found.over_time, *found.segments)):
            yield ""
            groups = (
                (group.label or "all others", f"{group.rows:,}", f"{group.error:.4g}") for group in segment.groups
            )
            yield from text.table((segment.by, "ROWS", found.metric), groups)
    yield ""
    yield from (told(limit) for limit in card.limits)
