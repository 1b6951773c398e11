"""Messages between programs are read as their version declares, and a refusal quotes no value."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from rempart.errors import SparkError
from rempart.settings.schema import Strict
from rempart.sovereignty.job_contract import Contract

CONTRACT = Contract(3, SparkError, "Install the other version.")


class Message(Strict):
    version: Literal[3] = 3
    rows: int


def test_a_message_of_this_version_is_read() -> None:
    assert CONTRACT.read("a message", Message, b'{"version": 3, "rows": 2}', "Write one.").rows == 2


@pytest.mark.parametrize(
    ("body", "why", "hint"),
    [
        ("[]", "not a JSON object", "Write one."),
        ("{", "not JSON", "Write one."),
        ("[" * 100_000, "not JSON", "Write one."),
        ('{"version": 3, "rows": ' + "[" * 100_000, "not JSON", "Write one."),
        ('{"version": 3, "rows": 1e999}', "not finite", "Write one."),
        ('{"version": 2, "rows": 1}', "version 2", "Install the other version."),
        (json.dumps({"version": 3, "rows": "Jeanne"}), "rows: Input should be a valid integer", "Write one."),
        (json.dumps({"version": 3, "rows": 1, "more": "Jeanne"}), "more: Extra inputs", "Write one."),
    ],
)
def test_any_other_is_refused_with_its_remedy(body: str, why: str, hint: str) -> None:
    with pytest.raises(SparkError, match=why) as refused:
        CONTRACT.read("a message", Message, body, "Write one.")
    assert refused.value.hint == hint and "Jeanne" not in str(refused.value)
