"""List what came after a restore point, and is therefore not in it, from the ledger of the running platform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile

from rempart.backup.points.restore_plan import Part, Selection, dataset_of
from rempart.counts import counted
from rempart.ingestion import snapshots
from rempart.ledger.port import Evidence, Kind, Ledger

_KINDS: tuple[Kind, ...] = ("deliveries", "snapshot", "candidate", "model-card")


@dataclass(frozen=True)
class NewerData:
    """What came to a pipeline after a restore point. `rows`: accepted of its `deliveries`. `snapshot_rows`: of its
    newest snapshot; None if it has no newer one. `versions`: of its model, oldest first. `cards`: older versions that
    were judged since, whose model cards are newer."""

    deliveries: int = 0
    rows: int = 0
    snapshot_rows: int | None = None
    versions: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()

    def told(self) -> str:
        """Return it in words."""
        some = [
            self.deliveries
            and f"{counted(self.deliveries, 'delivery', 'deliveries')} ({counted(self.rows, 'row')} accepted)",
            self.snapshot_rows is not None and f"a snapshot of {counted(self.snapshot_rows, 'row')}",
            self.versions and f"model version{'' if len(self.versions) == 1 else 's'} {', '.join(self.versions)}",
            self.cards
            and f"the card{'' if len(self.cards) == 1 else 's'} of model version"
            f"{'' if len(self.cards) == 1 else 's'} {', '.join(self.cards)}",
        ]
        return ", ".join(part for part in some if part)


def look(ledger: Ledger, since: datetime, parts: Sequence[Part] = ()) -> dict[str, NewerData]:
    """Return what came after `since`, by pipeline, as far as it concerns the parts (default: all).

    Raises LedgerError, DatabaseUnavailable.
    """
    return concerning(newer([record for kind in _KINDS for record in _since(ledger, kind, since)]), parts)


def _since(ledger: Ledger, kind: Kind, since: datetime) -> list[Evidence]:
    """Return all records of a kind after a moment, newest first."""
    return [*takewhile(lambda record: record.at > since, ledger.each(kind))]


def newer(records: Sequence[Evidence]) -> dict[str, NewerData]:
    """Return what records tell, by pipeline. A delivery that was judged again counts once, as judged last; to one that
    came again, its accepted rows are added. Pure."""
    found: dict[str, NewerData] = {}
    in_order = sorted(records, key=lambda record: record.seq)
    for name in sorted({_pipeline(record) for record in records}):
        mine = [record for record in in_order if _pipeline(record) == name]
        outcomes = dict[str, int]()
        for delivery in (each for record in mine if record.kind == "deliveries" for each in record.body["deliveries"]):
            sha256 = str(delivery["sha256"])
            earlier = outcomes.get(sha256, 0) if delivery.get("came_again") else 0
            outcomes[sha256] = earlier + int(delivery["accepted"])
        rows = [int(record.body["rows"]) for record in mine if record.kind == "snapshot"]
        versions = dict.fromkeys(str(record.body["version"]) for record in mine if record.kind == "candidate")
        judged = dict.fromkeys(str(record.body["version"]) for record in mine if record.kind == "model-card")
        cards = tuple(version for version in judged if version not in versions)
        some_rows = rows[-1] if rows else None
        found[name] = NewerData(len(outcomes), sum(outcomes.values()), some_rows, tuple(versions), cards)
    return found


def _pipeline(record: Evidence) -> str:
    """Return the pipeline that a record is about. The subject of a card names its version as well."""
    return record.subject.rpartition("/")[0] if record.kind == "model-card" else record.subject


def concerning(found: Mapping[str, NewerData], parts: Sequence[Part]) -> dict[str, NewerData]:
    """Return what concerns the parts: of data sets their rows, of models their versions, of databases all. Pure."""
    if not parts or any(part.kind == "database" for part in parts):
        return dict(found)
    kept: dict[str, NewerData] = {}
    for name, newer_data in found.items():
        rows = not {Part("bucket", "lake"), Part("dataset", name)}.isdisjoint(parts)
        models = not {Part("bucket", "artifacts"), Part("model", name)}.isdisjoint(parts)
        of_rows = newer_data if rows else NewerData()
        of_models = newer_data if models else NewerData()
        left = NewerData(of_rows.deliveries, of_rows.rows, of_rows.snapshot_rows, of_models.versions, of_models.cards)
        if left != NewerData():
            kept[name] = left
    return kept


def lines(found: Mapping[str, NewerData]) -> Iterator[str]:
    """Yield what the point does not hold. Pure."""
    if not found:
        yield "newer     nothing: no delivery, snapshot or model came after this restore point"
        return
    yield "newer     than this restore point, and not in it:"
    for name, newer_data in found.items():
        yield f"newer       {name}: {newer_data.told()}"


def replaced(selection: Selection) -> list[str]:
    """Return the pipelines whose current snapshot the restore replaces by the point's. Pure."""
    keys = [obj.key for obj in selection.objects if obj.bucket == "lake" and obj.key.endswith("/current.json")]
    return sorted({name for key in keys if (name := dataset_of(key))})


def older(found: Mapping[str, NewerData], selection: Selection) -> list[str]:
    """Return the pipelines whose current snapshot the restore replaces by the point's, which is older. Pure."""
    keys = {obj.key for obj in selection.objects if obj.bucket == "lake"}
    return [
        name
        for name, newer_data in found.items()
        if newer_data.snapshot_rows is not None and f"{snapshots.folder(name)}current.json" in keys
    ]
