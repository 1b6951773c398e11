"""The scorer's log: nothing of a person is readable, and what cannot be logged is refused."""

from __future__ import annotations

import asyncio
import base64
from functools import partial
from pathlib import Path

import pytest

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import parse
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.errors import ServingError
from rempart.flows.prediction_log import keys
from rempart.flows.serving.logs import ServedLogs
from rempart.ledger.memory import MemoryLedger
from rempart.serving import seals, segments
from rempart.settings.pipeline import ModelPipeline
from tests.logged import entry, grouped, opened
from tests.unit.training.stage import pipeline

NAME = "hotel_bookings"


def test_an_entry_is_sealed_with_the_newest_key_of_the_ledger_and_refused_without_one(tmp_path: Path) -> None:
    served = pipeline(name=NAME, classification="personal")
    ledger, identities = MemoryLedger(), [age.new_identity() for _ in range(2)]

    async def main() -> None:
        logs = ServedLogs(tmp_path)
        logs.follow({NAME: served}, {})
        with pytest.raises(ServingError, match="the key that seals its log is missing"):
            await logs.write(grouped(entry(0)))
        for number, identity in enumerate(identities, 1):
            made = {"event": "made", "serial": f"000{number}", "seals_for": identity.recipient}
            ledger.append("backup-key", keys.scope_of(served).id, made)
            found = keys.public_key(ledger, served)
            assert found is not None
            logs.follow({NAME: served}, {NAME: found})
            await logs.write(grouped(entry(number)))
        logs.follow({NAME: served}, {})  # the key was destroyed
        with pytest.raises(ServingError, match="is missing"):
            await logs.write(grouped(entry(3)))
        await logs.close()

    asyncio.run(main())
    read: list[tuple[str, str]] = []
    for file in segments.all_in(tmp_path / NAME):
        assert base64.b64encode(b"CANARY")[:8] not in file.read_bytes() and b"CANARY" not in file.read_bytes()
        found = [
            seals.open_segment(file.stem, file.read_bytes(), keys.unwrapper(partial(opened_with, identity)))
            for identity in identities
        ]
        (right,) = (each for each in found if each.entries)
        (wrong,) = (each for each in found if not each.entries)
        assert "does not open" in wrong.faults[0] and right.entries[0].inputs["agent"] == "CANARY-agent"
        assert right is found[int(right.key[-4:]) - 1]
        read += ((right.key[-4:], each.id) for each in right.entries)
    assert sorted(read) == [("0001", entry(1).id), ("0002", entry(2).id)]  # each key begins a segment


def opened_with(identity: age.Identity, name: str) -> ScopeKey:
    scope, _, serial = name.partition(" ")
    return ScopeKey(parse(scope), serial, identity, "", bytes(32), proven=True)


def test_a_public_pipeline_needs_no_key(tmp_path: Path) -> None:
    async def main() -> None:
        logs = ServedLogs(tmp_path)
        logs.follow({NAME: pipeline(name=NAME, classification="public")}, {})
        await logs.write(grouped(entry(1)))
        await logs.close()

    asyncio.run(main())
    (read,) = opened(tmp_path / NAME)
    assert read.entries[0].inputs["agent"] == "CANARY-agent"


def test_after_a_change_of_the_retention_the_former_key_seals_until_another_is_made() -> None:
    def kept(days: int) -> ModelPipeline:
        made = pipeline(name=NAME, classification="personal")
        log = made.serving.log.model_copy(update={"keep_days": days})
        return made.model_copy(update={"serving": made.serving.model_copy(update={"log": log})})

    def record(days: int, event: str, **more: str) -> None:
        ledger.append("backup-key", keys.scope_of(kept(days)).id, {"event": event, "serial": "0001", **more})

    ledger = MemoryLedger()
    assert keys.public_key(ledger, kept(90)) is None
    ledger.append("backup-key", "dataset-hotel_bookings-90d", {"event": "made", "serial": "0001", "seals_for": "other"})
    record(400, "made", seals_for="former")
    assert keys.public_key(ledger, kept(90)) == (f"predictions-{NAME}-400d 0001", "former")
    record(400, "rewrapped")
    record(90, "made", seals_for="newer")
    assert keys.public_key(ledger, kept(90)) == (f"predictions-{NAME}-90d 0001", "newer")
    assert keys.public_key(ledger, kept(30)) == (f"predictions-{NAME}-90d 0001", "newer")
    record(90, "destroyed")
    assert keys.public_key(ledger, kept(90)) is None  # nobody may read it: no former key takes its place
    assert keys.public_key(ledger, kept(30)) is None
    assert keys.public_key(ledger, kept(400)) == (f"predictions-{NAME}-400d 0001", "former")


def test_two_scorers_with_one_folder_never_share_a_segment(tmp_path: Path) -> None:
    """Each has segments of its own, which count as written until it ends."""

    async def main() -> None:
        scorers = [ServedLogs(tmp_path) for _ in range(2)]
        for logs in scorers:
            logs.follow({NAME: pipeline(name=NAME, classification="public")}, {})
        for number in range(0, 20, 2):
            await asyncio.gather(*(logs.write(grouped(entry(number + n))) for n, logs in enumerate(scorers)))
        assert segments.closed_in(tmp_path / NAME) == []
        for n, logs in enumerate(scorers, 1):
            await logs.close()
            assert len(segments.closed_in(tmp_path / NAME)) == n

    asyncio.run(main())
    found = opened(tmp_path / NAME)
    assert [each.faults for each in found] == [()] * 2
    ids = [[each.id for each in segment.entries] for segment in found]
    assert sorted(ids) == sorted([[entry(number).id for number in range(n, 20, 2)] for n in (0, 1)])
