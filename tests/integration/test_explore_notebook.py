"""The notebook of docs/how-to/explore-in-a-notebook.md, run cell by cell with keys that only read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from rempart.cli import site_variables
from rempart.deployment.setup import environment, paths
from rempart.flows.governance import reader_session
from rempart.flows.ingestion import delta_log
from rempart.flows.training.candidates.record import candidate_record
from rempart.flows.training.validate import validate
from rempart.settings.config import project_root, read_env_file
from tests import delta_tables
from tests.integration.test_training import fast  # noqa: F401 - a fixture

pytestmark = pytest.mark.tracking
NOTEBOOK = project_root() / "include" / "notebooks" / "explore.ipynb"


def cells() -> list[Mapping[str, Any]]:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in found), "clear the outputs"
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_the_notebook_runs_with_keys_that_only_read(
    fast: Any,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    platform, pipeline, train = fast
    train()
    assert validate(platform, pipeline).promoted
    site, lake = platform.active_site("personal"), platform.config.buckets.lake
    monkeypatch.setattr(delta_tables, "NAME", pipeline.name)
    delta_log.publish(site, lake, delta_tables.stored(site, delta_tables.rows(1, 2, 3), bucket=lake))

    session, _ = reader_session.open_session(platform, site.name, pipeline, timedelta(hours=1))
    stack = paths.current()
    region = platform.config.sites[site.name].region
    given = dict(line.removeprefix("export ").split("=", 1) for line in site_variables.lines(session, region))
    given |= environment.tracking(stack, read_env_file(stack.secrets))
    assert given["MLFLOW_TRACKING_USERNAME"] == "rempart-reader"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS", "AIRFLOW", "MLFLOW"))}
    settings = {"NAME": repr(pipeline.name), "TARGET": "'price'", "LAKE": repr(lake)}
    code = ["".join(cell["source"]) for cell in cells()]
    for name, value in settings.items():
        lines = [line for line in code[0].splitlines() if line.startswith(f"{name} = ")]
        assert len(lines) == 1
        code[0] = code[0].replace(lines[0], f"{name} = {value}")
    (script := tmp_path / "cells.py").write_text(
        "\n".join([*code, "import os, sys", "sys.stdout.flush()", "os._exit(0)"])
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env=kept | given | {"MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3 rows, 10 columns" in done.stdout and "version 1 learned from" in done.stdout
    errors = {
        line.split("mean absolute error")[0].strip(): float(line.rsplit(" ", 1)[1])
        for line in done.stdout.splitlines()
        if "mean absolute error" in line
    }
    assert errors["scratch model"] < errors["mean of the older rows"] / 2
    assert errors["champion (saw these rows)"] < errors["mean of the older rows"] / 2
    check_reads_only(session, lake, candidate_record(platform.ledger, pipeline.name, "1"))


def check_reads_only(session: Any, lake: str, record: Any) -> None:
    """The key of the notebook opens no held-out row, lists no other folder and writes nothing."""
    s3 = boto3.session.Session().client(
        "s3",
        endpoint_url=session.extra["endpoint_url"],
        aws_access_key_id=session.login,
        aws_secret_access_key=session.password,
        aws_session_token=session.extra["aws_session_token"],
        region_name="local-1",
    )
    learn, held_out = record["dataset"]["key"], record["dataset"]["held_out"]["key"]
    assert s3.get_object(Bucket=lake, Key=learn)["ResponseMetadata"]["HTTPStatusCode"] == 200
    refused = {
        "held-out rows": lambda: s3.get_object(Bucket=lake, Key=held_out),
        "a list of the lake": lambda: s3.list_objects_v2(Bucket=lake),
        "a list of training sets": lambda: s3.list_objects_v2(Bucket=lake, Prefix="training/"),
        "a write": lambda: s3.put_object(Bucket=lake, Key=learn, Body=b"x"),
        "a delete": lambda: s3.delete_object(Bucket=lake, Key=learn),
    }
    for what, call in refused.items():
        with pytest.raises(ClientError) as error:
            call()
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403, what
