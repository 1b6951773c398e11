"""bench.scale_out notices a shard that is lost or done twice."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from bench.scale_out import KEYS, SOURCE, faults


def run(**changes: Any) -> list[str]:
    """What is told of a run of three shards that differs from a good one."""
    mapped = [{"map_index": n, "state": "success", "try_number": 1} for n in range(3)]
    told = {"pieces": 3, "different": 3, "copied": 3 * KEYS, "failures": 0}
    mapped = changes.pop("mapped", lambda good: good)(mapped)
    sites = changes.pop("sites", (["a", "b"], ["b", "a"]))
    return faults(mapped, told | changes, sites, 3)


def test_a_good_run_has_no_fault() -> None:
    assert run() == []
    ast.parse(SOURCE)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mapped": lambda good: good[:2]}, "2 of 3 shards"),
        ({"mapped": lambda good: [*good, good[0]]}, "4 tasks"),
        ({"mapped": lambda good: [*good[:2], good[2] | {"try_number": 2}]}, "first try: [2]"),
        ({"different": 2}, "2 of them different"),
        ({"copied": 2 * KEYS}, f"{2 * KEYS} objects copied"),
        ({"sites": (["a", "b"], ["a"])}, "1 objects are not at the second site"),
    ],
)
def test_what_is_lost_or_done_twice_is_told(changes: dict[str, Any], told: str) -> None:
    (fault,) = run(**changes)
    assert told in fault
