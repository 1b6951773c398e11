"""The command `rempart model reproduce`: train a version again, and compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson
from rempart.flows.reproduction.comparison import TOLERANCE

if TYPE_CHECKING:
    from rempart.flows.reproduction.comparison import Reproduction


def reproduce(
    name: Annotated[str, typer.Argument(help="Name of the model, which is the name of its pipeline.")],
    version: Annotated[str, typer.Argument(help="Version to train again: `rempart model show` lists them.")],
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Relative difference of a figure that counts as none.")
    ] = TOLERANCE,
    as_json: AsJson = False,
) -> None:
    """Train a version again from its evidence, and compare its figures with the recorded ones.

    Same rows, parameters, seed and trainer, in a process of its own on this machine; nothing is registered. The result
    is evidence. Exit code 1: a figure differs by more than the tolerance.

    Example:

        rempart model reproduce hotel_bookings 1
        rempart model reproduce hotel_bookings 1 --tolerance 0.001 --json
    """
    from rempart.cli.views import names
    from rempart.flows.reproduction import reproduce as flow
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines

    json_documents.begin(as_json)
    spec = pipelines.with_model(pipelines.named(names.pipeline(name, pipelines.names())))
    done = flow.reproduce(open_platform(), spec, version, tolerance)
    if as_json:
        verdict = {"reproduced": done.reproduced, "identical": done.identical, "same_code": done.same_code}
        json_documents.show({**asdict(done), **verdict})
    else:
        rendering.show(lines(done))
    raise typer.Exit(0 if done.reproduced else 1)


def lines(done: Reproduction) -> Iterator[str]:
    """Yield a reproduction as lines for people."""
    version = f"model {done.model} version {done.version} (evidence {done.record_seq})"
    yield f"{version} was trained again in {done.seconds:.1f} s; figures on record / now:"
    for figure in done.figures:
        both = " / ".join("missing" if value is None else f"{value:.9g}" for value in (figure.recorded, figure.again))
        yield f"  {figure.name:<24} {both}  ({'the same' if figure.same else 'DIFFERENT'})"
    if not done.same_code:
        yield f"  its code was {done.recorded_code}, and is now {done.code}: the trainer or a library changed"
    if done.identical:
        yield "model.onnx is the same, byte by byte"
    elif done.reproduced:
        yield "model.onnx has other bytes, but every figure is the recorded one within the tolerance"
    else:
        yield "NOT reproduced: a figure differs by more than the tolerance"
