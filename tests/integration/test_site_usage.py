"""Measuring a real site: old versions, markers, buckets without versions, a second page, and its locks."""

from __future__ import annotations

import dataclasses
import secrets
from datetime import timedelta

import pytest

from rempart.flows.monitoring.site_usage import measure_site
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.settings.sections import Buckets
from rempart.sites.port import Site

pytestmark = pytest.mark.stores


def test_what_a_real_site_holds_and_which_of_its_locks_end_soon(platform: Platform, s3_site: Site) -> None:
    mark = secrets.token_hex(4)
    names = {name: f"{name}-{mark}" for name in Buckets.model_fields}
    own = dataclasses.replace(
        platform,
        config=platform.config.model_copy(update={"buckets": Buckets(**names)}),
        ledger_=MemoryLedger(),
    )
    lake, landing, evidence = names["lake"], names["landing"], names["evidence"]
    s3_site.ensure_bucket(lake, versioned=True)
    s3_site.ensure_bucket(landing, versioned=False)
    s3_site.ensure_bucket(evidence, versioned=True, locked=True)
    for n in range(1, 1_101):  # a listing has pages of 1,000
        s3_site.write(landing, f"{n:05d}", b"1")
    s3_site.write(landing, "00001", b"12")
    for body in (b"1", b"22", b"333"):
        s3_site.write(lake, "twice over", body)
    s3_site.write(lake, "gone", b"4444")
    s3_site.delete(lake, "gone")
    now = platform.clock()
    for key, days in (("ledger/long", 3650), ("ledger/short", 3)):
        assert s3_site.write_new(evidence, key, b"x", retain_until=now + timedelta(days=days))
    s3_site.write(evidence, "ledger/open", b"x")

    told = measure_site(own, "primary")

    assert own.ledger.find("usage", "primary")[0].body["buckets"].keys() == {lake, landing, evidence}
    counts = {"objects": 1, "bytes": 3, "old_versions": 3, "old_bytes": 7, "markers": 1}
    assert told["buckets"][lake] == counts
    assert told["buckets"][landing] == dict.fromkeys(counts, 0) | {"objects": 1_100, "bytes": 1_101}
    assert (told["locks"][evidence]["looked_at"], told["locks"][evidence]["lapsing"]) == (3, 2)
    first, second = told["locks"][evidence]["named"]
    assert first == {"name": f"{evidence}/ledger/open", "until": None}
    assert second["name"] == f"{evidence}/ledger/short" and second["until"] is not None
    for bucket in (lake, landing):
        s3_site.drop_bucket(bucket)
