"""File the report of a drill beside the evidence, and rebuild it from the ledger."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rempart import __version__
from rempart.backup.drill import drill_page, drill_report
from rempart.backup.drill.drill_profiles import PROFILES, Profile
from rempart.backup.drill.drill_report import Cited, DrillReport, Grounds
from rempart.backup.points.points import Manifest
from rempart.errors import BackupError
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Evidence, Kind, Ledger
from rempart.settings.config import Config
from rempart.sites.once import store_once

logger = logging.getLogger(__name__)

FOLDER = "drills/"


def facts(config: Config, where: str, manifest: Manifest | None) -> dict[str, Any]:
    """Return the report's facts beyond the drill's result, as plain JSON; few without a trusted manifest."""
    found: dict[str, Any] = {
        "version": __version__,
        "objectives": {
            "rpo": int(config.backup.rpo_objective.total_seconds()),
            "rto": int(config.backup.rto_objective.total_seconds()),
        },
        "keep": config.backup.keep.model_dump(mode="json"),
        "recipients": len(config.backup.recipients),
    }
    if manifest is None:
        return found
    locks = [obj.sealed.retained_until for obj in manifest.objects]
    return {
        **found,
        "databases": {dump.name: sum(dump.tables.values()) for dump in manifest.databases},
        "objects": len(manifest.objects),
        "object_bytes": sum(obj.size for obj in manifest.objects),
        "locked_until": min(locks).isoformat() if locks else None,
        "sites": {"backup": _site(config, where), "source": _site(config, manifest.source)},
    }


def _site(config: Config, name: str) -> dict[str, Any]:
    if (place := config.sites.get(name)) is None:
        return {"name": name, "operator": "no longer declared", "region": "", "independent_of": None}
    return {"name": name, "operator": place.operator, "region": place.region, "independent_of": place.independent_of}


def make(ledger: Ledger, record: Evidence, profiles: Sequence[Profile]) -> DrillReport:
    """Return the report of a drill's record. Raises LedgerError, DatabaseUnavailable."""
    return drill_report.report(_grounds(ledger, record), profiles)


def _grounds(ledger: Ledger, record: Evidence) -> Grounds:
    """Return the records that a report uses.

    No record is newer than the drill, so the report can be rebuilt at any time.
    """
    oldest = record.at - drill_report.YEAR

    def newest(kind: Kind, subject: str | None = None) -> list[Evidence]:
        known = ledger.find(kind, subject)
        return [candidate for candidate in known if candidate.seq <= record.seq and candidate.at >= oldest]

    def first(found: Sequence[Evidence]) -> Cited | None:
        return _cited(ledger, found[0]) if found else None

    drills = newest("drill")
    restores = [
        entry for entry in newest("restore") if entry.body.get("ok") is True and entry.body.get("parts") == ["all"]
    ]
    return Grounds(
        _cited(ledger, record),
        first(newest("restore-point", record.subject)),
        tuple(drills),
        first(
            [drill for drill in drills if drill.body.get("ok") is True and drill.body.get("scenario") == "cyber-attack"]
        ),
        first(
            [
                entry
                for entry in newest("failover")
                if entry.body.get("step") == "resume" and entry.body.get("ok") is True
            ]
        ),
        first([restore for restore in restores if not restore.body.get("aside")]),
    )


def _cited(ledger: Ledger, record: Evidence) -> Cited:
    entry = next(iter(ledger.entries(record.seq - 1)), None) if record.seq > 0 else None
    return Cited(record, entry.hash if entry and entry.seq == record.seq else None)


def as_json(report: DrillReport) -> str:
    """Return the report as JSON; docs/reference/drill.schema.json describes it."""
    return TypeAdapter(DrillReport).dump_json(report, indent=2).decode() + "\n"


def file(platform: Platform, record: Evidence) -> dict[str, str]:
    """Write the report under object lock into the bucket of evidence. Return its keys and their SHA-256.

    Each file is read back before it counts as filed. Write evidence of kind `drill-report`. Raises IntegrityError if
    the site returns other bytes, SiteError, PlacementDenied, LedgerError.
    """
    config = platform.config
    names = list(config.backup.report_profiles)
    report = make(platform.ledger, record, [PROFILES[name] for name in names])
    site, permission = platform.evidence_site(config.evidence_site)
    platform.record(permission)
    bucket, until = config.buckets.evidence, platform.clock() + config.evidence.retention
    stem = f"{FOLDER}{record.subject}-{record.at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{record.seq}"
    filed = {}
    for key, text, kind in (
        (f"{stem}.json", as_json(report), "application/json"),
        (f"{stem}.html", drill_page.page(report), "text/html; charset=utf-8"),
    ):
        body = text.encode()
        filed[key] = hashlib.sha256(body).hexdigest()
        if store_once(site, bucket, key, body, content_type=kind, retain_until=until) is None:
            site.read(bucket, key, sha256=filed[key])
        logger.info("filed %s/%s at site '%s'", bucket, key, site.name)
    logger.info("read the report on your machine: rempart backup drill-report --out FOLDER")
    body_of = {"drill": record.seq, "site": site.name, "bucket": bucket, "profiles": names, "sha256": filed}
    platform.ledger.append("drill-report", record.subject, body_of)
    return filed


@dataclass(frozen=True)
class Copy:
    """A rebuilt report: its file, its SHA-256, and whether it equals the report that was filed after the drill."""

    path: Path
    sha256: str
    filed: bool

    @property
    def line(self) -> str:
        same = "equal to the filed report" if self.filed else "different from the filed report, if one was filed"
        return f"{self.path}: SHA-256 {self.sha256}, {same}"


def make_again(platform: Platform, profile: str | None, number: int | None, out: Path) -> list[Copy]:
    """Rebuild the report of a drill (default: the newest) as two files in a folder.

    `profile` selects one profile, or `none`; the default is the profiles of rempart.yaml. Raises BackupError,
    LedgerError.
    """
    record = _record(platform.ledger, number)
    names = platform.config.backup.report_profiles if profile is None else [] if profile == "none" else [profile]
    if unknown := [name for name in names if name not in PROFILES]:
        raise BackupError(f"Profile '{unknown[0][:40]}' does not exist", f"Choose one of: {', '.join(PROFILES)}, none.")
    report = make(platform.ledger, record, [PROFILES[name] for name in names])
    known, made = _filed(platform.ledger, record), list[Copy]()
    for suffix, text in (("json", as_json(report)), ("html", drill_page.page(report))):
        path, digest = out / f"drill-{record.subject}-{record.seq}.{suffix}", hashlib.sha256(text.encode()).hexdigest()
        try:
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as cause:
            raise BackupError(
                f"{path} cannot be written: {cause.strerror}", "Choose another folder with --out."
            ) from cause
        made.append(Copy(path, digest, digest in known))
    return made


def _record(ledger: Ledger, number: int | None) -> Evidence:
    drills = ledger.find("drill", limit=1 if number is None else None)
    for record in drills:
        if number in (None, record.seq):
            return record
    if number is None:
        raise BackupError("The ledger has no record of a drill", "Run `rempart backup drill`.")
    raise BackupError(
        f"Record {number} of the ledger is not a drill",
        "Run `rempart ledger show` to list records, and pass one of kind `drill`.",
    )


def _filed(ledger: Ledger, record: Evidence) -> set[str]:
    """Return the SHA-256 of a drill's filed report."""
    filed = ledger.find("drill-report", record.subject)
    return {digest for entry in filed if entry.body["drill"] == record.seq for digest in entry.body["sha256"].values()}
