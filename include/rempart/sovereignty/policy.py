"""The policy's answer about one placement: a pure function of the configuration. An unknown is a denial."""

from __future__ import annotations

from dataclasses import dataclass

from rempart.config import Classification, Config

EU = frozenset(
    [
        "AT",
        "BE",
        "BG",
        "CY",
        "CZ",
        "DE",
        "DK",
        "EE",
        "ES",
        "FI",
        "FR",
        "GR",
        "HR",
        "HU",
        "IE",
        "IT",
        "LT",
        "LU",
        "LV",
        "MT",
        "NL",
        "PL",
        "PT",
        "RO",
        "SE",
        "SI",
        "SK",
    ]
)
"""Member states, ISO 3166 (the Union writes EL for Greece; ISO writes GR)."""


@dataclass(frozen=True)
class Decision:
    """Whether data of a classification may be placed at a site, with every reason for and against."""

    allowed: bool
    classification: str
    site: str
    reasons: tuple[str, ...]


def covers(allowed: list[str], country: str) -> bool:
    """Whether a list of countries and groups of countries (`EU`) holds a country."""
    return country in allowed or ("EU" in allowed and country in EU)


def decide(config: Config, classification: Classification, site: str) -> Decision:
    """May data of this classification be placed at this site?"""
    against: list[str] = []
    reasons: list[str] = []

    def check(ok: bool, fact: str) -> None:
        (reasons if ok else against).append(fact)

    rule = config.policy.get(classification)
    place = config.sites.get(site)
    if rule is None:
        against.append(f"policy.{classification} is not declared: what is not allowed is denied")
    if place is None:
        against.append(f"sites.{site} is not declared")
    if rule and place:
        operator = config.operators[place.operator]
        service = operator.services[place.service]
        check(
            covers(rule.jurisdictions, operator.jurisdiction),
            f"operator {place.operator} is under {operator.jurisdiction} law; allowed: {rule.jurisdictions}",
        )
        check(
            covers(rule.owner_jurisdictions, operator.owner_jurisdiction),
            f"its owner is under {operator.owner_jurisdiction} law; allowed: {rule.owner_jurisdictions}",
        )
        for wanted in rule.qualifications:
            check(
                wanted in service.qualifications,
                f"service {place.service} must hold {wanted}; it declares {service.qualifications or 'none'}",
            )
    return Decision(not against, classification, site, tuple(against or reasons))
