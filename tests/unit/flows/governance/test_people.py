"""If another system manages people, the command says so before it asks any database."""

from __future__ import annotations

from pathlib import Path

import pytest

from rempart.errors import AccessError
from rempart.flows.governance import people
from rempart.flows.shared.platform import Platform
from rempart.settings import config
from rempart.settings.sections import Access, External, StackService

LOADED = config.load(Path(__file__).resolve().parents[4] / "rempart.yaml")
THEIRS = StackService(external=External(url="https://airflow.internal", connection="airflow_api"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"access": Access(auth_manager="simple")}, "auth_manager is simple"),
        ({"services": {**LOADED.services, "airflow": THEIRS}}, "declares Airflow as external"),
    ],
)
def test_people_of_another_are_refused(changed: dict[str, object], message: str) -> None:
    platform = Platform(LOADED.model_copy(update=changed), lambda name: pytest.fail(f"{name} was asked for"))
    for act in (
        lambda: people.everybody(people.users_of(platform)),
        lambda: people.add(people.users_of(platform), "marie", "viewer", "x" * 20),
        lambda: people.remove(people.users_of(platform), "marie"),
        lambda: people.change_password(people.users_of(platform), "marie", "x" * 20),
        lambda: people.change_role(people.users_of(platform), "marie", "viewer"),
    ):
        with pytest.raises(AccessError, match=message):
            act()


def test_passwords_that_are_made_are_long_and_differ() -> None:
    made = {people.new_password() for _ in range(50)}
    assert len(made) == 50 and min(map(len, made)) >= 24
