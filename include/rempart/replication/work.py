"""Store the work found by a merge in pieces: on disk for this process, or at the target site for tasks elsewhere."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from queue import Full, Queue
from typing import Any, Protocol

from rempart.errors import ObjectMissing
from rempart.replication.plan import Copy, KeyPlan, Replica
from rempart.sites.port import ObjectInfo, Site

_HELD = 50_000
"""Entries of a listing that are sorted in memory; more of them on disk."""
_BATCH = 500


class Store(Protocol):
    """Stores pieces of work."""

    def put(self, name: str, body: bytes) -> None: ...

    def get(self, name: str) -> bytes: ...

    def drop(self, names: Iterable[str]) -> None:
        """Remove finished pieces."""


class FolderStore:
    """Stores pieces in a folder of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, body: bytes) -> None:
        (self._folder / name).write_bytes(body)

    def get(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)


class SiteStore:
    """Stores pieces below a prefix of a bucket, for tasks on other machines."""

    def __init__(self, site: Site, bucket: str, prefix: str) -> None:
        self._site, self._bucket, self._prefix = site, bucket, prefix

    def put(self, name: str, body: bytes) -> None:
        self._site.write(self._bucket, f"{self._prefix}/{name}", body, content_type="application/x-ndjson")

    def get(self, name: str) -> bytes:
        key = f"{self._prefix}/{name}"
        return self._site.read(self._bucket, key, sha256=self._site.head(self._bucket, key).sha256)

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            key = f"{self._prefix}/{name}"
            with suppress(ObjectMissing):  # an earlier attempt removed it
                version = self._site.head(self._bucket, key).version_id
                self._site.delete(self._bucket, key, version_id=version)


def encode(plans: Iterable[KeyPlan]) -> bytes:
    """Return one line for each key: its copies, whether it is a folder of other keys, whether it is hidden."""
    lines = (
        json.dumps(
            {
                "key": plan.key,
                "hides": plan.hides,
                "folder": plan.folder,
                "copies": [_plain(asdict(copy)) for copy in plan.copies],
                "surplus": [_plain(asdict(info)) for info in plan.surplus],
            },
            separators=(",", ":"),
        )
        for plan in plans
    )
    return "\n".join(lines).encode()


def decode(body: bytes) -> Iterator[KeyPlan]:
    """Return the plans from their lines, without `missing` and `back`. Raises ValueError for other bytes."""
    for line in filter(None, body.split(b"\n")):
        plain = json.loads(line)
        copies = tuple(
            Copy(
                _info(copy["source"]),
                copy["place"],
                copy["why"],
                _info(copy["perhaps"]) if copy["perhaps"] else None,
            )
            for copy in plain["copies"]
        )
        surplus = tuple(_info(info) for info in plain["surplus"])
        yield KeyPlan(plain["key"], copies, plain["hides"], surplus=surplus, folder=plain["folder"])


def encode_row(row: Replica) -> bytes:
    """Return a replica as one line."""
    return json.dumps(_plain(asdict(row)), separators=(",", ":")).encode() + b"\n"


def decode_row(line: bytes) -> Replica:
    plain = json.loads(line)
    moments = ("modified", "copied", "verified", "missing_since", "hidden")
    return Replica(**{**plain, **{name: datetime.fromisoformat(plain[name]) for name in moments if plain[name]}})


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _plain(value) if isinstance(value, dict) else value.isoformat() if isinstance(value, datetime) else value
        for name, value in fields.items()
    }


def _info(plain: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(**{**plain, "modified": datetime.fromisoformat(plain["modified"])})


def in_order(listing: Iterable[ObjectInfo], folder: Path) -> Iterator[ObjectInfo]:
    """Return a listing in the order of keys' bytes; the versions of a key keep their order.

    In constant memory: a long listing is sorted on disk, in `folder`.
    """
    infos: list[ObjectInfo] = []
    more = iter(listing)
    for info in more:
        infos.append(info)
        if len(infos) >= _HELD:
            yield from _on_disk(infos, more, folder)
            return
    infos.sort(key=lambda info: info.key.encode("utf-8", "surrogatepass"))  # stable
    yield from infos


def _on_disk(infos: list[ObjectInfo], more: Iterator[ObjectInfo], folder: Path) -> Iterator[ObjectInfo]:
    def rows(ordered: Iterable[ObjectInfo]) -> Iterator[tuple[Any, ...]]:
        for info in ordered:
            key = info.key.encode("utf-8", "surrogatepass")
            yield key, info.size, info.modified.isoformat(), info.version_id, info.etag, info.marker

    database = sqlite3.connect(folder / f"listing-{id(infos)}.sqlite")
    try:
        database.execute("PRAGMA journal_mode=OFF")
        database.execute("CREATE TABLE listing (key BLOB, size, modified, version, etag, marker)")
        insert = "INSERT INTO listing VALUES (?, ?, ?, ?, ?, ?)"
        database.executemany(insert, rows(infos))
        infos.clear()
        database.executemany(insert, rows(more))
        database.execute("CREATE INDEX by_key ON listing (key)")
        for key, size, modified, version, etag, marker in database.execute(
            "SELECT key, size, modified, version, etag, marker FROM listing ORDER BY key, rowid"
        ):
            moment = datetime.fromisoformat(modified)
            yield ObjectInfo(key.decode("utf-8", "surrogatepass"), size, moment, version, etag, marker=bool(marker))
    finally:
        database.close()


def ahead(listing: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    """Yield the same entries, prefetched some pages ahead by a thread."""
    batches: Queue[list[ObjectInfo] | BaseException | None] = Queue(maxsize=8)
    stopped = threading.Event()

    def put(batch: list[ObjectInfo] | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                batches.put(batch, timeout=0.2)
            except Full:
                continue
            return

    def read() -> None:
        batch: list[ObjectInfo] = []
        try:
            for info in listing:
                batch.append(info)
                if len(batch) >= _BATCH:
                    put(batch)
                    batch = []
                if stopped.is_set():
                    return
            put(batch)
            put(None)
        except BaseException as error:  # raised again where it is read
            put(error)

    def infos() -> Iterator[ObjectInfo]:
        try:
            while (batch := batches.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                yield from batch
        finally:
            stopped.set()

    threading.Thread(target=read, name="listing", daemon=True).start()
    return infos()
