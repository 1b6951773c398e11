"""The worked placements: cases that the shipped catalogue decides, for a test to assert and docs/reference to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rempart.docsgen.operators import cell
from rempart.settings.config import Config, operators_dir
from rempart.settings.operators import merge, read_catalogue
from rempart.settings.schema import read_yaml
from rempart.sovereignty.places import (
    decide_connection,
    decide_host,
    decide_image,
    decide_pool,
    decide_server,
    decide_site,
)
from rempart.sovereignty.policy import Decision, Placement, Reason, decide

CASES = Path("tests", "unit", "sovereignty", "worked_placements.yaml")


@dataclass(frozen=True)
class Worked:
    """One case: where it belongs, what it shows, what is asked, what is expected, and what the policy decided."""

    group: str
    shows: str
    place: str
    expected: bool
    rules: tuple[str, ...]
    decision: Decision
    stricter: bool

    @property
    def decisive(self) -> tuple[Reason, ...]:
        """Return the reasons to show: all that deny, or those in favour that the case is about."""
        return self.decision.against or tuple(r for r in self.decision.in_favour if r.rule in self.rules)


def worked(root: Path) -> list[Worked]:
    """Return the decision of every case of the file.

    Raises ConfigError, or pydantic's ValidationError for an invalid case.
    """
    data = read_yaml(root / CASES)
    catalogue = read_catalogue(operators_dir(root / "rempart.yaml"))
    base = data["config"] | {"operators": merge(catalogue, data["config"]["operators"])}
    usual = Config.model_validate(base)
    stricter = Config.model_validate(base | {"policy": merge(base["policy"], data["stricter"])})
    return [
        _worked(stricter if case.get("under") == "stricter" else usual, group["title"], case, data["day"])
        for group in data["groups"]
        for case in group["cases"]
    ]


def _worked(config: Config, group: str, case: Mapping[str, Any], on: date) -> Worked:
    decision = _decide(config, case, on)
    place = decision.place
    if replica_of := case.get("replica_of"):
        place += f" as a copy of {_label(replica_of) if isinstance(replica_of, dict) else repr(replica_of)}"
    if "server" in case and "host" in case:
        place += f" at {case['host']}"
    if endpoint := case.get("endpoint"):
        place += f" at {endpoint}"
    return Worked(
        group, case["shows"], place, case["allowed"], tuple(case["rules"]), decision, case.get("under") == "stricter"
    )


def _decide(config: Config, case: Mapping[str, Any], on: date) -> Decision:
    classification, what = case["classification"], case.get("what", "data")
    match case:
        case {"site": site}:
            endpoint, replica_of = case.get("endpoint"), case.get("replica_of")
            return decide_site(config, classification, what, site, on=on, endpoint=endpoint, replica_of=replica_of)
        case {"server": server}:
            return decide_server(config, classification, server, on=on, host=case.get("host"))
        case {"pool": pool}:
            return decide_pool(config, classification, what, pool, on=on)
        case {"image": image}:
            return decide_image(config, classification, image, on=on)
        case {"connection": connection}:
            return decide_connection(config, classification, connection, on=on)
        case {"host": host}:
            return decide_host(config, classification, host, case.get("port"), on=on)
    place = case["place"]
    replica_of = _placement(case["replica_of"]) if "replica_of" in case else None
    return decide(config, classification, what, _placement(place), on=on, replica_of=replica_of)


def _label(place: Mapping[str, str]) -> str:
    return f"{place['operator']}/{place['service']} in {place['region']}"


def _placement(place: Mapping[str, str]) -> Placement:
    return Placement(_label(place), place["operator"], place["service"], place["region"])


def placements_page(root: Path) -> str:
    """Return the table of worked placements, with the policy that decided them."""
    data = read_yaml(root / CASES)
    cases = worked(root)
    lines = [
        "# Worked placements\n",
        "**For** people who write or review the policy. **Answers** what it decides in cases like yours, and why.\n",
        f"The policy's answers about {len(cases)} placements, on the day {data['day']}, by",
        "the shipped catalogue ([operators.md](operators.md)) and the policy below. A test asserts each decision and",
        (
            f"its rules (`{CASES.parent}/test_worked_placements.py`). A decision follows from the facts in the "
            "catalogue. It is"
        ),
        "not legal advice. Operators whose name begins with `example-` are invented.\n",
        (
            "The row of a denied placement lists every rule against it. The row of an allowed one lists the rules "
            "that it illustrates.\n"
        ),
        "## The policy of the examples\n",
        "<!-- checked as rempart.yaml -->\n```yaml\npolicy:",
    ]
    for section in (data["config"]["policy"], data["stricter"]):
        if section is data["stricter"]:
            lines.append("# Rows marked «stricter» add:")
        lines += [f"  {name}: {_flow(rule)}" for name, rule in section.items()]
    lines.append("```")
    number = 0
    for group in data["groups"]:
        lines.append(f"\n## {group['title']}\n\n{group.get('text', '').strip()}".rstrip() + "\n")
        lines += ["| | topic | placement | classification | decision | reasons |", "|---|---|---|---|---|---|"]
        for case in (case for case in cases if case.group == group["title"]):
            number += 1
            why = "<br>".join(f"`{reason.rule}`: {cell(reason.fact)}" for reason in case.decisive)
            verdict = "allowed" if case.decision.allowed else "**denied**"
            marks = " (stricter)" if case.stricter else ""
            lines.append(
                f"| {number} | {cell(case.shows)}{marks} | {case.decision.what}: {cell(case.place)} "
                f"| {case.decision.classification} | {verdict} | {why} |"
            )
    return "\n".join(lines) + "\n"


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(str(item) for item in value) + "]" if isinstance(value, list) else str(value)
