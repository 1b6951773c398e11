"""The champion by the recorded decisions, whatever their order."""

import datetime

from hypothesis import given
from hypothesis import strategies as st

from rempart.flows.training.champions import champion_times, intended, succession
from rempart.ledger.port import Evidence

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def decisions(*steps):
    """A number promotes that version; None rolls the champion back, if it can be."""
    found, versions = [], []
    for seq, step in enumerate(steps):
        if step is not None:
            versions.append(str(step))
            found.append(Evidence(seq, NOW, "promotion", "m", {"version": str(step)}))
        elif len(versions) > 1:
            found.append(back(versions[-2], versions.pop(), seq))
    return found


def back(champion, replaces="3", seq=99):
    return Evidence(seq, NOW, "rollback", "m", {"champion": champion, "replaces": replaces})


def test_each_rollback_goes_one_promotion_further_back():
    assert succession(decisions(1, 2, 3)) == ["1", "2", "3"]
    assert succession(decisions(1, 2, 3, None)) == ["1", "2"]
    assert succession(decisions(1, 2, 3, None, None)) == ["1"]
    assert succession(decisions(1, 2, None, 3)) == ["1", "3"]
    assert intended(decisions()) is None


@given(st.integers(1, 9), st.lists(st.none() | st.integers(1, 9)), st.integers(1, 9))
def test_a_promotion_and_its_rollback_leave_things_as_they_were(first, steps, version):
    assert succession(decisions(first, *steps, version, None)) == succession(decisions(first, *steps))


def test_a_rollback_names_the_champion_also_where_an_older_decision_was_altered():
    """Its record does not count any more, so that the steps alone lead to another version."""
    assert succession([*decisions(1, 3), back("2")]) == ["1", "2"], "the promotion of version 2 was altered"
    assert succession([*decisions(1, 2, 3), back("1")]) == ["1"], "the rollback to version 2 was altered"
    assert succession([back("2")]) == ["2"] == [intended([back("2")])]
    assert succession([*decisions(1, 2, 3), back("1", "2")]) == ["1"], "no way back leads to the version it replaced"


@given(st.lists(st.integers(1, 4)), st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4))))
def test_the_newest_time_as_champion_is_that_of_the_champion(steps, rolled):
    """Retirement keeps the files of the version that served last: it must be the one that is champion."""
    found = [*decisions(*steps), *(back(str(to), str(of), 99 + i) for i, (to, of) in enumerate(rolled))]
    times = champion_times(found)
    assert [time.version for time in times[-1:]] == succession(found)[-1:]
    assert [time.until for time in times[-1:]] == [None] * bool(times)
