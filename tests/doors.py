"""Which routes an application has, held against a table of doors: a route that is in none of them is found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from starlette.routing import BaseRoute, Match, Route


def unlisted(doors: Iterable[tuple[str, str]], routes: Sequence[BaseRoute]) -> set[tuple[str, str]]:
    """Method and path of each route that no door, a method and a path, leads to. Fails for what is no plain route."""
    led_to = set()
    for method, asked in doors:
        path = asked.partition("?")[0]
        scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
        route = next((one for one in routes if one.matches(scope)[0] == Match.FULL), None)
        if isinstance(route, Route):
            led_to.add((method, route.path))
    there = set()
    for route in routes:
        assert isinstance(route, Route), f"{route} is mounted, and nobody looks at what is beneath it"
        there |= {(method, route.path) for method in route.methods or ()}
    return there - led_to
