"""X2: whenever a write to a lease is delivered, it neither frees, takes nor revives what somebody else holds."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rempart.coordination import lease
from rempart.coordination.database import session
from rempart.coordination.lease import Lease
from rempart.errors import LeaseHeld, LeaseLost
from rempart.flows.shared.platform import Platform
from rempart.settings.config import Connection

pytestmark = pytest.mark.stores

TAKES = st.tuples(st.just("take"), st.sampled_from(["run 1", "run 2"]), st.booleans())
LATER = st.tuples(st.sampled_from(["renew", "release"]), st.integers(0, 3), st.just(False))
LAPSE = st.tuples(st.just("lapse"), st.just(0), st.just(False))


def holds(connection: Connection, held: Lease) -> bool:
    """Whether a holder may still write: its writes go through the fence."""
    try:
        with session(connection, "ask the fence") as opened, opened.transaction():
            lease.fence(opened, held)
    except LeaseLost:
        return False
    return True


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(TAKES, LATER, LAPSE, TAKES, LATER), min_size=6, max_size=16))
def test_x2_a_write_that_is_delivered_late_changes_no_lease_of_somebody_else(
    platform: Platform, writes: list[tuple[str, str | int, bool]]
) -> None:
    """Any renewal and any release of any lease ever taken may arrive at any time; so may a take nobody waits for."""
    connection, name = platform.database("continuity"), f"test {secrets.token_hex(8)}"
    taken, state = list[Lease](), "free"
    for kind, which, again in writes:
        last = taken[-1] if taken else None
        if kind == "take":
            mine = again and last is not None and last.holder == which
            if state == "held" and not mine:
                with pytest.raises(LeaseHeld):
                    lease.take(connection, name, str(which), 600, again=again)
            else:
                taken.append(lease.take(connection, name, str(which), 600, again=again))
                state = "held"
        elif kind == "lapse":
            with session(connection, "let it lapse") as opened:
                opened.execute("UPDATE lease SET until = now() - interval '1 s' WHERE name = %s", [name])
            state = "lapsed" if state == "held" else state
        elif int(which) < len(taken):
            late = taken[int(which)]
            if kind == "release":
                lease.release(connection, late)
                state = "free" if late is last else state
            elif late is last and state != "free":
                lease.renew(connection, late)
                state = "held"
            else:
                with pytest.raises(LeaseLost):
                    lease.renew(connection, late)
        assert [holds(connection, each) for each in taken] == [each is taken[-1] and state == "held" for each in taken]
        assert [each.generation for each in taken] == list(range(1, len(taken) + 1))
