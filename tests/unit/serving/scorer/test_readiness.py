"""When a scorer is ready, and how a key that was just issued works at once."""

from __future__ import annotations

import asyncio

import pytest

from rempart.serving.scorer import app
from rempart.serving.scorer.clients import Client, digest, new_key
from rempart.serving.scorer.deployments import OPENING, Deployment, Deployments
from tests.answering import ROW, ScriptedVersion
from tests.unit.serving.scorer.test_app import KEY, Running, in_loop


def test_a_key_that_is_newer_than_the_last_look_at_the_ledger_waits_for_the_next() -> None:
    new = {"Authorization": f"Bearer {new_key()}"}
    looks: list[str] = []

    async def look() -> None:
        looks.append("")

    async def check(found: Running) -> None:
        found.scorer.looked = look
        assert (await found.client.post("/predict/stays", json=ROW, headers=new)).status_code == 401
        assert len(looks) == 1
        known = found.scorer.clients.known

        async def look_and_find() -> None:
            key = digest(new["Authorization"].partition(" ")[2])
            found.scorer.clients.replace([*known, Client("new", key, ("stays",), 60)])

        found.scorer.looked = look_and_find
        assert (await found.client.post("/predict/stays", json=ROW, headers=new)).status_code == 200
        found.scorer.looked = look
        for header in ("", "Bearer", "Bearer rempart-client-short", f"Basic {KEY}"):
            answer = await found.client.get("/v2", headers={"Authorization": header})
            assert answer.status_code == 401
        assert len(looks) == 1, "nobody looks for what is no key"

    in_loop(check)


def test_few_unknown_keys_wait_so_that_nobody_takes_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MOST_UNKNOWN", 3)

    async def check(found: Running) -> None:
        looked, waiting = asyncio.Event(), 0

        async def look() -> None:
            nonlocal waiting
            waiting += 1
            await looked.wait()

        async def ask() -> int:
            headers = {"Authorization": f"Bearer {new_key()}"}
            return (await found.client.post("/predict/stays", json=ROW, headers=headers)).status_code

        found.scorer.looked = look
        first = [asyncio.create_task(ask()) for _ in range(3)]
        while waiting < 3:
            await asyncio.sleep(0)
        assert [await ask() for _ in range(5)] == [401] * 5, "they do not wait"
        assert (await found.client.post("/predict/stays", json=ROW)).status_code == 200
        first[0].cancel()
        await asyncio.wait([first[0]])
        fourth = asyncio.create_task(ask())
        while waiting < 4:
            await asyncio.sleep(0)
        looked.set()
        assert [await each for each in (*first[1:], fourth)] == [401] * 3
        assert await ask() == 401 and waiting == 5, "there is room again"

    in_loop(check)


def test_a_scorer_is_ready_once_every_champion_on_record_answers_or_is_known_to_fail() -> None:
    async def check() -> None:
        known = Deployments()
        assert not known.is_ready, "nothing is known yet"
        known.champions = ()
        assert known.is_ready, "nothing to serve is no failure"
        known.champions = ("a", "b")
        assert not known.is_ready
        known.replace("a", Deployment(ScriptedVersion()))
        assert not known.is_ready, "one is not opened yet"
        known.fail("b", "it is broken")
        assert known.is_ready
        known.replace("a", None)
        known.fail("a", "it is broken, too")
        assert not known.is_ready, "none answers"
        await known.finish()

    asyncio.run(check())


def test_a_new_pipelines_first_champion_keeps_no_request_from_the_others() -> None:
    async def check() -> None:
        known = Deployments(champions=("a",), has_started=True)
        known.fail("a", OPENING)
        assert known.is_ready, "nobody else waits for it, and its own callers are told when to ask again"
        known.replace("a", Deployment(ScriptedVersion()))
        known.champions = ("a", "b")
        known.fail("b", OPENING)
        assert known.is_ready
        known.replace("a", None)
        assert not known.slots["a"].is_opening, "a pipeline that was removed is not waited for"
        known.fail("a", "it is broken")
        assert not known.is_ready, "what is opened may fail, too"
        known.fail("b", "it is broken, too")
        assert not known.is_ready
        await known.finish()

    asyncio.run(check())
