"""Every fault by its name, which begins with its id in the fault catalogue."""

from __future__ import annotations

from tests.lying import bodies, listings, refusals
from tests.lying.server import Fault

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*bodies.faults(), *listings.faults(), *refusals.faults())}
