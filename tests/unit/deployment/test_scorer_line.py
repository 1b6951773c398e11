"""What `rempart status` says of the scorer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rempart.deployment.servers import rest, scorer_server


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (0, "it answers, and no pipeline has a champion yet"),
        (1, "the champion of 1 pipeline answers"),
        (3, "the champions of 3 pipelines answer"),
    ],
)
def test_champions_are_counted_in_words(monkeypatch: pytest.MonkeyPatch, models: int, told: str) -> None:
    ready = {"models": models, "ledger_answers": True, "failing": 0}
    monkeypatch.setattr(rest, "call", lambda *_: ready)
    stack: Any = SimpleNamespace(scorer_port=18090)
    assert scorer_server.check(stack) == told
