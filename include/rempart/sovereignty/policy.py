"""Decide about one placement: a pure function of the configuration and a date.

Each condition gives reasons for or against, and a placement is allowed only without a reason against. So a further
condition can only deny more, and anything unknown (an operator, a classification, an uncertain fact) denies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Literal
from urllib.parse import urlsplit

from rempart.errors import PlacementDenied
from rempart.settings.config import Config
from rempart.settings.operators import Country, Operator, Qualification, Service, split_qualification
from rempart.settings.policy.rules import PolicyRule
from rempart.sovereignty.jurisdictions import covers

What = Literal[
    "data",
    "replica",
    "restore-point",
    "evidence",
    "job",
    "image",
    "connection",
    "host",
    "database",
    "tracking",
    "orchestration",
    "origin",
]
"""What a place is asked for. `origin`: data are read from it and nothing is written there."""


@dataclass(frozen=True)
class Placement:
    """A place as the configuration names it: `label` is what a reader calls it; `host` where it answers, if known."""

    label: str
    operator: str
    service: str
    region: str
    host: str | None = None


@dataclass(frozen=True)
class Reason:
    """One condition: whether it holds, the rule it comes from, the fact that decided it, the remedy if it does not."""

    ok: bool
    rule: str
    fact: str
    remedy: str = ""


@dataclass(frozen=True)
class Decision:
    """Decision about a classification at a place, with every reason for and against."""

    allowed: bool
    classification: str
    what: str
    place: str
    reasons: tuple[Reason, ...]

    @property
    def against(self) -> tuple[Reason, ...]:
        return tuple(reason for reason in self.reasons if not reason.ok)

    @property
    def in_favour(self) -> tuple[Reason, ...]:
        return tuple(reason for reason in self.reasons if reason.ok)

    def as_json(self) -> dict[str, Any]:
        """Return the decision in the form of evidence."""
        return asdict(self) | {"reasons": [asdict(reason) for reason in self.reasons]}

    def explain(self) -> str:
        """Return every reason on its own line with its remedy. Reasons against come first."""
        verdict = "allowed" if self.allowed else "denied"
        lines = [f"{self.what} ({self.classification}) at {self.place}: {verdict}"]
        lines += [f"  no   {r.rule}: {r.fact}\n       what to do: {r.remedy}" for r in self.against]
        lines += [f"  yes  {r.rule}: {r.fact}" for r in self.in_favour]
        return "\n".join(lines)

    def refusal(self) -> PlacementDenied:
        """Return the denial as an error: each denying rule, and its remedy."""
        asked = (
            f"data ({self.classification}) may not be read from {self.place}: "
            if self.what == "origin"
            else f"{self.what} ({self.classification}) may not be at {self.place}: "
        )
        return PlacementDenied(
            asked + "; ".join(f"{r.rule}: {r.fact}" for r in self.against),
            " / ".join(dict.fromkeys(r.remedy for r in self.against)),
        )


def verdict(classification: str, what: What, place: str, reasons: Iterable[Reason]) -> Decision:
    """Return the decision that follows from the reasons. Without any reason it is a denial."""
    found = tuple(reasons)
    return Decision(bool(found) and all(r.ok for r in found), classification, what, place, found)


def unknown(classification: str, what: What, place: str, rule: str, fact: str, remedy: str) -> Decision:
    """Return a denial of something that the configuration does not know."""
    return verdict(classification, what, place, [Reason(False, rule, fact, remedy)])


def decide(
    config: Config,
    classification: str,
    what: What,
    placement: Placement,
    *,
    on: date,
    replica_of: Placement | None = None,
) -> Decision:
    """Decide whether `what` of this classification may be at this place on this day.

    `replica_of` is the original's place for a copy.
    """
    return verdict(
        classification, what, placement.label, _reasons(config, classification, what, placement, on, replica_of)
    )


def _reasons(
    config: Config, classification: str, what: What, place: Placement, on: date, replica_of: Placement | None
) -> Iterator[Reason]:
    rule = next((rule for name, rule in config.policy.items() if name == classification), None)
    path = f"policy.{classification}"
    if rule is None:
        yield Reason(
            False, path, "not declared, and undeclared placements are denied", f"Declare {path} in rempart.yaml."
        )
        return
    if what == "origin" and (read := rule.origins) is not None:
        path, rule = (
            f"{path}.origins",
            PolicyRule(jurisdictions=read.jurisdictions, owner_jurisdictions=read.owner_jurisdictions),
        )
        if read.operators is not None:
            fact = f"the operator is {place.operator}; allowed: {', '.join(read.operators) or 'none'}"
            remedy = f"Choose another place, or change {path}.operators in rempart.yaml."
            yield Reason(place.operator in read.operators, f"{path}.operators", fact, remedy)
    operator = config.operators.get(place.operator)
    if operator is None:
        fact = f"operator '{place.operator}' is not in the catalogue"
        yield Reason(False, "operators", fact, f"Correct the name, or add operators.{place.operator} to rempart.yaml.")
        return
    where = f"operators.{place.operator}"
    service = operator.services.get(place.service)
    if service is None:
        fact = f"{place.operator} has no service '{place.service}' in the catalogue"
        remedy = f"Use one of {', '.join(operator.services) or 'none'}, or add the service in rempart.yaml."
        yield Reason(False, f"{where}.services", fact, remedy)
        return
    if not (operator.certain and service.certain):
        note = service.note or operator.note or "no note"
        yield Reason(
            False, where, f"the catalogue's facts about {place.service} are not certain: {note}", _settle(where)
        )
    below = {place.operator: operator} | {name: config.operators[name] for name in service.runs_on}
    yield from _laws(path, rule, place, operator, service, below)
    yield from _technology(path, rule, place, service)
    for wanted in rule.qualifications:
        yield _qualification(path, wanted, place, service, on)
    if what in rule.independent:
        yield independence(config, f"{path}.independent", place, replica_of)
    if place.host is not None:
        yield _endpoint(where, place, service)


def _settle(where: str) -> str:
    return f"Verify it with the operator and override {where} in rempart.yaml, or choose another place."


def _laws(
    path: str, rule: PolicyRule, place: Placement, operator: Operator, service: Service, below: dict[str, Operator]
) -> Iterator[Reason]:
    def under(condition: str, allowed: list[str], whose: str, country: Country, where: str) -> Reason:
        if not country.certain:
            return Reason(False, f"{path}.{condition}", f"{whose} is not certain: {country.note}", _settle(where))
        fact = f"{whose} is {country.value}; allowed: {', '.join(allowed) or 'none'}"
        remedy = f"Choose another place, or change {path}.{condition} in rempart.yaml."
        return Reason(covers(allowed, country.value), f"{path}.{condition}", fact, remedy)

    region = operator.regions.get(place.region)
    regions = f"operators.{place.operator}.regions"
    if region is None or (service.regions and place.region not in service.regions):
        offered = ", ".join(service.regions or operator.regions) or "none"
        fact = (
            f"{place.operator} does not offer {place.service} in region '{place.region}'; regions in the "
            f"catalogue: {offered}"
        )
        yield Reason(False, regions, fact, f"Correct the region, or add it under {regions} in rempart.yaml.")
    else:
        country = Country(value=region.country, certain=region.certain, note=region.note)
        whose = f"the country of region {place.region}"
        yield under("jurisdictions", rule.jurisdictions, whose, country, f"{regions}.{place.region}")
    for name, company in below.items():
        where = f"operators.{name}"
        role = "operator" if name == place.operator else "infrastructure operator"
        seat, owner = company.jurisdiction, company.owner_jurisdiction
        yield under("jurisdictions", rule.jurisdictions, f"the seat of {role} {name}", seat, where)
        whose = f"the ultimate owner of {role} {name}" + (f" ({company.owner})" if company.owner else "")
        yield under("owner_jurisdictions", rule.owner_jurisdictions, whose, owner, where)


def _technology(path: str, rule: PolicyRule, place: Placement, service: Service) -> Iterator[Reason]:
    where = f"operators.{place.operator}.services.{place.service}"
    if (allowed := rule.technology_origins) is not None:
        condition = f"{path}.technology_origins"
        if not service.technology:
            yield Reason(
                False, condition, f"the catalogue does not say what {place.service} is built on", _settle(where)
            )
        for component in service.technology:
            ok = component.certain and (component.origin == "open" or covers(allowed, component.origin))
            origin = component.origin if component.certain else "of uncertain origin"
            fact = f"{component.name} is {origin}; allowed: open, {', '.join(allowed)}"
            yield Reason(ok, condition, fact, f"Choose another service, or change {condition} in rempart.yaml.")
    if (allowed := rule.subprocessor_jurisdictions) is not None:
        condition = f"{path}.subprocessor_jurisdictions"
        if service.subprocessors is None:
            yield Reason(
                False, condition, f"the catalogue does not list the sub-processors of {place.service}", _settle(where)
            )
        for sub in service.subprocessors or ():
            ok = sub.certain and covers(allowed, sub.jurisdiction)
            fact = f"sub-processor {sub.name} is under {sub.jurisdiction} law; allowed: {', '.join(allowed)}"
            yield Reason(ok, condition, fact, f"Choose another service, or change {condition} in rempart.yaml.")
        if service.subprocessors == []:
            yield Reason(True, condition, f"{place.service} has no sub-processors")


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text or ""))


def _shortfall(held: Qualification, version: str | None, region: str, on: date) -> str:
    """Return why a qualification of the right name does not count, or an empty text."""
    if not held.certain:
        return f"{held} is not certain: {held.note}"
    if version and (not held.version or _version(held.version) < _version(version)):
        return f"it holds {held}"
    if held.regions and region not in held.regions:
        return f"{held} covers {', '.join(held.regions)} only"
    if held.valid_from and on < held.valid_from:
        return f"{held} is valid from {held.valid_from}"
    if held.valid_until and on > held.valid_until:
        return f"{held} expired on {held.valid_until}"
    return ""


def _qualification(path: str, wanted: str, place: Placement, service: Service, on: date) -> Reason:
    name, version = split_qualification(wanted)
    held = [qualification for qualification in service.qualifications if qualification.name == name]
    short = [_shortfall(qualification, version, place.region, on) for qualification in held]
    proven = [qualification for qualification, text in zip(held, short, strict=True) if not text]
    fact = (
        f"{place.operator}/{place.service} holds {proven[0]}"
        if proven
        else f"{place.operator}/{place.service} must hold {wanted}; " + ("; ".join(short) or f"it holds no {name}")
    )
    remedy = f"Choose a service that holds {wanted}, or change {path}.qualifications in rempart.yaml."
    return Reason(bool(proven), f"{path}.qualifications", fact, remedy)


def independence(config: Config, rule: str, place: Placement, replica_of: Placement | None) -> Reason:
    """Return reasons about shared infrastructure of two places: a copy should survive the loss of the original's
    operators.
    """
    remedy = "Choose a place whose `runs_on` differs from that of the original's place."
    if replica_of is None:
        return Reason(False, rule, "the place that it must be independent of is not stated", remedy)
    sets = []
    for located in (place, replica_of):
        operator = config.operators.get(located.operator)
        service = operator.services.get(located.service) if operator else None
        if service is None or not service.certain:
            return Reason(False, rule, f"the infrastructure of {located.label} is not known for certain", remedy)
        sets.append(set(service.runs_on))
    shared = sets[0] & sets[1]
    fact = (
        f"{place.label} and {replica_of.label} both run on {', '.join(sorted(shared))}"
        if shared
        else f"{place.label} runs on {', '.join(sorted(sets[0]))}, {replica_of.label} on {', '.join(sorted(sets[1]))}"
    )
    return Reason(not shared, rule, fact, remedy)


def endpoint_hosts(service: Service, region: str) -> tuple[str, ...]:
    """Return the host names of a service's endpoints in a region."""
    hosts = (urlsplit(endpoint.replace("{region}", region)).hostname for endpoint in service.endpoints)
    return tuple(host for host in hosts if host)


def is_host_of(host: str, pattern: str) -> bool:
    """Return whether a host equals the pattern, matches a `*.` pattern, or is a subdomain of it (a virtual-hosted
    bucket).
    """
    host, pattern = host.lower().rstrip("."), pattern.lower().removeprefix("*.")
    is_address = re.fullmatch(r"[\d.]+|.*:.*", pattern) is not None
    return host == pattern or (not is_address and host.endswith(f".{pattern}"))


def _endpoint(where: str, place: Placement, service: Service) -> Reason:
    known = endpoint_hosts(service, place.region)
    rule = f"{where}.services.{place.service}.endpoints"
    ok = any(is_host_of(place.host or "", endpoint_host) for endpoint_host in known)
    fact = (
        f"{place.host} is an endpoint of {place.operator}/{place.service} in {place.region}"
        if ok
        else (
            f"'{place.host}' is not an endpoint of {place.operator}/{place.service} in {place.region}; endpoints "
            f"in the catalogue: {', '.join(known) or 'none'}"
        )
    )
    return Reason(
        ok, rule, fact, f"Correct the connection's endpoint, or add the endpoint under {rule} in rempart.yaml."
    )
