"""deploy/watch: its commands exist, it runs without rights, and its key may only read heartbeats."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from typer.testing import CliRunner

from rempart.cli import app
from rempart.deployment.servers.object_sites import limited
from rempart.flows.monitoring.watch_file import ACCESS_KEY
from rempart.settings.config import Connection, load
from tests.unit.deploy.test_kubernetes import documents, model, violations

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy" / "watch"
SERVICE = DEPLOY / "systemd" / "rempart-watch.service"
FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def only(kind: str) -> dict[str, Any]:
    (found,) = [document for file in FILES for document in documents(file) if document["kind"] == kind]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_manifest_is_of_a_known_kind_and_has_no_unknown_field(file: Path) -> None:
    for document in documents(file):
        if document["kind"] == "Kustomization":
            assert set(document["resources"]) == {manifest.name for manifest in FILES} - {file.name}
            continue
        assert set(document) <= set(getattr(client, model(document)).attribute_map.values())
        if "spec" in document:
            assert set(document["spec"]) <= set(getattr(client, f"{model(document)}Spec").attribute_map.values())
        assert document["metadata"].get("namespace", "rempart-watch") == "rempart-watch"


def test_the_pod_has_no_right_and_can_write_its_state_alone() -> None:
    pod = only("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert violations(pod) == []
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert (
        pod["automountServiceAccountToken"] is False and only("ServiceAccount")["automountServiceAccountToken"] is False
    )
    assert pod["serviceAccountName"] == only("ServiceAccount")["metadata"]["name"]
    writable = [
        volume_mount["mountPath"] for volume_mount in container["volumeMounts"] if not volume_mount.get("readOnly")
    ]
    state = container["command"][container["command"].index("--state") + 1]
    assert writable == [str(Path(state).parent)]
    assert "env" not in container, "no secret stands in the manifest"
    assert only("NetworkPolicy")["spec"]["podSelector"] == {}


@pytest.mark.parametrize("command", [only("CronJob"), SERVICE], ids=["kubernetes", "systemd"])
def test_what_is_started_are_options_of_the_command(command: dict[str, Any] | Path) -> None:
    if isinstance(command, Path):
        parts = unit(command)["Service"]["ExecStart"].split()
    else:
        parts = command["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert Path(parts[0]).name == "rempart" and parts[1] == "watch"
    told = CliRunner().invoke(app, ["watch", "--help"]).output
    for option in (part for part in parts if part.startswith("--")):
        assert option in told


def unit(file: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # its own is a method
    parser.read(file)
    return parser


def test_the_service_gives_up_every_right_and_the_timer_starts_it() -> None:
    service = unit(SERVICE)["Service"]
    for name, value in (
        ("DynamicUser", "yes"),
        ("ProtectSystem", "strict"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
    ):
        assert service[name] == value
    assert unit(SERVICE.with_suffix(".timer"))["Timer"]["OnCalendar"] == "*:0/5"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_knows_every_line_and_finds_little_exposed(tmp_path: Path) -> None:
    copy = tmp_path / SERVICE.name
    copy.write_text(SERVICE.read_text().replace("/opt/rempart/.venv/bin/rempart", "/bin/true"))
    shutil.copy(SERVICE.with_suffix(".timer"), tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy), str(tmp_path / "rempart-watch.timer")],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "rempart-watch" in line]
    assert ours == [], done.stderr
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_policy_of_the_key_is_the_one_that_the_stack_gives() -> None:
    (statement,) = json.loads((DEPLOY / "read-heartbeats.json").read_text())["Statement"]
    settings = load(ROOT / "rempart.yaml")
    watch = next(
        identity
        for identity in limited(settings, "haven", lambda name: Connection(name, "aws"))
        if identity.name == "watch"
    )
    assert statement["Action"] == list(watch.actions)
    assert statement["Resource"] == [f"arn:aws:s3:::{place}" for place in watch.objects]
    assert [identity.name for identity in limited(settings, "primary", lambda name: Connection(name, "aws"))] == [
        "mlflow",
        "landing",
        "scorer",
    ]


def test_pages_name_files_and_commands_that_exist() -> None:
    for page in (DEPLOY / "README.md", ROOT / "docs/how-to/watch.md", ROOT / "docs/runbooks/missing-heartbeat.md"):
        text = page.read_text("utf-8")
        for path in re.findall(r"deploy/watch/[\w./-]*\w", text):
            assert (ROOT / path).exists(), (page.name, path)
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / link).exists(), (page.name, link)


def test_the_example_of_the_how_to_is_a_valid_file(tmp_path: Path) -> None:
    from rempart.flows.monitoring import watch_file

    text = (ROOT / "docs/how-to/watch.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (tmp_path / "watch.yaml").write_text(block)
    made = watch_file.load(tmp_path / "watch.yaml")
    assert made.site.access_key_env == ACCESS_KEY and len(made.alerts) == 2
    assert set(yaml.safe_load(block)) == set(watch_file.Watch.model_fields), "the page shows every key"
