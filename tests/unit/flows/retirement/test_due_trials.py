"""Which models of trials go: those of old searches, whose jobs became no version."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rempart.flows.retirement.due_trials import due_trials
from rempart.flows.search.records import Search, Trial

NOW = datetime(2099, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def search_of(name: str, seq: int, age: int, *jobs: str, rows: str = "r") -> Search:
    trials = tuple(Trial(number, 1, {}, "complete", 1.0, 1.0, job, "run", "local") for number, job in enumerate(jobs))
    given: dict[str, Any] = {"space": {}, "fixed": {}, "trainer": "lightgbm", "metric": "mae", "direction": "minimize"}
    at = NOW - age * DAY
    return Search("stays", name, rows, seed=1, pruner="none", trials=trials, best=0, at=at, seq=seq, **given)


@given(
    ages=st.lists(st.integers(0, 900), min_size=1, max_size=6),
    began=st.one_of(st.none(), st.integers(0, 900)),
    versions=st.sets(st.integers(0, 5)),
    retired=st.dictionaries(st.integers(0, 5), st.integers(0, 20)),
)
def test_trials_go_only_when_no_search_on_their_rows_is_young_and_no_version_came_of_them(
    ages: list[int], began: int | None, versions: set[int], retired: dict[int, int]
) -> None:
    found = [search_of(f"s{n}", n, age, f"j{n}", f"j{n + 1}") for n, age in enumerate(ages)][::-1]
    begun = [] if began is None else [("r", NOW - began * DAY)]
    jobs, seqs = {f"j{n}" for n in versions}, {f"s{n}": seq for n, seq in retired.items()}
    goes = due_trials(found, begun, jobs, seqs, 400 * DAY, NOW)
    youngest = min([*ages, *([] if began is None else [began])])
    if youngest < 400:
        assert goes == {}
        return
    for search in found:
        wanted = {trial.job for trial in search.trials} - jobs
        done = seqs.get(search.search, -1) > search.seq
        assert {trial.job for trial in goes[search.search].trials} == wanted if wanted and not done else True
        assert search.search in goes or not wanted or done


def test_a_search_that_went_on_after_its_trials_went_is_due_again() -> None:
    first, again = search_of("s", 3, 900, "a"), search_of("s", 9, 500, "a", "b")
    assert due_trials([first], [], (), {"s": 5}, 400 * DAY, NOW) == {}
    (due,) = due_trials([again, first], [], (), {"s": 5}, 400 * DAY, NOW).values()
    assert [trial.job for trial in due.trials] == ["a", "b"] and due.last == NOW - 500 * DAY
    assert due_trials([again, first], [("r", NOW)], (), {}, 400 * DAY, NOW) == {}, "a search on these rows may run"
