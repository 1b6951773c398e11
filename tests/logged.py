"""Entries of the prediction log, and journals of them, for tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rempart.flows.prediction_log import keys
from rempart.flows.shared.platform import Platform
from rempart.serving import seals, segments
from rempart.serving.entries import PredictionEntry, PredictionGroup, PrivatePart, PublicPart, new_id
from rempart.serving.journal import Journal
from rempart.settings.pipeline import ModelPipeline

AT = datetime(2099, 3, 1, 10, 58, tzinfo=UTC)
SHA256 = "ab" * 32


def entry(number: int, at: datetime | None = None, **more: Any) -> PredictionEntry:
    """The prediction of a booking, by its number; a minute later than the one before."""
    at = at or AT + timedelta(minutes=number)
    given: dict[str, Any] = {
        "id": new_id(at, number.to_bytes(10, "big")),
        "at": at,
        "pipeline": "hotel_bookings",
        "version": "3",
        "sha256": SHA256,
        "client": "desk",
        "place": "acme/node-1/scorer",
        "inputs": {"booking_id": number, "adults": 2, "agent": "CANARY-agent"},
        "features": {"stay__adults": 2.0, "stay__lead": None},
        "output": {"prediction": 80.0 + number},
        "seconds": 0.004,
    }
    return PredictionEntry(**given | more)


def journal(platform: Platform, pipeline: ModelPipeline, root: Path) -> Journal:
    """Return the journal of a pipeline as the scorer opens it: it knows the public half of the key alone."""
    keys.make_folder(pipeline, root / pipeline.name)
    key = keys.public_key(platform.ledger, pipeline)
    assert key or not keys.is_sealed(pipeline)
    return Journal(root / pipeline.name, keys.sealing(*key) if key else None, pipeline.serving.log.sample)


def grouped(*entries: PredictionEntry) -> PredictionGroup:
    """The predictions of one request. What they have in common is that of the first."""
    of = entries[0]
    public = PublicPart(
        of.at, of.pipeline, of.version, of.sha256, of.client, of.place, of.seconds, of.returned,
        [each.id for each in entries], [each.output for each in entries],
    )  # fmt: skip
    inputs, features = [each.inputs for each in entries], [list(each.features.values()) for each in entries]
    return PredictionGroup(public, PrivatePart(inputs, list(of.features), features))


def entries_of(group: PredictionGroup) -> list[PredictionEntry]:
    """The entries that a group has, as Python values."""
    of, private = group.public, group.private
    common, told = (of.at, of.pipeline, of.version, of.sha256, of.client, of.place), (of.seconds, of.returned)
    return [
        PredictionEntry(id_, *common, row, dict(zip(private.names, seen, strict=True)), out, *told)
        for id_, row, seen, out in zip(of.ids, private.inputs, private.features, of.outputs, strict=True)
    ]


def written(journal: Journal, *groups: Sequence[PredictionEntry]) -> None:
    """Write entries, each as a request of its own and all at the same time, and close the journal."""

    async def write() -> None:
        await asyncio.gather(*(journal.write(grouped(each)) for group in groups for each in group))
        await journal.close()

    asyncio.run(write())


def no_key(name: str, wrapped: bytes) -> bytes:
    raise AssertionError("no segment is sealed")


def opened(folder: Path, unwrap: seals.Unwrap = no_key) -> list[seals.OpenedSegment]:
    """The segments of a journal."""
    return [seals.open_segment(file.stem, file.read_bytes(), unwrap) for file in segments.all_in(folder)]


class Killed(BaseException):
    """The process ends here."""


def killed_at(
    step: int,
    monkeypatch: pytest.MonkeyPatch,
    site: type,
    ledger: type,
    calls: Sequence[str] = ("write_new", "read", "list"),
) -> Callable[[], int]:
    """End the process before its n-th effect on a site, the ledger or the disk. Returns how many there were."""
    counted = [0]

    def counting(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*given: Any, **more: Any) -> Any:
            counted[0] += 1
            if counted[0] == step:
                raise Killed
            return real(*given, **more)

        monkeypatch.setattr(owner, name, call)

    for owner, names in (
        (site, calls),
        (ledger, ("append",)),
        (Path, ("unlink", "replace", "write_text")),
        (os, ("fsync",)),
    ):
        for name in names:
            counting(owner, name)
    return lambda: counted[0]
