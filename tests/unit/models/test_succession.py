"""The champion by the recorded decisions, whatever their order."""

import datetime

from hypothesis import given
from hypothesis import strategies as st

from rempart.flows.training.champions import intended, succession
from rempart.ledger.port import Evidence

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def decisions(*steps):
    """A number promotes that version; None rolls back."""
    return [
        Evidence(
            i, NOW, "rollback" if step is None else "promotion", "m", {} if step is None else {"version": str(step)}
        )
        for i, step in enumerate(steps)
    ]


def test_each_rollback_goes_one_promotion_further_back():
    assert succession(decisions(1, 2, 3)) == ["1", "2", "3"]
    assert succession(decisions(1, 2, 3, None)) == ["1", "2"]
    assert succession(decisions(1, 2, 3, None, None)) == ["1"]
    assert succession(decisions(1, 2, None, 3)) == ["1", "3"]
    assert intended(decisions()) is None


@given(st.lists(st.none() | st.integers(1, 9)), st.integers(1, 9))
def test_a_promotion_and_its_rollback_leave_things_as_they_were(steps, version):
    assert succession(decisions(*steps, version, None)) == succession(decisions(*steps))
