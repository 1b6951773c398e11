"""Write a pipeline's quarantine as lines: counts by delivery and rule. No value of a row is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rempart.cli.views import pipelines, text
from rempart.cli.views.refused_lines import RefusedLines
from rempart.ingestion.acceptance import HELD
from rempart.web.read_models.quarantine import Quality

STAYS = "A row that another delivery corrected stays counted: the evidence has counts, and no keys."
_OF_THE_LEDGER = ("deliveries", "quarantined", "earlier", "in_quarantine", "whole", "taken_again", "expectations")


def as_json(quality: Quality, places: RefusedLines) -> Mapping[str, Any]:
    """Return a pipeline's quarantine for a JSON document. What only the ledger knows is null while it is silent, and
    `lines`, by delivery and reason, while the site is.
    """
    told = asdict(quality) | ({} if quality.known else dict.fromkeys(_OF_THE_LEDGER))
    return told | {"lines": None if places.silent else places.places}


def lines(quality: Quality, cockpit: str, places: RefusedLines) -> Iterator[str]:
    """Yield a pipeline's quarantine. `cockpit`: the address of the cockpit's page of the pipeline."""
    name = quality.pipeline
    if not quality.known:
        return
    if not quality.quarantined and not quality.whole:
        yield f"{name}: no row waits in quarantine now ({text.counted(quality.deliveries, 'delivery', 'deliveries')})"
        return
    whole = quality.whole
    many = quality.quarantined != 1
    rows, of = (
        text.counted(quality.quarantined, "row"),
        text.counted(len(quality.in_quarantine), "delivery", "deliveries"),
    )
    yield f"{name}: {rows} of {of} wait{'' if many else 's'} in quarantine now"
    if quality.earlier:
        earlier = text.counted(quality.earlier, "of them is", "of them are")
        yield f"  {earlier} of older deliveries: only the site has their reasons"
    if whole:
        were = "delivery was" if len(whole) == 1 else "deliveries were"
        yield f"  {len(whole):,} {were} refused as a whole: their rows are not counted"
    found = sorted((*quality.in_quarantine, *whole), key=lambda delivery: delivery.landed_at, reverse=True)
    yield from pipelines.deliveries(found)
    yield f"IN QUARANTINE counts rows that wait there now. {STAYS}"
    for delivery in found:
        yield ""
        yield f"Delivery {delivery.sha256}"
        at = places.places.get(delivery.sha256, {})
        for reason, count in delivery.reasons.items():
            if reason != HELD:
                yield f"  {count:>7,} x {reason}{text.places(at.get(reason, ()), count)}"
        if delivery.held_back:
            wait = "row waits" if delivery.good == 1 else "rows wait"
            yield f"  {delivery.good:>7,} good {wait}. Correct the pipeline file and ingest again, or accept them:"
            yield f"    rempart quarantine again {name} {delivery.sha256[:12]}"
            yield f"    rempart quarantine accept {name} {delivery.sha256[:12]}"
            yield "    If it was the wrong file, leave it: no row of it counts, and nothing waits for it."
        elif delivery.refused:
            if delivery in whole:
                yield f"  {delivery.fault}. If a corrected file was delivered since, leave it."
            yield "  No row was accepted. Deliver corrected rows as a new file, or correct the pipeline file and run:"
            yield f"    rempart quarantine again {name} {delivery.sha256[:12]}"
        elif delivery.quarantined:
            command = f"rempart quarantine again {name} {delivery.sha256[:12]}"
            yield f"  Deliver corrected rows as a new file, or correct the pipeline file and run: {command}"
    if places.silent:
        yield ""
        yield f"UNKNOWN: on which lines of a delivery these rows are: {places.silent}"
    shares = [rule for rule in quality.expectations if rule.judged]
    if shares:
        yield ""
        yield from text.table(
            ("EXPECTATION", "BROKEN BY", "OF ROWS"),
            ((rule.reason, f"{rule.unexpected:,}", f"{rule.judged:,}") for rule in shares),
        )
        yield "OF ROWS counts the rows whose values have the right types: only these are checked by expectations."
    yield ""
    yield f"To look at the rows, open {cockpit} and choose a delivery."
    yield "  Log in as admin, with the password of `rempart stack password airflow`, or as a user of your own."
    yield f"  In a script, trigger the DAG preview_quarantine_{name}."
