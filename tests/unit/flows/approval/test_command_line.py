"""`rempart model approve` and `reject`: the password of Airflow proves who sits there, and the same rules hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner
from werkzeug.security import generate_password_hash

from rempart.cli import app
from rempart.deployment.access import people
from rempart.flows.approval import decide as flow
from rempart.flows.approval import directory
from rempart.flows.approval.rules import Person as Approver
from rempart.flows.governance.people import Users
from rempart.flows.shared import platform as opened
from rempart.settings import pipelines
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline
from tests.switchovers import in_memory
from tests.unit.flows.approval.test_decide import NAME, PIPELINE, REASON, waits

PASSWORD = "a-long-password"
HASH = generate_password_hash(PASSWORD, "pbkdf2:sha256:100")
USERS = {
    "ada": people.Person(3, "ada", ("operator",), True, None),
    "bob": people.Person(5, "bob", ("admin",), True, None),
    "gone": people.Person(9, "gone", ("admin",), False, None),
    "admin": people.Person(1, "admin", ("admin",), True, None),
}


class Tables:
    """Airflow's tables of users."""

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *given: object) -> None:
        pass


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> Users:
    monkeypatch.setattr(people, "tables", lambda database: Tables())
    monkeypatch.setattr(people, "listed", lambda session: list(USERS.values()))
    monkeypatch.setattr(people, "password_hash", lambda session, person: HASH)
    loaded = in_memory().config
    return Users(loaded, lambda: None, lambda: ("admin",), lambda: Connection("pg_airflow", "postgres"))  # type: ignore[arg-type, return-value] # the ledger is not asked


def test_only_the_own_password_of_an_active_user_proves_who_it_is(users: Users) -> None:
    assert directory.proven(users, "bob", PASSWORD) == Approver(5, ("admin",))
    assert directory.proven(users, "admin", PASSWORD).own
    for name, password in (("bob", "another"), ("bob", ""), ("nobody", PASSWORD), ("gone", PASSWORD)):
        with pytest.raises(Exception, match="name and password are not those"):
            directory.proven(users, name, password)
    found = directory.directory(users)
    assert found.of_user("3") == Approver(3, ("operator",)) and found.of_user("1").own


@pytest.fixture
def typed(users: Users, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, and its platform."""
    platform = in_memory()
    monkeypatch.setattr(opened, "open_platform", lambda: platform)
    monkeypatch.setattr(pipelines, "with_model", lambda loaded: PIPELINE if isinstance(loaded, ModelPipeline) else None)
    monkeypatch.setattr("rempart.flows.governance.people.users_of", lambda platform: users)
    monkeypatch.setattr(type(platform), "tracking", lambda self: None)
    monkeypatch.setattr(flow.registry, "promote", lambda *given: None)
    monkeypatch.setattr(flow.registry, "refuse", lambda *given: None)
    monkeypatch.setattr(flow.validate, "check_files", lambda *given: None)
    cards = list[str]()
    monkeypatch.setattr(
        "rempart.flows.training.explained.keep.keep", lambda platform, pipeline, version: cards.append(version)
    )

    def run(*words: str, password: str = PASSWORD) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["model", *words, "--reason", REASON, "--json"], input=f"{password}\n")
        told = str(done.exception) if done.exception and not isinstance(done.exception, SystemExit) else done.output
        return done.exit_code, told

    run.ledger = platform.ledger  # type: ignore[attr-defined] # for the tests below
    run.platform = platform  # type: ignore[attr-defined]
    run.cards = cards  # type: ignore[attr-defined]
    return run


def test_the_author_is_refused_at_the_command_line_and_another_person_promotes(typed: Any) -> None:
    waits(typed.platform, "2", None)
    code, _ = typed("approve", NAME, "2", "--user", "bob", "--yes", password="wrong")
    assert code == 1 and not typed.ledger.find("promotion")
    assert typed("approve", NAME, "2", "--yes")[0] == 2  # nobody named
    code, told = typed("approve", NAME, "2", "--user", "ada", "--yes")
    assert code == 1 and "is an author" in json.loads(told)["told"] and len(typed.ledger.find("answer")) == 1
    code, told = typed("approve", NAME, "2", "--user", "bob")
    assert code == 0 and json.loads(told)["dry_run"] and not typed.ledger.find("promotion")
    assert not typed.cards  # nothing was decided
    code, told = typed("approve", NAME, "2", "--user", "bob", "--yes")
    assert code == 0 and json.loads(told)["promoted"]
    assert typed.ledger.find("promotion")[0].body["approved_by"] == "user 5" and typed.cards == ["2"]


def test_a_person_rejects_at_the_command_line(typed: Any) -> None:
    waits(typed.platform, "2", None)
    assert typed("reject", NAME, "2", "--user", "ada", "--yes")[0] == 0
    assert typed.ledger.find("refusal")[0].body["rejected_by"] == "user 3" and typed.cards == ["2"]
