"""What clients are told while the disk or a database does not answer, and while the scorer starts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from rempart.errors import DatabaseUnavailable
from rempart.serving.scorer import app
from rempart.serving.scorer.batches import BatchAnswer
from tests.answering import ROW, ScriptedVersion
from tests.unit.serving.scorer.test_app import Running, in_loop


def test_a_disk_that_does_not_answer_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ANSWER_SECONDS", 0.1)

    async def stalled(_: object) -> None:
        await asyncio.Event().wait()

    async def check(found: Running) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(found.log, "write", stalled)
            answer = await found.client.post("/predict/stays", json=ROW)
        assert answer.status_code == 503 and answer.json()["error"].startswith("log the predictions of 1 row")
        monkeypatch.setattr(app, "ANSWER_SECONDS", 30)
        assert (await found.client.post("/predict/stays", json=ROW)).status_code == 200

    in_loop(check)


def test_a_scorer_that_starts_refuses_no_key() -> None:
    async def check(found: Running) -> None:
        known, found.scorer.deployments.champions = found.scorer.deployments.champions, None
        for answer in (await found.client.post("/predict/stays", json=ROW), await found.client.get("/metrics")):
            assert answer.status_code == 503 and "the scorer starts" in answer.text and answer.headers["Retry-After"]
        assert (await found.client.get("/v2/health/live")).status_code == 200
        found.scorer.deployments.champions = known
        assert (await found.client.post("/predict/stays", json=ROW)).status_code == 200

    in_loop(check)


def test_a_database_that_is_away_is_asked_once_for_all_that_wait() -> None:
    version = ScriptedVersion()
    asked = list[int]()

    def away(rows: Sequence[Any]) -> BatchAnswer:
        asked.append(len(rows))
        raise DatabaseUnavailable("read view", "wait")

    version.answer = away  # type: ignore[method-assign]

    async def check(found: Running) -> None:
        answers = await asyncio.gather(*(found.client.post("/predict/stays", json=ROW) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {503}
        assert sum(asked) == 50

    in_loop(check, version)
