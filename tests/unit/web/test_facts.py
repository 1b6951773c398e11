"""The cockpit's facts hold records of every kind of evidence: a page reads a new kind without a list of kinds."""

from __future__ import annotations

from typing import get_args

import pytest

from rempart.ledger.port import Kind
from tests.cockpit import Watched


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_page_can_read_each_kind_of_evidence(kind: Kind) -> None:
    watched = Watched()
    seq = watched.record(kind, "a subject", {})
    assert seq in {record.seq for record in watched.facts().of(kind)}
