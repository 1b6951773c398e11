"""The proof's rows: a layer that was not run, or an attempt that sent nothing, is never called stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.egress_cases import CASES, ROUNDS, port_of
from bench.egress_layers_page import cell, document, layer
from bench.prove_egress_layers import Proof, judge_hook, judge_network, make_project
from rempart.settings import config

ROOT = Path(__file__).resolve().parents[3]


def seen(result: str, tried: int | None, left: int | None) -> dict[str, Any]:
    return {"result": result, "told": "", "tried": tried, "left": left}


HOOKED, SENT, HELD = seen("refused by the hook", 0, 0), seen("failed", 1, 1), seen("failed", 1, 0)


@pytest.mark.parametrize(
    ("hook", "network", "allowed", "expected"),
    [
        (HOOKED, HELD, False, "hook and network"),
        (SENT, HELD, False, "network"),
        (SENT, SENT, False, "neither"),
        (SENT, SENT, True, "neither: it is allowed"),
        (seen("refused by the hook", None, None), None, False, "hook"),
        (seen("failed", None, None), None, False, "not known: the network was not run"),
        (seen("not installed", 0, 0), seen("not installed", 0, 0), False, "not run"),
        (seen("failed", 0, 0), seen("failed", 0, 0), False, "neither"),
    ],
)
def test_which_layer_stopped_it(
    hook: dict[str, Any], network: dict[str, Any] | None, allowed: bool, expected: str
) -> None:
    row = {"title": "x", "hook": hook, "allowed": allowed} | ({"network": network} if network else {})
    assert layer(row) == expected


def test_without_a_network_the_column_says_not_run() -> None:
    assert cell(None) == "not run"
    assert cell(seen("failed", 0, 0)) == "failed before it sent anything"


@pytest.mark.parametrize(
    ("told", "ok"),
    [
        (HOOKED, True),
        (SENT, False),
        (seen("failed", 0, 0), False),
        (seen("refused by the hook", 1, 0), False),
        (seen("not installed", 0, 0), None),
    ],
)
def test_the_hook_is_believed_only_if_it_refused_and_nothing_was_sent(told: dict[str, Any], ok: bool | None) -> None:
    proof = Proof(network=True)
    judge_hook(proof, CASES[0], told)
    assert proof.checks[0]["ok"] is ok


@pytest.mark.parametrize(("told", "ok"), [(HELD, True), (SENT, False), (seen("failed", 0, 0), False)])
def test_the_network_is_believed_only_if_something_was_sent_and_nothing_left(told: dict[str, Any], ok: bool) -> None:
    proof = Proof(network=True)
    judge_network(proof, CASES[0], told, "network")
    assert proof.checks[0]["ok"] is ok


def test_a_proof_without_checks_is_no_proof() -> None:
    assert not Proof(network=True).report()["ok"]


def test_each_attempt_has_a_port_of_its_own() -> None:
    ports = [port_of(c, n, stage) for stage in ROUNDS for n, c in enumerate(CASES) if c.port is None]
    assert len(set(ports)) == len(ports)


def test_the_page_shows_every_row() -> None:
    rows = [{"title": case.title, "allowed": False, "hook": SENT, "network": HELD} for case in CASES]
    page = document({"rows": rows, "checks": []})
    assert all(f"| {case.title} |" in page for case in CASES)


def test_the_project_of_the_proof_is_valid_and_denies_one_of_its_hosts(tmp_path: Path) -> None:
    make_project(ROOT, tmp_path / "project")
    hosts = config.load(tmp_path / "project" / "rempart.yaml").hosts
    assert {place.operator for place in hosts.values()} == {"this-machine", "abroad"}
