"""Read the refused rows of a delivery at the active site, encrypted for one person.

Pages and scripts cannot reach a site. So a task reads the rows and encrypts them (age) for a key made for one look;
copies in Airflow and its backups become unreadable when that key is gone.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rempart.backup.keys import age
from rempart.deployment.access import people
from rempart.errors import AccessError, ConnectionMissing, IngestError, ObjectMissing
from rempart.flows.shared import erasures
from rempart.flows.shared.erasures import Erased
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, erasing, landing, unpacking
from rempart.ingestion import refused as refused_rows
from rempart.ingestion.reading import RefusedRow
from rempart.ingestion.refused import RefusedFile
from rempart.settings.config import Connection
from rempart.settings.pipeline import Pipeline
from rempart.settings.sections import Access
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder

MAX_ROWS, MAX_BYTES, MAX_TEXT = 200, 256 * 1024, 4000
"""Limits of one look: rows, their bytes in total, and characters of one row."""
_START = 1 << 20
"""Bytes of a delivery in which its header is."""


@dataclass(frozen=True)
class HeldDelivery:
    """A delivery's quarantine: its recorded outcome, its rows, and until when they are kept."""

    outcome: dict[str, Any]
    rows: RefusedFile
    retain_until: date


@dataclass(frozen=True)
class Look:
    """Result of a look: `shown` of `rows` rows, encrypted (age, then base64)."""

    delivery: str
    rows: int
    shown: int
    sealed: str


def held(
    pipeline: Pipeline, site: Site, lake: str, sha256: str, erased: Erased | None, today: date, folder: Path
) -> HeldDelivery:
    """Return a delivery's quarantine without erased rows; no rows if none is left. `folder` takes the rows.

    Raises IngestError for an unknown delivery, a missing quarantine, or one past its retention.
    """
    what = f"Delivery {sha256[:12]} of '{pipeline.name}'"
    try:
        outcome = deliveries.read(site, lake, pipeline.name, sha256)
    except ObjectMissing as cause:
        raise IngestError(
            f"{what} is not on record at site '{site.name}'",
            "Take its SHA-256 from the cockpit's page of this pipeline. A plain run ingests files that still wait.",
        ) from cause
    stored, file = folder / f"{sha256}.quarantine", folder / f"{sha256}.held"
    if not outcome["quarantined"]:
        refused_rows.write((), file)
        return HeldDelivery(outcome, RefusedFile(file, 0), today)
    key = landing.quarantine_key(pipeline.name, sha256, deliveries.attempt(outcome))
    try:
        found = site.head(lake, key)
    except ObjectMissing as cause:
        raise IngestError(
            f"{what}: its quarantine ({lake}/{key}) is missing at site '{site.name}'",
            "Restore it from the other site or a restore point, or deliver corrected rows.",
        ) from cause
    until = date.fromisoformat(found.metadata["retain-until"])
    if until < today:
        raise IngestError(
            f"{what}: its quarantine was kept until {until} and is no longer shown",
            "Deliver corrected rows as a new file. `retention` in rempart.yaml says how long quarantine is kept.",
        )
    landing.fetch(site, lake, key, stored, found.sha256, version_id=found.version_id)
    if erased:
        raw, read_by = landing.raw_of(site, lake, pipeline.name, sha256), deliveries.read_by(outcome, pipeline)
        header = None
        if raw and raw.size and read_by.source.format == "csv":
            start = site.read_part(lake, raw.key, 0, min(raw.size, _START))  # a stream of S3 cannot seek
            header = erasing.header_of(io.BytesIO(start), len(start), read_by)
        stored = erasing.cut_quarantine(stored, header, read_by, erased.has, folder / f"{sha256}.cut").file or stored
    rows = landing.read_refused(stored, file)
    stored.unlink()
    return HeldDelivery(outcome, rows, until)


def look(platform: Platform, pipeline: Pipeline, delivery: str, recipient: str, *, by: str | None) -> Look:
    """Return the first quarantined rows of a delivery with their reasons, encrypted for a recipient (`age1...`).

    Evidence of the look is written first: the delivery, the number of rows, and who (`by` is the Airflow user name;
    evidence stores the number). Raises IngestError, ConfigError, SiteError, PlacementDenied, DatabaseUnavailable,
    LedgerError.
    """
    age.check_recipient(recipient, "recipient")
    site = platform.active_site(pipeline.classification)
    lake = platform.config.buckets.lake
    erased = erasures.erased(platform.ledger, pipeline.name, erasures.secrets_of(platform))
    with spool_folder() as folder:
        held_delivery = held(pipeline, site, lake, delivery, erased, platform.clock().date(), folder)
        shown = _first(islice(held_delivery.rows, MAX_ROWS))
    told = {
        "pipeline": pipeline.name,
        "delivery": delivery,
        "file": held_delivery.outcome["file"],
        "of": len(held_delivery.rows),
    }
    # the first line of a file without a header is somebody's row, and perhaps erased
    hidden = erased is not None and held_delivery.outcome["fault"]
    read_by = deliveries.read_by(held_delivery.outcome, pipeline)
    told["header"] = "" if hidden else _first_line(site, lake, read_by, delivery)
    text = json.dumps({**told, "rows": shown}, ensure_ascii=False).encode("utf-8", "backslashreplace")
    sealed = base64.b64encode(age.encrypt(text, [recipient])).decode()
    number = user_number(platform.config.access, partial(platform.database, "airflow"), by)
    body = {"delivery": delivery, "site": site.name, "rows": len(shown), "of": len(held_delivery.rows)}
    platform.ledger.append("look", pipeline.name, {**body, "by": number})
    return Look(delivery, len(held_delivery.rows), len(shown), sealed)


def _first(rows: Iterable[RefusedRow]) -> list[dict[str, Any]]:
    """Return as many rows as may be shown. Longer texts are cut, with a note."""
    shown: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        raw = row.raw[:MAX_TEXT]
        size += len(raw.encode("utf-8", "backslashreplace")) + 200
        if size > MAX_BYTES:
            break
        shown.append({"line": row.line, "reason": "; ".join(row.reasons), "raw": raw, "cut": len(row.raw) > MAX_TEXT})
    return shown


def _first_line(site: Site, bucket: str, pipeline: Pipeline, delivery: str) -> str:
    """Return the first line of a CSV file, usually its column names; empty if it is no longer stored."""
    if pipeline.source.format != "csv":
        return ""
    if (raw := landing.raw_of(site, bucket, pipeline.name, delivery)) is None or not raw.size:
        return ""
    text, _ = unpacking.unpack(
        site.read_part(bucket, raw.key, 0, min(raw.size, MAX_BYTES))
    )  # unpack the part as far as it goes
    lines = text.decode(pipeline.source.encoding, "replace").lstrip("\ufeff").splitlines()
    return next((line for line in lines if line.strip()), "")[:MAX_TEXT]


def user_number(access: Access, airflow: Callable[[], Connection], name: str | None) -> str:
    """Return the number of an Airflow user for evidence, as `rempart users list` shows it, never the name.

    `airflow` returns the connection of Airflow's database.
    """
    if access.auth_manager != "fab":
        return "the platform's admin"  # the only user of the simple auth manager
    try:
        with people.tables(airflow()) as session:
            return f"user {people.find(session, name or '').number}"
    except (AccessError, ConnectionMissing):
        return "unknown here: see the run in Airflow's audit log"
