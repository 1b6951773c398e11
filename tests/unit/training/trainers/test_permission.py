"""The policy's permission for a job, and that its entry point needs no rempart.yaml: a trainer's image has none."""

import contextlib
import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import pytest

from rempart.errors import PlacementDenied, TrainingError
from rempart.settings.config import Connection, load
from rempart.sovereignty.job_permission import LONGEST
from rempart.training.job import parse_spec
from rempart.training.kubernetes import pod
from rempart.training.permission import decide, permit
from rempart.training.trainers import trainers
from tests.unit.training import stage
from tests.unit.training.test_job import spec

DAY = date(2026, 11, 26)
ALONE = """
import sys
from rempart.settings import config
def refuse(*_, **__):
    raise AssertionError("rempart.yaml is asked for")
config.load = config.project_root = refuse
from rempart.training import entrypoint
sys.exit(entrypoint.main(sys.argv[1:]))
"""
"""The entry point in a process that fails as soon as it asks for the configuration."""


@pytest.fixture(scope="module")
def settings():
    return load(stage.project_file("rempart.yaml"))


def ordered(settings, **changes):
    """A spec that this installation's code takes, permitted on the day that it runs."""
    made = spec(code_version=trainers.code_version("gradient_boosting"), permission=None, **changes)
    return permit(settings, made, on=datetime.now(UTC).date())


def run_alone(made, folder, *arguments, endpoint="http://127.0.0.1:1"):
    """The exit status and the lines of the entry point with the pod's environment, in an empty folder."""
    site = Connection("s3_primary", "aws", login="k", password="p", extra={"endpoint_url": endpoint})
    secrets = {"AIRFLOW_CONN_S3_PRIMARY": json.dumps({"conn_type": "aws", "extra": dict(site.extra)})}
    environment = {variable["name"]: variable["value"] for variable in pod.environment(made)}
    command = [sys.executable, "-c", ALONE, *pod.COMMAND[3:], *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={"HOME": str(folder), "PATH": os.environ["PATH"], **environment, **secrets},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = []
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return done.returncode, lines, done.stderr


def test_a_permission_names_hosts_a_last_day_and_the_decision(settings):
    made = permit(settings, spec(permission=None), on=DAY)
    assert made.permission.hosts == {"primary": ("127.0.0.1", "primary")}
    assert made.permission.until == DAY + LONGEST
    assert parse_spec(made.to_json()) == made and made.job_id == spec().job_id
    assert permit(settings, spec(permission=None), on=DAY).permission == made.permission
    assert permit(settings, spec(permission=None, classification="public"), on=DAY).permission.decision != (
        made.permission.decision
    )


def test_a_denied_job_gets_no_permission(settings):
    shut = settings.model_copy(update={"policy": {}})
    with pytest.raises(PlacementDenied, match="not declared"):
        permit(shut, spec(permission=None), on=DAY)


@pytest.mark.parametrize(
    ("site", "endpoint", "on", "why"),
    [
        ("primary", "https://s3.elsewhere.example", DAY, "not a host that the job's spec allows"),
        ("primary", None, DAY, "not a host"),
        ("haven", "http://127.0.0.1:1", DAY, "not a host"),
        ("primary", "http://127.0.0.1:1", DAY + LONGEST + timedelta(days=1), "today is"),
    ],
)
def test_a_job_opens_only_what_its_spec_allows(settings, site, endpoint, on, why):
    made = permit(settings, spec(permission=None), on=DAY)
    assert decide(made, "primary", "http://127.0.0.1:1", on=DAY).allowed
    refused = decide(made, site, endpoint, on=on)
    assert not refused.allowed and why in str(refused.refusal())
    with pytest.raises(TrainingError, match="no permission"):
        decide(spec(permission=None), "primary", endpoint, on=DAY)


def test_the_entry_point_never_asks_for_rempart_yaml(settings, tmp_path):
    status, lines, told = run_alone(ordered(settings), tmp_path)
    assert "rempart.yaml" not in told and lines[-1]["error"] == "SiteUnavailable", (status, lines, told)
    assert status == 75


def test_it_refuses_an_endpoint_that_is_not_in_its_spec(settings, tmp_path):
    status, lines, _ = run_alone(ordered(settings), tmp_path, endpoint="https://s3.elsewhere.example")
    assert status == 1 and lines[-1]["error"] == "PlacementDenied"


def test_the_doctors_probe_is_the_entry_point_up_to_the_data(settings, tmp_path):
    status, lines, told = run_alone(ordered(settings), tmp_path, "--probe", "tcp://127.0.0.1:1")
    assert [line["stage"] for line in lines] == ["ready", "reached"], told
    assert status == 1 and lines[1]["ok"] is False
    other = ordered(settings).model_copy(update={"code_version": "0", "job_id": ""})
    status, lines, _ = run_alone(parse_spec(other.to_json()), tmp_path, "--probe")
    assert status == 1 and "ordered for code 0" in lines[-1]["what"]
