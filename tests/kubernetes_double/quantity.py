"""Resource quantities such as 500m, 2Gi or 1e3."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_FORM = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]?|[eE][+-]?\d+)$")

Amounts = dict[str, Fraction]


def parse(text: Any) -> Fraction:
    """The quantity's value. Raises ValueError."""
    found = _FORM.match(str(text))
    if found is None:
        raise ValueError(f"{text!r} is not a quantity")
    number, suffix = Fraction(found[1]), str(found[2])
    if suffix in _BINARY:
        return number * (1 << _BINARY[suffix])
    exponent: int = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
    power: int = 10 ** abs(exponent)
    return number * power if exponent >= 0 else number / power


def parse_all(texts: Mapping[str, Any] | None) -> Amounts:
    """Each resource's value."""
    return {name: parse(text) for name, text in (texts or {}).items()}


def show(name: str, value: Fraction) -> str:
    """The quantity as the API server writes it: binary suffixes for bytes, milli for a part of one."""
    if value.denominator != 1:
        return f"{-(-value * 1000 // 1)}m"
    whole = int(value)
    suffixes = _BINARY if "memory" in name or "storage" in name else {}
    for suffix, power in sorted(suffixes.items(), key=lambda pair: -pair[1]):
        if whole and whole % 2**power == 0:
            return f"{whole >> power}{suffix}"
    return str(whole)


def add(*amounts: Mapping[str, Fraction]) -> Amounts:
    """The sum of each resource."""
    total: Amounts = {}
    for each in amounts:
        for name, value in each.items():
            total[name] = total.get(name, Fraction(0)) + value
    return total


def largest(amounts: Iterable[Mapping[str, Fraction]]) -> Amounts:
    """The largest value of each resource."""
    top: Amounts = {}
    for each in amounts:
        for name, value in each.items():
            top[name] = max(top.get(name, value), value)
    return top


def of_pod(pod: Mapping[str, Any], what: str = "requests") -> Amounts:
    """What a pod as a whole asks for: the sum of its containers, or its largest init container where that is more.

    Limits imply requests, and a sidecar (an init container that restarts always) counts as a container.
    """

    def of_container(container: Mapping[str, Any]) -> Amounts:
        resources = container.get("resources") or {}
        amounts = parse_all(resources.get("limits"))
        return amounts if what == "limits" else amounts | parse_all(resources.get("requests"))

    spec = pod["spec"]
    inits = spec.get("initContainers") or []
    sidecars = [each for each in inits if each.get("restartPolicy") == "Always"]
    together = add(*(of_container(each) for each in [*sidecars, *spec["containers"]]))
    before = largest(of_container(each) for each in inits if each.get("restartPolicy") != "Always")
    return add(largest([together, before]), parse_all(spec.get("overhead")) if what == "requests" else {})
