"""`rempart quarantine show` tells on which lines of the delivery rows were refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from rempart.cli.views import quarantine, refused_lines, text
from rempart.cli.views.refused_lines import RefusedLines
from rempart.errors import SiteError
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries
from rempart.ingestion.acceptance import HELD
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Site
from rempart.web.read_models.messages import Moment
from rempart.web.read_models.quarantine import Delivery, Quality
from tests.unit.ingestion.conftest import deliver, make_platform, platform, readings

__all__ = ["deliver", "make_platform", "platform", "readings"]
AT = datetime(2026, 1, 1, tzinfo=UTC)


def taken_in(platform: Platform, pipeline: Pipeline) -> Delivery:
    ingest(platform, pipeline)
    (found,) = deliveries.outcomes(platform.sites["primary"], "lake", "readings")
    delivered, accepted, quarantined = (int(found[name]) for name in ("delivered", "accepted", "quarantined"))
    sha256, outcome, fault, reasons = (found[name] for name in ("sha256", "outcome", "fault", "reasons"))
    return Delivery(sha256, AT, 1, outcome, fault, delivered, accepted, 0, quarantined, reasons, 0)


def test_the_first_lines_of_each_reason_are_those_of_the_file(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver(
        "1.csv", "m1,2026-01-01,1,,base,", *(f"m{n},2026-01-02,{n}00,,no,Dupont" for n in range(1, 9)), "m1,x,1,,base,"
    )
    delivery = taken_in(platform, readings)
    found = refused_lines.look(lambda: (platform.sites["primary"], "lake"), "readings", [delivery])
    assert found.places[delivery.sha256] == {
        "tariff: not among the declared values": [3, 4, 5, 6, 7],
        "day: not a date written YYYY-MM-DD": [11],
    } | {reason: [] for reason in delivery.reasons if "kwh" in reason}
    told = "\n".join(quarantine.lines(quality(delivery), "http://cockpit", found))
    assert "8 x tariff: not among the declared values (line 3, 4, 5, 6, 7, ...)" in told
    assert "(line 11)" in told and "Dupont" not in told and "UNKNOWN" not in told


def test_refused_rows_of_a_delivery_that_was_accepted_in_part_have_their_next_command(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", "m1,2026-01-01,1,,base,", "m2,2026-01-01,2,,no,")
    delivery = taken_in(platform, readings)
    assert delivery.accepted and not delivery.held_back and not delivery.refused
    (told,) = (line for line in quarantine.lines(quality(delivery), "", RefusedLines()) if "Deliver corrected" in line)
    assert told.endswith(f"run: rempart quarantine again readings {delivery.sha256[:12]}")


def quality(delivery: Delivery) -> Quality:
    moment = Moment(AT, AT, (), ())
    return Quality(moment, "readings", "personal", True, 1, delivery.quarantined, 0, (delivery,), (), (), ())


def test_a_delivery_whose_quarantine_is_gone_has_no_lines_and_a_silent_site_is_told(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", "m1,2026-01-01,1,,no,")
    delivery = taken_in(platform, readings)
    site = platform.sites["primary"]
    for info in list(site.list("lake", "quarantine/")):
        site.delete("lake", info.key)
    gone = refused_lines.look(lambda: (platform.sites["primary"], "lake"), "readings", [delivery])
    assert gone == RefusedLines()
    assert "(line" not in "\n".join(quarantine.lines(quality(delivery), "", gone))

    def silent() -> tuple[Site, str]:
        raise SiteError("site 'primary' does not answer", "Start it.")

    found = refused_lines.look(silent, "readings", [delivery])
    assert found.silent == "site 'primary' does not answer"
    assert "UNKNOWN: on which lines" in "\n".join(quarantine.lines(quality(delivery), "", found))
    assert quarantine.as_json(quality(delivery), found)["lines"] is None


def test_a_row_with_two_reasons_counts_under_both_and_a_waiting_row_under_none() -> None:
    rows = [(2, "a; b"), (3, "b; c"), (4, HELD), (5, "a")]
    assert refused_lines.first(rows, ["a", "b; c", HELD]) == {"a": [2, 5], "b; c": [3]}
    assert text.places([], 3) == "" and text.places([2], 1) == " (line 2)"


def test_a_delivery_that_was_refused_as_a_whole_is_named_with_its_fault_and_its_remedy(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("broken.csv", "m1,2026-01-01", header="meter,day\n")
    delivery = taken_in(platform, readings)
    assert delivery.refused and not delivery.quarantined
    moment = Moment(AT, AT, (), ())
    found = Quality(moment, "readings", "personal", True, 1, 0, 0, (), (delivery,), (), ())
    told = "\n".join(quarantine.lines(found, "http://cockpit", RefusedLines()))
    assert "0 rows of 0 deliveries wait in quarantine now\n  1 delivery was refused as a whole" in told
    assert delivery.sha256 in told and "missing columns: kwh" in told and "If a corrected file was delivered" in told
    assert f"rempart quarantine again readings {delivery.sha256[:12]}" in told
