"""Ingestion that is killed, or whose site stores and reads wrong bytes."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rempart.errors import IntegrityError, SiteUnavailable
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries
from rempart.ledger.memory import MemoryLedger
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Checks
from tests.memory_site import MemorySite
from tests.unit.ingestion.conftest import NOW
from tests.unit.ingestion.deliveries import BAD, A, B, C, lake


class CutOff(MemorySite):
    """A site that stops answering at its n-th change."""

    def __init__(self) -> None:
        super().__init__("primary")
        self.left = 10_000

    def _change(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise SiteUnavailable("cut off", "run again")

    def write(self, *arguments: Any, **named: Any) -> Any:
        self._change()
        return super().write(*arguments, **named)

    def delete(self, *arguments: Any, **named: Any) -> None:
        self._change()
        super().delete(*arguments, **named)


class CutOffLedger(MemoryLedger):
    cut = False

    def append(self, *arguments: Any) -> Any:
        if self.cut:
            raise SiteUnavailable("cut off", "run again")
        return super().append(*arguments)


def settled(platform: Platform) -> dict[str, object]:
    """Return the objects and records after a run, without times."""
    kept: dict[str, object] = {}
    for key, body in lake(platform).items():
        value = json.loads(body) if key.endswith(".json") and "_delta_log" not in key else body
        if isinstance(value, dict):
            for counted in (value, *value.get("deliveries", ())):
                counted.pop("landed_at", None)
        kept[key] = value
    return kept


def test_cut_off_at_every_change_and_run_again_ends_as_if_never_cut(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    files = {"1.csv": (A, BAD), "2.csv": (B, "m9"), "3.csv": (C, A)}

    def fresh() -> tuple[Platform, CutOff]:
        site = CutOff()
        for bucket in ("landing", "lake"):
            site.ensure_bucket(bucket, versioned=True)
        made = replace(platform, sites={"primary": site}, ledger_=CutOffLedger())
        return made, site

    def run(target: Platform, cut_at: int | None, cut_ledger: bool = False) -> list[Any]:
        site, ledger = target.sites["primary"], target.ledger
        assert isinstance(site, CutOff)
        assert isinstance(ledger, CutOffLedger)
        deliver("0.csv", "m0,2026-01-05,1,1,base,", to=target)
        ingest(target, readings)
        for name, rows in files.items():
            deliver(name, *rows, to=target)
        results = []
        if cut_at is not None or cut_ledger:
            site.left = cut_at if cut_at is not None else 10_000
            ledger.cut = cut_ledger
            with contextlib.suppress(SiteUnavailable):
                results.append(ingest(target, readings))
            site.left, ledger.cut = 10_000, False
        results.append(ingest(target, readings))
        return results

    whole, _ = fresh()
    (wanted,) = run(whole, None)
    changes = 0
    for step in range(100):
        broken, _ = fresh()
        results = run(broken, step)
        assert settled(broken) == settled(whole), f"cut off at change {step}"
        assert not list(broken.sites["primary"].list("landing"))
        assert [e.body for e in broken.ledger.find("snapshot")] == [e.body for e in whole.ledger.find("snapshot")]
        assert [r for r in results if r.changed] == [wanted], f"cut off at change {step}"
        if len(results) == 2:
            changes = step
            break
    assert changes > 15
    broken, _ = fresh()
    assert run(broken, None, cut_ledger=True) == [wanted]
    assert settled(broken) == settled(whole)


def test_runs_that_refuse_all_rows_keep_their_order_where_the_second_ones_clock_is_behind(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    def later(minutes: int) -> Platform:
        return replace(platform, clock=lambda: NOW + timedelta(minutes=minutes))

    for minutes, line in ((10, BAD), (0, f"{BAD}later")):
        deliver("one.csv", line)
        found = ingest(later(minutes), readings)
        assert (found.snapshot, found.quarantined) == (None, 1)
    told = deliveries.outcomes(platform.sites["primary"], "lake", "readings")
    first, second = sorted(told, key=deliveries.in_order)
    recorded = [told["sha256"] for record in platform.ledger.find("deliveries") for told in record.body["deliveries"]]
    assert [second["sha256"], first["sha256"]] == recorded  # the newest record comes first


class Lying(MemorySite):
    """A site that reports puts below a prefix as done, and stores nothing or other bytes."""

    below, how, reads_wrong = "", "", ""

    def write(self, bucket: str, key: str, body: bytes, **named: Any) -> Any:
        altered = bucket == "lake" and key.startswith(self.below)
        if altered and self.how == "altered":
            body = bytes([body[0] ^ 1]) + body[1:]
        info = super().write(bucket, key, body, **named)
        if altered and self.how == "lost":
            self.delete(bucket, key, version_id=info.version_id)
        return info

    def open(self, bucket: str, key: str, **named: Any) -> Any:
        if bucket != "landing" or not self.reads_wrong:
            return super().open(bucket, key, **named)
        return contextlib.nullcontext(io.BytesIO(self._wrong(self.read(bucket, key))))

    def fetch(self, bucket: str, key: str, **named: Any) -> Any:
        info, body = super().fetch(bucket, key, **named)
        return info, self._wrong(body) if bucket == "landing" and self.reads_wrong else body

    def _wrong(self, body: bytes) -> bytes:
        return body[:-9] if self.reads_wrong == "cut" else body.replace(b"3", b"4")


def lying(platform: Platform) -> tuple[Platform, Lying]:
    site = Lying("primary")
    for bucket in ("landing", "lake"):
        site.ensure_bucket(bucket, versioned=True)
    return replace(platform, sites={"primary": site}, ledger_=MemoryLedger()), site


@pytest.mark.parametrize("how", ["lost", "altered"])
@pytest.mark.parametrize(
    "below",
    [
        "raw/",
        "quarantine/",
        "snapshots/readings/parts/",
        "snapshots/readings/",
        "snapshots/readings/cur",
        "deliveries/",
    ],
)
def test_p7_a_delivery_waits_where_it_landed_until_all_that_is_kept_of_it_was_read_back(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None], below: str, how: str
) -> None:
    (honest, _), (dishonest, site) = lying(platform), lying(platform)
    for each in (honest, dishonest):
        deliver("1.csv", A, BAD, to=each)
        deliver("2.csv", BAD, to=each)
    ingest(honest, readings)
    site.below, site.how = below, how
    for _ in range(2):
        with pytest.raises(IntegrityError, match="returned other bytes than were written"):
            ingest(dishonest, readings)
        assert len(list(site.list("landing"))) == 2
    site.how = ""
    ingest(dishonest, readings)
    assert settled(dishonest) == settled(honest)
    assert not list(site.list("landing"))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("wrong", ["cut", "altered"])
def test_i3_a_delivery_that_comes_otherwise_than_it_is_stored_is_not_taken_in(
    platform: Platform,
    readings: Pipeline,
    deliver: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    large: bool,
) -> None:
    monkeypatch.setattr("rempart.flows.ingestion.ingest.AT_ONCE", 0 if large else 8 << 20)
    dishonest, site = lying(platform)
    deliver("1.csv", B, to=dishonest)
    site.reads_wrong = wrong
    with pytest.raises(IntegrityError, match=r"get landing/readings/1\.csv"):
        ingest(dishonest, readings)
    assert not lake(dishonest) and len(list(site.list("landing"))) == 1
    site.reads_wrong = ""
    assert ingest(dishonest, readings).accepted == 1


def test_a_checksum_that_a_supplier_wrote_beside_a_delivery_stops_nobody(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A)
    site = platform.sites["primary"]
    info, _body = site._buckets["landing"]["readings/1.csv"][-1]  # type: ignore[attr-defined]
    info.metadata["sha256"] = "0" * 64
    site.checks = lambda *given, **more: Checks(info.size, info.etag)  # type: ignore[method-assign]
    assert ingest(platform, readings).accepted == 1
