"""The whole audit, on the shipped project and on a stack of its own, through its command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from rempart import cli
from rempart.audit.findings import Report
from rempart.deployment.compose.containers import in_containers
from rempart.deployment.setup import credentials
from rempart.deployment.setup.environment import MARKER
from rempart.deployment.setup.paths import Stack
from rempart.docsgen import reference
from rempart.errors import AuditError
from rempart.flows.governance.audit import CHECKS, Audit
from rempart.settings import config
from rempart.settings.config import Config
from tests.unit.audit.osv import affected, ecosystem_range, entry
from tests.unit.audit.packages.test_debian import STATUS

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ROOT = config.project_root()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(ROOT, tmp_path / "var", config.load(), 3000)
    made.prepare()
    credentials.ensure(made)
    yield made
    if not made.sockets.is_relative_to(made.var):
        made.sockets.rmdir()


def with_audit(stack: Stack, **settings: Any) -> Stack:
    section = stack.config.model_dump()["audit"] | settings
    return Stack(
        stack.root, stack.var, Config.model_validate(stack.config.model_dump() | {"audit": section}), stack.offset
    )


def ids(found: Report) -> set[str]:
    return {finding.id for finding in found.findings}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    folder = tmp_path / "osv"
    folder.mkdir()
    (folder / "a.json").write_bytes(
        entry(
            "GHSA-jinja",
            affected("Jinja2", **ecosystem_range({"introduced": "0"}, {"fixed": "999"})),
            database_specific={"severity": "HIGH"},
            aliases=["CVE-2026-1"],
        )
    )
    return folder


def test_as_shipped_it_is_honest_about_what_it_could_not_check(stack: Stack) -> None:
    found = Audit(stack, NOW).run()
    assert [check.check for check in found.checks] == list(CHECKS)
    assert found.exit_code == 1
    assert {
        "vulnerabilities/not-checked-database",
        "vulnerabilities/not-checked-inside-wheels",
        "policy/one-infrastructure",
        "ports/not-running",
    } <= ids(found)
    assert not {finding.id for finding in found.findings if finding.severity in ("critical", "high")}
    (bill,) = found.sboms
    assert json.loads(Path(bill.path).read_text())["bomFormat"] == "CycloneDX"


def test_a_known_vulnerability_counts_until_somebody_answers_for_it(stack: Stack, database: Path) -> None:
    only = ["vulnerabilities"]
    found = Audit(with_audit(stack, advisories=str(database)), NOW, only=only).run()
    assert found.exit_code == 2 and "vulnerabilities/CVE-2026-1/jinja2" in ids(found)
    assert [(age.ecosystem, age.days) for age in found.advisories] == [("PyPI", 4)]
    exception = {
        "finding": "vulnerabilities/GHSA-jinja/jinja2",
        "owner": "platform team",
        "reason": "templates are our own",
        "expires": "2026-12-31",
    }
    excepted = Audit(with_audit(stack, advisories=str(database), exceptions=[exception]), NOW, only=only).run()
    assert excepted.exit_code == 1 and [finding.id for finding in excepted.accepted] == [
        "vulnerabilities/CVE-2026-1/jinja2"
    ]
    late = Audit(
        with_audit(stack, advisories=str(database), exceptions=[exception]), datetime(2027, 1, 1, tzinfo=UTC), only=only
    ).run()
    assert late.exit_code == 2 and "exceptions/vulnerabilities/GHSA-jinja/jinja2" in ids(late)


def test_packages_of_an_image_are_looked_up_by_source_and_release(stack: Stack, database: Path, tmp_path: Path) -> None:
    root = tmp_path / "image"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "var/lib/dpkg/status").write_text(STATUS)
    (root / "etc/os-release").write_text("ID=debian\nVERSION_ID=13\n")
    (database / "d.json").write_bytes(
        entry("DSA-1", affected("glibc", "Debian:13", **ecosystem_range({"introduced": "0"}, {"fixed": "2.41-13"})))
    )
    found = Audit(stack, NOW, [root], database, ["sbom", "vulnerabilities"]).run()
    assert "vulnerabilities/DSA-1/glibc" in ids(found)
    assert len(found.sboms) == 2
    unplaced = Audit(stack, NOW, [root / "var/lib/dpkg/status"], database, ["vulnerabilities"])
    (root / "etc/os-release").unlink()
    assert any(name.startswith("vulnerabilities/not-checked-debian-") for name in ids(unplaced.run()))


@pytest.mark.full
def test_what_really_runs_is_looked_at(stack: Stack) -> None:
    """A process of the stack that listens for everybody and may phone home, though the plan says otherwise."""
    program = "import socket; s = socket.create_server(('', 0)); print(s.getsockname()[1], flush=True); input()"
    command = [sys.executable, "-c", program]
    marked = {"PATH": os.environ["PATH"], MARKER: f"{stack.id}:mlflow", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with subprocess.Popen(command, env=marked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        port = int(process.stdout.readline())
        found = Audit(stack, NOW, only=["ports", "telemetry"]).run()
        process.stdin.close()
    by_id = {finding.id: finding for finding in found.findings}
    assert by_id[f"ports/mlflow-{port}"].severity == "high"
    silent = by_id["telemetry/great-expectations-gx_analytics_enabled"]
    assert silent.severity == "high" and silent.where == f"mlflow (process {process.pid})"
    assert "telemetry/mlflow-mlflow_disable_telemetry" not in by_id and "ports/not-running" not in by_id


def test_s5_every_port_and_socket_is_asked_though_nobody_declared_it(stack: Stack) -> None:
    """A process of the stack that serves pages to everybody on this machine, and a socket that all may open."""
    program = """if True:
        import http.server, os, socket, sys, tempfile, threading
        folder = tempfile.mkdtemp()
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "open.sock")
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(path)
        os.chmod(path, 0o777)
        unix.listen()
        server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_port, path, flush=True)
        input()
    """
    marked = {"PATH": os.environ["PATH"], MARKER: f"{stack.id}:site-primary"}
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=marked, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin and process.stdout
        port, path = process.stdout.readline().split()
        found = {finding.id: finding for finding in Audit(stack, NOW, only=["ports"]).run().findings}
        process.stdin.close()
    shutil.rmtree(Path(path).parent)
    assert found["ports/site-primary-undeclared"].severity == "medium"
    assert found[f"ports/site-primary-{port}-open"].severity == "high"
    assert "HTTP" in found[f"ports/site-primary-{port}-open"].what
    assert found["ports/site-primary-socket"].where == path


def test_secrets_of_the_stack_never_reach_the_report(stack: Stack) -> None:
    secrets = config.read_env_file(stack.secrets)
    text = repr(Audit(stack, NOW, only=CHECKS[1:]).run())
    values = [json.loads(value)["password"] if value.startswith("{") else value for value in secrets.values()]
    assert len(values) > 15 and not any(value in text for value in values)


def test_open_files_and_weak_secrets_of_the_stack_are_found(stack: Stack) -> None:
    with stack.secrets.open("a") as file:
        file.write('AIRFLOW_CONN_EXTRA={"conn_type": "http", "login": "admin", "password": "admin"}\n')
    stack.secrets.chmod(0o644)
    found = Audit(stack, NOW, only=["passwords"]).run()
    assert {"passwords/file-secrets.env", "passwords/airflow_conn_extra"} <= ids(found)
    assert found.exit_code == 2


def test_a_stack_that_was_never_started_is_audited_too(tmp_path: Path) -> None:
    found = Audit(
        Stack(ROOT, tmp_path / "var", config.load(), 3000), NOW, only=["telemetry", "passwords", "ports"]
    ).run()
    passwords = next(check for check in found.checks if check.check == "passwords")
    assert "missing files: secrets.env" in passwords.looked_at


def test_in_a_container_its_own_doors_and_its_mounted_secrets_are_no_findings(tmp_path: Path) -> None:
    inside = in_containers(Stack(ROOT, tmp_path, config.load()))
    mounted = replace(inside, var=tmp_path)
    secrets = credentials.plan(inside, {}, credentials.new_token, credentials.new_fernet_key)
    mounted.secrets.write_text("".join(f"{k}={v}\n" for k, v in secrets.items()))
    mounted.secrets.chmod(0o444)
    found = Audit(mounted, NOW, only=["passwords", "ports"]).run()
    assert ids(found) == {"ports/in-containers"} and found.exit_code == 0


def test_a_service_whose_connection_is_not_known_is_told(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMPART_VAR", str(stack.var / "other"))  # a stack of tests that ran before leaves its secrets
    outside = {"external": {"url": "https://s3.example.eu", "connection": "s3_elsewhere"}}
    sections = stack.config.model_dump()
    sections["services"]["primary"], sections["sites"]["primary"]["connection"] = outside, "s3_elsewhere"
    made = Config.model_validate(sections)
    fresh = Stack(stack.root, stack.var / "other", made, stack.offset)
    found = Audit(fresh, NOW, only=["telemetry", "ports"]).run()
    assert {"telemetry/unplanned-mlflow", "telemetry/external-primary"} <= ids(found)


def test_an_unknown_check_and_a_database_that_is_not_there_are_errors(stack: Stack) -> None:
    with pytest.raises(AuditError, match="Check 'spelling' does not exist"):
        Audit(stack, NOW, only=["spelling"])
    with pytest.raises(AuditError, match="does not exist"):
        Audit(with_audit(stack, advisories="absent"), NOW, only=["vulnerabilities"]).run()


# --- the command ------------------------------------------------------------------------------------------------------


def rempart(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, list(arguments))


def test_the_command_prints_a_report_and_ends_with_its_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REMPART_VAR", str(tmp_path))
    done = rempart("audit", "run", "--only", "vulnerabilities")
    assert done.exit_code == 1 and "vulnerabilities/not-checked-database" in done.output
    assert rempart("audit", "run", "--only", "licences").exit_code == 0
    assert rempart("audit", "run", "--only", "spelling").exit_code == 3
    assert rempart("audit", "run", "--debian", str(tmp_path / "absent")).exit_code == 3


def test_json_is_as_its_schema_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REMPART_VAR", str(tmp_path))
    out = tmp_path / "report.json"
    done = rempart("audit", "run", "--json", "--out", str(out))
    document = json.loads(out.read_text())
    Draft202012Validator.check_schema(reference.audit_schema())
    Draft202012Validator(reference.audit_schema()).validate(document)
    assert done.exit_code == document["exit_code"] == 1
    assert done.output.startswith(f"{out}: ") and "exit code 1" in done.output
    assert document["counts"]["medium"] == sum(finding["severity"] == "medium" for finding in document["findings"])


def test_the_bill_of_materials_is_printed_or_written(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)
    assert {component["type"] for component in json.loads(rempart("audit", "sbom").output)["components"]} == {"library"}
    system = ("audit", "sbom", "--debian", str(tmp_path / "status"), "--release", "13")
    assert rempart(*system, "--out", str(tmp_path / "bom.json")).exit_code == 0
    assert json.loads(rempart(*system).output) == json.loads((tmp_path / "bom.json").read_text())
    dated = rempart(*system, "--timestamp", "2026-11-24T10:00:00")
    assert json.loads(dated.output)["metadata"]["timestamp"] == "2026-11-24T10:00:00+00:00"
    assert isinstance(rempart(*system, "--out", "/proc/nowhere/bom.json").exception, AuditError)
