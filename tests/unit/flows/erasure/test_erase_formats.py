"""A booking is erased from deliveries of every format and packing, in every version at both sites."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rempart.flows.ingestion.ingest import ingest
from rempart.ingestion import deliveries, snapshots
from tests.erasable import HEADER, ROWS, Lake, id_of, in_two_memories
from tests.unit.flows.erasure.booked import VICTIM, WHO, erase, without_features


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    return without_features(monkeypatch)


OTHER_NAME = "Booking.ID (No)"


def packed(body: bytes, packing: str) -> bytes:
    if packing == ".zst":
        return bytes(pa.compress(body, codec="zstd", asbytes=True))
    return gzip.compress(body) if packing == ".gz" else body


def encoded(rows: Sequence[str], form: str, header: str = HEADER) -> bytes:
    plain = [dict(zip(header.split(","), row, strict=True)) for row in csv.reader(rows)]
    if form == "csv":
        return "\n".join([header, *rows, ""]).encode()
    typed: list[dict[str, Any]] = [
        {name: int(value) if name in ("booking_id", OTHER_NAME) else value for name, value in row.items()}
        for row in plain
    ]
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in typed).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(typed), sink)
    return bytes(sink.getvalue())


def text_of(body: bytes) -> str:
    """All that an object holds, as text."""
    if body.startswith(b"\x1f\x8b"):
        body = gzip.decompress(body)
    if body.startswith(b"\x28\xb5\x2f\xfd"):
        body = pa.CompressedInputStream(pa.BufferReader(body), "zstd").read()
    if body.startswith(b"PAR1"):
        return "\n".join(str(row) for row in pq.read_table(io.BytesIO(body)).to_pylist())
    return body.decode()


def holders(lake: Lake) -> list[str]:
    wanted = re.compile(rf"(booking_id|{re.escape(OTHER_NAME)})[\"']*: [\"']*{WHO}\b|(^|\n|': '){WHO},")
    found = []
    for name in ("primary", "haven"):
        site = lake.site(name)
        for info in list(site.versions(lake.bucket)):
            if not info.marker and wanted.search(text_of(site.read(lake.bucket, info.key, version_id=info.version_id))):
                found.append(f"{name}/{info.key}")
    return found


def land(lake: Lake, name: str, body: bytes) -> None:
    lake.site("primary").write(lake.platform.config.buckets.landing, f"hotel_bookings/{name}", body)
    ingest(lake.platform, lake.pipeline)


@pytest.mark.parametrize(
    ("form", "packing"), [("csv", ".zst"), ("jsonl", ""), ("jsonl", ".gz"), ("jsonl", ".zst"), ("parquet", "")]
)
def test_a_booking_is_erased_from_every_format_and_its_neighbours_stay(form: str, packing: str) -> None:
    lake = in_two_memories()
    source = lake.pipeline.source.model_copy(update={"format": form})
    lake.pipeline = lake.pipeline.model_copy(update={"source": source})
    changed = VICTIM.split(",")
    changed[1] = "99.5"
    land(lake, f"one.{form}{packing}", packed(encoded(ROWS[:10], form), packing))
    land(lake, f"two.{form}{packing}", packed(encoded([",".join(changed), *ROWS[10:14]], form), packing))
    lake.replicate()
    before = snapshots.current(lake.site("primary"), lake.bucket, "hotel_bookings")
    assert before and before.rows == 14
    kinds = {holder.split("/")[1] for holder in holders(lake)}
    assert kinds == {"raw", "quarantine", "snapshots"}
    done = erase(lake, WHO)
    assert not done.pending and not done.unread and holders(lake) == []
    now = snapshots.current(lake.site("primary"), lake.bucket, "hotel_bookings")
    assert now
    table = snapshots.load_table(lake.site("primary"), lake.bucket, now)
    others = {id_of(row) for row in ROWS[:14]} - {WHO}
    assert set(table["booking_id"].to_pylist()) == others
    raw = [lake.site("primary").read(lake.bucket, i.key) for i in lake.site("primary").list(lake.bucket, "raw/")]
    assert all(body[:2] == packed(encoded(ROWS[:1], form), packing)[:2] for body in raw)
    text = "\n".join(map(text_of, raw))
    assert all(str(booking) in text for booking in others)
    # and a third delivery does not bring it back
    land(lake, f"three.{form}{packing}", packed(encoded([VICTIM, ROWS[20]], form), packing))
    assert holders(lake) == []
    outcomes = {o["file"]: o for o in deliveries.outcomes(lake.site("primary"), lake.bucket, "hotel_bookings")}
    third = outcomes[f"three.{form}{packing}"]
    assert (third["accepted"], third["reasons"]) == (1, {"erased": 1})


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_booking_is_erased_from_files_with_other_names_also_after_these_changed(form: str) -> None:
    lake, renamed = in_two_memories(), HEADER.replace("booking_id", OTHER_NAME).replace("adults", "Adults")
    today = lake.pipeline
    names = {OTHER_NAME: "booking_id", "Adults": "adults"}
    as_then = {"format": form, "header": names}
    lake.pipeline = today.model_copy(update={"source": today.source.model_copy(update=as_then)})
    changed = VICTIM.split(",")
    changed[1] = "99.5"
    land(lake, f"one.{form}", encoded(ROWS[:10], form, renamed))
    land(lake, f"two.{form}", encoded([",".join(changed), *ROWS[10:14]], form, renamed))
    lake.pipeline = today  # later files have the names of the schema
    lake.replicate()
    assert {holder.split("/")[1] for holder in holders(lake)} == {"raw", "quarantine", "snapshots"}
    done = erase(lake, WHO)
    assert not done.pending and not done.unread and holders(lake) == []
    raw = [lake.site("primary").read(lake.bucket, i.key) for i in lake.site("primary").list(lake.bucket, "raw/")]
    text = "\n".join(map(text_of, raw))
    assert OTHER_NAME in text and all(str(id_of(row)) in text for row in ROWS[:14] if id_of(row) != WHO)


def test_an_old_delivery_is_cut_with_the_dialect_with_which_it_was_read() -> None:
    lake = in_two_memories()
    semicolons = "\n".join(row.replace(",", ";") for row in [HEADER, *ROWS[:4]])
    today = lake.pipeline
    source = today.source.model_copy(update={"delimiter": ";"})
    lake.pipeline = today.model_copy(update={"source": source})
    land(lake, "one.csv", semicolons.encode())
    lake.pipeline = today
    land(lake, "two.csv", encoded(ROWS[4:6], "csv"))
    (found,) = (o for o in deliveries.outcomes(lake.site("primary"), lake.bucket, today.name) if o["file"] == "one.csv")
    assert (found["source"]["delimiter"], found["accepted"]) == (";", 4)
    lake.replicate()
    done = erase(lake, WHO)
    assert not done.pending and not done.unread
    raw = [lake.site("primary").read(lake.bucket, i.key) for i in lake.site("primary").list(lake.bucket, "raw/")]
    assert VICTIM.replace(",", ";").encode() not in b"\n".join(raw)
    assert sum(body.count(b"\n") for body in raw) == 4 + 3
