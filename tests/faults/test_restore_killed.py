"""A restore that is killed, repeated or run beside another, on the stack's real servers and from the command line."""

import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys

import pytest

from rempart.backup.keys import age
from rempart.backup.points import points
from rempart.backup.points.restore_plan import Part
from rempart.deployment.servers.postgresql import connect
from rempart.flows.backup.back_up import back_up
from rempart.flows.restore import restore as flow
from rempart.flows.restore.restore_source import Wish, find, open_point, plan
from rempart.flows.shared.keys import own_identity
from rempart.ledger.keys import to_pem
from rempart.ledger.memory import MemoryLedger
from rempart.settings import sections
from rempart.settings.config import project_root, read_env_file
from tests.restorable import BODIES


@pytest.mark.tracking
@pytest.mark.parametrize("fault", ["missing", "another"])
def test_d6_a_fernet_key_that_is_missing_or_another_turns_the_restore_red(platform, stack, fault):
    from cryptography.fernet import Fernet

    from rempart.flows.restore.restore_checks import decrypts

    good = read_env_file(stack.secrets)["REMPART_AIRFLOW_FERNET_KEY"]
    token = Fernet(good).encrypt(b"a password").decode()
    name = f"d6_{secrets.token_hex(3)}"
    with connect(platform.database("airflow")) as session:
        session.execute(
            "INSERT INTO connection (conn_id, conn_type, password, is_encrypted, is_extra_encrypted)"
            " VALUES (%s, 'http', %s, true, false)",
            [name, token],
        )
    try:
        assert decrypts(platform.database("airflow"), {"REMPART_AIRFLOW_FERNET_KEY": good}).ok is True
        environment = {} if fault == "missing" else {"REMPART_AIRFLOW_FERNET_KEY": Fernet.generate_key().decode()}
        check = decrypts(platform.database("airflow"), environment)
        assert check.ok is False and good not in check.detail and token not in check.detail
    finally:
        with connect(platform.database("airflow")) as session:
            session.execute("DELETE FROM connection WHERE conn_id = %s", [name])


# --- beside the stack -------------------------------------------------------------------------------------------------


@pytest.fixture
def standing(platform, proven_ledger, own_continuity, monkeypatch):
    """Three of the stack's databases; buckets of the test's with a few objects, and a ledger in memory."""
    monkeypatch.setattr("rempart.flows.backup.back_up.DATABASES", ("airflow", "feast_registry", "continuity"))
    mark = f"fault-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups")
    sites = [platform.site(name, "personal") for name in ("primary", "haven")]
    for site in sites:
        for name in (buckets.lake, buckets.artifacts):
            site.ensure_bucket(name, versioned=True)
        site.ensure_bucket(buckets.backups, versioned=True, locked=True)  # and so it stays after the test
    for (bucket, key), body in BODIES.items():
        sites[0].write(getattr(buckets, bucket), key, body)
    settings = platform.config.model_copy(update={"buckets": buckets})
    yield dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_continuity)
    for site in sites:
        for name in (buckets.lake, buckets.artifacts):
            site.drop_bucket(name)


KILL_AT = """
import os, signal, sys
write, mark = sys.stdout.write, os.environ["KILL_AT"]
def heed(text):
    written = write(text)
    if mark and text.startswith(mark):
        os.kill(os.getpid(), signal.SIGKILL)
    return written
sys.stdout.write = heed
"""
"""Before a command: it kills itself as it tells a line that begins so. From outside it may be further by then."""


class Typed:
    """`rempart restore` beside the stack, in a process that cannot import Airflow, with the keys in files."""

    def __init__(self, standing, folder, parts, point):
        self.standing, self.parts, self.suffix = standing, tuple(parts), f"x{secrets.token_hex(3)}"
        self.point = point  # named, for MLflow may know models that are in other buckets than the test's
        age.write_identity_file(folder / "escrow", own_identity(standing.connections), standing.clock())
        (folder / "public.pem").write_text("".join(map(to_pem, standing.trusted_keys().values())))
        home = folder / "home"
        home.mkdir()
        for name in ("include", "dags", "plugins"):
            (home / name).symlink_to(project_root() / name)
        text, names = (project_root() / "rempart.yaml").read_text(), standing.config.buckets
        begun = text.index("buckets:\n")
        line = f"buckets:\n  {{lake: {names.lake}, artifacts: {names.artifacts}, backups: {names.backups}}}\n"
        (home / "rempart.yaml").write_text(text[:begun] + line + text[text.index("\nreplication:", begun) :])
        self.environment = {**os.environ, "REMPART_HOME": str(home)}
        code = f"{KILL_AT}import sys; sys.modules['airflow'] = None; from rempart.cli import main; main()"
        only = [word for part in self.parts for word in ("--only", str(part))]
        keys = ["--identity", str(folder / "escrow"), "--trust", str(folder / "public.pem")]
        self.command = [
            sys.executable,
            "-u",
            "-c",
            code,
            "restore",
            *keys,
            *only,
            "--aside",
            self.suffix,
            "--point",
            point,
        ]

    def run(self, *more, kill_at=None):
        """Its exit code and lines; it is killed as it tells a line that begins so."""
        lines = []
        with subprocess.Popen(
            [*self.command, *more],
            env=self.environment | {"KILL_AT": kill_at or ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            lines += process.stdout
            code = process.wait(240)
        assert own_identity(self.standing.connections).secret not in "".join(lines)
        return code, "".join(lines)

    def remove(self, stack):
        wish = Wish("haven", point=self.point, parts=self.parts, aside=self.suffix)
        detached = dataclasses.replace(self.standing, ledger_=MemoryLedger())
        opened = open_point(
            find(detached, wish, self.standing.trusted_keys()), wish, own_identity(self.standing.connections)
        )
        flow.remove(stack, opened, wish, plan(opened, wish), lambda: self.standing)


PARTS = (Part("database", "feast_registry"), Part("database", "continuity"), Part("bucket", "artifacts"))


@pytest.mark.tracking
def test_x1_a_restore_that_is_killed_at_any_step_goes_on_where_it_was(standing, stack, tmp_path):
    typed = Typed(standing, tmp_path, PARTS, back_up(standing).id)
    journal = stack.var / f"restore-{typed.suffix}.json"
    try:
        for mark in ("--- databases", "ok: database", "--- objects", "ok: every object"):
            code, told = typed.run("--yes", kill_at=mark)
            assert code == -signal.SIGKILL, told
        assert set(json.loads(journal.read_text())["databases"]) >= {"continuity"}
        code, told = typed.run("--yes")
        assert code == 0, told
        assert "ok: database continuity is restored with the rows on record" in told
        assert "1 object: 1 in place" in told
        assert not journal.exists()
    finally:
        typed.remove(stack)


@pytest.mark.tracking
def test_c4_without_airflow_the_command_line_restores(standing, stack, tmp_path):
    point = back_up(standing)
    typed = Typed(standing, tmp_path, [Part("database", "airflow")], point.id)
    code, told = typed.run()
    assert code == 0 and "Nothing was changed" in told and point.id in told, told
    try:
        code, told = typed.run("--yes")
        assert code == 0, told
        assert "ok: database airflow is restored with the rows on record" in told
    finally:
        typed.remove(stack)
    assert points.list(standing.site("haven", "personal"), standing.config.buckets.backups) == (point.id,)
