"""Answer a name that does not exist with the known names and the most similar one."""

from __future__ import annotations

import difflib
from collections.abc import Collection

import typer

from rempart.cli import rendering
from rempart.web.facts import CockpitFacts
from rempart.web.read_models.model_versions import ModelState, ModelVersion, model_states

WRONG_USAGE = 2
"""Exit code of a command for a name that does not exist."""


class UnknownName(typer.Exit):
    """Raised for a name on the command line that does not exist, after the error was written as every other one is."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(WRONG_USAGE)
        rendering.show([*f"error: {what}".split("\n"), *f"  What to do: {hint}".split("\n")], err=True)


def require(kind: str, name: str, known: Collection[str], otherwise: str) -> str:
    """Return the name if it is known. `otherwise`: what to do if no name of this kind is known.

    Raises UnknownName.
    """
    if name in known:
        return name
    raise UnknownName(f"there is no {kind} '{name[:60]}'", hint(name, known, otherwise))


def pipeline(name: str, known: Collection[str]) -> str:
    """Return the name of a pipeline that has a file. Raises UnknownName."""
    return require("pipeline", name, known, "Draft a pipeline from a file: `rempart pipeline new your.csv`.")


def require_pipelines(facts: CockpitFacts) -> None:
    """Raise PipelineError if the pipelines are unknown, because then no name is known to be wrong."""
    from rempart.errors import PipelineError
    from rempart.web.facts import Unknown

    if isinstance(facts.pipelines, Unknown):
        raise PipelineError(f"read the pipelines: {facts.pipelines.why}", "Check the stack with `rempart status`.")


def model(name: str, facts: CockpitFacts) -> ModelState:
    """Return a model on record. Raises UnknownName, and DatabaseUnavailable if the ledger did not answer."""
    from rempart.errors import DatabaseUnavailable
    from rempart.web.facts import Unknown

    if isinstance(facts.evidence, Unknown):
        raise DatabaseUnavailable(f"read model {name}: {facts.evidence.why}", "Check the stack with `rempart status`.")
    states = model_states(facts)
    files = () if isinstance(facts.pipelines, Unknown) else facts.pipelines
    if name in files and name not in states:
        raise UnknownName(f"pipeline '{name}' has no model yet", f"Train one: `rempart pipeline run {name} --follow`.")
    return states[require("model", name, states, "Train one: `rempart pipeline run NAME --follow`.")]


def version(state: ModelState, name: str) -> ModelVersion:
    """Return a version of a model. Raises UnknownName."""
    numbers = [known.version for known in state.versions]
    require(f"version of model {state.model}", name, numbers, "Train one first.")
    return next(known for known in state.versions if known.version == name)


def hint(name: str, known: Collection[str], otherwise: str) -> str:
    """Return the most similar known name and the first of all known names, as an instruction. Pure."""
    if not known:
        return otherwise
    ordered = sorted(known)
    near = difflib.get_close_matches(name.lower(), ordered, n=1, cutoff=0.5)
    listed = ", ".join(ordered[:12]) + (f" and {len(ordered) - 12} more" if len(ordered) > 12 else "")
    return (f"Did you mean '{near[0]}'? " if near else "") + f"Known: {listed}."
