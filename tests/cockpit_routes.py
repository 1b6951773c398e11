"""The cockpit's routes, each with the right that it needs, and hostile values for addresses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from starlette.routing import BaseRoute, Match, Route

from rempart.settings import access
from rempart.web.pages import collect
from tests.cockpit import DELIVERY, POINT

READ: access.Capability = "read"
EVIDENCE: access.Capability = "read_evidence"
DRILL = f"/restore-points/{POINT}/drill"
LOOK = f"/data/hotel_bookings/quarantine/{DELIVERY}"
PROFILE = "/data/hotel_bookings/profile"
ROUTES: dict[tuple[str, str], access.Capability] = {
    **{("GET", f"{prefix}/{page.name}"): page.right for page in collect() for prefix in ("", "/api")},
    ("GET", "/"): READ,
    ("GET", "/static/cockpit.css"): READ,
    ("GET", f"/restore-points/{POINT}"): READ,
    ("GET", DRILL): "operate",
    ("POST", DRILL): "operate",
    ("GET", "/ledger/2"): EVIDENCE,
    ("GET", "/evidence"): EVIDENCE,
    ("GET", "/metrics"): READ,
    ("GET", f"/api/restore-points/{POINT}"): READ,
    ("GET", "/api/ledger/2"): EVIDENCE,
    ("GET", "/api/ledger/export"): EVIDENCE,
    ("GET", "/api/openapi.json"): READ,
    # the tabs on DAGs and runs (details/runs.py)
    ("GET", "/dag?dag_id=restore_drill"): READ,
    ("GET", "/run?dag_id=restore_drill&run_id=r"): READ,
    ("GET", "/api/dag?dag_id=restore_drill"): READ,
    ("GET", "/api/run?dag_id=restore_drill&run_id=r&task_id=drill"): READ,
    ("GET", "/data/hotel_bookings"): READ,
    ("GET", "/api/data/hotel_bookings"): READ,
    ("GET", PROFILE): "operate",
    ("POST", PROFILE): "operate",
    ("GET", f"{PROFILE}/page"): "read_data",
    ("GET", f"{LOOK}/look"): "operate",
    ("POST", f"{LOOK}/look"): "operate",
    ("GET", f"{LOOK}/rows"): "read_data",
    ("GET", f"{LOOK}/rows.csv"): "read_data",
    ("GET", f"{LOOK}/again"): "operate",
    ("POST", f"{LOOK}/again"): "operate",
    ("GET", f"{LOOK}/accept"): "operate",
    ("POST", f"{LOOK}/accept"): "operate",
    ("GET", "/models/hotel_bookings/roll-back"): "operate",
    ("POST", "/models/hotel_bookings/roll-back"): "operate",
    ("GET", "/api/models/hotel_bookings/roll-back"): "operate",
    ("GET", "/models/hotel_bookings/1/card"): READ,
    ("GET", "/api/models/hotel_bookings/1/card"): READ,
}
"""Every route, and the right that it asks for."""
HOSTILE = "<script>alert(1)</script>' OR 1=1; --"
INJECTIONS = [
    f"/ledger?subject={HOSTILE}",
    f"/ledger?kind={HOSTILE}",
    f"/ledger?before={HOSTILE}",
    f"/overview?lang={HOSTILE}",
    f"/data?page={HOSTILE}",
    f"/ledger/{HOSTILE}",
    f"/models/hotel_bookings/{HOSTILE}/card",
    f"/restore-points/{HOSTILE}",
    f"/restore-points/{POINT}?run={HOSTILE}",
    f"/static/..%2F..%2Fapp.py?{HOSTILE}",
    f"/nowhere/{HOSTILE}",
    "/overview?lang=fr%0d%0aSet-Cookie:%20stolen=1",
    "/ledger?subject={{7*7}}${7*7}",
    "/static/%2e%2e/%2e%2e/auth_manager.py",
]
"""What somebody may put into an address: markup, SQL, a way out of the folder, a header, an expression."""


def unlisted(listed: Iterable[tuple[str, str]], routes: Sequence[BaseRoute]) -> set[tuple[str, str]]:
    """Method and path of each route that is not listed. Fails for what is no plain route."""
    led_to = set()
    for method, asked in listed:
        path = asked.partition("?")[0]
        scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
        route = next((candidate for candidate in routes if candidate.matches(scope)[0] == Match.FULL), None)
        if isinstance(route, Route):
            led_to.add((method, route.path))
    there = set()
    for route in routes:
        assert isinstance(route, Route), f"{route} is mounted, and nobody looks at what is beneath it"
        there |= {(method, route.path) for method in route.methods or ()}
    return there - led_to


def expected(caller: str, right: access.Capability) -> bool:
    return caller in access.ROLES and right in access.role(caller).capabilities  # type: ignore[arg-type] # looked up
