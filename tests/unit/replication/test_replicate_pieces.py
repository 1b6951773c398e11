"""A run whose pieces are copied by processes of their own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rempart.cli import json_documents
from rempart.errors import FailoverError, LeaseHeld, LeaseLost, ReplicationError, SiteError
from rempart.flows.replication import replicate as flow
from rempart.flows.replication import replicate_in_tasks as tasks
from rempart.flows.replication.replicate import replicate
from rempart.flows.shared.platform import Platform
from rempart.settings.sections import Window
from tests.unit.replication.two_sites import later, new_platform, other_run, paired


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    return new_platform(monkeypatch)


def test_pieces_may_be_carried_by_processes_of_their_own(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rempart.replication.pieces.PIECE", 7)
    for n in range(20):
        platform.sites["primary"].write("lake", f"k{n:02}", b"x")
    ready = tasks.prepared(tasks.prepare(platform, "primary", "haven").as_json())
    assert len(ready.pieces()) == 3
    with pytest.raises(LeaseHeld):
        tasks.prepare(platform, "primary", "haven")
    done = [tasks.carry(platform, ready, piece) for piece in ready.pieces()]
    result = tasks.conclude(platform, ready, done)
    assert (result.copied, result.verified, result.pending) == (20, 20, 0)
    assert replicate(platform, "primary", "haven").copied == 0


def test_out_of_its_window_a_run_of_several_processes_copies_nothing_and_tells_the_lag(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now(UTC)
    begin, end = ((now + timedelta(hours=hours)).time() for hours in (2, 3))
    platform.sites["primary"].write("lake", "a", b"a")
    narrow = later(paired(platform, window=Window(begin=begin, end=end)), minutes=20)
    ready = tasks.prepared(tasks.prepare(narrow, "primary", "haven").as_json())
    assert ready.pieces() == [] and "outside the window" in caplog.messages[-1]
    result = tasks.conclude(narrow, ready, [])
    assert (result.copied, result.pending, result.failures) == (0, 1, 0)
    with pytest.raises(ReplicationError, match=r"lag 12\d\d s exceeds the objective of 900 s; 1 changes") as above:
        flow.check_objective(narrow.config, "primary", "haven", result)
    assert "window" in above.value.hint
    flow.check_objective(narrow.config, "primary", "haven", dataclasses.replace(result, lag_seconds=899))


def test_a_piece_of_which_nobody_tells_is_pending_but_for_what_it_recorded(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rempart.replication import run

    monkeypatch.setattr("rempart.replication.pieces.PIECE", 7)
    monkeypatch.setattr(run, "RECORDED", 1)
    for n in range(20):
        platform.sites["primary"].write("lake", f"k{n:02}", b"x")
    ahead = later(platform, hours=1)
    ready = tasks.prepare(ahead, "primary", "haven")
    told, killed, never = ready.pieces()
    done = [tasks.carry(ahead, ready, told)]
    tasks.carry(ahead, ready, killed)  # it was killed before it could tell
    measured: list[flow.ReplicationResult] = []
    with pytest.raises(
        SiteError, match=r"6 of 20 objects .*lag 36\d\d s, objective 900 s.*\n  lake/k14: the task"
    ) as red:
        tasks.conclude(ahead, ready, done, measured=measured.append)
    assert red.value.transient and never["piece"] in ready.planned[0].pieces
    (result,) = measured
    assert (result.verified, result.copied, result.pending, result.pending_bytes, result.failures) == (14, 14, 6, 6, 6)
    assert replicate(platform, "primary", "haven").copied == 6  # its lease is over


def test_what_a_piece_hands_on_is_small(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(1500):
        platform.sites["primary"].write("lake", f"k{n:04}", b"x")
    ready = tasks.prepare(platform, "primary", "haven")
    (piece,) = ready.pieces()
    outcome = tasks.carry(later(platform, hours=1), ready, piece)["outcome"]
    assert 100 < len(outcome["lags"]) <= tasks.LAGS and len(str(outcome)) < 5000
    assert tasks._some([1.0, 9.0, 5.0]) == [9.0, 5.0, 1.0] and tasks._some([]) == []
    assert max(tasks._some(list(range(5000)))) == 4999


def test_a_result_is_told_in_lines_and_as_json(platform: Platform) -> None:
    platform.sites["primary"].write("lake", "a", b"a")
    result = replicate(platform, "primary", "haven")
    shown = "\n".join(flow.lines(result))
    assert "1 of 1 objects" in shown and "lag 0 s" in shown and "lag of the copied changes" in shown
    assert json.loads(json_documents.document(result))["copied"] == 1


def test_x3_a_piece_of_a_run_that_lost_its_turn_changes_nothing_on_record(platform: Platform) -> None:
    platform.sites["primary"].write("lake", "a", b"x")
    stale = tasks.prepare(platform, "primary", "haven")
    platform.continuity.release(tasks._lease(stale))  # as if it had been paused past its end
    with other_run(platform), pytest.raises(LeaseLost):
        tasks.carry(platform, stale, stale.pieces()[0])
    assert not list(platform.continuity.catalogue("primary", "haven").rows("lake"))


def test_x1_a_run_whose_first_process_was_killed_goes_on_in_its_own_turn(platform: Platform) -> None:
    platform.sites["primary"].write("lake", "a", b"x")
    killed = tasks.prepare(platform, "primary", "haven", run_name="DAG run 1")
    with pytest.raises(LeaseHeld, match="DAG run 1"):
        tasks.prepare(platform, "primary", "haven", run_name="DAG run 2")
    again = tasks.prepare(platform, "primary", "haven", run_name="DAG run 1")
    with pytest.raises(LeaseLost):
        tasks.carry(platform, killed, killed.pieces()[0])
    carried = [tasks.carry(platform, again, piece) for piece in again.pieces()]
    assert tasks.conclude(platform, again, carried).copied == 1


@pytest.fixture
def concluded(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Callable[[Platform], flow.ReplicationResult]:
    """A run that was concluded, and whose answer was lost: concludes it again. Heartbeats are in `beats`."""
    platform.sites["primary"].write("lake", "a", b"x")
    ready = tasks.prepare(platform, "primary", "haven", run_name="DAG run 1")
    carried = [tasks.carry(platform, ready, piece) for piece in ready.pieces()]
    tasks.conclude(platform, ready, carried)
    monkeypatch.setattr(tasks, "beat", lambda *arguments: pytest.fail("a heartbeat of an earlier moment"))
    return lambda platform: tasks.conclude(platform, ready, carried)


def test_x1_a_conclusion_whose_answer_was_lost_gives_it_again_and_sends_nothing(
    platform: Platform, concluded: Callable[[Platform], flow.ReplicationResult]
) -> None:
    newest = platform.ledger.find("replication", limit=1)
    with other_run(platform):  # the lease has another holder by then, who keeps it
        assert concluded(later(platform, hours=2)).copied == 1
        with pytest.raises(LeaseHeld):
            tasks.prepare(platform, "primary", "haven")
    assert platform.ledger.find("replication", limit=1) == newest


def test_x1_an_old_conclusion_is_no_answer_once_the_pair_was_replicated_again(
    platform: Platform, concluded: Callable[[Platform], flow.ReplicationResult]
) -> None:
    replicate(platform, "primary", "haven")
    with pytest.raises(LeaseLost):
        concluded(platform)


def test_x1_an_old_conclusion_is_no_answer_once_another_site_is_active(
    platform: Platform, concluded: Callable[[Platform], flow.ReplicationResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise FailoverError("'primary' is not the active site", "Replicate the other way.")

    monkeypatch.setattr(tasks, "check_direction", refused)
    with pytest.raises(FailoverError):
        concluded(platform)


@pytest.mark.parametrize("reached", ["nothing", "the record"])
def test_x1_a_conclusion_killed_before_or_after_its_record_converges_and_frees_the_lease(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, reached: str
) -> None:
    platform.sites["primary"].write("lake", "a", b"x")
    ready = tasks.prepare(platform, "primary", "haven", run_name="DAG run 1")
    carried = [tasks.carry(platform, ready, piece) for piece in ready.pieces()]
    lease, append = tasks._lease(ready), platform.ledger.append

    def killed(*record: Any) -> None:
        if reached == "the record":
            append(*record)
        raise KeyboardInterrupt

    monkeypatch.setattr(platform.ledger, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        tasks.conclude(platform, ready, carried)
    monkeypatch.setattr(platform.ledger, "append", append)
    platform.continuity._held[lease.name] = lease  # type: ignore[attr-defined] # as the kill left it
    assert tasks.conclude(platform, ready, carried).copied == 1
    assert replicate(platform, "primary", "haven").copied == 0


def test_x1_a_conclusion_that_failed_fails_again_and_says_where_to_read_why(platform: Platform) -> None:
    platform.sites["primary"].write("lake", "a", b"x")
    ready = tasks.prepare(platform, "primary", "haven", run_name="DAG run 1")
    for message in (r"1 of 1 objects did not reach site", r"1 of 1 objects .*by evidence \d+ of an earlier attempt"):
        with pytest.raises(SiteError, match=message):
            tasks.conclude(platform, ready, [])


def test_i7_a_conclusion_that_stopped_before_deletions_asks_again(platform: Platform) -> None:
    keys = [f"k{n:03}" for n in range(400)]
    for key in keys:
        platform.sites["primary"].write("lake", key, b"x")
    replicate(platform, "primary", "haven")
    for key in keys[:300]:
        platform.sites["primary"].delete("lake", key)
    ready = tasks.prepare(platform, "primary", "haven", run_name="DAG run 1")
    carried = [tasks.carry(platform, ready, piece) for piece in ready.pieces()]
    for _ in range(2):
        with pytest.raises(ReplicationError, match="300"):
            tasks.conclude(platform, ready, carried)
    assert platform.ledger.find("replication", limit=1)[0].body["stopped"].count("rempart ") == 0
