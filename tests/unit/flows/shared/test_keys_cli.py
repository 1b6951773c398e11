"""`rempart keys` on sites in memory: its output, its behaviour without --yes, and that no secret is shown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.cli import app
from rempart.deployment.setup import credentials, paths
from rempart.errors import ConfigError, KeyDestroyed
from rempart.flows.shared import keys as flow
from rempart.flows.shared import platform as platforms
from rempart.flows.shared.platform import Platform
from rempart.settings import config
from rempart.settings.config import Connection
from tests.switchovers import in_memory

ROOT = Path(__file__).parents[4]
BOOKINGS = EncryptionScope("dataset", "bookings", "395d")
OWN = age.new_identity()


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    """As `open_platform` gives it to the command, with one domain's key."""
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    own = Connection("backup_key", "age", login=OWN.recipient, password=OWN.secret)
    made = dataclasses.replace(in_memory(), connections=lambda name: own)
    monkeypatch.setattr(platforms, "open_platform", lambda: made)
    flow.key_of(made.ledger, flow.open_keyring(made), BOOKINGS)
    return made


def run(*arguments: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, ["keys", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "AGE-SECRET-KEY" not in done.output
    return done.stdout, done.stderr


def test_the_list_tells_who_opens_what_and_warns_of_a_lonely_key(platform: Platform) -> None:
    listed, warned = run("list")
    assert BOOKINGS.id in listed and "opened by the platform" in listed and "NO COPY" not in listed
    assert len(warned.splitlines()) == 1 and "only the platform's own key opens its backups" in warned
    [key] = json.loads(run("list", "--json")[0])["keys"]
    assert key["scope"] == BOOKINGS.id and key["recipients"] == [OWN.recipient] and key["no_copy_in"] == []
    site = platform.sites["haven"]
    site.delete("backups", f"keys/{BOOKINGS.id}/0001.age")
    assert "NO COPY in bucket backups at site 'haven'" in run("list")[0]
    assert "haven" in str(json.loads(run("list", "--json")[0])["keys"][0]["no_copy_in"])


def test_nothing_is_destroyed_without_yes(platform: Platform) -> None:
    ring = flow.open_keyring(platform)
    planned, _ = run("destroy", BOOKINGS.id)
    assert planned.count("would be deleted") == 2 and "--yes" in planned
    assert ring.open(BOOKINGS)
    assert "no copy is left" in run("destroy", BOOKINGS.id, "--yes")[0]
    with pytest.raises(KeyDestroyed):
        ring.open(BOOKINGS)
    assert "destroyed on" in run("list")[0]


def test_a_recipient_is_made_named_and_let_in(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "escrow.key"
    printed, _ = run("new-recipient", str(file))
    recipient = age.read_identity_file(file).recipient
    assert printed.splitlines()[-1] == recipient and file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="exists"):
        run("new-recipient", str(file))
    backup = platform.config.backup.model_copy(update={"recipients": [recipient]})
    changed = dataclasses.replace(platform, config=platform.config.model_copy(update={"backup": backup}))
    monkeypatch.setattr(platforms, "open_platform", lambda: changed)
    shown, warned = run("rewrap")
    assert f"new {recipient}" in shown and "--yes" in shown and not warned
    assert recipient not in run("list")[0]
    run("rewrap", "--yes")
    assert recipient in run("list")[0]


def test_the_platforms_own_key_is_replaced_with_the_old_one(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    new, old = age.new_identity(), tmp_path / "old.key"
    age.write_identity_file(old, OWN, platform.clock())
    own = Connection("backup_key", "age", login=new.recipient, password=new.secret)
    changed = dataclasses.replace(platform, connections=lambda name: own)
    monkeypatch.setattr(platforms, "open_platform", lambda: changed)
    before = flow.open_keyring(platform).open(BOOKINGS)
    run("rewrap", "--with", str(old), "--yes")
    after = flow.key_of(changed.ledger, flow.open_keyring(changed), BOOKINGS)
    assert after.identity == before.identity and after.proven


def test_a_private_key_in_rempart_yaml_is_refused_and_not_shown(tmp_path: Path) -> None:
    data = yaml.safe_load((ROOT / "rempart.yaml").read_text())
    data["backup"]["recipients"] = [OWN.secret]
    (tmp_path / "include").symlink_to(ROOT / "include")
    (tmp_path / "rempart.yaml").write_text(json.dumps(data, default=str))
    with pytest.raises(ConfigError, match=r"backup\.recipients, entry 1") as error:
        config.load(tmp_path / "rempart.yaml")
    assert OWN.secret not in str(error.value)


def test_the_embedded_stack_makes_the_platforms_own_key_once(tmp_path: Path) -> None:
    stack = paths.Stack(ROOT, tmp_path, config.load(ROOT / "rempart.yaml"), 0)
    for _ in range(2):
        resolve = credentials.connections(stack, credentials.ensure(stack))
        found = flow.own_identity(resolve)
    assert found.recipient == resolve("backup_key").login != OWN.recipient
