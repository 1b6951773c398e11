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


def test_two_scorers_with_one_folder_never_share_a_segment(tmp_path: Path) -> None:
    """Each has segments of its own, which count as written until it ends."""

    async def main() -> None:
        scorers = [ServedLogs(tmp_path) for _ in range(2)]
        for logs in scorers:
            logs.follow({NAME: pipeline(name=NAME, classification="public")}, {})
        for number in range(0, 20, 2):
            await asyncio.gather(*(logs.write([entry(number + n)]) for n, logs in enumerate(scorers)))
        assert segments.closed_in(tmp_path / NAME) == []
        for n, logs in enumerate(scorers, 1):
            await logs.close()
            assert len(segments.closed_in(tmp_path / NAME)) == n

    asyncio.run(main())
    found = [segments.content(file.read_bytes()) for file in segments.closed_in(tmp_path / NAME)]
    assert [(each.torn, each.damaged) for each in found] == [(0, 0)] * 2
    ids = [[records.decode(payload).id for payload in each.payloads] for each in found]
    assert sorted(ids) == sorted([[entry(number).id for number in range(n, 20, 2)] for n in (0, 1)])
