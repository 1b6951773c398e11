"""Compute a logged prediction again, for a person who complains about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rempart.cli import rendering

if TYPE_CHECKING:
    from rempart.flows.prediction_log.replay import Replay


def replay(
    prediction: Annotated[str, typer.Argument(help="Id of the prediction, as the scorer returned it.")],
    model: Annotated[str, typer.Option(help="Name of the model that predicted.")],
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Show inputs and features too. They may be personal.")
    ] = False,
    identity: Annotated[
        Path | None,
        typer.Option("--identity", help="Identity file of an escrow recipient that opens sealed entries."),
    ] = None,
) -> None:
    """Compute a logged prediction again, with the version that answered and what it saw, and compare.

    The version is opened by its recorded SHA-256, also if it is not champion any more. Sealed entries are opened with
    the platform's own key. On a restored platform that has another key, pass an escrowed one with --identity.
    Exit code 1: the prediction differs, or the log does not have it.

    Example:

        rempart model replay 01981f0e2b3c4d5e6f708192a3b4c5d6 --model hotel_bookings
        rempart model replay 01981f0e2b3c4d5e6f708192a3b4c5d6 --model hotel_bookings --identity escrow.txt
    """
    from rempart.backup.keys.age import read_identity_file
    from rempart.cli.views import names
    from rempart.flows.prediction_log import replay as flow
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines
    from rempart.settings.champions.serving import log_folder

    pipeline = pipelines.with_model(pipelines.named(names.pipeline(model, pipelines.names())))
    done = flow.replay(
        open_platform(),
        pipeline,
        prediction.replace("-", "").lower(),
        log_folder() / pipeline.name,
        read_identity_file(identity) if identity else None,
    )
    rendering.show(lines(done, with_inputs=inputs))
    raise typer.Exit(0 if done.same else 1)


def lines(done: Replay, *, with_inputs: bool) -> Iterator[str]:
    """Yield a replay as lines for people."""
    from rempart.flows.prediction_log.replay import equal

    logged = done.logged
    yield f"prediction {logged.id} of {logged.pipeline}, {logged.at:%Y-%m-%d %H:%M:%S} UTC, for client {logged.client}"
    yield f"answered by version {logged.version} at {logged.place}; model.onnx has SHA-256 {logged.sha256}"
    yield f"logged in {logged.where}" + ("" if logged.returned else "; a shadow's answer, which was not returned")
    yield f"  logged:             {_told(logged.output)}"
    for what, found in (("features", done.from_features), ("inputs", done.from_inputs)):
        if found is not None:
            verdict = "the same" if equal(logged.output, found) else "DIFFERENT"
            yield f"  from the {what + ':':<10} {_told(found)}  ({verdict})"
    if done.note:
        yield f"  not from the inputs: {done.note}"
    if with_inputs:
        yield f"  inputs:   {_json(logged.private.inputs)}"
        yield f"  features: {_json(logged.private.features)}"


def _told(output: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in output.items()
    )


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), ensure_ascii=False, sort_keys=True)
