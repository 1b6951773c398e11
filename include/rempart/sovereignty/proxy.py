"""Render the allow-list as rules of squid, the egress proxy of the containers: by name and port, all else denied.

These rules only allow; squid's own settings deny and log everything else (deploy/images/egress.cfg). Source: squid 6's
reference of `acl` and `http_access`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from rempart.sovereignty.egress import Destination, EgressRules, is_address, normalise
from rempart.sovereignty.render import refused

_NEVER = "!to_localhost !to_linklocal"
"""An allowed name that resolves to the proxy itself, or to a cloud's metadata, is denied all the same."""
_NAME = re.compile(r"[A-Za-z0-9._:\[\]-]+")


def outward(rules: EgressRules, inside: Collection[str]) -> tuple[Destination, ...]:
    """Return destinations outside of the containers, whose names are `inside`.

    Registries are for nodes, not for tasks.
    """
    return tuple(destination for destination in rules.allowed if normalise(destination.name) not in inside)


def squid(rules: EgressRules, inside: Collection[str]) -> str:
    """Return the lines of squid's configuration for the policy: one entry for each allowed destination, with its
    reason.
    """
    lines = [
        "# Destinations allowed for containers, written by `rempart stack init` from rempart.yaml. Others are denied."
    ]
    destinations = outward(rules, inside)
    for number, destination in enumerate(destinations):
        who = f"; {', '.join(destination.classifications)}" if destination.classifications else ""
        lines += ["", f"# {destination}  ({destination.why}{who})"]
        if not _NAME.fullmatch(domain := _domain(destination)):
            lines.append("# NOT COVERED, and therefore denied: not the name of a host")
            continue
        lines.append(f"acl host{number} dstdomain -n {domain}")
        if destination.port:
            lines.append(f"acl port{number} port {destination.port}")
        port = f" port{number}" if destination.port else ""
        lines.append(f"http_access allow host{number}{port} {_NEVER}")
    lines += [] if destinations else ["# No destination: every declared server is in one of these containers."]
    lines += ["", *(f"# {line}" for line in refused(rules))] if rules.refusals else []
    return "".join(f"{_printable(line)}\n" for line in lines)


def _domain(destination: Destination) -> str:
    """Return a host for squid's text comparison, without look-ups. A leading dot includes every name below."""
    name = normalise(destination.name)
    if is_address(name):
        return f"[{name}]" if ":" in name else name
    return f".{name}" if destination.host.startswith("*.") else name


def _printable(line: str) -> str:
    return "".join(letter if " " <= letter <= "~" else "?" for letter in line)
