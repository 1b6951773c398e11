"""A whole job in a pod with a session of its own, and one whose session ends before it is done."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rempart.deployment.setup.paths import Stack
from rempart.errors import PlacementDenied, SiteError
from rempart.flows.shared.platform import Platform
from rempart.models import tracking_users
from rempart.settings import config
from rempart.settings.config import Connection
from rempart.sites.s3 import sessions
from rempart.sites.s3.client import SESSION_TOKEN
from rempart.sites.s3.site import S3Site
from rempart.sovereignty.places import decide_site
from tests import pods
from tests.kubernetes_double import KubernetesDouble
from tests.sessions import ending, signing_key

pytestmark = pytest.mark.tracking


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = pods.project(tmp_path / "home")
    monkeypatch.setenv("REMPART_HOME", str(made))
    return made


@pytest.fixture
def clusters(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, KubernetesDouble]]:
    with pods.clusters(home) as made, pods.connected(monkeypatch, made):
        yield made


@pytest.fixture
def trial(platform: Platform, home: Path, clusters: Mapping[str, KubernetesDouble]) -> Iterator[pods.Trial]:
    with pods.trial(platform, home, clusters) as made:
        yield made


def given(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """What each attempt gets, as it gets it."""
    seen: list[Connection] = []
    assume = sessions.assume

    def watched(*arguments: Any) -> tuple[Connection, datetime]:
        made = assume(*arguments)
        seen.append(made[0])
        return made

    monkeypatch.setattr(sessions, "assume", watched)
    return seen


def test_a_whole_job_runs_on_a_session_that_reaches_nothing_but_its_own(
    trial: pods.Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = given(monkeypatch)
    ordered = trial.order()
    ran = trial.run(ordered)["placement"]
    assert ran["credentials"].startswith("primary: a session until ")
    assert "limited to the job's objects" in ran["credentials"]
    assert f"user job-{ordered.job_id}-1-" in ran["credentials"]
    assert tracking_users.remove(trial.platform.tracking(), f"job-{ordered.job_id}-") == [], "gone with its attempt"
    result = trial.finish(ordered)
    assert result.metrics and result.placement == ran
    evidence = trial.platform.ledger.find("placement")[0].body["ran"]
    assert evidence["credentials"] == ran["credentials"]
    (session,) = seen
    told = json.dumps([record.body for record in trial.platform.ledger.find("placement")])
    assert session.password not in told and session.extra[SESSION_TOKEN] not in told
    endpoint = session.extra["endpoint_url"]
    today = datetime.now(UTC).date()
    allowed = decide_site(trial.platform.config, "personal", "data", "primary", on=today, endpoint=endpoint)
    site = S3Site("primary", session, "local-1", allowed)
    names = trial.platform.config.buckets
    assert site.read(ordered.bucket, ordered.key.replace("order.json", "result.json"))
    mine = trial.job(ordered).spec.dataset.key
    other = trial.platform.active_site("personal")
    other.write(names.lake, mine.replace(".parquet", "x.parquet"), b"other data")
    for bucket, key in (
        (names.lake, mine.replace(".parquet", "x.parquet")),
        (names.artifacts, "jobs/0000000000000000/result.json"),
        ("lake", "training/x.parquet"),
        ("backups", "x"),
    ):
        with pytest.raises(SiteError, match="refused"):
            site.read(bucket, key)


NEVER_DONE_FROM_NOTHING = """
import sys, time
from rempart.training.attempts.checkpoints import Checkpoints
from rempart.training.entrypoint import main

save, steps = Checkpoints.save, []

def slow(self, step, arrays, done):
    steps.append(step)
    if steps[0] == 1 and step >= 20:
        time.sleep(1)
    save(self, step, arrays, done)

Checkpoints.save = slow
sys.exit(main(["--spec", "env:REMPART_JOB_SPEC", "--checkpoint-every", "0"]))
"""
"""The job as it is, but an attempt that does not resume takes minutes: its session ends first, on any machine."""


@pytest.mark.full
def test_a_job_that_outlives_its_session_goes_on_with_a_new_one_from_its_checkpoint(
    trial: pods.Trial, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.stub(NEVER_DONE_FROM_NOTHING)
    assume, made, ordered = sessions.assume, [], []

    def short_until_it_got_somewhere(*arguments: Any) -> tuple[Connection, datetime]:
        session, until = assume(*arguments)
        made.append(session)
        key = ordered[0].key.replace("order.json", "checkpoint.json")
        if not list(trial.platform.active_site("personal").list(ordered[0].bucket, key)):
            return ending(session, signing_key(stack), 30 * len(made)), until
        return session, until

    monkeypatch.setattr(sessions, "assume", short_until_it_got_somewhere)
    ordered.append(trial.order({"max_iter": 200}))
    trial.run(ordered[0])
    *short, last = trial.job(ordered[0]).attempts()
    assert short and {attempt.outcome for attempt in short} == {"interrupted"} and last.outcome == "succeeded"
    assert all("its session at the site ended" in attempt.cause for attempt in short)
    assert len(made) == len(short) + 1
    assert trial.job(ordered[0]).result().work.resumed_from > 0


def test_a_job_at_a_site_that_does_not_say_what_jobs_get_is_refused_when_it_is_ordered(trial: pods.Trial) -> None:
    settings = trial.platform.config
    silent = settings.sites["primary"].model_copy(update={"job_credentials": None})
    changed = settings.model_copy(update={"sites": {**settings.sites, "primary": silent}})
    trial.platform = dataclasses.replace(trial.platform, config=changed)
    with pytest.raises(PlacementDenied, match=r"sites\.primary\.job_credentials is not declared"):
        trial.order()
    assert "job_credentials" in str(trial.platform.ledger.find("denial")[0].body)


def test_the_secrets_of_sessions_are_the_stacks_own(stack: Stack) -> None:
    keys = {name: signing_key(stack, name) for name in stack.embedded_sites}
    assert len(set(keys.values())) == len(keys) and all(len(key) >= 64 for key in keys.values())
    for name, key in keys.items():
        settings = stack.var / "sites" / name / "iam.json"
        assert settings.stat().st_mode & 0o077 == 0
        assert json.loads(settings.read_text())["roles"][0]["roleArn"] == config.load().sites[name].job_credentials.role
        log = (stack.logs / f"site-{name}.log").read_text(errors="replace")
        assert key not in log
