"""A platform in memory moves to its other site and returns: the state of both sites and of the ledger."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rempart.coordination.active import Active, MemoryActiveSites
from rempart.errors import (
    CapabilityMissing,
    ConfigError,
    DatabaseUnavailable,
    FailoverError,
    LeaseHeld,
    SiteError,
    SiteFenced,
    SiteUnavailable,
)
from rempart.flows.failover import published_state
from rempart.flows.failover.fail_over import abandon, fail_back, fail_over, lines
from rempart.flows.shared import time_limit
from rempart.flows.shared.platform import Platform
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from tests import switchovers

ROOT = Path(__file__).parents[4]


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    return switchovers.in_memory()


class UnreachableSite:
    """A site that answers nothing."""

    def __init__(self, name: str) -> None:
        self.name, self.endpoint = name, "memory:gone"

    def __getattr__(self, name: str) -> object:
        raise SiteUnavailable(f"{name} at site '{self.name}': no answer", "Wait.")


class ClosedSite(UnreachableSite):
    """A site that refuses everything: the account was closed."""

    def __getattr__(self, name: str) -> object:
        raise SiteError(f"{name} at site '{self.name}': refused (AccessDenied)", "Check the rights.")


class SilentSite(UnreachableSite):
    """A site that takes each question and never answers: its process stands still."""

    def __getattr__(self, name: str) -> object:
        return lambda *_, **__: threading.Event().wait()


def gone(platform: Platform, name: str, how: type[UnreachableSite] = UnreachableSite) -> Platform:
    return dataclasses.replace(platform, sites={**platform.sites, name: how(name)})


def steps(platform: Platform) -> list[str]:
    return [str(record.body["step"]) for record in reversed(platform.ledger.find("failover"))]


def test_a_failover_brings_everything_and_pipelines_work_at_the_other_site(platform: Platform) -> None:
    made = switchovers.fill(platform)
    platform.sites["primary"].write(platform.config.buckets.landing, "waiting/a.csv", b"rows")
    result = switchovers.over(platform)
    assert (result.done, result.active, result.generation) == (True, "haven", 2)
    assert switchovers.content(platform, "haven") == made
    assert platform.sites["haven"].read(platform.config.buckets.landing, "waiting/a.csv") == b"rows"
    assert platform.active_site("personal").name == "haven"
    assert steps(platform) == ["fence", "drain", "verify", "switch", "resume"]
    verified = result.steps["verify"]
    assert (verified["objects"], verified["read_back"]) == (6, 6)
    assert all(outcome["seconds"] >= 0 for outcome in result.steps.values())
    assert (result.lag_seconds, result.unknown) == (0.0, None)


def test_a_dry_run_tells_the_plan_and_changes_nothing(platform: Platform) -> None:
    switchovers.fill(platform)
    result = fail_over(platform, "haven")
    assert (result.dry_run, result.done) == (True, False)
    text = "\n".join(result.plan)
    assert "steps: fence, drain, verify, switch, resume" in text
    assert "no recorded replication from 'primary' to 'haven'" in text
    assert "restore points would go to 'primary'" in text
    assert platform.active().generation == 0 and not platform.ledger.find("failover")
    assert not switchovers.content(platform, "haven")
    assert list(lines(result))[: len(result.plan)] == list(result.plan)


def test_a_site_that_takes_questions_and_is_silent_is_left_within_a_bounded_time(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    switchovers.fill(platform)
    switchovers.over(platform)
    switchovers.back(platform)
    monkeypatch.setattr(time_limit, "SITE_SECONDS", 4.0)
    silent = gone(platform, "primary", SilentSite)
    plan = "\n".join(fail_over(silent, "haven").plan)
    assert "from 'primary' (generation 4, active): does NOT answer" in plan and "to 'haven': answers" in plan
    assert published_state.read(silent)["primary"] == "no answer within 4 s"
    assert switchovers.over(silent, accept_loss=True).active == "haven"
    assert "'haven' is active" in "\n".join(published_state.lines(platform))
    assert time_limit.goes_on(), "the command ends although Python would wait for the threads of a pool"


def test_again_changes_nothing(platform: Platform) -> None:
    switchovers.fill(platform)
    switchovers.over(platform)
    before = platform.active(), len(platform.ledger.find("failover")), switchovers.content(platform, "haven")
    assert switchovers.over(platform).done
    assert (platform.active(), len(platform.ledger.find("failover")), switchovers.content(platform, "haven")) == before


def test_a_source_that_is_gone_is_left_only_by_the_operators_word_and_the_loss_is_told(platform: Platform) -> None:
    made = switchovers.fill(platform)
    switchovers.over(platform)
    switchovers.back(platform)
    late = switchovers.fill(platform, prefix="late")
    dead = gone(platform, "primary")
    with pytest.raises(FailoverError, match="does not answer") as refused:
        switchovers.over(dead)
    assert "--accept-loss" in refused.value.hint and platform.active().state == "active"
    plan = fail_over(dead, "haven")
    assert any("would be refused" in line for line in plan.plan)
    result = switchovers.over(dead, accept_loss=True)
    assert result.done and switchovers.content(platform, "haven") == made
    assert result.unknown is None or "unknown" in result.unknown
    assert not result.steps["drain"]["complete"] and result.steps["drain"]["ok"]
    assert "behind" in result.steps["resume"]["mirrors"]["primary"]
    # the primary comes back with what nobody replicated
    home = switchovers.back(platform)
    assert home.active == "primary" and home.steps["diff"]["adopted_count"] == len(late)
    assert switchovers.content(platform, "primary") == switchovers.content(platform, "haven") == made | late
    assert steps(platform)[-7:] == ["diff", "reverse", "fence", "drain", "verify", "switch", "resume"]


def test_a_source_that_refuses_everything_is_as_good_as_gone(platform: Platform) -> None:
    made = switchovers.fill(platform)
    switchovers.over(platform)
    switchovers.back(platform)
    closed = gone(platform, "primary", ClosedSite)
    with pytest.raises(FailoverError, match="does not answer"):
        switchovers.over(closed)
    assert switchovers.over(closed, accept_loss=True).active == "haven"
    assert switchovers.content(platform, "haven") == made


def test_a_failback_brings_home_what_was_written_meanwhile(platform: Platform) -> None:
    made = switchovers.fill(platform)
    switchovers.over(platform)
    meanwhile = switchovers.fill(platform, "haven", prefix="meanwhile")
    platform.sites["haven"].write("lake", "k/000", b"changed at haven")
    result = switchovers.back(platform)
    assert (result.active, result.generation, result.conflicts) == ("primary", 4, ())
    wanted = made | meanwhile | {"lake/k/000": b"changed at haven"}
    assert switchovers.content(platform, "primary") == switchovers.content(platform, "haven") == wanted


def test_there_is_no_way_to_a_site_that_does_not_answer(platform: Platform) -> None:
    with pytest.raises(FailoverError, match="'haven', the target, does not answer"):
        switchovers.over(gone(platform, "haven"), accept_loss=True)
    assert platform.active().generation == 0
    with pytest.raises(ConfigError, match="Site 'nowhere' is not declared"):
        switchovers.over(platform, "nowhere")


def test_a_writer_of_an_earlier_generation_commits_nothing(platform: Platform) -> None:
    began = platform.active()
    switchovers.over(platform)
    with pytest.raises(SiteFenced, match="commit at 'primary'"), platform.committing(began):
        pytest.fail("it committed")


def test_a_fence_waits_for_who_is_committing_and_can_be_lifted(platform: Platform) -> None:
    switchovers.fill(platform)
    with platform.committing(platform.active()), pytest.raises(FailoverError, match="A task still commits"):
        switchovers.over(platform)
    assert platform.active().state == "fenced"
    with pytest.raises(SiteFenced, match="is fenced"):
        platform.active_site("personal")
    assert not abandon(platform).done
    result = abandon(platform, dry_run=False)
    assert (result.active, result.generation) == ("primary", 2)
    assert platform.active_site("personal").name == "primary"
    with pytest.raises(FailoverError, match="No switchover to abandon"):
        abandon(platform)
    assert switchovers.over(platform).done


def test_an_object_that_is_not_what_was_replicated_stops_the_switch_and_is_mended(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = switchovers.fill(platform)
    haven = platform.sites["haven"]

    def rotten(name: str) -> None:
        if name == "after append" and steps(platform)[-1:] == ["drain"] and len(steps(platform)) == 2:
            haven.write("lake", "k/000", b"rotten")

    with pytest.raises(FailoverError, match="1 of 6 objects at 'haven' differ from their verified replicas"):
        switchovers.over(switchovers.with_faults(platform, rotten))
    assert platform.active().state == "fenced" and steps(platform)[-1] == "verify"
    assert switchovers.over(platform).done
    assert switchovers.content(platform, "haven") == made


def test_mlflow_that_does_not_follow_leaves_the_switch_done_and_the_rest_to_a_further_run(platform: Platform) -> None:
    def elsewhere(_: object, active: object) -> str:
        raise FailoverError("MLflow writes to another site", "Start it anew.")

    with pytest.raises(FailoverError, match="'haven' is the active site, but MLflow did not switch"):
        fail_over(platform, "haven", dry_run=False, tracking=elsewhere)
    assert platform.active_site("personal").name == "haven"
    assert switchovers.over(platform).done and steps(platform)[-2:] == ["resume", "resume"]


def test_two_at_once_are_one_turn(platform: Platform) -> None:
    hold_lease = platform.continuity.active_sites("primary").hold_lease("somebody else")
    with hold_lease, pytest.raises(LeaseHeld, match="somebody else"):
        switchovers.over(platform)
    assert platform.active().generation == 0


def test_x1_cut_off_at_every_effect_a_further_run_converges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMPART_HOME", str(ROOT))

    class Killed(BaseException):
        pass

    effects = [0]

    def count(_: str) -> None:
        effects[0] += 1

    def prepared() -> tuple[Platform, dict[str, bytes]]:
        fresh = switchovers.in_memory()
        made = switchovers.fill(fresh, count=3)
        fresh.sites["haven"].write("lake", "only/here", b"haven's own")
        return fresh, made | {"lake/only/here": b"haven's own"}

    first, _ = prepared()
    switchovers.over(switchovers.with_faults(first, count))
    assert effects[0] > 30
    for cut in range(1, effects[0] + 1):
        platform, made = prepared()
        left = [cut]

        def kill(what: str, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise Killed(what)

        with pytest.raises(Killed):
            switchovers.over(switchovers.with_faults(platform, kill))
        assert platform.active().site in ("primary", "haven")
        result = switchovers.over(platform)
        assert result.done and result.active == "haven"
        assert switchovers.content(platform, "haven") == made, f"cut at effect {cut}"
        found = steps(platform)
        assert [*dict.fromkeys(found)] == ["fence", "drain", "verify", "switch", "resume"], f"cut at effect {cut}"
        assert found.count("fence") == found.count("switch") == 1


def test_each_site_is_told_and_one_that_was_away_catches_up(platform: Platform) -> None:
    switchovers.over(gone(platform, "primary"), accept_loss=True)
    assert "no published state" in str(published_state.read(platform)["primary"])
    switchovers.over(platform)  # nothing to do but this
    for name in ("primary", "haven"):
        told = json.loads(platform.sites[name].read(platform.config.buckets.backups, published_state.KEY))
        assert (told["generation"], told["site"], told["state"]) == (2, "haven", "active")
    for altered in (b"{", b"[" * 100_000):
        platform.sites["primary"].write(platform.config.buckets.backups, published_state.KEY, altered)
        assert published_state.read(platform)["primary"] == "not JSON"


def test_a_site_that_falls_silent_before_the_write_is_left_and_gets_no_older_state_later(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(UnreachableSite):
        """Answers a read after the time limit, and never a write."""

        wrote = 0

        def read(self, *_: object, **__: object) -> bytes:
            answers.wait(120)
            return b"older"

        def write(self, *_: object, **__: object) -> None:
            self.wrote += 1
            threading.Event().wait()

    monkeypatch.setattr(time_limit, "SITE_SECONDS", 0.3)
    bucket, answers = platform.config.buckets.backups, threading.Event()
    slow, other = Slow("primary"), platform.sites["haven"]
    sites: dict[str, Any] = {"primary": lambda: slow, "haven": lambda: other}
    told = published_state.write(Active(3, "haven", "active"), sites, bucket)
    assert told["primary"].startswith("behind: no answer") and told["haven"] == "generation 3"
    answers.set()
    until = time.monotonic() + 10
    while any(thread.name == "ask-primary" for thread in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.01)
    assert slow.wrote == 0
    told = published_state.write(Active(4, "haven", "active"), sites, bucket)
    assert told["primary"].startswith("behind: no answer")
    assert slow.wrote == 1, "it answered the read, and not the write"


def test_a_person_reads_each_step_and_where_the_platform_is(platform: Platform) -> None:
    switchovers.fill(platform)
    text = "\n".join(lines(switchovers.over(platform)))
    assert "drain" in text and "copied 6" in text and "'haven' is the active site (generation 2)" in text
    plan = "\n".join(lines(fail_back(platform)))
    assert "'primary' would be the active site" in plan


def test_a_failback_from_home_has_nothing_to_do(platform: Platform) -> None:
    assert switchovers.back(platform).done and platform.active().generation == 0
    assert config.load().active_site == "primary"


def told(platform: Platform) -> dict[str, Any]:
    sites = platform.continuity.active_sites("primary")
    return published_state.facts(sites, "primary", lambda: published_state.read(platform))


def test_where_the_platform_is_is_told_also_without_the_database(platform: Platform) -> None:
    assert list(published_state.lines(platform)) == ["'primary' is active (generation 0)"]
    assert told(platform)["history"] == []
    switchovers.over(platform)
    text = "\n".join(published_state.lines(platform))
    assert text.startswith("'haven' is active (generation 2)") and "run `rempart site failback` to return there" in text
    assert "primary fenced  (failover primary -> haven)" in text
    facts = told(platform)
    assert (facts["site"], facts["configured"], facts["generation"]) == ("haven", "primary", 2)
    assert facts["switchover"] is None and [record["state"] for record in facts["history"]] == ["active", "fenced"]

    class Away(MemoryContinuity):
        def active_sites(self, first: str) -> MemoryActiveSites:
            class Generations(MemoryActiveSites):
                def active(self) -> Active:
                    raise DatabaseUnavailable("no answer", "Wait.")

            return Generations(first)

    away = "\n".join(published_state.lines(dataclasses.replace(platform, continuity_=Away())))
    without = told(dataclasses.replace(platform, continuity_=Away()))
    assert without["error"] == "no answer" and without["sites"]["haven"]["generation"] == 2
    assert "no answer" in away and "'generation': 2, 'site': 'haven'" in away


def test_a_switchover_under_way_is_told_with_the_command_that_goes_on(platform: Platform) -> None:
    with platform.committing(platform.active()), pytest.raises(FailoverError):
        switchovers.over(platform)
    text = "\n".join(published_state.lines(platform))
    assert "failover from 'primary' to 'haven' is in progress: fence to do, drain to do" in text
    assert "run `rempart site failover --to haven --yes` to continue" in text
    assert told(platform)["switchover"]["target"] == "haven"


def test_a_site_that_was_not_proven_is_refused_before_anything_is_fenced(platform: Platform) -> None:
    switchovers.fill(platform)
    probed = platform.sites["haven"].probe("doctor", platform.clock()).as_json()
    lacking = [
        {**proof, "outcome": "absent"} if proof["capability"] == "read-after-write" else proof
        for proof in probed["proofs"]
    ]
    platform.ledger.append("capabilities", "haven", {**probed, "proofs": lacking})
    with pytest.raises(CapabilityMissing, match="'haven'"):
        switchovers.over(platform)
    assert platform.active().generation == 0
