"""Find erased rows in the lake's objects, in every version at every site, and rewrite the objects.

The replacement of an object exists at the active site before anything is deleted. Replication copies it to the other
sites.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rempart.errors import ObjectMissing, SiteError
from rempart.flows.erasure.erase_listing import Version, doubt
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.ingestion import ingest_run
from rempart.flows.prediction import scorings
from rempart.flows.shared.bounded_map import bounded_map
from rempart.ingestion import deliveries, erasing, landing, snapshots
from rempart.ingestion.acceptance import COUNTS
from rempart.ingestion.content import growth
from rempart.ingestion.engine import identity
from rempart.ingestion.engine.database import opened, parquet
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.erasing import Cut, IsErased, Kind
from rempart.ingestion.snapshots import Part, PartitionContent, Snapshot
from rempart.serving import hour_files
from rempart.settings.pipeline import Pipeline
from rempart.sites.digests import file_sha256
from rempart.sites.once import AT_ONCE
from rempart.sites.port import ObjectInfo, Site

WORKERS = 8
_MEMORY = 512 << 20
"""Memory in bytes to hash the rows of a partition."""
_ORDERED: tuple[Kind, ...] = (
    "manifest",
    "part",
    "prediction",
    "training set",
    "prediction log",
    "quarantine",
    "delivery",
)
ORDER: Mapping[Kind, int] = {kind: number for number, kind in enumerate(_ORDERED)}
"""Order of deletion: referring objects go before the objects that they name; descriptions of formats go last."""
_TABLES: tuple[Kind, ...] = ("part", "prediction", "training set")
_OWN_NAME: tuple[Kind, ...] = ("delivery", *_TABLES, "prediction log")
"""Objects named after their content: one key means the same content at every site."""


@dataclass(frozen=True)
class HeldVersion:
    """One version of an object that holds erased rows, or refers to one that does (`rows` is 0 then).

    `to` is the key of its replacement and `file` holds the content; None for an old version, or if no row is left.
    """

    site: str
    kind: Kind
    info: ObjectInfo
    sha256: str
    rows: int
    current: bool
    to: str | None = None
    file: Path | None = None


@dataclass
class Scan:
    """Result of a search: `held` versions in order of deletion; unsearchable rows, and faults of files, by object."""

    held: list[HeldVersion] = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    succeeded: dict[str, Snapshot] = field(default_factory=dict)

    def add(self, other: Scan) -> None:
        """Add what another search found, in order of deletion."""
        self.held = sorted([*self.held, *other.held], key=lambda held: (ORDER[held.kind], held.info.key))
        self.unread |= other.unread
        self.faults |= other.faults
        self.silent |= other.silent
        self.succeeded |= other.succeeded

    def rows(self) -> dict[tuple[str, Kind], tuple[int, int]]:
        """Return objects and rows by site and kind, including old versions."""
        counts: dict[tuple[str, Kind], tuple[int, int]] = {}
        for held_object in self.held:
            objects, rows = counts.get((held_object.site, held_object.kind), (0, 0))
            counts[held_object.site, held_object.kind] = objects + 1, rows + held_object.rows
        return counts


@dataclass
class Search:
    """Searches the erased rows of a pipeline. An object found clean at one site is not read at another.

    `known` names the objects of a site according to records elsewhere: a listing that lacks one is refused. `folder`
    holds the replacements until its owner removes it.
    """

    pipeline: Pipeline
    bucket: str
    gone: IsErased
    home: str
    known: Callable[[Site], Sequence[Version]]
    folder: Path
    only: Kind | None = None
    """Kind of the objects to search; None for all."""
    cut_log: Callable[[bytes], tuple[bytes | None, int, int]] = lambda body: (None, 0, 0)
    """Returns what stays of a file of the prediction log (None if all stays), how many entries go, and how many name
    nobody."""
    _clean: set[tuple[str, int]] = field(default_factory=set)
    _headers: dict[str, Sequence[str]] = field(default_factory=dict)
    _parts: dict[str, Part] = field(default_factory=dict)
    _files: dict[str, Path] = field(default_factory=dict)
    _readers: dict[str, Pipeline] = field(default_factory=dict)
    _contents: dict[tuple[tuple[str, ...], tuple[str, ...]], PartitionContent] = field(default_factory=dict)

    def all(self, sites: Mapping[str, Site]) -> Scan:
        """Search every version at every site, the home site first.

        A failed site is reported; the home site raises SiteError.
        """
        scan = Scan()
        for name in sorted(sites, key=lambda site: site != self.home):
            try:
                self._site(sites[name], scan)
            except SiteError as error:
                if name == self.home and not isinstance(error, ObjectMissing):
                    raise
                scan.silent[name] = error.what
        scan.held.sort(key=lambda held_object: (ORDER[held_object.kind], held_object.info.key))
        return scan

    def _site(self, site: Site, scan: Scan) -> None:
        wanted = self.known(site)
        listed = list(self._listed(site))
        doubt(site, self.bucket, wanted, listed)
        newest: set[str] = set()
        work: dict[Kind, list[tuple[ObjectInfo, bool]]] = {}
        for info in listed:
            current = info.key not in newest
            newest.add(info.key)
            kind = erasing.kind_of(info.key, self.pipeline.name)
            if (
                kind
                and self.only in (None, kind)
                and not info.marker
                and not (kind == "manifest" and info.key.startswith(erasing.CONFLICTS))
            ):
                work.setdefault(kind, []).append((info, current))
        # the delivery determines how its quarantine is read
        for kind in sorted(work, key=lambda of_kind: -ORDER[of_kind]):
            if kind == "manifest":
                continue
            todo = [job for job in work[kind] if kind not in _OWN_NAME or (job[0].key, job[0].size) not in self._clean]

            def look(work_item: tuple[ObjectInfo, bool], kind: Kind = kind) -> tuple[ObjectInfo, bool, str, Cut]:
                info, current = work_item
                if kind == "delivery":
                    return info, current, *self._delivery(site, info)
                if kind in _TABLES:
                    return info, current, *self._table(site, kind, info)
                if kind == "quarantine":
                    return info, current, *self._quarantine(site, info)
                _, body = site.fetch(self.bucket, info.key, version_id=info.version_id)
                return info, current, hashlib.sha256(body).hexdigest(), Cut(*self.cut_log(body))

            for info, current, digest, cut in bounded_map(todo, look, WORKERS):
                if cut.fault:
                    scan.faults[info.key] = cut.fault
                elif cut.unread and (kind != "prediction log" or current):  # earlier versions have the same entries
                    scan.unread[info.key] = cut.unread
                if cut.body is None and cut.file is None:
                    self._clean.add((info.key, info.size))
                    continue
                scan.held.append(self._held(site.name, kind, info, digest, cut, current))
        self._manifests(site, work.get("manifest", []), scan)

    def _listed(self, site: Site) -> Iterator[ObjectInfo]:
        name = self.pipeline.name
        for prefix in (
            f"raw/{name}/",
            f"quarantine/{name}/",
            f"training/{name}/",
            scorings.folder(name),
            hour_files.folder(name),
            snapshots.folder(name),
            erasing.CONFLICTS,
        ):
            yield from site.versions(self.bucket, prefix)

    def _brought(self, site: Site, info: ObjectInfo) -> tuple[ObjectInfo, str, Path]:
        """Fetch an object in constant memory. Return its facts, its SHA-256, and the file."""
        file = self._new_file()
        if info.size <= AT_ONCE:  # in one request
            head, body = site.fetch(self.bucket, info.key, version_id=info.version_id)
            file.write_bytes(body)
            return head, hashlib.sha256(body).hexdigest(), file
        head = site.head(self.bucket, info.key, version_id=info.version_id)
        return head, landing.fetch(site, self.bucket, info.key, file, head.sha256, version_id=info.version_id), file

    def _table(self, site: Site, kind: Kind, info: ObjectInfo) -> tuple[str, Cut]:
        """Return the SHA-256 of a Parquet object and its remaining rows."""
        key = scorings.names_of(self.pipeline.key) if kind == "prediction" else self.pipeline.key
        _, digest, file = self._brought(site, info)
        cut = erasing.cut_table(file, kind, key, self.gone, self._new_file())
        file.unlink()
        return digest, cut

    def _quarantine(self, site: Site, info: ObjectInfo) -> tuple[str, Cut]:
        """Return the SHA-256 of a quarantine file and its remaining rows."""
        delivery = landing.delivery_of(info.key)
        _, digest, file = self._brought(site, info)
        header, read_by = self._headers.get(delivery), self._read_by(site, delivery)
        cut = erasing.cut_quarantine(file, header, read_by, self.gone, self._new_file())
        file.unlink()
        return digest, cut

    def _delivery(self, site: Site, info: ObjectInfo) -> tuple[str, Cut]:
        """Return the SHA-256 of a delivery and its remaining rows."""
        head, digest, file = self._brought(site, info)
        cut = erasing.cut_delivery(file, self._read_by(site, _delivery(head)), self.gone, self._new_file())
        file.unlink()
        if cut.header:
            self._headers[_delivery(head)] = cut.header
        return digest, cut

    def _read_by(self, site: Site, delivery: str) -> Pipeline:
        """Return the pipeline with the format and the dialect with which a delivery was read."""
        if delivery not in self._readers:
            found = deliveries.recorded(site, self.bucket, self.pipeline.name, delivery)
            if found is None:  # a run was interrupted before it recorded the outcome
                return self.pipeline
            self._readers[delivery] = deliveries.read_by(found, self.pipeline)
        return self._readers[delivery]

    def _new_file(self) -> Path:
        return self.folder / secrets.token_hex(16)

    def _kept(self, cut: Cut) -> Path:
        """Return the file with an object's remaining rows."""
        if cut.file is None:
            file = self._new_file()
            file.write_bytes(cut.body or b"")
            return file
        return cut.file

    def _held(self, site: str, kind: Kind, info: ObjectInfo, digest: str, cut: Cut, current: bool) -> HeldVersion:
        file = self._kept(cut)
        after, to = file_sha256(file), info.key
        if not info.key.startswith(erasing.CONFLICTS):
            to = _renamed(kind, info.key, after)
        rows = _rows(file) if kind in (*_TABLES, "prediction log") else 1
        if kind == "part":
            self._parts[digest] = Part("", to, after, rows, file.stat().st_size)
        held = HeldVersion(site, kind, info, digest, cut.rows, current)
        if site == self.home and current and rows:
            self._files[after] = file
            return replace(held, to=to, file=file)
        file.unlink()
        return held

    def _manifests(self, site: Site, listed: Sequence[tuple[ObjectInfo, bool]], scan: Scan) -> None:
        read = {}
        for info, current in listed:
            body = site.read(self.bucket, info.key, version_id=info.version_id)
            try:
                read[info.key, info.version_id] = info, current, body, snapshots.parse(body, self.pipeline.name)
            except ValueError:
                scan.unread[info.key] = 1
        # newest first, so that of an id's versions the newest stays: the same rows may be in other parts by now
        naming = {manifest.id: manifest for _, _, _, manifest in reversed(read.values())}
        stands = (
            {manifest.id for info, current, _, manifest in read.values() if current} if site.name == self.home else ()
        )

        def content(before: Snapshot, partition: str, parts: Sequence[Part]) -> PartitionContent:
            if before.id in stands:
                had = [part for part in before.parts if part.partition == partition]
                if self._content(site, before, partition, had) not in before.partitions:
                    raise growth.differing(self.pipeline.name, partition)
                return self._content(site, before, partition, parts)
            return PartitionContent(partition, sum(part.rows for part in parts), "")  # it has no replacement

        replacements = erasing.succeed(naming.values(), self._parts, content)
        for info, current, body, manifest in read.values():
            if manifest.id not in replacements and not any(part.sha256 in self._parts for part in manifest.parts):
                continue
            held = HeldVersion(site.name, "manifest", info, hashlib.sha256(body).hexdigest(), 0, current)
            if site.name == self.home and current and (after := replacements.get(manifest.id)):
                scan.succeeded[manifest.id] = after
                to = f"{snapshots.folder(self.pipeline.name)}{after.id}.json"
                held = replace(held, to=to, file=self._kept(Cut(snapshots.manifest(after))))
            scan.held.append(held)

    def _content(self, site: Site, before: Snapshot, partition: str, parts: Sequence[Part]) -> PartitionContent:
        """Return the content of a partition that has these parts."""
        known = tuple(sorted(part.sha256 for part in parts))
        if (before.key, known) not in self._contents:
            for part in parts:
                if part.sha256 not in self._files:
                    self._files[part.sha256] = file = self._new_file()
                    landing.fetch(site, self.bucket, part.key, file, part.sha256)
            files = [self._files[sha256] for sha256 in known]
            with opened(Resources(_MEMORY, 1, self.folder / "spill"), [self.folder]) as connection:
                found = identity.by_duckdb(connection, parquet(files), before.columns, before.key)
            self._contents[before.key, known] = found.content(partition)
        return self._contents[before.key, known]


def _delivery(info: ObjectInfo) -> str:
    """Return the SHA-256 of a delivery as it was received."""
    return info.metadata.get("delivery") or info.key.split("/")[-2]


def _renamed(kind: Kind, key: str, sha256: str) -> str:
    folder, name = key.rsplit("/", 1)
    if kind == "delivery":
        return f"{folder.rsplit('/', 1)[0]}/{sha256}/{name}"
    return f"{folder}/{sha256}.parquet" if kind in _OWN_NAME else key


def _rows(file: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(file).num_rows)


def store(site: Site, bucket: str, held: Sequence[HeldVersion]) -> list[dict[str, Any]]:
    """Store the replacements at the home site. Return the old and new keys for the evidence."""
    stored = []
    for held_object in sorted(held, key=lambda held_object: -ORDER[held_object.kind]):
        if held_object.site != site.name or not held_object.current:
            continue
        after = None
        if held_object.to and held_object.file is not None:
            before = site.head(bucket, held_object.info.key, version_id=held_object.info.version_id)
            kept = {name: value for name, value in before.metadata.items() if name != "sha256"}
            if held_object.kind == "delivery":
                kept["delivery"] = _delivery(before)
            # a manifest may have been there
            wanted = None if held_object.kind == "manifest" else file_sha256(held_object.file)
            if held_object.to == held_object.info.key or not _is_there(site, bucket, held_object.to):
                site.write_file(
                    bucket, held_object.to, held_object.file, metadata=kept, content_type=before.content_type
                )
            after = landing.fetch(site, bucket, held_object.to, held_object.file.with_suffix(".back"), wanted)
        stored.append(
            {
                "bucket": bucket,
                "key": held_object.info.key,
                "sha256": held_object.sha256,
                "to": held_object.to,
                "to_sha256": after,
            }
        )
    return stored


def _is_there(site: Site, bucket: str, key: str) -> bool:
    try:
        site.head(bucket, key)
    except ObjectMissing:
        return False
    return True


def repoint(stores: ErasureStores, pipeline: Pipeline, succeeded: Mapping[str, Snapshot]) -> Snapshot | None:
    """Make the replacement the current snapshot, with evidence, while nobody commits.

    Returns None if the current snapshot stays. Raises IngestError if evidence names a newer one than the site shows:
    what replaces the older one would hide its rows for good.
    """
    if not succeeded:
        return None
    ledger, site, bucket = stores.ledger, stores.sites[stores.home], stores.lake
    before = stores.current(pipeline.name)
    if before is None or before.id not in succeeded:
        return None
    # the ingestion that wrote it may have been killed
    ingest_run.conclude(ledger, pipeline, site, bucket, before.deliveries)
    known = ledger.find("snapshot", pipeline.name)
    if all(record.body.get("snapshot") != before.id for record in known):
        ingest_run.tell_snapshot(ledger, pipeline, site.name, bucket, before)
    after = snapshots.read(site, bucket, pipeline.name, succeeded[before.id].id)
    snapshots.point_at(site, bucket, after)
    counts = dict.fromkeys(("deliveries", *COUNTS), 0)
    facts = {"snapshot": after.id, "previous": after.previous, "site": site.name, "bucket": bucket, "rows": after.rows}
    ledger.append("snapshot", pipeline.name, {**facts, "replaced": before.id, **counts})
    return after
