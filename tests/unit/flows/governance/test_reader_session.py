"""A key that only reads: refused with a remedy where a site makes no sessions, and described by the page as it is."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from rempart.errors import ConfigError, PlacementDenied
from rempart.flows.governance import reader_session
from rempart.flows.shared.platform import Platform
from rempart.settings import pipelines
from rempart.settings.config import Connection, project_root
from rempart.settings.sections import JobCredentials
from rempart.training import data_rights
from tests.switchovers import in_memory

NAME = "hotel_bookings"
PAGE = (project_root() / "docs" / "how-to" / "explore-in-a-notebook.md").read_text(encoding="utf-8")
ROLE = JobCredentials(kind="session", role="arn:aws:iam::000000000000:role/jobs")


def offering(offered: JobCredentials | None, **site: Any) -> Platform:
    platform = in_memory()
    changed = platform.config.sites["primary"].model_copy(update={"job_credentials": offered, **site})
    settings = platform.config.model_copy(update={"sites": {**platform.config.sites, "primary": changed}})
    return dataclasses.replace(
        platform,
        config=settings,
        connections=lambda name: Connection(name, "aws", extra={"endpoint_url": "http://127.0.0.1:9"}),
    )


def test_the_policy_of_the_page_is_the_one_of_the_command() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert json.loads(block) == data_rights.reader("lake", NAME, f"snapshots/{NAME}/")


@pytest.mark.parametrize("offered", [None, JobCredentials(kind="platform")])
def test_a_site_without_a_role_gets_no_session_and_the_page_says_what_to_do(offered: JobCredentials | None) -> None:
    with pytest.raises(ConfigError, match="has no role for sessions") as error:
        reader_session.open_session(offering(offered), "primary", pipelines.named(NAME), timedelta(hours=1))
    assert "docs/how-to/explore-in-a-notebook.md" in error.value.hint


def test_the_policy_is_asked_first_and_its_answer_is_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def assume(*given: Any) -> tuple[Connection, datetime]:
        asked.append(given)
        return given[1], datetime(2030, 1, 1)  # noqa: DTZ001 - not looked at

    monkeypatch.setattr(reader_session.sessions, "assume", assume)
    platform = offering(ROLE)
    reader_session.open_session(platform, "primary", pipelines.named(NAME), timedelta(hours=2))
    ((_, _, _, offered, request, decision),) = asked
    assert offered == ROLE and decision.allowed and request.seconds == 7200
    assert request.must_not == platform.config.buckets.lake and "held-out" in request.policy
    assert [record.body["allowed"] for record in platform.ledger.find("decision", decision.place)] == [True]
    abroad = platform.config.model_copy(
        update={
            "policy": {
                **platform.config.policy,
                "personal": platform.config.policy["personal"].model_copy(update={"jurisdictions": ["JP"]}),
            }
        }
    )
    with pytest.raises(PlacementDenied):
        reader_session.open_session(
            dataclasses.replace(platform, config=abroad), "primary", pipelines.named(NAME), timedelta(hours=2)
        )
    assert len(asked) == 1
