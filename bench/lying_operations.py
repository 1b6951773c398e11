"""Part of the proof against lies: compare the claims of the operations with the bytes of the real sites."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench import lying_ground as on
from bench.lying_ground import Ground, Made
from rempart.flows.backup import back_up
from rempart.flows.doctor import doctor_site
from rempart.flows.drill import drill
from rempart.flows.erasure import erase
from rempart.flows.governance import evidence
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.replication import replicate, verify_replicas
from rempart.flows.restore import restore_aside
from rempart.flows.shared.platform import Platform
from rempart.ingestion import landing, snapshots
from rempart.ledger.verification import verify as verify_ledger
from rempart.settings import pipelines
from rempart.sites.capabilities import CapabilityRecord
from tests import quarantined
from tests.erasable import HEADER, ROWS, holds, id_of


@dataclass
class Cell:
    """Place in which an operation runs: the platform through its proxies, its parts as created, and the real sites."""

    ground: Ground
    made: Made
    platform: Platform
    notes: dict[str, Any] = field(default_factory=dict)

    def real(self) -> Platform:
        """Return the same platform past the proxies."""
        return self.ground.platform(self.platform.ledger_, self.platform.continuity_)  # type: ignore[arg-type]


def silent(line: str) -> None:
    """Ignore all arguments."""


@dataclass(frozen=True)
class Operation:
    """`act` returns its claim, or raises; `wrong` compares a claim with the bytes and returns the differences.

    `sites` may lie; `before` prepares the cell. `tolerates` are the faults that the operation need not notice.
    """

    name: str
    act: Callable[[Cell], Any]
    wrong: Callable[[Cell, Any], list[str]]
    sites: tuple[str, ...] = on.SITES
    before: Callable[[Cell], None] = lambda cell: None


# --- ingest -----------------------------------------------------------------------------------------------------------

WEEK = [ROWS[60].replace(",", ",x", 1), *ROWS[61:80]]
"""The rows that a cell delivers: ingestion refuses the first one."""
DELIVERED = "\n".join([HEADER, *WEEK, ""]).encode()
_FILE = f"{on.PIPELINE}/third.csv"


def _deliver(cell: Cell) -> None:
    bucket = cell.platform.config.buckets.landing
    cell.ground.client("primary").put_object(Bucket=bucket, Key=_FILE, Body=DELIVERED)


def _ingest(cell: Cell) -> Any:
    taking = pipelines.named(on.PIPELINE).model_copy(update={"max_quarantined": 1.0})
    return ingest(cell.platform, taking)


def _not_taken_in(cell: Cell, claim: Any) -> list[str]:
    """Compare the snapshot, the quarantine and the raw body at the real site with the deliveries so far.

    A delivery that still waits, and about which nothing is claimed, is not lost while the site lies.
    """
    client, buckets = cell.ground.client("primary"), cell.platform.config.buckets
    site_is_false = "fault" in cell.notes
    waiting = on.keys(client, buckets.landing)
    untouched = waiting == [_FILE] and claim.deliveries == 0 and site_is_false
    found = [f"{key} still waits" for key in waiting if not site_is_false]
    site = cell.real().site("primary", "personal")
    now = snapshots.current(site, buckets.lake, on.PIPELINE)
    if now is None:
        return [*found, "there is no snapshot"]
    ids = sorted(snapshots.load_table(site, buckets.lake, now)["booking_id"].to_pylist())
    wanted = ROWS[:60] if untouched else [*ROWS[:60], *WEEK[1:]]
    if ids != sorted(map(id_of, wanted)):
        found.append(f"snapshot {now.id} has {len(ids)} rows, of {len(wanted)}")
    if (claim.snapshot, claim.total_rows) != (now.id, len(ids)):
        found.append(f"snapshot {claim.snapshot} with {claim.total_rows} rows is claimed, {now.id} is there")
    if untouched:
        return found
    digest = hashlib.sha256(DELIVERED).hexdigest()
    raw = f"raw/{on.PIPELINE}/{digest}/third.csv"
    for key, right in ((raw, DELIVERED), (landing.quarantine_key(on.PIPELINE, digest), None)):
        if key not in on.keys(client, buckets.lake, key):
            found.append(f"{key} is not there")
            continue
        body = client.get_object(Bucket=buckets.lake, Key=key)["Body"].read()
        if right is not None and body != right:
            found.append(f"{key} is not what was delivered")
        if right is None and [row.raw for row in quarantined.rows_of(body)] != WEEK[:1]:
            found.append(f"{key} does not have the refused row")
    return found


# --- replicate, verify ------------------------------------------------------------------------------------------------


def _replicate(cell: Cell) -> Any:
    return replicate.replicate(cell.platform, "primary", "haven")


def unequal(cell: Cell, wanted: dict[str, bytes]) -> list[str]:
    """Return the objects at haven that differ from the wanted ones, byte for byte."""
    there = on.current(cell.ground, cell.platform, "haven")
    return sorted(name for name, body in wanted.items() if there.get(name) != body)


def _not_replicated(cell: Cell, claim: Any) -> list[str]:
    """Return differing replicas, except those that the claim calls accepted and not read back yet."""
    wanted = on.current(cell.ground, cell.platform, "primary")
    found = unequal(cell, wanted)
    if claim.verified < len(wanted):
        found.append(f"{claim.verified} of {len(wanted)} objects of the source are claimed")
    allowed = int(getattr(claim, "accepted", 0)) if getattr(claim, "read_back_due", None) else 0
    cell.notes["accepted, not read back"] = min(allowed, len(found))
    return found if len(found) > allowed else []


def _damage(cell: Cell) -> None:
    """Remove a replica from the target's storage, so that there is a replica to repair."""
    client, bucket = cell.ground.client("haven"), cell.platform.config.buckets.artifacts
    key = next(key for key in on.keys(client, bucket) if key.endswith("model.onnx"))
    version = client.head_object(Bucket=bucket, Key=key)["VersionId"]
    client.delete_object(Bucket=bucket, Key=key, VersionId=version)


def _verify(cell: Cell) -> Any:
    return verify_replicas.verify(cell.platform, "primary", "haven", whole=True)


def _not_verified(cell: Cell, claim: Any) -> list[str]:
    """Return replicas that equal neither the earlier copy nor the current source."""
    now = set(unequal(cell, on.current(cell.ground, cell.platform, "primary")))
    return [name for name in unequal(cell, cell.made.held) if name in now]


# --- back up, export, restore, drill ----------------------------------------------------------------------------------


def _back_up(cell: Cell) -> Any:
    return back_up.back_up(cell.platform)


def _not_held(cell: Cell, claim: Any) -> list[str]:
    """Restore the point in scratch space past the proxies, and compare its objects with the source's."""
    found = []
    try:
        drill.drill(cell.real(), claim.id)
    except on.RempartError as error:
        found.append(error.what.replace("\n", " "))
    try:
        chosen = restore_aside.restore_aside(
            cell.real(),
            cell.ground.servers.stack,
            aside="look",
            point=claim.id,
            dry_run=True,
        )
        wanted = on.current(cell.ground, cell.platform, "primary")
        if chosen.objects != len(wanted):
            found.append(f"{chosen.objects} of {len(wanted)} objects are held")
    except on.RempartError as error:
        found.append(error.what.replace("\n", " "))
    return found


def _export(cell: Cell) -> Any:
    return evidence.export(cell.platform)


def _not_exported(cell: Cell, claim: Any) -> list[str]:
    """Read every segment and checkpoint from the real sites and verify them offline, as an auditor does."""
    primary, haven, buckets = cell.ground.client("primary"), cell.ground.client("haven"), cell.platform.config.buckets

    def text(client: Any, bucket: str, key: str) -> str:
        return str(client.get_object(Bucket=bucket, Key=key)["Body"].read().decode(errors="replace"))

    segments = [text(primary, buckets.evidence, key) for key in sorted(on.keys(primary, buckets.evidence, "ledger/"))]
    found = []
    for client, bucket in ((haven, buckets.checkpoints), (primary, buckets.evidence)):
        seen = {key: text(client, bucket, key) for key in on.keys(client, bucket, "checkpoints/")}
        lines = [line for segment in segments for line in segment.splitlines()]
        verdict = verify_ledger(lines, [cell.platform.signer().public], seen)
        if verdict.broken:
            found.append(f"{bucket}: {verdict.broken.error().what}")
        if verdict.records < claim.last or verdict.covered < claim.last:
            found.append(f"{bucket}: {verdict.records} records, {verdict.covered} under a checkpoint, of {claim.last}")
    return found


def _restore(cell: Cell) -> Any:
    return restore_aside.restore_aside(
        cell.platform, cell.ground.servers.stack, aside=on.ASIDE, point=cell.made.point, dry_run=False
    )


def _not_restored(cell: Cell, claim: Any) -> list[str]:
    client, found = cell.ground.client("primary"), {}
    for bucket in (cell.platform.config.buckets.lake, cell.platform.config.buckets.artifacts):
        for key in on.keys(client, f"{bucket}-{on.ASIDE}"):
            body = client.get_object(Bucket=f"{bucket}-{on.ASIDE}", Key=key)["Body"].read()
            found[f"{bucket}/{key}"] = body
    return sorted(name for name, body in cell.made.held.items() if found.get(name) != body)


def _drill(cell: Cell) -> Any:
    return drill.drill(cell.platform, cell.made.point)


def _not_filed(cell: Cell, claim: Any) -> list[str]:
    """Check that the report equals the one that the ledger has as filed.

    The point is a good one, so success is right.
    """
    client = cell.ground.client("primary")
    filed = cell.platform.ledger.find("drill-report", limit=1)[0].body
    wrong = []
    for key, digest in filed["sha256"].items():
        there = on.keys(client, filed["bucket"], key)
        body = client.get_object(Bucket=filed["bucket"], Key=key)["Body"].read() if there else b""
        if hashlib.sha256(body).hexdigest() != digest:
            wrong.append(f"{filed['bucket']}/{key}")
    return wrong


# --- erase, doctor ----------------------------------------------------------------------------------------------------


def _erase(cell: Cell) -> Any:
    by = {"by": "data-protection-officer", "reason": "consent-withdrawn", "dry_run": False}
    result = erase.erase(cell.platform, pipelines.named(on.PIPELINE), [(on.PERSON,)], **by)  # type: ignore[arg-type]
    if result.pending or result.unread:
        raise on.Pending(f"pending: {result.left} left, {sorted(result.silent.values())}, {len(result.unread)} unread")
    return result


def _not_erased(cell: Cell, claim: Any) -> list[str]:
    """Search every version of every object of the lake at both real sites."""
    (row,) = {line for line in ROWS if id_of(line) == on.PERSON}
    found, bucket = [], cell.platform.config.buckets.lake
    for site in on.SITES:
        client = cell.ground.client(site)
        for version in client.list_object_versions(Bucket=bucket).get("Versions", ()):
            where = {"Bucket": bucket, "Key": version["Key"], "VersionId": version["VersionId"]}
            if not version["Key"].endswith("large") and holds(
                client.get_object(**where)["Body"].read(), row, on.PERSON
            ):
                found.append(f"{site}/{version['Key']}")
    return found


def _doctor(cell: Cell) -> Any:
    found = doctor_site.probe_sites(cell.platform, ["haven"])["haven"]
    if not isinstance(found, CapabilityRecord):
        raise found
    if different := unlike(cell, found):
        raise on.Noticed(
            f"{', '.join(different[:4])}" + (f" and {len(different) - 4} more" if len(different) > 4 else "")
        )
    return found


def unlike(cell: Cell, record: CapabilityRecord) -> list[str]:
    """Return capabilities that the doctor finds different from the honest site."""
    honest = {proof["capability"]: proof["outcome"] for proof in cell.made.capabilities["haven"]["proofs"]}
    return [
        f"{proof.capability} {proof.outcome}"
        for proof in record.proofs
        if honest.get(proof.capability) != proof.outcome
    ]


HARMLESS = {"P1", "P4", "P6", "P8"}
"""Faults after which the site still does what the platform needs: a doctor need not name them."""


def _not_noticed(cell: Cell, claim: Any) -> list[str]:
    fault = cell.notes.get("fault", "")
    return [f"nothing is found of {fault}"] if fault and fault.partition("-")[0] not in HARMLESS else []


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("ingest", _ingest, _not_taken_in, ("primary",), before=_deliver),
        Operation("replicate", _replicate, _not_replicated),
        Operation("verify", _verify, _not_verified, before=_damage),
        Operation("back up", _back_up, _not_held),
        Operation("export evidence", _export, _not_exported),
        Operation("restore", _restore, _not_restored),
        Operation("drill", _drill, _not_filed),
        Operation("erase", _erase, _not_erased),
        Operation("doctor", _doctor, _not_noticed, ("haven",)),
    )
}
SECOND = {"replicate": ("verify",)}
"""Operations whose success says `accepted`, and the operation that then reads back."""


def fresh(cell: Cell) -> Cell:
    """Return the same cell with new clients, as the next run of a task has them."""
    return dataclasses.replace(cell, platform=dataclasses.replace(cell.platform, sites={}))
