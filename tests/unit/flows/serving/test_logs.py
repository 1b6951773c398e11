"""The scorer's log: nothing of a person is readable, and what cannot be logged is refused."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from rempart.backup.keys import age
from rempart.errors import ServingError
from rempart.flows.prediction_log import keys
from rempart.flows.serving.logs import ServedLogs
from rempart.ledger.memory import MemoryLedger
from rempart.serving import records, segments
from rempart.settings.pipeline import ModelPipeline
from tests.logged import entry
from tests.unit.training.stage import pipeline

NAME = "hotel_bookings"


def test_an_entry_is_sealed_with_the_newest_key_of_the_ledger_and_refused_without_one(tmp_path: Path) -> None:
    served = pipeline(name=NAME, classification="personal")
    ledger, identities = MemoryLedger(), [age.new_identity() for _ in range(2)]

    async def main() -> None:
        logs = ServedLogs(tmp_path)
        logs.follow({NAME: served}, {})
        with pytest.raises(ServingError, match="the key that seals its log is missing"):
            await logs.write([entry(0)])
        for number, identity in enumerate(identities, 1):
            made = {"event": "made", "serial": f"000{number}", "seals_for": identity.recipient}
            ledger.append("backup-key", keys.scope_of(served).id, made)
            found = keys.public_key(ledger, served)
            assert found is not None
            logs.follow({NAME: served}, {NAME: found})
            await logs.write([entry(number)])
        logs.follow({NAME: served}, {})  # the key was destroyed
        with pytest.raises(ServingError, match="is missing"):
            await logs.write([entry(3)])
        await logs.close()

    asyncio.run(main())
    (file,) = (tmp_path / NAME).iterdir()
    assert base64.b64encode(b"CANARY")[:8] not in file.read_bytes() and b"CANARY" not in file.read_bytes()
    found = [records.decode(payload) for payload in segments.content(file.read_bytes()).payloads]
    assert [each.id for each in found] == [entry(1).id, entry(2).id]
    for record, identity in zip(found, identities, strict=True):
        assert records.private(age.decrypt(record.private, identity, "the entry")).inputs["agent"] == "CANARY-agent"


def test_a_public_pipeline_needs_no_key(tmp_path: Path) -> None:
    async def main() -> None:
        logs = ServedLogs(tmp_path)
        logs.follow({NAME: pipeline(name=NAME, classification="public")}, {})
        await logs.write([entry(1)])
        await logs.close()

    asyncio.run(main())
    (file,) = (tmp_path / NAME).iterdir()
    (payload,) = segments.content(file.read_bytes()).payloads
    assert records.private(records.decode(payload).private).inputs["agent"] == "CANARY-agent"


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
