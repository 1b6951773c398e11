"""The supervisor's configuration: complete, without secrets, valid for any folder name."""

from __future__ import annotations

import base64
import configparser
import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from rempart.deployment.servers import object_sites
from rempart.deployment.setup import credentials, paths, services
from rempart.errors import StackError
from rempart.serving.scorer import http_server
from rempart.settings import config
from rempart.settings.sections import External, PointInTime, StackService

ROOT = Path(__file__).resolve().parents[4]


def make(var: Path, offset: int = 0) -> paths.Stack:
    return paths.Stack(ROOT, var, config.load(ROOT / "rempart.yaml"), offset, "/opt/a venv/bin/python")


def parse(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=True)
    parser.read_string(text)
    return parser


def test_every_service_is_a_program_that_starts_on_request_and_restarts_when_it_dies(tmp_path: Path) -> None:
    found = parse(services.supervisor_configuration(make(tmp_path), None))
    stack = make(tmp_path)
    assert [s for s in found.sections() if s.startswith("program:")] == [
        f"program:{s}" for s in (*stack.services, "watchdog")
    ]
    for name in (*stack.services, "watchdog"):
        program = dict(found[f"program:{name}"])
        assert shlex.split(program["command"]) == [
            "/opt/a venv/bin/python",
            "-m",
            "rempart.deployment.setup.launch",
            name,
        ]
        assert (program["autostart"], program["autorestart"], program["killasgroup"]) == ("false", "true", "true")
    assert found["unix_http_server"]["chmod"] == "0600"
    assert "inet_http_server" not in found


def test_point_in_time_recovery_adds_an_archiver_and_bounds_what_waits_for_it(tmp_path: Path) -> None:
    off = make(tmp_path)
    assert "wal-archive" not in off.services and "wal_archive" not in off.config.roles
    assert "max_slot_wal_keep_size" not in " ".join(services.postgresql(off).command)
    backup = off.config.backup.model_copy(update={"point_in_time": PointInTime()})
    on = dataclasses.replace(off, config=off.config.model_copy(update={"backup": backup}))
    assert services.service(on, "wal-archive").command[-2:] == ("run", "wal-archive")
    assert f"max_slot_wal_keep_size={services.MOST_WAL}" in services.postgresql(on).command
    made = credentials.plan(on, {}, lambda: "t", lambda: "f")
    assert '"login": "wal_archive"' in made["AIRFLOW_CONN_PG_WAL_ARCHIVE"]
    external = StackService(external=External(url="postgresql://db:5432", connection="pg_admin"))
    theirs = on.config.model_copy(update={"services": {**on.config.services, "postgresql": external}})
    assert "wal-archive" not in dataclasses.replace(on, config=theirs).services


def test_the_scorer_listens_here_alone_and_has_time_to_answer_what_it_took(tmp_path: Path) -> None:
    found = services.service(make(tmp_path), "scorer")
    assert found.command[-4:] == ("run", "scorer", "--host", "127.0.0.1")
    assert found.stop_seconds > http_server.STOP_SECONDS


def test_its_key_reads_outputs_of_jobs_and_nothing_else(tmp_path: Path) -> None:
    stack = make(tmp_path)
    secrets = credentials.plan(stack, {}, lambda: "t", lambda: "f")
    limited = object_sites.limited(stack.config, "primary", credentials.connections(stack, secrets))
    (scorer,) = [identity for identity in limited if identity.name == "scorer"]
    assert (scorer.actions, scorer.objects, scorer.lists) == (("s3:GetObject",), ("artifacts/jobs/*",), None)


def test_folders_with_spaces_and_percent_signs(tmp_path: Path) -> None:
    odd = tmp_path / "50% of it"
    text = services.supervisor_configuration(make(odd), None)
    assert "50%% of it" in text and not re.search(r"50%[^%]", text)


def test_a_moved_port_changes_what_the_supervisor_compares(tmp_path: Path) -> None:
    before, after = (parse(services.supervisor_configuration(make(tmp_path, o), None)) for o in (0, 1))
    assert before["program:airflow-scheduler"]["environment"] != after["program:airflow-scheduler"]["environment"]


def test_a_site_names_every_port_that_it_listens_on(tmp_path: Path) -> None:
    stack = make(tmp_path)
    for name in stack.embedded_sites:
        command = " ".join(services.site(stack, name).command)
        wanted = {port for part, port in stack.ports.items() if part.split(" ")[0] == name}
        assert {int(p) for p in re.findall(r"port[a-z.]*=(\d+)", command)} == wanted | {0}
        assert {"-s3.port.iceberg=0", "-s3.port.lance=0", "-disableHttp"} < set(command.split())
        assert "-master.telemetry=false" in command and "-ip.bind=127.0.0.1" in command


def test_an_unknown_service_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="airflow-scheduler"):
        services.service(make(tmp_path), "redis")


def test_a_site_answers_sts_only_where_jobs_get_sessions(tmp_path: Path) -> None:
    stack = make(tmp_path)
    silent = stack.config.sites["haven"].model_copy(update={"job_credentials": None})
    changed = stack.config.model_copy(update={"sites": {**stack.config.sites, "haven": silent}})
    stack = dataclasses.replace(stack, config=changed)
    assert any(part.startswith("-s3.iam.config=") for part in services.site(stack, "primary").command)
    assert not any(part.startswith("-s3.iam.config") for part in services.site(stack, "haven").command)
    for name in ("primary", "haven"):
        assert "-s3.iam=false" in services.site(stack, name).command
    made = credentials.plan(stack, {}, credentials.new_token, credentials.new_fernet_key)
    assert len(made[credentials.session_key("primary")]) >= 64 and credentials.session_key("haven") not in made


def test_the_role_of_sessions_reaches_no_bucket_of_evidence_or_backups_and_is_the_sites_own(tmp_path: Path) -> None:
    stack = make(tmp_path)
    names = stack.config.buckets
    role = stack.job_role("primary")
    assert role is not None
    made = object_sites.sessions("primary", *role, "k" * 86, names)
    (trust,) = made["roles"][0]["trustPolicy"]["Statement"]
    assert trust["Principal"] == {"AWS": "arn:aws:iam::000000000000:user/primary"}
    held_out, denied = (
        statement for statement in made["policies"][0]["document"]["Statement"] if statement["Effect"] == "Deny"
    )
    assert held_out["Resource"] == ["arn:aws:s3:::*/training/*/held-out/*"] and "s3:GetObject" in held_out["Action"]
    assert {f"arn:aws:s3:::{bucket}/*" for bucket in (names.backups, names.evidence, names.checkpoints)} <= {
        *denied["Resource"]
    }
    assert base64.b64decode(made["sts"]["signingKey"]) == b"k" * 86
