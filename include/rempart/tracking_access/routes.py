"""Match a call with the list of routes, `routes.txt`, to decide which users may make it. Pure except for reading the
list.

Every line that matches the call's path must allow it. So the answer is the same whatever route the server chooses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Role = Literal["platform", "person", "job"]
ANYBODY, NOBODY = "anybody", "nobody"
_APIS = ("api", "ajax-api")
_SEGMENT = re.compile(r"[A-Za-z0-9_=@+,:;()! -][A-Za-z0-9._=@+,:;()! -]*|\.[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""One segment of a path. It holds no `%`, which would be a second layer of encoding, and is neither `.` nor `..`."""
_RAW = re.compile(rb"%(?:00|25|2e|2f|5c)", re.IGNORECASE)
"""Encodings of characters that change what a path means: NUL, percent sign, dot, slash, backslash."""
_MOST = 2048


@dataclass(frozen=True)
class Route:
    """One line of the list: a method, a template with `<name>` and `<path:name>`, and who may call it."""

    method: str
    template: str
    who: frozenset[str]

    def parameters(self, path: str) -> dict[str, str] | None:
        """Return the parameters of a path that matches the template, or None."""
        matched = _pattern(self.template).fullmatch(path)
        return matched.groupdict() if matched else None


@dataclass(frozen=True)
class Call:
    """A call that a role may make: the line that names it most closely, and the parameters in its path."""

    route: Route
    parameters: Mapping[str, str]


def read(text: str) -> list[Route]:
    """Return the lines of a list. `{api}` stands for api and ajax-api; a job's calls use api only.

    Raises ValueError for an invalid line.
    """
    routes = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split()
        if len(parts) != 3 or not set(who := parts[0].split(",")) <= {*get_args(Role), ANYBODY, NOBODY}:
            raise ValueError(f"routes.txt, line {number}: expected who, method and path")
        for api in _APIS if "{api}" in parts[2] else ("",):
            allowed = set(who) - ({"job"} if api == "ajax-api" else set())
            routes.append(Route(parts[1], parts[2].replace("{api}", api), frozenset(allowed)))
    return routes


@cache
def listed() -> tuple[Route, ...]:
    """Return the platform's list."""
    return tuple(read(Path(__file__).with_name("routes.txt").read_text(encoding="utf-8")))


def is_plain(path: str, raw: bytes = b"") -> bool:
    """Return whether a decoded path is unambiguous: no empty segment, no dots, no double encoding, no odd character.

    `raw` is the path as received. `/` alone is plain.
    """
    if _RAW.search(raw) or len(path) > _MOST or not path.startswith("/"):
        return False
    return path == "/" or all(_SEGMENT.fullmatch(part) for part in path[1:].split("/"))


def allowed(routes: Sequence[Route], role: str, method: str, path: str) -> Call | None:
    """Return the call if `role` may make it; None if no line, or not every matching line, allows it."""
    method = "GET" if method == "HEAD" else method
    fitting = [(route, route.parameters(path)) for route in routes if route.method == method]
    calls = [Call(route, parameters) for route, parameters in fitting if parameters is not None]
    if not calls or not all(call.route.who & {role, ANYBODY} for call in calls):
        return None
    return min(calls, key=lambda call: len(call.parameters))


def template(rule: str) -> str:
    """Return a rule of Flask or FastAPI in the list's form."""
    rule = re.sub(r"\{(\w+):path\}", r"<path:\1>", rule)
    return re.sub(r"\{(\w+)\}", r"<\1>", rule)


def unlisted(routes: Iterable[Route], registered: Iterable[tuple[str, str]]) -> list[str]:
    """Return registered rules (method, rule) that no line of the list covers, in the list's form."""
    known = {(route.method, route.template) for route in routes}
    templates = {(method, template(rule)) for method, rule in registered}
    return sorted(f"{method} {rule}" for method, rule in templates - known)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(<(?:path:)?\w+>)", template)
    pattern = ""
    for part in parts:
        if part.startswith("<path:"):
            pattern += f"(?P<{part[6:-1]}>.+)"
        elif part.startswith("<"):
            pattern += f"(?P<{part[1:-1]}>[^/]+)"
        else:
            pattern += re.escape(part)
    return re.compile(pattern, re.DOTALL)
