"""Commands that show a plan first have the same options for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import typer

from rempart.cli.json_documents import AsJson
from rempart.cli.lifecycle import backfill, rejudge, remove


@pytest.mark.parametrize("command", [remove.reset, remove.remove, rejudge.rejudge, backfill.backfill])
def test_a_plan_is_shown_executed_and_printed_by_the_same_options(command: Callable[..., None]) -> None:
    taken = inspect.get_annotations(command, eval_str=True)
    assert (taken["dry_run"], taken["yes"], taken["as_json"]) == (remove.DryRun, remove.Yes, AsJson)
    given: dict[str, Any] = {"name": "x", "dry_run": True, "yes": True}
    if "first" in taken:
        given |= {"first": None, "last": None}
    with pytest.raises(typer.BadParameter, match="either --dry-run or --yes"):
        command(**given)
