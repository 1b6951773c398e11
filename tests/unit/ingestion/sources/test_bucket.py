"""The source `site`: new objects by key, size and ETag; whole or not at all; never a write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, BinaryIO

import pytest
import yaml

from rempart.errors import ConfigError, ConnectionMissing, IngestError, IntegrityError, PipelineError, PlacementDenied
from rempart.ingestion.sources import bucket as sources
from rempart.ingestion.sources.bucket import BucketFiles, open_bucket
from rempart.ingestion.sources.port import Delivery, Origin, Surroundings
from rempart.settings import config as configuration
from rempart.settings.config import Config, Connection, project_root
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.schema import read_yaml
from rempart.sites.port import Checks
from rempart.sovereignty.policy import Decision
from rempart.sovereignty.sources import decide_source
from tests.memory_site import MemorySite

NOW = datetime(2026, 11, 24, tzinfo=UTC)
ORIGIN = Origin("acme", "acme/shared/", "US", "US")


class Sink:
    """A landing bucket in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    def deliver(self, name: str, blocks: Iterator[bytes]) -> Delivery:
        body = b"".join(blocks)
        self.stored[name] = body
        return Delivery(name, len(body), hashlib.sha256(body).hexdigest())


@pytest.fixture
def site() -> MemorySite:
    made = MemorySite("acme")
    made.ensure_bucket("shared", versioned=False)
    return made


def take(site: MemorySite, state: Any = (), **more: Any) -> tuple[list[bytes], dict[str, str], bool]:
    sink = Sink()
    got = BucketFiles(site, "shared", "", ORIGIN, **more).extract(dict(state), sink, NOW)
    assert [delivery.key for delivery in got.deliveries] == list(sink.stored)
    return list(sink.stored.values()), dict(got.state), got.complete


def test_new_and_changed_objects_are_delivered_and_others_are_not(site: MemorySite) -> None:
    site.write("shared", "a/1.csv", b"one")
    site.write("shared", "b/1.csv", b"two")
    bodies, state, _ = take(site)
    assert bodies == [b"one", b"two"]  # the same name in two folders
    assert take(site, state) == ([], state, True)
    site.write("shared", "a/1.csv", b"one, changed")
    site.delete("shared", "b/1.csv")
    bodies, state, _ = take(site, state)
    assert bodies == [b"one, changed"] and len(state) == 1


def test_a_limit_ends_an_extraction_and_the_next_goes_on(site: MemorySite) -> None:
    for number in range(5):
        site.write("shared", f"{number}.csv", str(number).encode())
    state, taken, complete = {}, [], False
    while not complete:
        bodies, state, complete = take(site, state, at_once=2)
        taken += bodies
    assert taken == [b"0", b"1", b"2", b"3", b"4"]


def test_an_extraction_ends_after_so_many_bytes_and_the_next_goes_on(
    site: MemorySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "RUN_BYTES", 3)
    for number in range(3):
        site.write("shared", f"{number}.csv", f"no{number}".encode())
    bodies, state, complete = take(site)
    assert (bodies, complete) == ([b"no0"], False)
    bodies, state, complete = take(site, state)
    assert (bodies, complete) == ([b"no1"], False)
    bodies, state, complete = take(site, state)
    assert (bodies, complete) == ([b"no2"], True)


def test_markers_hidden_and_empty_objects_are_left_out(site: MemorySite) -> None:
    for key in ("folder/", "_SUCCESS", "x/.hidden.csv", "x/_temporary.csv"):
        site.write("shared", key, b"x" if "csv" in key else b"")
    assert take(site) == ([], {}, True)


@pytest.mark.parametrize("key", ["a b/é ü.csv", "..csv", "x..y.csv.gz", "weird\n.csv", "%2e%2e", "a" * 300 + ".csv"])
def test_every_key_has_a_plain_name(site: MemorySite, key: str) -> None:
    import re

    site.write("shared", key, b"x")
    sink = Sink()
    if BucketFiles(site, "shared", "", ORIGIN).extract({}, sink, NOW).deliveries:
        (name,) = sink.stored
        assert re.fullmatch(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*", name) and len(name) < 110
        assert name.endswith(".gz") == key.endswith(".gz")


class Altering(MemorySite):
    """A site that returns other bytes than it announced, or replaces an object while it is read."""

    body: bytes | None = None
    meanwhile: bytes | None = None
    record = ""

    @contextmanager
    def open(self, bucket: str, key: str, *, version_id: str | None = None, once: bool = False) -> Iterator[BinaryIO]:
        import io

        with super().open(bucket, key, version_id=version_id) as stream:
            yield io.BytesIO(self.body) if self.body is not None else stream
        if self.meanwhile is not None:
            self.write(bucket, key, self.meanwhile)

    def checks(self, bucket: str, key: str, *, version_id: str | None = None) -> Checks:
        return replace(super().checks(bucket, key, version_id=version_id), sha256=self.record)


@pytest.mark.parametrize(
    ("body", "record", "says"),
    [
        (b"shor", "", "4 bytes came, 5 were announced"),
        (b"longer than that", "", "bytes came, 5 were announced"),
        (b"other", hashlib.sha256(b"whole").hexdigest(), "SHA-256 is not the one on record"),
    ],
)
def test_an_altered_body_is_never_delivered(body: bytes, record: str, says: str) -> None:
    site = Altering("acme")
    site.ensure_bucket("shared", versioned=False)
    site.write("shared", "a.csv", b"whole")
    site.body, site.record = body, record
    sink = Sink()
    with pytest.raises(IntegrityError, match=says):
        BucketFiles(site, "shared", "", ORIGIN).extract({}, sink, NOW)
    assert sink.stored == {}


def test_an_object_that_is_replaced_meanwhile_comes_with_the_next_extraction() -> None:
    site = Altering("acme")
    site.ensure_bucket("shared", versioned=False)
    site.write("shared", "a.csv", b"before")
    site.meanwhile = b"and after"
    bodies, state, _ = take(site)
    assert (bodies, state) == ([], {})
    site.meanwhile = None
    assert take(site, state)[0] == [b"and after"]


def test_what_is_too_large_or_too_many_is_refused(site: MemorySite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write("shared", "a.csv", b"12345")
    site.write("shared", "b.csv", b"1")
    monkeypatch.setattr(sources, "OBJECTS", 1)
    with pytest.raises(IngestError, match="more than 1 objects"):
        take(site)
    monkeypatch.setattr(sources, "OBJECT_BYTES", 4)
    with pytest.raises(IngestError, match=r"a\.csv at 'acme': the object is larger"):
        take(site)


# --- the policy -------------------------------------------------------------------------------------------------------

ORIGINS = {"acme": {"operator": "aws", "region": "eu-central-1", "connection": "s3_acme"}}
WIDE = {"operators": ["aws"], "jurisdictions": ["EU"], "owner_jurisdictions": ["US"]}


def config(**changes: Any) -> Config:
    data = read_yaml(project_root() / "rempart.yaml")
    data["operators"] |= configuration.read_catalogue(
        configuration.operators_dir(project_root() / "rempart.yaml"), ["aws"]
    )
    data["origins"] = ORIGINS
    data["policy"]["personal"] |= changes
    return Config.model_validate(data)


def pipeline(**source: Any) -> ModelPipeline:
    data = yaml.safe_load((project_root() / "include" / "pipelines" / "hotel_bookings.yaml").read_text())
    data["source"] = {"prefix": "hotel_bookings/", "kind": "site", "site": "acme", "bucket": "shared", **source}
    return ModelPipeline.model_validate(data)


def around(settings: Config, recorded: list[Decision], endpoint: str) -> Surroundings:
    def record(decision: Decision) -> None:
        recorded.append(decision)
        if not decision.allowed:
            raise decision.refusal()

    def connections(name: str) -> Connection:
        if name != "s3_acme":
            raise ConnectionMissing(name, "")
        return Connection(name, "aws", login="key", password="secret", extra={"endpoint_url": endpoint})

    return Surroundings(settings, connections, NOW, record)


AWS = "https://s3.eu-central-1.amazonaws.com"


def test_reading_from_another_operator_is_a_decision_in_evidence() -> None:
    recorded: list[Decision] = []
    opened = open_bucket(pipeline(folder="year/"), around(config(origins=WIDE), recorded, AWS))
    assert opened.origin == Origin("aws", "acme/shared/year/", "DE, LU", "US")
    assert [(d.allowed, d.what, d.place) for d in recorded] == [(True, "origin", "origin 'acme'")]
    assert not hasattr(opened.site, "write") and not hasattr(opened.site, "delete")


def test_a_bucket_of_another_machine_is_not_read_without_tls() -> None:
    with pytest.raises(ConfigError, match="another machine without TLS"):
        open_bucket(pipeline(), around(config(origins=WIDE), [], AWS.replace("https", "http")))


@pytest.mark.parametrize(
    ("rule", "endpoint", "against"),
    [
        (None, AWS, {"policy.personal.owner_jurisdictions"}),
        ({**WIDE, "operators": []}, AWS, {"policy.personal.origins.operators"}),
        ({**WIDE, "owner_jurisdictions": ["EU"]}, AWS, {"policy.personal.origins.owner_jurisdictions"}),
        ({**WIDE, "jurisdictions": ["FR"]}, AWS, {"policy.personal.origins.jurisdictions"}),
        (WIDE, "https://s3.attacker.example", {"operators.aws.services.object-storage.endpoints"}),
    ],
)
def test_what_the_policy_does_not_allow_is_denied_with_evidence(rule: Any, endpoint: str, against: set[str]) -> None:
    recorded: list[Decision] = []
    settings = config(**({"origins": rule} if rule else {}))
    with pytest.raises(PlacementDenied, match="may not be read from origin 'acme'"):
        open_bucket(pipeline(), around(settings, recorded, endpoint))
    assert {reason.rule for reason in recorded[0].against} == against
    if endpoint == AWS:
        checked = decide_source(settings, "personal", pipeline().source, on=date(2026, 11, 24))
        assert checked is not None and not checked.allowed


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"site": "elsewhere"}, "'elsewhere' is not one of origins: acme"),
        ({"site": "haven"}, "'haven' is not one of origins: acme"),
        ({"kind": "files", "site": "acme"}, "'acme' is not one of sites"),
        ({"kind": "files", "site": "haven", "bucket": "lake"}, "is the platform's own"),
    ],
)
def test_a_place_that_is_none_is_refused_at_check_and_at_run_time(source: Any, says: str) -> None:
    settings = config(origins=WIDE)
    decision = decide_source(settings, "personal", pipeline(**source).source, on=date(2026, 11, 24))
    assert decision is not None and not decision.allowed and says in decision.explain()
    with pytest.raises(PipelineError, match=says):
        open_bucket(pipeline(**source), around(settings, [], AWS))
