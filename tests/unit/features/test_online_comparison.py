"""A materialization writes what changed, and compares all rows whenever it cannot know what the online table holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rempart.features.online_store.comparison import FULL_COMPARISON_EVERY, Content, Mark, ViewState

START = datetime(2020, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def content(rows: dict[str, int]) -> Content:
    return Content(len(rows), sum(hash((key, value)) for key, value in rows.items()))


@dataclass
class Offline:
    """The newest value of each entity with the load that changed it, and what the last run left."""

    rows: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    mark: Mark | None = None
    vanished_at: datetime | None = None
    loaded_at: datetime = START

    @property
    def wanted(self) -> dict[str, int]:
        return {entity: value for entity, (value, _) in self.rows.items()}

    def load(self, rows: dict[str, int], at: datetime) -> None:
        self.loaded_at = at = max(at, self.loaded_at + timedelta(microseconds=1))  # none is dated before an earlier one
        if self.rows.keys() - rows.keys():
            self.vanished_at = at
        self.rows = {
            entity: self.rows[entity] if self.rows.get(entity, (None, at))[0] == value else (value, at)
            for entity, value in rows.items()
        }


@dataclass
class Online:
    """The table, and its mark."""

    rows: dict[str, int] = field(default_factory=dict)
    mark: Mark | None = None
    compared_at: datetime | None = None
    is_current: bool = False

    def run(self, offline: Offline, now: datetime) -> Mark:
        """Do what `online.materialize` does, in dictionaries."""
        baseline = ViewState(self.is_current, offline.mark, self.mark, self.compared_at, offline.vanished_at).baseline(
            now
        )
        if baseline is None:
            self.rows, self.compared_at = offline.wanted, now
            left = content(self.rows)
        else:
            assert timedelta() <= now - baseline.compared_at < FULL_COMPARISON_EVERY
            changed = {entity: value for entity, (value, loaded) in offline.rows.items() if loaded > baseline.since}
            old = {entity: self.rows[entity] for entity in changed.keys() & self.rows.keys()}
            self.rows |= changed
            left = baseline.content.replaced(content(old), content(changed))
        self.is_current, self.mark = True, Mark(offline.loaded_at, left)
        return self.mark


rows = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 2), max_size=5)
events = st.lists(
    st.one_of(
        st.tuples(st.just("load"), rows),
        st.tuples(st.just("run"), st.none()),
        st.tuples(st.just("killed between the commits"), st.none()),
        st.tuples(st.just("another program writes"), rows),
        st.tuples(st.just("online database restored"), st.integers(0, 9)),
        st.tuples(st.just("offline database restored"), st.integers(0, 9)),
        st.tuples(st.just("another view was current"), st.none()),
        st.tuples(st.just("the clock is wrong for a load and a run"), rows),
    ),
    max_size=14,
)


@given(events, st.sampled_from([HOUR, 5 * HOUR]))
def test_the_online_table_equals_the_offline_store_after_a_run_whatever_happened(
    happened: list[tuple[str, object]], step: timedelta
) -> None:
    offline, online, at = Offline(), Online(), START
    past_online: list[Online] = [Online()]
    past_offline: list[Offline] = [Offline()]
    for what, detail in [*happened, ("run", None)]:
        at += step
        if what == "load" and isinstance(detail, dict):
            offline.load(detail, at)
        elif what == "run":
            offline.mark = online.run(offline, at)
            assert online.rows == offline.wanted
            assert offline.mark.content == content(online.rows), "the sum follows every change"
        elif what == "killed between the commits":
            online.run(offline, at)
        elif what == "the clock is wrong for a load and a run" and isinstance(detail, dict):
            offline.load(detail, at + timedelta(days=400))
            offline.mark = online.run(offline, at + timedelta(days=400))
        elif what == "another program writes" and isinstance(detail, dict):
            online.rows, online.mark = online.rows | detail, None  # as the table's trigger has it
        elif what == "another view was current":
            online.is_current, online.rows = False, {}
        elif what == "online database restored" and isinstance(detail, int):
            before = past_online[detail % len(past_online)]
            online = Online(dict(before.rows), before.mark, before.compared_at, before.is_current)
        elif what == "offline database restored" and isinstance(detail, int):
            old = past_offline[detail % len(past_offline)]
            offline = Offline(dict(old.rows), old.mark, old.vanished_at, old.loaded_at)
            offline.load(offline.wanted, at)  # a run begins with a load
        past_online.append(Online(dict(online.rows), online.mark, online.compared_at, online.is_current))
        past_offline.append(Offline(dict(offline.rows), offline.mark, offline.vanished_at, offline.loaded_at))


def test_all_rows_are_compared_at_least_once_a_day() -> None:
    mark = Mark(START, Content(3, 7))
    state = ViewState(is_current=True, offline=mark, online=mark, compared_at=START)
    assert state.baseline(START + FULL_COMPARISON_EVERY - HOUR)
    assert state.baseline(START + FULL_COMPARISON_EVERY) is None
    assert not state.in_future(START)
    early = START - timedelta(seconds=1)
    assert state.in_future(early) and state.baseline(early) is None, "a clock was wrong: the date says nothing"
    assert ViewState(is_current=True, offline=mark, online=None, compared_at=START).baseline(START) is None
    assert ViewState(is_current=False, offline=mark, online=mark, compared_at=START).since is None
