"""docs/reference/operators.md: the shipped catalogue as tables, with the sources of what they say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rempart.settings.operators import Operator, Qualification, Service, Sourced, read_catalogue
from rempart.sovereignty.facts import dated_facts, facts_of

INTRODUCTION = """# Operators

**For** people who choose an operator or review the choice. **Answers** which facts about each operator the policy uses,
with source and date.

The shipped catalogue, one file per operator under `include/operators`. It states facts with a source and a date. It
does not rate operators: [what each fact means, and how to add or override it](../how-to/choose-operators.md);
[how policies use them](placements.md). A fact marked **(?)** is not certain: it counts as unknown, and its note
is below the table. An operator without a qualification here may have one that was not verified.
"""


def operators_page(folder: Path) -> str:
    """Return an overview of every operator, then a section for each: services, uncertain facts, sources."""
    catalogue = {key: Operator.model_validate(entry) for key, entry in read_catalogue(folder).items()}
    return "\n".join(
        [INTRODUCTION, *_overview(catalogue), *(_section(key, operator) for key, operator in catalogue.items())]
    )


def _overview(catalogue: Mapping[str, Operator]) -> list[str]:
    lines = [
        "| key | operator | legal entity | seat | ultimate owner | owner's seat | countries of its regions |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, operator in catalogue.items():
        countries = sorted({region.country for region in operator.regions.values()})
        lines.append(
            f"| [`{key}`](#{key}) | {cell(operator.name)}{_mark(operator)} | {cell(operator.legal_entity)} "
            f"| {operator.jurisdiction.value}{_mark(operator.jurisdiction)} | {cell(operator.owner)} "
            f"| {operator.owner_jurisdiction.value}{_mark(operator.owner_jurisdiction)} | {' '.join(countries)} |"
        )
    return lines


def _section(key: str, operator: Operator) -> str:
    regions = ", ".join(f"`{name}` ({cell(r.name)}, {r.country}){_mark(r)}" for name, r in operator.regions.items())
    lines = [f"\n## {key}\n", f"{operator.name}: regions {regions}.\n"]
    lines += [
        "| service | what it is | runs on | technology | qualifications | endpoints |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_service(name, service) for name, service in operator.services.items()]
    if quirks := [f"- `{name}`: {quirk}" for name, service in operator.services.items() for quirk in service.quirks]:
        lines += ["\nDifferences from other services of its kind:\n", *dict.fromkeys(quirks)]
    facts = [(path or "the entry", fact) for path, fact in facts_of(operator)]
    if doubts := [f"- `{path}`: {fact.note}" for path, fact in facts if not fact.certain]:
        lines += ["\nNot certain:\n", *doubts]
    if notes := [f"- `{path}`: {fact.note}" for path, fact in facts if fact.certain and fact.note]:
        lines += ["\nNotes:\n", *notes]
    return "\n".join([*lines, "\nSources:\n", *_sources(operator)])


def _service(key: str, service: Service) -> str:
    regions = f" in {', '.join(service.regions)}" if service.regions else ""
    technology = ", ".join(f"{cell(t.name)} ({t.origin}){_mark(t)}" for t in service.technology)
    qualifications = "<br>".join(map(_qualification, service.qualifications))
    endpoints = "<br>".join(f"`{endpoint}`" for endpoint in service.endpoints)
    return (
        f"| `{key}`{_mark(service)} | {cell(service.name)}{regions} | {', '.join(service.runs_on)} | "
        f"{technology or 'unknown'} | {qualifications or 'none known'} | {endpoints or 'none known'} |"
    )


def _qualification(qualification: Qualification) -> str:
    regions = f", regions {', '.join(qualification.regions)}" if qualification.regions else ""
    since = f", from {qualification.valid_from}" if qualification.valid_from else ""
    until = f", to {qualification.valid_until}" if qualification.valid_until else ""
    return f"{qualification}{_mark(qualification)}: {cell(qualification.scope)}{regions}{since}{until}"


def _sources(operator: Operator) -> Iterable[str]:
    dated = dict(dated_facts(operator))
    by_source: dict[str, list[str]] = {}
    for path, fact in facts_of(operator):
        if fact.source:
            by_source.setdefault(fact.source, []).append(f"{dated[path]}")
    for source, days in by_source.items():
        facts = "1 fact" if len(days) == 1 else f"{len(days)} facts"
        yield f"- <{source}> ({facts}, {' and '.join(sorted(set(days)))})"


def _mark(fact: Sourced) -> str:
    return "" if fact.certain else " **(?)**"


def cell(text: str) -> str:
    """Return a text as the cell of a table in Markdown."""
    return text.replace("|", "\\|").replace("\n", " ")
