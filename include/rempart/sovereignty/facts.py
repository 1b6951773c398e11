"""Find facts about operators that are too old to rely on. Pure: the day is an argument.

A fact's age counts from its `as_of`, or from that of the containing entry, so a date on the operator applies to
everything below it. An old fact still decides: the warning asks a person to read the source again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from rempart.settings.config import Config
from rempart.settings.operators import Operator, Sourced


@dataclass(frozen=True)
class StaleFact:
    """A fact that should be read again: where it stands in the operator's entry, its date and its age in days.

    `path` is empty for the entry itself (name and legal entity). Without any date, `as_of` and `age` are None; a date
    after the day of the question cannot be true, and its age is negative.
    """

    operator: str
    path: str
    as_of: date | None
    age: int | None


def stale(operators: Mapping[str, Operator], on: date, max_age: timedelta) -> list[StaleFact]:
    """Return the facts older than `max_age` on this day, dated later, or without a date."""
    found = []
    for name, operator in operators.items():
        for path, as_of in dated_facts(operator):
            age = None if as_of is None else (on - as_of).days
            if age is None or age < 0 or age > max_age.days:
                found.append(StaleFact(name, path, as_of, age))
    return found


def facts_of(operator: Operator) -> Iterator[tuple[str, Sourced]]:
    """Return every fact of an entry by its path (`services.object-storage.qualifications.0`; empty for the entry
    itself).
    """
    return ((path, fact) for path, fact, _ in _walk("", operator, None))


def dated_facts(operator: Operator) -> Iterator[tuple[str, date | None]]:
    """Return every fact of an entry by its path, with its effective date."""
    return ((path, as_of) for path, _, as_of in _walk("", operator, None))


def _walk(path: str, node: Any, inherited: date | None) -> Iterator[tuple[str, Sourced, date | None]]:
    def below(key: object) -> str:
        return f"{path}.{key}" if path else str(key)

    if isinstance(node, Sourced):
        inherited = node.as_of or inherited
        yield path, node, inherited
        for name in type(node).model_fields:
            yield from _walk(below(name), getattr(node, name), inherited)
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _walk(below(key), value, inherited)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _walk(below(index), value, inherited)


def in_use(config: Config) -> dict[str, Operator]:
    """Return the operators of places in rempart.yaml, and those whose infrastructure they run on."""
    names: dict[str, None] = {}
    for place in config.places().values():
        names |= dict.fromkeys((place.operator, *config.operators[place.operator].services[place.service].runs_on))
    return {name: config.operators[name] for name in names}


def summaries(facts: Iterable[StaleFact], max_age: timedelta) -> list[str]:
    """Return one line for each operator: the number of facts to read again, and the oldest of them."""
    by_operator: dict[str, list[StaleFact]] = {}
    for fact in facts:
        by_operator.setdefault(fact.operator, []).append(fact)
    return [_summary(name, found, max_age) for name, found in by_operator.items()]


def _summary(name: str, found: list[StaleFact], max_age: timedelta) -> str:
    parts = []
    old = [fact for fact in found if fact.as_of is not None and fact.age is not None and fact.age > 0]
    if old:
        oldest = max(old, key=lambda fact: fact.age or 0)
        parts.append(
            f"{len(old)} older than {max_age.days} days (the oldest: {oldest.path or 'the entry'}, {oldest.as_of})"
        )
    if undated := [fact for fact in found if fact.as_of is None]:
        parts.append(f"{len(undated)} without a date (the first: {undated[0].path or 'the entry'})")
    if future := [fact for fact in found if fact.age is not None and fact.age < 0]:
        parts.append(
            f"{len(future)} dated in the future (the first: {future[0].path or 'the entry'}, {future[0].as_of})"
        )
    return (
        f"operators.{name}: {'; '.join(parts)}. Read the sources again and set as_of under operators.{name} in "
        "rempart.yaml (docs/how-to/choose-operators.md)."
    )
