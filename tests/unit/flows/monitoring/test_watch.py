"""`rempart watch` on a site in memory, a real webhook and a real mail server: notifications and exit code."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rempart.backup.watch.heartbeat import Heartbeat, encode, key_of
from rempart.cli import app
from rempart.errors import ConfigError, SiteUnavailable, WatchError
from rempart.flows.monitoring import watch as flow
from rempart.flows.monitoring import watch_file
from rempart.ledger.keys import signer, to_base64, to_pem
from tests.listeners import Mailbox, Webhook, mailbox, webhook
from tests.memory_site import MemorySite

KEY, OTHER = signer(bytes(31) + b"1"), signer(bytes(31) + b"2")
SECRETS = {
    "REMPART_WATCH_ACCESS_KEY": "access-secret",
    "REMPART_WATCH_SECRET_KEY": "site-secret",
    "HOOK_TOKEN": "token-secret",
    "MAIL_PASSWORD": "mail-secret",
}
PLAIN: dict[str, Any] = {
    "site": {"name": "haven", "endpoint": "http://127.0.0.1:9", "region": "local"},
    "keys": [to_base64(KEY.public)],
    "kinds": {"backup": {"max_interval": "1h", "rpo": "1h"}, "drill": {"max_interval": "8d"}},
}


@pytest.fixture
def site() -> MemorySite:
    made = MemorySite("haven")
    made.ensure_bucket("backups", versioned=True)
    return made


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as found:
        yield found


@pytest.fixture
def mails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    with mailbox(tmp_path) as found:
        monkeypatch.setenv("SSL_CERT_FILE", str(found.certificate))
        yield found


def beat(site: MemorySite, kind: str, at: datetime, key: Any = KEY, **facts: Any) -> None:
    site.write("backups", key_of(kind), encode(Heartbeat(kind, at, facts), key))


def all_well(site: MemorySite, now: datetime) -> None:
    beat(site, "backup", now, created_at=now.isoformat())
    beat(site, "drill", now, ok=True)


class Watching:
    """Rounds of one watch, with its state in a file."""

    def __init__(self, site: MemorySite, state: Path, **more: Any) -> None:
        self.settings = watch_file.Watch.model_validate({**PLAIN, **more})
        self.site, self.state = site, state

    def round(self, now: datetime) -> flow.Round:
        return flow.run_round(self.settings, self.site, self.state, SECRETS, lambda: now)


def by_hook(hook: Webhook) -> dict[str, Any]:
    return {"on-call": {"by": "webhook", "url": hook.url, "token_env": "HOOK_TOKEN"}}


def by_mail(mails: Mailbox, **more: Any) -> dict[str, Any]:
    plain = {"by": "mail", "host": "localhost", "port": mails.port, "sender": "w@example.eu", "to": "ops@example.eu"}
    return {"team": {**plain, "user": "watch", "password_env": "MAIL_PASSWORD", **more}}


def test_green_is_silent_red_is_told_once_and_again_and_green_again_once(
    site: MemorySite, hook: Webhook, tmp_path: Path
) -> None:
    watch, now = Watching(site, tmp_path / "state.json", alerts=by_hook(hook)), datetime.now(UTC)
    all_well(site, now)
    assert watch.round(now).exit_code == 0 and hook.posts == []
    later = now + timedelta(minutes=90)
    for minutes in (0, 5, 10):
        assert watch.round(later + timedelta(minutes=minutes)).exit_code == 1
    assert len(hook.posts) == 1
    body, headers = hook.posts[0]
    assert headers["Authorization"] == "Bearer token-secret" and headers["Content-Type"] == "application/json"
    (news,) = body["news"]
    assert (news["kind"], news["what"], news["state"]) == ("backup", "red", "late")
    assert news["last_heartbeat"] == now.isoformat() and "late by 30 min" in news["detail"]
    assert "RED: backup" in body["text"] and "docs/runbooks/missing-heartbeat.md" in body["text"]
    watch.round(later + timedelta(hours=4))
    assert [post[0]["news"][0]["what"] for post in hook.posts] == ["red", "still red"]
    all_well(site, now)
    for _ in range(2):
        assert watch.round(now + timedelta(minutes=1)).exit_code == 0
    assert len(hook.posts) == 3 and "green again: backup" in hook.posts[2][0]["text"]
    assert json.loads(watch.state.read_text()) == {"told": {"on-call": {}}}
    assert watch.state.stat().st_mode & 0o077 == 0


def test_a_heartbeat_that_is_written_while_a_slow_site_is_read_is_not_of_the_future(
    site: MemorySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_of_day, fetch = [datetime.now(UTC)], site.fetch

    def slow(bucket: str, key: str, **options: Any) -> Any:
        time_of_day[0] += timedelta(minutes=3)
        all_well(site, time_of_day[0])
        info, body = fetch(bucket, key, **options)
        return dataclasses.replace(info, modified=time_of_day[0]), body

    monkeypatch.setattr(site, "fetch", slow)
    watch = Watching(site, tmp_path / "state.json")
    found = flow.run_round(watch.settings, site, watch.state, SECRETS, lambda: time_of_day[0])
    assert [(judged.kind, judged.state) for judged in found.verdicts] == [("backup", "fresh"), ("drill", "fresh")]
    began = time_of_day[0]
    slow_clock = flow.run_round(watch.settings, site, watch.state, SECRETS, lambda: began)
    assert {judged.state for judged in slow_clock.verdicts} == {"skew"}, "a clock that stands still is wrong"


def test_a_mail_comes_encrypted_and_after_a_log_in(site: MemorySite, mails: Mailbox, tmp_path: Path) -> None:
    watch = Watching(site, tmp_path / "state.json", alerts=by_mail(mails))
    assert watch.round(datetime.now(UTC)).exit_code == 1
    ((mail, encrypted, user),) = mails.mails
    assert encrypted and user == "watch"
    assert (mail["To"], mail["From"]) == ("ops@example.eu", "w@example.eu")
    assert mail["Subject"] == "Rempart: RED: backup, drill"
    text = mail.get_content()
    assert "backup is red (missing)" in text and "What to do: docs/runbooks/missing-heartbeat.md" in text


def test_a_mail_server_that_speaks_tls_from_the_first_byte(
    site: MemorySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mailbox(tmp_path, from_the_first_byte=True) as mails:
        monkeypatch.setenv("SSL_CERT_FILE", str(mails.certificate))
        watch = Watching(site, tmp_path / "state.json", alerts=by_mail(mails, tls="tls"))
        assert watch.round(datetime.now(UTC)).undelivered == ()
    assert len(mails.mails) == 1


def test_no_password_goes_out_where_the_server_offers_no_encryption(
    site: MemorySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mailbox(tmp_path, starttls=False) as mails:
        monkeypatch.setenv("SSL_CERT_FILE", str(mails.certificate))
        (why,) = Watching(site, tmp_path / "s", alerts=by_mail(mails)).round(datetime.now(UTC)).undelivered
    assert "no STARTTLS" in why and mails.mails == []


def test_a_stranger_in_place_of_the_mail_server_is_not_told(
    site: MemorySite, mails: Mailbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    (why,) = Watching(site, tmp_path / "s", alerts=by_mail(mails)).round(datetime.now(UTC)).undelivered
    assert "SSLCertVerificationError" in why and mails.mails == []


def test_what_could_not_be_told_is_told_in_the_next_round_and_to_nobody_twice(
    site: MemorySite, hook: Webhook, mails: Mailbox, tmp_path: Path
) -> None:
    watch, now = Watching(site, tmp_path / "s.json", alerts=by_hook(hook) | by_mail(mails)), datetime.now(UTC)
    mails.refuse = "RCPT"
    first = watch.round(now)
    assert first.exit_code == 2 and "refused the recipient" in first.undelivered[0]
    mails.refuse = ""
    hook.status = 500  # he was told already
    second = watch.round(now + timedelta(minutes=5))
    assert second.exit_code == 1 and second.undelivered == ()
    assert len(hook.posts) == len(mails.mails) == 1


@pytest.mark.parametrize(
    ("status", "location", "told"), [(500, "", "answered 500"), (302, "http://127.0.0.1:1/", "answered 302")]
)
def test_a_webhook_that_refuses_or_sends_elsewhere_was_not_told(
    site: MemorySite, hook: Webhook, tmp_path: Path, status: int, location: str, told: str
) -> None:
    hook.status, hook.location = status, location
    found = Watching(site, tmp_path / "s.json", alerts=by_hook(hook)).round(datetime.now(UTC))
    assert found.exit_code == 2 and told in found.undelivered[0]


def test_no_secret_is_told_whatever_goes_wrong(
    site: MemorySite,
    hook: Webhook,
    mails: Mailbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hook.status, mails.refuse = 403, "AUTH"
    gone = {"away": {"by": "webhook", "url": "https://127.0.0.1:9/confidential-path"}}
    hidden = {"hidden": {"by": "webhook", "url_env": "HOOK_URL"}}
    monkeypatch.setitem(SECRETS, "HOOK_URL", "ftp://confidential-path")
    watch = Watching(site, tmp_path / "s.json", alerts=by_hook(hook) | by_mail(mails) | gone | hidden)
    found = watch.round(datetime.now(UTC))
    assert len(found.undelivered) == 4
    everything = "\n".join([*found.undelivered, caplog.text, repr(watch.settings)]).replace(hook.url, "")
    everything = everything.replace("https://127.0.0.1:9/confidential-path", "")
    for word in (*list(SECRETS.values())[:4], "confidential-path"):
        assert word not in everything.replace("mail-secret@", ""), word


def test_forged_missing_and_unreadable_are_red(site: MemorySite, tmp_path: Path) -> None:
    watch, now = Watching(site, tmp_path / "s.json"), datetime.now(UTC)
    beat(site, "backup", now, OTHER, created_at=now.isoformat())
    found = watch.round(now)
    assert [verdict.state for verdict in found.verdicts] == ["forged", "missing"] and found.exit_code == 1

    class UnreachableSite(MemorySite):
        def fetch(self, *_: object, **__: object) -> Any:
            raise SiteUnavailable("get at site 'haven': EndpointConnectionError", "Wait.")

    watch.site = UnreachableSite("haven")
    found = watch.round(now)
    assert {verdict.state for verdict in found.verdicts} == {"unreadable"} and found.exit_code == 2


def test_a_key_that_was_rotated_is_believed_once_the_file_names_it(site: MemorySite, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    beat(site, "backup", now, OTHER, created_at=now.isoformat())
    both = Watching(site, tmp_path / "s.json", keys=[to_base64(KEY.public), to_pem(OTHER.public)])
    assert both.round(now).verdicts[0].ok


def test_a_damaged_state_makes_it_tell_again_rather_than_keep_silent(
    site: MemorySite, hook: Webhook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watching(site, tmp_path / "s.json", alerts=by_hook(hook))
    for damaged in ("", "{", "[]", '{"told": {"on-call": {"backup": "noon"}}}', '{"told": 1}'):
        watch.state.write_text(damaged)
        watch.round(datetime.now(UTC))
    assert len(hook.posts) == 5 and "sent again" in caplog.text


def test_a_state_that_cannot_be_kept_is_an_error(site: MemorySite, hook: Webhook, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    watch = Watching(site, tmp_path / "file" / "s.json", alerts=by_hook(hook))
    with pytest.raises(WatchError, match="cannot be written"):
        watch.round(datetime.now(UTC))


def test_the_command_judges_once_and_needs_neither_project_nor_platform(tmp_path: Path) -> None:
    (tmp_path / "watch.yaml").write_text(yaml.safe_dump(PLAIN))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("REMPART_", "AIRFLOW_"))}
    code = (
        "import sys; from typer.testing import CliRunner; from rempart.cli import app;"
        "done = CliRunner().invoke(app, ['watch', '--once']); print(done.output, done.exit_code);"
        "print([m for m in ('airflow', 'psycopg', 'mlflow', 'sqlalchemy', 'feast', 'pandas') if m in sys.modules])"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, env=clean, capture_output=True, text=True, check=True)
    assert "REMPART_WATCH_ACCESS_KEY is not set" in done.stdout and " 2\n[]" in done.stdout
    done = subprocess.run(run, cwd=tmp_path, env=clean | SECRETS, capture_output=True, text=True, check=True)
    assert "RED backup" in done.stdout and "unreadable" in done.stdout and " 2\n[]" in done.stdout
    assert "only the exit code reports" in done.stdout and "site-secret" not in done.stdout


def test_round_after_round_until_it_is_ended(site: MemorySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "watch.yaml").write_text(yaml.safe_dump(PLAIN))
    monkeypatch.setattr(flow, "open_site", lambda *_: site)
    rounds = flow.rounds(tmp_path / "watch.yaml", None, SECRETS, lambda: datetime.now(UTC), lambda: None)
    message = [line for found in itertools.islice(rounds, 3) for line in found.lines()]
    assert sum("RED backup" in line for line in message) == 3


def test_a_wrong_file_ends_the_command_at_once(tmp_path: Path) -> None:
    (tmp_path / "watch.yaml").write_text("site: here")
    done = CliRunner().invoke(app, ["watch", "--every", "10s", "--file", str(tmp_path / "watch.yaml")])
    assert done.exit_code == 2 and "watch.yaml" in done.output


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"site": {**PLAIN["site"], "secret_key_env": "s3cr3t/value+word"}}, "site.secret_key_env"),
        ({"site": {**PLAIN["site"], "endpoint": "https://key:s3cr3t@host"}}, "no user or password"),
        ({"keys": []}, "keys"),
        ({"keys": ["s3cr3t"]}, "not an Ed25519 key"),
        ({"kinds": {"backups": {"max_interval": "1h"}}}, "kinds"),
        ({"kinds": {"backup": {}}}, "kinds.backup.max_interval: required key is missing"),
        ({"kinds": {"backup": {"max_interval": "soon"}}}, "write a duration"),
        ({"alerts": {"a": {"by": "webhook"}}}, "url: set either url or url_env"),
        ({"alerts": {"a": {"by": "webhook", "url": "http://example.eu/s3cr3t"}}}, "use https"),
        ({"alerts": {"a": {"by": "pigeon"}}}, "alerts.a"),
        (
            {"alerts": {"a": {"by": "mail", "host": "h", "sender": "a@b", "to": "c@d", "user": "u"}}},
            "give it with password_env",
        ),
        (
            {
                "alerts": {
                    "a": {"by": "mail", "host": "h", "sender": "a@b", "to": "c@d", "user": "u", "password_env": "P"}
                    | {"tls": "none"}
                }
            },
            "in the clear",
        ),
        (
            {"alerts": {"a": {"by": "mail", "host": "h", "sender": "a@b", "to": "c@d\r\nBcc: e@f"}}},
            "alerts.a.mail.to",
        ),
        ({"colour": "red"}, "colour: unknown key"),
    ],
)
def test_a_fault_in_the_file_is_told_by_its_path_and_no_secret_with_it(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    file = tmp_path / "watch.yaml"
    file.write_text(yaml.safe_dump({**PLAIN, **change}))
    with pytest.raises(ConfigError) as refused:
        watch_file.load(file)
    assert told in refused.value.what and str(file) in refused.value.what
    assert "s3cr3t" not in str(refused.value)


def test_every_is_a_duration() -> None:
    done = CliRunner().invoke(app, ["watch", "--every", "soon"])
    assert done.exit_code == 2 and "duration" in done.output
