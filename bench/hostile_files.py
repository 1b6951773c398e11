"""Measure how much memory hostile deliveries need above the idle reader: thirty files, one ingestion each.

Each file is ingested by a process of its own, together with a good delivery, on a site in memory whose objects lie on
disk. The bench samples the resident memory of that process and of its reader process a hundred times a second, and
subtracts the memory that both use after all imports and one delivery. Mapped files are shared with the system's cache,
and count as well. `python -m bench.hostile_files [NAME ...]`
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from bench.report import Row, write
from rempart.ingestion import reading, sample
from rempart.settings import config, pipelines
from rempart.sites.port import ObjectInfo
from tests.memory_site import MemorySite

CEILING = 300
"""MiB above the idle reader that the worst file may take."""
MIB = 1 << 20
MOST = reading.MAX_REFUSED - 1_000
"""Faulty rows that are still refused one by one."""
_, WEEK = next(iter(sample.deliveries(config.project_root() / "data" / "hotel_bookings.csv.gz")))
LINES = WEEK.decode().splitlines()
HEADER, ROW = LINES[0], LINES[1]
COLUMNS = HEADER.split(",")


def packed(pieces: Any) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0) as stream:
        for piece in pieces:
            stream.write(piece)
    return out.getvalue()


def repeated(text: bytes, size: int) -> bytes:
    """At least `size` bytes of a text again and again, packed."""
    block = text * (MIB // len(text) + 1)
    return packed(block for _ in range(size // len(block) + 1))


def rows(count: int, change: Callable[[int], str]) -> bytes:
    return "\n".join([HEADER, *(change(i) for i in range(count)), ""]).encode()


def cells(**values: str) -> str:
    row = ROW.split(",")
    for column, value in values.items():
        row[COLUMNS.index(column)] = value
    return ",".join(row)


def numbered(i: int) -> str:
    return cells(booking_id=str(10_000_000 + i))


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"x": pa.array([0]).take(pa.array([0] * 20_000_000))}), out, compression="zstd")
    return out.getvalue()


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("x.csv", b"0" * (200 * MIB))
    return out.getvalue()


HEAD = (HEADER + "\n").encode()
FILES: dict[str, Callable[[], bytes]] = {
    "8 kB of gzip: one line of 8 MB": lambda: packed([HEAD, b"a" * (8 * MIB)]),
    "32 kB of gzip: newlines": lambda: repeated(b"\n", 32 * MIB),
    "gzip: one letter a line": lambda: repeated(b"a\n", 200 * MIB),
    "gzip: commas alone": lambda: repeated(b"," * 24 + b"\n", 400 * MIB),
    "gzip: one good row, repeated": lambda: packed([HEAD, *[(ROW + "\n").encode() * 10_000] * 100]),
    "gzip: zeros, 1 GB": lambda: repeated(b"\0", 1024 * MIB),
    "gzip of gzip of gzip": lambda: gzip.compress(gzip.compress(repeated(b"a,b\n", 500 * MIB))),
    "gzip of many members": lambda: gzip.compress(HEAD) + gzip.compress(b"a\n" * 50_000) * 2_000,
    "gzip, truncated after 100 MB": lambda: packed([HEAD, os.urandom(8 * MIB), b"a" * (100 * MIB)])[:-20],
    "a line of 1 GB": lambda: b"a" * (1024 * MIB),
    "a quoted cell of 400 MB": lambda: HEAD + b'"' + b"a" * (400 * MIB),
    "100,000 columns": lambda: (",".join(f"c{i}" for i in range(100_000)) + "\n").encode() * 50,
    "100,000 fields in each row": lambda: HEAD + (b"," * 100_000 + b"\n") * 500,
    "quotes that never close": lambda: rows(MOST, lambda i: f'"{ROW}'),
    "quotes inside quotes": lambda: rows(60_000, lambda i: cells(agent='"' + '""' * 40 + '"')),
    "a cell of 1,000 lines, never closed": lambda: HEAD + b'"' + b"a\n" * 20_000_000,
    "NULs": lambda: HEAD + b"\0" * (100 * MIB),
    "NULs between the letters (UTF-16)": lambda: rows(300_000, numbered).decode().encode("utf-16"),
    "a NUL in each row": lambda: rows(MOST, lambda i: cells(booking_id=str(i), agent="a\0b")),
    "a byte order mark in each line": lambda: rows(120_000, lambda i: "\ufeff" + numbered(i)),
    "two byte order marks": lambda: b"\xef\xbb\xbf" * 2 + rows(10, numbered),
    "numbers of 1,000 digits": lambda: rows(MOST, lambda i: cells(booking_id="9" * 1000)),
    "every cell wrong": lambda: rows(MOST, lambda i: ",".join(["x"] * len(COLUMNS))),
    "every cell wrong, many rows": lambda: rows(900_000, lambda i: ",".join(["x"] * len(COLUMNS))),
    "every cell empty": lambda: rows(900_000, lambda i: "," * (len(COLUMNS) - 1)),
    "rows that break every expectation": lambda: rows(
        MOST, lambda i: cells(booking_id=str(i), adults="0", lead_time="9000", avg_price_per_room="0")
    ),
    "one key, other values": lambda: rows(300_000, lambda i: cells(lead_time=str(i % 700))),
    "Parquet of 20,000,000 rows": parquet,
    "a ZIP archive of 200 MB": archive,
    "random bytes, 100 MB": lambda: HEAD + os.urandom(100 * MIB),
}


class DiskSite(MemorySite):
    """A site in memory whose large objects lie on disk, so that its own memory does not count."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self.folder = folder

    def adopt(self, bucket: str, key: str, file: Path) -> ObjectInfo:
        """Hold a file as an object."""
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        info = ObjectInfo(key, file.stat().st_size, self.clock(), None, digest[:32], {"sha256": digest})
        self._bucket(bucket)[key] = [(info, file)]  # type: ignore[list-item] # instead of its bytes
        return info

    def write_file(self, bucket: str, key: str, file: Path, **more: Any) -> ObjectInfo:
        kept = self.folder / hashlib.sha256(f"{bucket}/{key}".encode()).hexdigest()
        shutil.copyfile(file, kept)
        return self.adopt(bucket, key, kept)

    @contextmanager
    def open(self, bucket: str, key: str, *, version_id: str | None = None, once: bool = False) -> Iterator[BinaryIO]:
        body: Any = self._find(bucket, key, version_id)[1]
        with body.open("rb") if isinstance(body, Path) else io.BytesIO(body) as stream:
            yield stream

    def fetch(self, bucket: str, key: str, **asked: Any) -> tuple[ObjectInfo, bytes]:
        info, body = super().fetch(bucket, key, **asked)
        return info, body.read_bytes() if isinstance(body, Path) else body


def resident(*pids: int) -> int:
    """Resident bytes of some processes; those that have ended have none."""
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Take in one file in this process; the peak above idle (MiB), and what became of it."""
    from rempart.flows.ingestion.ingest import ingest
    from rempart.flows.shared.platform import Platform
    from rempart.ingestion import deliveries, isolated
    from rempart.ledger.memory import MemoryLedger
    from rempart.replication.continuity import MemoryContinuity

    settings = config.load()
    site = DiskSite(settings.active_site, folder)
    buckets = settings.buckets
    for bucket in (buckets.landing, buckets.lake):
        site.ensure_bucket(bucket, versioned=False)
    platform = Platform(
        settings,
        config.environment_connections,
        lambda: datetime(2026, 3, 1, tzinfo=UTC),
        {settings.active_site: site},
        MemoryLedger(),
        MemoryContinuity(),
    )
    spec = pipelines.named("hotel_bookings")
    site.write(buckets.landing, "hotel_bookings/first.csv", WEEK)
    ingest(platform, spec)  # everything is imported, and warm
    packed_name = ".csv.gz" if (folder / "hostile").open("rb").read(2) == b"\x1f\x8b" else ".csv"
    site.adopt(buckets.landing, f"hotel_bookings/hostile{packed_name}", folder / "hostile")
    site.write(buckets.landing, "hotel_bookings/good.csv", rows(20, numbered))
    idle = resident(os.getpid(), isolated.idle())
    peak, over = idle, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.01):
            reader = isolated._reader
            peak = max(peak, resident(os.getpid(), *([reader.process.pid] if reader else [])))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.monotonic()
    result = ingest(platform, spec)
    seconds = time.monotonic() - began
    over.set()
    watcher.join()
    found = {outcome["file"]: outcome for outcome in deliveries.outcomes(site, buckets.lake, spec.name)}
    hostile = found[f"hostile{packed_name}"]
    return {
        "name": name,
        "peak": round((peak - idle) / MIB, 1),
        "idle": round(idle / MIB, 1),
        "seconds": round(seconds, 1),
        "outcome": hostile["outcome"],
        "fault": hostile["fault"],
        "refused": hostile["quarantined"],
        "others_went_on": found["good.csv"]["accepted"] == 20,
        "unreadable": len(result.unreadable),
    }


def apart(name: str) -> dict[str, Any]:
    """`measure` in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="rempart-hostile-") as folder:
        Path(folder, "hostile").write_bytes(FILES[name]())
        done = subprocess.run(
            [sys.executable, "-m", "bench.hostile_files", "--one", name, folder],
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-1500:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main(names: list[str]) -> int:
    if names[:1] == ["--one"]:
        print(json.dumps(measure(names[1], Path(names[2]))))
        return 0
    measured = []
    for name in names or FILES:
        measurement = apart(name)
        measured.append(measurement)
        ending = measurement["fault"] or measurement["outcome"]
        print(f"{measurement['peak']:7.1f} MiB  {measurement['seconds']:6.1f} s  {name}: {ending}", flush=True)
    worst = max(figure["peak"] for figure in measured)
    fine = worst <= CEILING and all(figure["others_went_on"] for figure in measured)
    print(f"worst: {worst:.1f} MiB above the idle reader; allowed: {CEILING}")
    cases = [Row(figure["name"], "MiB", figure["peak"], CEILING, "the ceiling", "lower") for figure in measured]
    write("hostile_files", cases, ok=fine, worst=worst, files=measured)
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
