"""`rempart pipeline deliver` tells from the evidence what became of the same bytes before."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from rempart.cli.views import delivery as view
from rempart.flows.ingestion import deliver
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries
from tests.memory_site import MemorySite
from tests.unit.flows.ingestion.test_deliver import NOW, PIPELINE, Make, make, platform, site

__all__ = ["make", "platform", "site"]  # the fixtures


def ingested(platform: Platform, site: MemorySite, file: Path, **body: Any) -> None:
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    outcome = {"sha256": sha256, "outcome": "accepted", "landed_at": NOW.isoformat(), "taken_at": NOW.isoformat()}
    outcome |= {"accepted": 35, "repeated": 0, "quarantined": 0, "came_again": False} | body
    deliveries.record(site, "lake", PIPELINE.name, outcome)
    platform.ledger.append("deliveries", PIPELINE.name, {"deliveries": [outcome]})


def test_what_these_bytes_brought_before_is_told_from_the_evidence(
    platform: Platform, site: MemorySite, make: Make
) -> None:
    file = make()
    ingested(platform, site, file)
    newest = PIPELINE.model_copy(update={"on_conflict": "newest"})
    came = "  these bytes were ingested on 2026-01-05 12:00 UTC (35 rows accepted): "
    planned = deliver.plan(platform, PIPELINE, [file])
    assert list(view.plan_lines(planned))[1] == f"{came}ingesting them again changes nothing"
    assert (
        list(view.lines(deliver.send(platform, PIPELINE, planned)))[1] == f"{came}ingesting them again changes nothing"
    )
    ingested(platform, site, file, accepted=0, repeated=35, came_again=True, again=1)
    told = list(view.lines(deliver.send(platform, newest, deliver.plan(platform, newest, [file]))))
    assert told[0].startswith("delivered week.csv")
    counts = "ingested again, a row replaces another one of its key that came since; equal rows change nothing"
    assert told[1] == came + counts, "what they brought first"
    platform.ledger.append("removal", PIPELINE.name, {"id": "r", "what": "reset", "state": "ended"})
    assert deliver.plan(platform, newest, [file])[0].before is None, "a reset put away what they brought"


def test_rows_of_these_bytes_that_wait_in_quarantine_come_with_the_command_that_judges_them_again(
    platform: Platform, site: MemorySite, make: Make
) -> None:
    file = make()
    ingested(platform, site, file, accepted=30, quarantined=5)
    told = "\n".join(view.plan_lines(deliver.plan(platform, PIPELINE, [file])))
    assert "(30 rows accepted, 5 still in quarantine): ingesting them again changes nothing" in told
    assert "rempart quarantine again" in told
    assert "these bytes" not in "\n".join(view.plan_lines(deliver.plan(platform, PIPELINE, [make("new.csv", row="2")])))
