"""What `rempart status` says of the scorer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rempart.deployment.servers import rest, scorer_server


@pytest.mark.parametrize(
    ("models", "opening", "told"),
    [
        (0, 0, "it answers, and no pipeline has a champion yet"),
        (0, 1, "it answers, and the first champion is being opened"),
        (1, 0, "the champion of 1 pipeline answers"),
        (1, 1, "the champion of 1 pipeline answers; that of 1 more is being opened"),
        (3, 0, "the champions of 3 pipelines answer"),
    ],
)
def test_champions_are_counted_in_words(monkeypatch: pytest.MonkeyPatch, models: int, opening: int, told: str) -> None:
    ready = {"models": models, "opening": opening, "ledger_answers": True, "failing": 0}
    monkeypatch.setattr(rest, "call", lambda *_: ready)
    stack: Any = SimpleNamespace(scorer_port=18090)
    assert scorer_server.check(stack) == told
