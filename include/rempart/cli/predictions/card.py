"""Make the model card of a version again from its evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson

if TYPE_CHECKING:
    from rempart.models.card.facts import Card


def card(
    name: Annotated[str, typer.Argument(help="Name of the model, which is the name of its pipeline.")],
    version: Annotated[str | None, typer.Argument(help="Version of it; default: the champion.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the page; default: var/model-cards/MODEL-VERSION.html.", dir_okay=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the model card of a version as one HTML page without scripts, made from the evidence as it is now.

    It has no value of a single person. --json shows the same facts, and writes no file.

    Example:

        rempart model card hotel_bookings 2
        rempart model card hotel_bookings 2 --out card.html
    """
    from rempart.deployment.setup import paths
    from rempart.models.card.facts import as_json as plain
    from rempart.models.card.page import page

    json_documents.begin(as_json)
    made = gathered(name, version)
    if as_json:
        json_documents.show(plain(made))
        return
    file = out or paths.current().var / "model-cards" / f"{made.model}-{made.version}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(made), encoding="utf-8")
    rendering.tell(f"{file}: model card of {made.model} version {made.version} ({made.standing})")


def gathered(name: str, version: str | None) -> Card:
    """Return the card of a version; without one, of the champion. Raises ChampionMissing, and as `gather`."""
    from rempart.cli.views import names
    from rempart.errors import ChampionMissing
    from rempart.flows.shared.platform import open_platform
    from rempart.flows.training.champions import decisions_on, intended
    from rempart.flows.training.explained.gather import gather
    from rempart.settings import pipelines

    pipeline = pipelines.with_model(pipelines.named(names.pipeline(name, pipelines.names())))
    platform = open_platform()
    if (wanted := version or intended(decisions_on(platform.ledger, pipeline.name))) is None:
        raise ChampionMissing(
            f"Model {pipeline.name} has no champion",
            f"Name a version: `rempart model show {pipeline.name}` lists them.",
        )
    return gather(platform, pipeline, wanted)
