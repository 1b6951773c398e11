"""From an HTTP service or another operator's bucket to a snapshot: killed anywhere, each row comes once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import PlacementDenied
from rempart.flows.ingestion.extract import extract
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.ingestion.sources.bucket import BucketFiles
from rempart.ingestion.sources.port import Origin
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config as configuration
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline
from tests.http_service import Reply, Request, serving
from tests.memory_site import MemorySite
from tests.unit.ingestion.conftest import HEADER, READINGS

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WRITES = ("write", "write_new", "write_file", "delete")
TEXT = "2026-01-01,1,,base,"


class Killed(BaseException):
    """The process ended here."""


def fresh(site: str | None = None, **origins: Any) -> Platform:
    """A platform in memory, with places that may be read from."""
    primary = MemorySite("primary")
    for bucket in ("landing", "lake"):
        primary.ensure_bucket(bucket, versioned=True)
    shipped = configuration.load()
    data = shipped.model_dump(by_alias=True, exclude_none=True) | {"origins": origins}
    config = configuration.Config.model_validate(data)

    def connections(name: str) -> Connection:
        return Connection(name, "http", password="not-to-be-seen")

    return Platform(config, connections, lambda: NOW, {"primary": primary}, MemoryLedger(), MemoryContinuity())  # type: ignore[dict-item] # a double


def pipeline(**source: Any) -> ModelPipeline:
    return ModelPipeline.model_validate(
        {**yaml.safe_load(READINGS), "source": {"prefix": "readings/", "format": "csv", **source}}
    )


def meters(platform: Platform) -> list[str]:
    site = platform.sites["primary"]
    snapshot = snapshots.current(site, "lake", "readings")
    return sorted(snapshots.load_table(site, "lake", snapshot)["meter"].to_pylist()) if snapshot else []


def dying(platform: Platform, at: int, stored: bool) -> Callable[[], None]:
    """Let the platform die at its n-th write, before or after it is stored. Return what mends it."""
    site, left = platform.sites["primary"], [at]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                if stored:
                    real(*args, **more)
                raise Killed
            return real(*args, **more)

        return call

    for name in WRITES:
        setattr(site, name, wrapped(getattr(site, name)))

    def mend() -> None:
        for name in WRITES:
            delattr(site, name)

    return mend


def run_killed(platform: Platform, declared: ModelPipeline, deaths: list[tuple[int, bool]], **more: Any) -> None:
    for at, stored in deaths:
        mend = dying(platform, at, stored)
        try:
            extract(platform, declared, **more)
            ingest(platform, declared)
        except Killed:
            pass
        finally:
            mend()
    for _ in range(2):
        extract(platform, declared, **more)
        assert ingest(platform, declared).quarantined == 0


LOCAL = {"operator": "this-machine", "service": "machine", "region": "local"}
deaths = st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=3)


@settings(max_examples=6)
@given(deaths=deaths, faults=st.lists(st.sampled_from([None, "cut", "500"]), max_size=4))
def test_rows_of_an_api(deaths: list[tuple[int, bool]], faults: list[str | None]) -> None:
    rows = [{"meter": f"m{n}", "day": "2026-01-01", "kwh": n, "tariff": "base", "unknown": n} for n in range(7)]
    left = list(faults)

    def answers(asked: Request) -> Reply:
        assert asked.headers["authorization"] == "Bearer not-to-be-seen"
        start = 3 * int(asked.query.get("page", "0"))
        body = json.dumps({"items": rows[start : start + 3]}).encode()
        fault = left.pop(0) if left else None
        return Reply(body, 500 if fault == "500" else 200, {}, len(body) // 2 if fault == "cut" else None)

    with serving(answers) as service:
        platform = fresh(meters={**LOCAL, "hosts": [f"127.0.0.1:{service.port}"], "connection": "meters"})
        declared = pipeline(
            kind="http",
            url=f"{service.url}/v1/readings",
            connection="meters",
            records="items",
            pagination={"by": "page", "parameter": "page", "first": 0},
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rempart.ingestion.sources.web.client.wait_of", lambda *about: 0.0)
            run_killed(platform, declared, deaths)
            assert meters(platform) == [f"m{n}" for n in range(7)]
            rows.append({"meter": "m7", "day": "2026-01-01", "kwh": 1, "tariff": "base"})
            run_killed(platform, declared, [])
    assert meters(platform) == [f"m{n}" for n in range(8)]
    record = platform.ledger.find("extraction", "readings", limit=1)[0].body
    assert (record["kind"], record["operator"], record["jurisdiction"]) == ("http", "this-machine", "FR")
    assert record["place"] == f"{service.url}/v1/readings"
    decisions = {(r.body["what"], r.body["place"]) for r in platform.ledger.find("decision", limit=99)}
    assert ("origin", f"host '127.0.0.1' port {service.port}") in decisions


@settings(max_examples=6)
@given(deaths=deaths)
def test_files_of_a_bucket(deaths: list[tuple[int, bool]]) -> None:
    theirs = MemorySite("acme")
    theirs.ensure_bucket("shared", versioned=False)
    for n in range(3):
        theirs.write("shared", f"year/{n}/readings.csv", f"{HEADER}m{n},{TEXT}\n".encode())
    platform, declared = fresh(), pipeline(kind="site", site="acme", bucket="shared")
    source = BucketFiles(theirs, "shared", "year/", Origin("acme", "acme/shared/year/", "DE", "US"), at_once=2)
    run_killed(platform, declared, deaths, source=source)
    assert meters(platform) == ["m0", "m1", "m2"]
    theirs.write("shared", "year/3/readings.csv", f"{HEADER}m3,{TEXT}\n".encode())
    run_killed(platform, declared, [], source=source)
    assert meters(platform) == ["m0", "m1", "m2", "m3"]
    record = platform.ledger.find("extraction", "readings", limit=1)[0].body
    assert (record["operator"], record["owner_jurisdiction"], record["place"]) == ("acme", "US", "acme/shared/year/")


def test_what_the_policy_denies_is_evidence_and_nothing_is_asked() -> None:
    with serving(lambda asked: Reply(b"[]")) as service:
        platform = fresh()
        with pytest.raises(PlacementDenied, match=r"may not be read from host '127\.0\.0\.1'"):
            extract(platform, pipeline(kind="http", url=f"{service.url}/rows"))
        assert service.asked == []
        (record,) = platform.ledger.find("denial", limit=9)
        assert (record.body["what"], record.body["allowed"]) == ("origin", False)


def test_a_download_is_delivered_as_it_is_and_once() -> None:
    body = [f"{HEADER}m1,{TEXT}\n".encode()]

    def answers(asked: Request) -> Reply:
        etag = f'"{len(body[0])}"'
        same = asked.headers.get("if-none-match") == etag
        return Reply(b"" if same else body[0], 304 if same else 200, {"ETag": etag})

    with serving(answers) as service:
        platform = fresh(meters={**LOCAL, "hosts": [f"127.0.0.1:{service.port}"]})
        declared = pipeline(kind="http", url=f"{service.url}/readings.csv", download=True)
        run_killed(platform, declared, [])
        body[0] += f"m2,{TEXT}\n".encode()
        assert extract(platform, declared).deliveries == 1
        taken = ingest(platform, declared)
    assert (taken.accepted, meters(platform)) == (1, ["m1", "m2"])


def test_a_platform_elsewhere_reads_nothing_through_the_state_of_another(tmp_path: Any) -> None:
    """The state counts with its snapshot: a platform without the snapshot takes everything anew."""
    theirs = MemorySite("acme")
    theirs.ensure_bucket("shared", versioned=False)
    theirs.write("shared", "readings.csv", f"{HEADER}m1,{TEXT}\n".encode())
    source = BucketFiles(theirs, "shared", "", Origin("acme", "acme/shared/", "DE", "US"))
    declared = pipeline(kind="site", site="acme", bucket="shared")
    for platform in (fresh(), replace(fresh(), clock=lambda: NOW)):
        run_killed(platform, declared, [], source=source)
        assert meters(platform) == ["m1"]
