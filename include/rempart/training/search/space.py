"""Turn the ranges of `trainer.search` into a space, checked against the trainer's own table of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from rempart.errors import TrainingError
from rempart.settings.search.ranges import ParameterRange, ParameterSearch
from rempart.training.job import Param
from rempart.training.trainers import trainers

OTHER_LOSS = ("loss", "quantile", "class_weight")
"""Parameters that change what a trainer minimizes: losses of trials that differ in one cannot be compared."""


@dataclass(frozen=True)
class Numbers:
    """A parameter with numbers from `low` to `high`, bounds included. `log`: by factors; `whole`: whole numbers."""

    name: str
    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True)
class Choices:
    """A parameter with one of some values."""

    name: str
    options: tuple[Param, ...]


Space = tuple[Numbers | Choices, ...]
"""Parameters to search, in the order of their names."""


def space_of(search: ParameterSearch, use: str, task: str) -> Space:
    """Return the space of a search. Raises TrainingError with each range that the trainer cannot take."""
    table = trainers.params_schema(use, task)
    known: Mapping[str, Mapping[str, Any]] = table.get("properties", {})
    closed = table.get("additionalProperties") is False
    made, found = list[Numbers | Choices](), list[str]()
    for name, declared in sorted(search.params.items()):
        if closed and name not in known:
            found.append(f"{_path(name)}: {use} has no parameter '{name}'{_meant(name, known)}")
            continue
        faults = list(_faults(declared, known.get(name, {})))
        found += [f"{_path(name)}: {fault}" for fault in faults]
        if not faults:
            made.append(_parameter(name, declared, known.get(name, {})))
    if found:
        raise TrainingError(
            "; ".join(found),
            f"Correct the ranges. {use} takes: {', '.join(sorted(known))}." if known else "Correct the ranges.",
        )
    return tuple(made)


def corners(space: Space) -> Iterator[dict[str, Param]]:
    """Yield parameters at the edges of a space: all smallest, all largest, and each choice beside the smallest."""
    first: dict[str, Param] = {}
    last: dict[str, Param] = {}
    for each in space:
        first[each.name] = each.options[0] if isinstance(each, Choices) else _number(each, each.low)
        last[each.name] = each.options[-1] if isinstance(each, Choices) else _number(each, each.high)
    yield first
    yield last
    for each in space:
        if isinstance(each, Choices):
            yield from ({**first, each.name: option} for option in each.options[1:])


def within(space: Space, params: Mapping[str, Param]) -> bool:
    """Return whether parameters are a point of a space: each of its names, and no other, with a value of its range."""
    return {each.name for each in space} == params.keys() and all(_is_in(each, params[each.name]) for each in space)


def comparable(space: Space) -> bool:
    """Return whether the losses of all trials mean the same, so that one trial's can end another."""
    return not any(each.name in OTHER_LOSS for each in space)


def _is_in(each: Numbers | Choices, value: Param) -> bool:
    if isinstance(each, Choices):
        return any(type(value) is type(option) and value == option for option in each.options)
    kinds = (int,) if each.whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and each.low <= value <= each.high


def _path(name: str) -> str:
    return f"trainer.search.params.{name}"


def _meant(name: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _faults(declared: ParameterRange, rule: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the trainer's table says against a range. `rule`: the JSON Schema of the parameter."""
    kind = rule.get("type")
    least, most = rule.get("minimum", float("-inf")), rule.get("maximum", float("inf"))
    if declared.choose is not None:
        for option in declared.choose:
            if kind in ("integer", "number"):
                if isinstance(option, bool | str) or (kind == "integer" and not isinstance(option, int)):
                    yield f"{option!r} is not a {'whole ' if kind == 'integer' else ''}number"
                elif not least <= option <= most:
                    yield f"{option} is not from {least:g} to {most:g}"
            elif kind == "string" and (not isinstance(option, str) or option not in rule.get("enum", [option])):
                yield (
                    f"{option!r} is not one of {', '.join(rule['enum'])}"
                    if "enum" in rule
                    else (f"{option!r} is not a text")
                )
        return
    if kind not in (None, "integer", "number"):
        yield "it is no number; give `choose` with a list of values"
        return
    for name, bound in (("low", declared.low), ("high", declared.high)):
        assert bound is not None  # noqa: S101 - the section has both without `choose`
        if kind == "integer" and not isinstance(bound, int):
            yield f"`{name}` is {bound}, but it must be a whole number"
        elif not least <= bound <= most:
            yield f"`{name}` is {bound}, but the trainer takes {least:g} to {most:g}"


def _parameter(name: str, declared: ParameterRange, rule: Mapping[str, Any]) -> Numbers | Choices:
    if declared.choose is not None:
        return Choices(name, tuple(declared.choose))
    low, high = declared.low, declared.high
    assert low is not None and high is not None  # noqa: S101 - the section has both without `choose`
    whole = rule.get("type") == "integer" or ("type" not in rule and isinstance(low, int) and isinstance(high, int))
    return Numbers(name, low, high, declared.log, whole)


def _number(each: Numbers, value: float) -> Param:
    return int(value) if each.whole else float(value)
