"""Champions on record, as a backup reads them from the dump of the ledger."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rempart.backup.databases import postgresql


def test_a_removed_pipeline_has_no_champion_that_a_restore_point_could_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [
        ("promotion", "gone", {"version": "1"}),
        ("promotion", "kept", {"version": "1"}),
        ("removal", "gone", {"what": "remove", "state": "began"}),
        ("removal", "kept", {"what": "reset", "state": "ended"}),
        ("promotion", "kept", {"version": "2"}),
        ("rollback", "kept", {"champion": "1", "replaces": "2"}),
        ("rollback", "altered", {"champion": "4", "replaces": "5"}),
    ]

    class FakeKeys:
        def read(self, text: str, sig: str) -> dict[str, Any]:
            kind, subject, body = told[int(text)]
            return {"kind": kind, "subject": subject, "body": body}

    class FakeSession:
        def execute(self, query: str) -> FakeSession:
            assert "'removal'" in query
            return self

        def fetchall(self) -> list[tuple[str, str]]:
            return [(str(number), "") for number in range(len(told))]

    monkeypatch.setattr(postgresql, "_ledger_keys", lambda opened: FakeKeys())
    assert postgresql.decided_champions(cast("Any", FakeSession())) == {"kept": "1", "altered": "4"}
