"""Requests and answers: both protocols, who may ask, what is refused, and the order of log and answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from rempart.errors import DatabaseUnavailable, ModelRefused, ServingError
from rempart.serving.scorer import bodies
from rempart.serving.scorer.app import Scorer
from rempart.serving.scorer.clients import Client, Clients, digest, new_key
from rempart.serving.scorer.deployments import Deployment, Deployments, Slot
from tests.answering import ROW, RecordingLog, ScriptedVersion

KEY, OTHER_KEY, METRICS_KEY = new_key(), new_key(), new_key()
HEADERS = {"Authorization": f"Bearer {KEY}"}
SECRET = "CANARY-5f"


class Running:
    """A scorer, its log, and a client without network."""

    def __init__(self, version: ScriptedVersion) -> None:
        self.log = RecordingLog()
        clients = Clients()
        clients.replace(
            [
                Client("shop", digest(KEY), ("stays", "none_yet", "broken"), 100_000),
                Client("till", digest(OTHER_KEY), ("other",), 2),
                Client("prometheus", digest(METRICS_KEY), (), 600, metrics=True),
            ]
        )
        deployments = Deployments()
        deployments.known_at, deployments.fault = datetime.now(UTC), ""
        deployments.champions = ("stays", "broken")
        self.scorer = Scorer(deployments, clients, self.log, "trial/here/1", "0.1.0")
        deployments.replace("stays", Deployment(version))
        deployments.slots["broken"] = Slot(fault="it is broken")
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.scorer.application()), base_url="http://scorer", headers=HEADERS
        )

    async def infer(self, **changes: Any) -> httpx.Response:
        body = {"inputs": tensors(), "id": "q1"} | changes
        return await self.client.post("/v2/models/stays/infer", json=body)


def tensors(rows: int = 2) -> list[dict[str, Any]]:
    types = {"lead": "INT64", "rate": "FP64", "vip": "BOOL"}
    return [
        {"name": name, "shape": [rows], "datatype": types.get(name, "BYTES"), "data": [value] * rows}
        for name, value in ROW.items()
    ]


@asynccontextmanager
async def running(version: ScriptedVersion | None = None) -> AsyncIterator[Running]:
    found = Running(version or ScriptedVersion())
    try:
        yield found
    finally:
        await found.client.aclose()
        await found.scorer.shadows.finish()
        await found.scorer.deployments.finish()


def in_loop(check: Callable[[Running], Awaitable[None]], version: ScriptedVersion | None = None) -> None:
    async def main() -> None:
        async with running(version) as found:
            await check(found)

    asyncio.run(main())


def test_rows_are_answered_and_logged_with_who_asked() -> None:
    async def check(found: Running) -> None:
        for body, rows in (({"rows": [ROW | {"extra": SECRET}, ROW]}, 2), (ROW, 1)):
            found.log.entries.clear()
            answer = await found.client.post("/predict/stays", json=body)
            assert answer.status_code == 200
            told = answer.json()
            assert {**told, "predictions": None} == {
                "pipeline": "stays", "version": "1", "sha256": "1".zfill(64), "predictions": None,
            }  # fmt: skip
            assert [each["prediction"] for each in told["predictions"]] == [1.0] * rows
            assert [each["id"] for each in told["predictions"]] == [entry.id for entry in found.log.entries]
            entry = found.log.entries[0]
            assert (entry.pipeline, entry.client, entry.place) == ("stays", "shop", "trial/here/1")
            assert entry.inputs == ROW and entry.features == {"lead": 1.0} and entry.returned

    in_loop(check)


def test_a_prediction_names_the_views_that_had_no_value() -> None:
    (version := ScriptedVersion()).without = ("trend",)

    async def check(found: Running) -> None:
        for without in (("trend",), ()):
            version.without = without
            (told,) = (await found.client.post("/predict/stays", json=ROW)).json()["predictions"]
            assert told.get("without", []) == list(without) and ("without" in told) == bool(without)

    in_loop(check, version)


def test_the_key_is_logged_in_one_form_and_other_columns_are_not() -> None:
    async def check(found: Running) -> None:
        for given in (7, 7.0):
            found.log.entries.clear()
            row = ROW | {"stay_id": given, "note": SECRET}
            assert (await found.client.post("/predict/stays", json=row)).status_code == 200
            assert found.log.entries[0].inputs == ROW | {"stay_id": 7}
            assert type(found.log.entries[0].inputs["stay_id"]) is int
        more = [*tensors(), {"name": "stay_id", "shape": [2], "datatype": "INT64", "data": [7, 8]}]
        assert (await found.infer(inputs=more)).status_code == 200
        assert [entry.inputs["stay_id"] for entry in found.log.entries[-2:]] == [7, 8]
        keys = {"keys": [{"stay_id": 9, "note": SECRET}]}
        assert (await found.client.post("/predict/stays", json=keys)).status_code == 200
        assert found.log.entries[-1].inputs == {"stay_id": 9}
        refused = await found.client.post("/predict/stays", json=ROW | {"stay_id": SECRET})
        assert refused.status_code in (400, 422) and SECRET not in refused.text and "of the key" in refused.text
        assert (await found.client.post("/predict/stays/", json=ROW)).status_code == 404, "no redirect"
        for deep in ([], {"a": SECRET}, [[[SECRET]]]):  # nobody could read the log again if it is deep enough
            refused = await found.client.post("/predict/stays", json={"keys": [{"stay_id": 9, "guest": deep}]})
            assert refused.status_code == 400 and "'guest' has a list" in refused.text and SECRET not in refused.text
            ignored = {"keys": [{"stay_id": 9, "note": deep}]}
            assert (await found.client.post("/predict/stays", json=ignored)).status_code == 200

    in_loop(check)


def test_the_open_inference_protocol() -> None:
    async def check(found: Running) -> None:
        answer = (await found.infer()).json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("stays", "1", "q1")
        assert answer["outputs"] == [{"name": "prediction", "shape": [2], "datatype": "FP64", "data": [1.0, 1.0]}]
        assert answer["parameters"]["ids"].split(",") == [entry.id for entry in found.log.entries]
        assert found.log.entries[0].inputs == ROW
        column = [{**tensor, "shape": [2, 1], "data": [[v] for v in tensor["data"]]} for tensor in tensors()]
        assert (await found.infer(inputs=column)).status_code == 200
        model = (await found.client.get("/v2/models/stays")).json()
        assert (model["versions"], model["inputs"][0]) == (
            ["1"],
            {"name": "lead", "datatype": "INT64", "shape": [-1]},
        )
        assert (await found.client.get("/v2")).json()["name"] == "rempart"
        assert (await found.client.get("/v2/models/stays/ready")).json() == {"name": "stays", "ready": True}
        versioned = "/v2/models/stays/versions/{}/infer"
        body = {"inputs": tensors()}
        assert (await found.client.post(versioned.format("1"), json=body)).status_code == 200
        refused = await found.client.post(versioned.format("2"), json=body)
        assert refused.status_code == 404 and "it is not the champion" in refused.json()["error"]

    in_loop(check)


def without(name: str) -> dict[str, Any]:
    return {column: value for column, value in ROW.items() if column != name}


def changed(tensor: Mapping[str, Any], place: int = 0) -> dict[str, Any]:
    made: list[Any] = tensors()
    made[place] = made[place] | tensor
    return {"inputs": made}


WRONG: list[tuple[str, Any, int]] = [
    ("/predict/stays", b"", 400),
    ("/predict/stays", b"{", 400),
    ("/predict/stays", b"\xff\xfe", 400),
    ("/predict/stays", b'{"lead": NaN}', 400),
    ("/predict/stays", b"[" * 100_000, 400),
    ("/predict/stays", b'"' + SECRET.encode() + b'"', 400),
    ("/predict/stays", [ROW], 400),
    ("/predict/stays", {"rows": []}, 400),
    ("/predict/stays", {"rows": [1]}, 400),
    ("/predict/stays", {"rows": [ROW], "more": 1}, 400),
    ("/predict/stays", {"rows": [ROW, without("lead")]}, 400),
    ("/predict/stays", {"rows": [ROW] * 1001}, 413),
    ("/predict/stays", {}, 400),
    ("/predict/stays", ROW | {"lead": SECRET}, 400),
    ("/predict/stays", ROW | {"lead": 2**63}, 400),
    ("/predict/stays", ROW | {"room": SECRET}, 400),
    ("/predict/stays", ROW | {"guest": {"a": SECRET}}, 400),
    ("/predict/stays", ROW | {"guest": f"\0{SECRET}"}, 400),
    ("/predict/stays", ROW | {"arrival": "2026-02-30"}, 400),
    ("/predict/stays", ROW | {"at": "9999-12-31T23:59:59-14:00"}, 400),
    ("/predict/stays", ROW | {"vip": None}, 400),
    ("/predict/stays", b'{"guest": "' + b"a" * (bodies.MOST_BODY + 1) + b'"}', 413),
    ("/predict/none_yet", ROW, 404),
    ("/predict/broken", ROW, 503),
    ("/predict/other", ROW, 403),
    ("/predict/..%2f..%2fetc", ROW, 404),
    ("/nowhere", ROW, 404),
    ("/v2", ROW, 405),
    ("/v2/models/stays/infer", {"inputs": {}}, 400),
    ("/v2/models/stays/infer", {"inputs": [1]}, 400),
    ("/v2/models/stays/infer", {"inputs": tensors()[1:]}, 400),
    ("/v2/models/stays/infer", {"inputs": [*tensors(), tensors()[0]]}, 400),
    ("/v2/models/stays/infer", {"inputs": tensors(0)}, 400),
    ("/v2/models/stays/infer", {"inputs": tensors(1001)}, 413),
    ("/v2/models/stays/infer", {"inputs": tensors(), "id": 3}, 400),
    ("/v2/models/stays/infer", changed({"name": "unknown"}), 400),
    ("/v2/models/stays/infer", changed({"datatype": "BYTES"}), 400),
    ("/v2/models/stays/infer", changed({"shape": [3]}), 400),
    ("/v2/models/stays/infer", changed({"shape": [2.0]}), 400),
    ("/v2/models/stays/infer", changed({"shape": "2"}), 400),
    ("/v2/models/stays/infer", changed({"data": [SECRET, 1]}), 400),
    ("/v2/models/stays/infer", changed({"data": [[1], [2]]}), 400),
    ("/v2/models/stays/infer", changed({"data": None}), 400),
]


def test_wrong_requests_are_told_what_is_wrong_and_never_fail_the_scorer(caplog: pytest.LogCaptureFixture) -> None:
    async def check(found: Running) -> None:
        for address, body, status in WRONG:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = await found.client.post(address, content=content)
            assert answer.status_code == status, (address, answer.text)
            told = answer.json()
            assert set(told) == {"error", "remedy"} and all(told.values())
            assert SECRET not in answer.text and "Traceback" not in answer.text
        assert not found.log.entries
        for headers, status in (
            ({"Content-Encoding": "gzip"}, 415),
            ({"Content-Length": "99999999999"}, 413),
            ({"Authorization": "Bearer x"}, 401),
            ({"Authorization": f"Bearer {OTHER_KEY}"}, 403),
        ):
            answer = await found.client.post("/predict/stays", content=json.dumps(ROW), headers=headers)
            assert answer.status_code == status and set(answer.json()) == {"error", "remedy"}
        for method in ("GET", "PUT", "DELETE"):
            answer = await found.client.request(method, "/predict/stays")
            assert answer.status_code == 405 and "no such method" in answer.json()["error"]

    in_loop(check)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (DatabaseUnavailable("read view", "wait"), 503),
        (ModelRefused("run the model", "look"), 503),
        (ServingError("predict", "wait"), 503),
        (ValueError(SECRET), 503),
    ],
)
def test_a_failure_of_the_model_is_an_answer_without_values(
    fault: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    version = ScriptedVersion()
    version.fails = fault

    async def check(found: Running) -> None:
        answer = await found.client.post("/predict/stays", json=ROW)
        assert (answer.status_code, SECRET in answer.text) == (status, False)
        version.fails = None
        assert (await found.client.post("/predict/stays", json=ROW)).status_code == 200

    in_loop(check, version)
    assert SECRET not in caplog.text


def test_nothing_is_answered_that_is_not_logged() -> None:
    async def check(found: Running) -> None:
        found.log.fault = ServingError("write the log: the disk is full", "Make space.")
        answer = await found.client.post("/predict/stays", json=ROW)
        assert answer.status_code == 503 and "predictions" not in answer.json()
        found.log.fault = OSError(SECRET)
        answer = await found.client.post("/predict/stays", json=ROW)
        assert answer.status_code == 500 and SECRET not in answer.text

    in_loop(check)


def test_health_needs_no_key_and_everything_else_does() -> None:
    async def check(found: Running) -> None:
        bare = httpx.AsyncClient(transport=httpx.ASGITransport(found.scorer.application()), base_url="http://scorer")
        assert (await bare.get("/v2/health/live")).json() == {"live": True}
        ready = (await bare.get("/v2/health/ready")).json()
        assert (ready["ready"], ready["models"], ready["failing"], ready["ledger_answers"]) == (True, 1, 1, True)
        for method, path in (
            ("GET", "/v2"),
            ("GET", "/metrics"),
            ("GET", "/v2/models/stays"),
            ("GET", "/v2/models/stays/ready"),
            ("POST", "/v2/models/stays/infer"),
            ("POST", "/predict/stays"),
        ):
            assert (await bare.request(method, path)).status_code == 401
        await bare.aclose()
        found.scorer.deployments.replace("stays", None)
        assert (await found.client.get("/v2/health/ready")).status_code == 503

    in_loop(check)


def test_a_quota_is_refused_with_the_time_to_wait() -> None:
    async def check(found: Running) -> None:
        headers = {"Authorization": f"Bearer {OTHER_KEY}"}
        statuses = [(await found.client.post("/predict/other", json=ROW, headers=headers)) for _ in range(3)]
        assert [answer.status_code for answer in statuses] == [404, 404, 429]
        assert int(statuses[2].headers["Retry-After"]) >= 29

    in_loop(check)


def test_metrics_count_requests_and_name_the_version() -> None:
    async def check(found: Running) -> None:
        await found.client.post("/predict/stays", json={"rows": [ROW, ROW]})
        await found.client.post("/predict/stays", json={})
        refused = await found.client.get("/metrics")
        assert refused.status_code == 403 and "stays" not in refused.text, "it names pipelines and versions"
        own = {"Authorization": f"Bearer {METRICS_KEY}"}
        assert (await found.client.post("/predict/stays", json=ROW, headers=own)).status_code == 403
        text = (await found.client.get("/metrics", headers=own)).text
        for line in (
            'rempart_scorer_requests_total{pipeline="stays",status="200"} 1',
            'rempart_scorer_requests_total{pipeline="stays",status="400"} 1',
            'rempart_scorer_rows_total{pipeline="stays"} 2',
            'rempart_scorer_seconds_count{pipeline="stays"} 2',
            f'rempart_scorer_version{{pipeline="stays",version="1",sha256="{"1".zfill(64)}"}} 1',
            'rempart_scorer_failing{pipeline="broken"} 1',
            'rempart_scorer_swaps_total{pipeline="stays"} 1',
        ):
            assert line in text.splitlines()
        assert "rempart_scorer_ledger_age_seconds 0." in text

    in_loop(check)


def test_a_shadow_is_logged_and_never_returned_and_never_slows_an_answer() -> None:
    async def check(found: Running) -> None:
        shadow = ScriptedVersion("2")
        found.scorer.deployments.replace_shadow("stays", Deployment(shadow, most_waiting=1))
        answer = await found.client.post("/predict/stays", json=ROW)
        assert answer.json()["version"] == "1"
        await found.scorer.shadows.finish()
        (one_returned, one_hidden) = found.log.entries
        assert (one_returned.version, one_returned.returned) == ("1", True)
        assert (one_hidden.version, one_hidden.returned, one_hidden.output) == ("2", False, {"prediction": 2.0})
        assert one_hidden.id != one_returned.id
        assert (await found.client.post("/predict/stays", json={"rows": [ROW, ROW]})).status_code == 200
        shadow.fails = ModelRefused("run", "look")
        assert (await found.client.post("/predict/stays", json=ROW)).status_code == 200
        await found.scorer.shadows.finish()
        metrics = found.scorer.metrics
        counted = (metrics.shadow_rows["stays"], metrics.shadow_dropped["stays"], metrics.shadow_failed["stays"])
        assert counted == (1, 2, 1)

    in_loop(check)


def test_a_shadow_that_fails_unforeseen_is_counted_and_keeps_no_scorer_from_its_end() -> None:
    async def check(found: Running) -> None:
        found.scorer.shadows.log = (log := RecordingLog())
        log.fault = ValueError(SECRET)
        found.scorer.deployments.replace_shadow("stays", Deployment(ScriptedVersion("2")))
        assert (await found.client.post("/predict/stays", json=ROW)).status_code == 200
        await found.scorer.shadows.finish()
        assert found.scorer.metrics.shadow_failed["stays"] == 1

    in_loop(check)


def test_a_swap_and_a_rollback_lose_no_request() -> None:
    first, second, third = ScriptedVersion("1"), ScriptedVersion("2"), ScriptedVersion("1")

    async def check(found: Running) -> None:
        answers: list[httpx.Response] = []

        async def ask(number: int) -> None:
            for _ in range(100):
                answers.append(await found.client.post("/predict/stays", json=ROW))

        async def swap() -> None:
            for at, version in ((600, second), (1300, third)):
                while len(answers) < at:
                    await asyncio.sleep(0)
                found.scorer.deployments.replace("stays", Deployment(version))

        await asyncio.gather(swap(), *(ask(number) for number in range(20)))
        assert len(answers) == 2000 and {answer.status_code for answer in answers} == {200}
        told = [answer.json() for answer in answers]
        assert all(float(each["version"]) == each["predictions"][0]["prediction"] for each in told)
        versions = [each["version"] for each in told]
        assert min(versions.count("1"), versions.count("2")) > 100
        assert {each["predictions"][0]["id"] for each in told} == {entry.id for entry in found.log.entries}

    in_loop(check, first)
    assert first.closed and second.closed and third.closed
    assert max(first.batches) > 1, "requests that wait are predicted together"
