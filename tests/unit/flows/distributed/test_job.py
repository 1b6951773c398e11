"""The job's exit status tells whether to run it again, and a job that is done is adopted."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rempart.errors import SiteUnavailable, SparkError
from rempart.flows.distributed import job
from rempart.settings.config import Connection
from rempart.spark import credentials, session
from rempart.spark.order import OrderedAt, SparkOrder, SparkResult, code_version
from tests.memory_site import MemorySite
from tests.unit.spark.orders import PERMISSION, PLACE, order

HELD = Connection("s3_primary", "aws", login="key", password="hush-hush", extra={"endpoint_url": "http://127.0.0.1:9"})


@pytest.fixture
def site() -> MemorySite:
    made = MemorySite("primary")
    made.ensure_bucket("lake", versioned=True)
    return made


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_job_with_a_result_is_adopted_without_a_session(
    site: MemorySite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = SparkResult(order_id=order().order_id, status="succeeded", facts={"x": 1}, decision="d" * 64)
    site.write("lake", order().key("result.json"), result.to_json())
    assert job.run_job(order(), site, tmp_path) == result
    assert [line["stage"] for line in _lines(capsys)] == ["adopted"]


def test_an_order_for_other_code_is_refused_before_anything_is_read(site: MemorySite, tmp_path: Path) -> None:
    with pytest.raises(SparkError, match="ordered for code other"):
        job.run_job(order(code_version="other"), site, tmp_path)


def test_a_probe_says_whether_the_image_can_run_a_driver_and_reaches_the_api(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job.main(["--probe", "another", "tcp://127.0.0.1:9"]) == 1
    (failed,) = _lines(capsys)
    assert failed["stage"] == "failed" and "platform another" in str(failed["what"])
    for name in ("spark_home", "java_home"):
        monkeypatch.setattr(session, name, lambda: Path("/"))
    monkeypatch.setattr(job, "import_module", lambda name: None)  # this environment has no Spark
    with socket.create_server(("127.0.0.1", 0)) as api:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.getsockname()[1]))
        assert job.main(["--probe", code_version()]) == 0
        ready, reached = _lines(capsys)
        assert ready["stage"] == "ready" and reached["target"] == f"Kubernetes' API at 127.0.0.1:{api.getsockname()[1]}"
        assert job.main(["--probe", code_version(), "tcp://127.0.0.1:9"]) == 1
        assert [line.get("ok") for line in _lines(capsys)] == [None, False, True]


def _started(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    status = job.main(["--order", str(file)])
    return status, _lines(capsys)[-1]


def test_what_ends_a_job_is_its_status_and_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "order.json"
    status, last = _started(file, capsys)
    assert status == 1 and last["stage"] == "failed" and "cannot be read" in str(last["what"])
    file.write_bytes(order().to_json())
    monkeypatch.delenv(credentials.VARIABLE, raising=False)
    status, last = _started(file, capsys)
    assert status == 1 and last["error"] == "ConnectionMissing"
    credentials.write(tmp_path / "credentials.json", "s", {"s3_primary": HELD})
    monkeypatch.setenv(credentials.VARIABLE, str(tmp_path / "credentials.json"))

    def unavailable(*_: object) -> None:
        raise SiteUnavailable("no answer", "Wait.")

    monkeypatch.setattr(job, "run_job", unavailable)
    status, last = _started(file, capsys)
    assert status == 75 and last["what"] == "no answer"

    def crashed(*_: object) -> None:
        raise ValueError("Jeanne Martin")

    monkeypatch.setattr(job, "run_job", crashed)
    status, last = _started(file, capsys)
    assert status == 1 and "Jeanne" not in json.dumps(last)


_DONE = (
    "import sys; from rempart.flows.distributed import job; "
    "job.run_job = lambda *_: None; job.credentials.site_of = lambda _: None; "
    "sys.exit(job.main(['--order', '-', '--attached']))"
)


def test_a_job_that_is_done_ends_well_while_its_standard_input_is_open() -> None:
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", _DONE], **pipes) as process:
        assert process.stdin is not None
        process.stdin.write(order().to_json() + b"\n")
        process.stdin.flush()
        assert process.wait(60) == 0, process.stderr
        assert process.stderr is not None and process.stderr.read() == b""


def test_a_driver_reads_its_order_at_the_site_by_its_sha256_and_has_the_attempts_permission(
    site: MemorySite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[SparkOrder] = []
    monkeypatch.setattr(credentials, "opened", lambda *_: site)
    monkeypatch.setattr(job, "run_job", lambda given, *_: ran.append(given))
    body, now = order().to_json(), PERMISSION.model_copy(update={"decision": "e" * 64})
    site.write("lake", "spark/order.json", body)

    def started(sha256: str) -> int:
        at = OrderedAt(
            site=PLACE, classification="personal", bucket="lake", key="spark/order.json", sha256=sha256, permission=now
        )
        monkeypatch.setenv("ORDER", at.model_dump_json())
        return job.main(["--order", "env:ORDER"])

    assert started(hashlib.sha256(body).hexdigest()) == 0
    assert ran == [order(permission=now)] and ran[0].order_id == order().order_id
    assert started("0" * 64) == 1 and _lines(capsys)[-1]["error"] == "IntegrityError"
    monkeypatch.setenv("ORDER", "{}")
    assert job.main(["--order", "env:ORDER"]) == 1 and "where the order is" in str(_lines(capsys)[-1]["what"])
    assert len(ran) == 1
