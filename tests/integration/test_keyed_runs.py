"""Runs by REST at the real Airflow: a key names one run, a wrong conf makes none, and the watch has few rights."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.cli.run_follow import keyed_run
from rempart.errors import SiteError
from rempart.flows.events.landing_watch import landing_site
from rempart.flows.shared.platform import Platform
from rempart.settings import config
from rempart.settings.access import LANDING_WATCH

pytestmark = pytest.mark.stack
DAG_ID = "ingest_hotel_bookings"  # paused in tests: its runs wait


@pytest.fixture
def api() -> AirflowApi:
    return AirflowApi(config.environment_connections("airflow_api"))


@pytest.fixture
def run(api: AirflowApi) -> Iterator[str]:
    """The id of a run that is deleted afterwards."""
    made = keyed_run(f"order-{secrets.token_hex(4)}")
    yield made
    answer = api._with_token("DELETE", f"/api/v2/dags/{DAG_ID}/dagRuns/{made}")
    assert answer.status_code == 204


def test_the_same_key_twice_is_the_same_run(api: AirflowApi, run: str) -> None:
    assert api.trigger_once(DAG_ID, run)
    assert not api.trigger_once(DAG_ID, run)
    # what a script with curl sees: 409 means that the run exists
    answer = api._with_token(
        "POST", f"/api/v2/dags/{DAG_ID}/dagRuns", json={"dag_run_id": run, "logical_date": None, "conf": {}}
    )
    assert answer.status_code == 409
    assert [told for told in api.unfinished_runs(DAG_ID) if run in told] == [f"{DAG_ID}, run {run} (queued)"]
    with pytest.raises(AirflowApiError, match="other parameters"):
        api.trigger_once(DAG_ID, run, {"again": "all"})


PAGE = (config.project_root() / "docs" / "how-to" / "trigger-by-rest.md").read_text(encoding="utf-8")
RUN_HERE = re.compile(r"<!-- run by tests/integration/test_keyed_runs.py -->\n```console\n\$ (.*?)\n```", re.S)


@pytest.fixture
def typed(api: AirflowApi) -> Iterator[list[str]]:
    """The page's commands, as a person types them; the runs that they made are deleted."""
    yield RUN_HERE.findall(PAGE)
    for run in ("key__nightly-2026-03-01", "key__again-2026-03-01"):
        api._with_token("DELETE", f"/api/v2/dags/{DAG_ID}/dagRuns/{run}")


def by_curl(connection: str, command: str) -> str:
    """Run a command of the page with the token of a user, and return its output."""
    account = config.environment_connections(connection)
    api = AirflowApi(account)
    api.get(f"/api/v2/dags/{DAG_ID}")
    token = api._http.headers["Authorization"].removeprefix("Bearer ")
    given = {"PATH": os.environ["PATH"], "AIRFLOW": api.url, "TOKEN": token, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(["bash", "-c", command], env=given, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
@pytest.mark.parametrize("account", ["airflow_api", LANDING_WATCH])
def test_the_pages_commands_start_a_run_once_and_judge_a_delivery_again(typed: list[str], account: str) -> None:
    once, state, again = typed
    assert by_curl(account, once) == "200\n"
    assert by_curl(account, once) == by_curl(account, once.replace('"conf": {}', '"conf": {"again": null}')) == "409\n"
    assert json.loads(by_curl(account, state))["state"] == "queued"
    told, code = by_curl(account, again).rsplit("\n", 2)[:2]
    assert code == "200" and json.loads(told)["conf"] == {"again": "0" * 64}
    assert by_curl(account, again).endswith("\n409\n")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ('{"again": "0000"}', "again"),
        ('{"agian": "all"}', "Unknown run parameter 'agian': nothing was started"),
        ('{"accept_quarantined": true}', "accept_quarantined needs `again` to name a delivery: nothing was started"),
        ('{"again": "all", "accept_quarantined": true}', "`again: all` takes no `accept_quarantined`"),
    ],
)
def test_a_wrong_conf_is_refused_by_its_name_and_no_run_is_made(
    typed: list[str], api: AirflowApi, conf: str, message: str
) -> None:
    wrong = re.sub(r'"conf": \{.*?\}', lambda _: f'"conf": {conf}', typed[2], flags=re.S)
    told, code = by_curl("airflow_api", wrong).rsplit("\n", 2)[:2]
    assert code == "400" and message in json.loads(told)["detail"]
    with pytest.raises(AirflowApiError, match="HTTP 404"):
        api.get(f"/api/v2/dags/{DAG_ID}/dagRuns/key__again-2026-03-01")


@pytest.mark.parametrize(
    "conf", [{"again": "0" * 64, "accept_quarantined": True}, {"accept_loss": "0" * 32}, {"again": "0" * 64}]
)
def test_s1_only_a_person_with_the_right_accepts_rows_or_a_loss(
    api: AirflowApi, run: str, conf: dict[str, object]
) -> None:
    body = {"dag_run_id": run, "logical_date": None, "conf": conf}
    path = f"/api/v2/dags/{DAG_ID}/dagRuns"
    program = AirflowApi(config.environment_connections(LANDING_WATCH))._with_token("POST", path, json=body)
    decides = len(conf) == 2 or "accept_loss" in conf
    assert program.status_code == (403 if decides else 200)
    assert not decides or "which these roles have: operator, admin" in program.json()["detail"]
    assert api._with_token("POST", path, json=body).status_code == (200 if decides else 409)


def test_the_watchs_account_starts_ingestion_and_nothing_else() -> None:
    watch = AirflowApi(config.environment_connections(LANDING_WATCH))
    assert "is_paused" in watch.get(f"/api/v2/dags/{DAG_ID}")
    assert isinstance(watch.unfinished_runs(DAG_ID), list)
    for dag_id in ("train_hotel_bookings", "backup_platform", "fail_over"):
        with pytest.raises(AirflowApiError, match="HTTP 403"):
            watch.trigger(dag_id)
    for method, path in (
        ("PATCH", f"dags/{DAG_ID}?update_mask=is_paused"),
        ("POST", f"dags/{DAG_ID}/clearTaskInstances"),
    ):
        assert watch._with_token(method, f"/api/v2/{path}", json={"is_paused": False}).status_code == 403
    for path in ("/api/v2/connections", "/api/v2/variables", "/rempart/evidence"):
        assert watch._with_token("GET", path).status_code == 403


def test_the_watchs_key_lists_what_waits_and_reads_nothing(platform: Platform) -> None:
    landing, lake = platform.config.buckets.landing, platform.config.buckets.lake
    key = f"keyed_runs/{secrets.token_hex(4)}.csv"
    own = platform.site("primary", "internal")
    own.write(landing, key, b"x")
    with_key = replace(platform, sites={})
    try:
        site = landing_site(with_key, "internal")
        assert site.name == "primary" and not with_key.sites
        assert [info.key for info in site.list(landing, "keyed_runs/")] == [key]
        attempts: list[Callable[[], object]] = [
            lambda: site.read(landing, key),
            lambda: site.write(landing, key, b"y"),
            lambda: site.delete(landing, key),
            lambda: list(site.list(lake)),
            lambda: list(site.list(platform.config.buckets.backups)),
        ]
        for attempt in attempts:
            with pytest.raises(SiteError):
                attempt()
        assert own.read(landing, key) == b"x"
    finally:
        own.delete(landing, key)
