"""The last clean point among the stored ones, tested without a server."""

from __future__ import annotations

import hashlib
import os

import pytest

from rempart.backup.points import chain, points
from rempart.flows.drill import drill_attack
from rempart.flows.drill.drill_attack import Clean
from rempart.flows.drill.drill_steps import Tally
from tests.restorable import SIGNER, TRUSTED, House, flip, house

BODIES = {("lake", f"raw/bookings/{number}/a.csv"): f"{number},a\n".encode() * 2000 for number in range(6)}
NOISE = {key: os.urandom(12_000) for key in BODIES}


@pytest.fixture
def made() -> House:
    return house()


def known(made: House, **how: object) -> str:
    """A point that the ledger has a record of."""
    point = made.point(how.pop("bodies", BODIES), **how)  # type: ignore[arg-type]
    digest = hashlib.sha256(made.haven.read("backups", f"points/{point}/manifest.json")).hexdigest()
    made.platform.ledger.append("restore-point", point, {"site": "haven", "manifest_sha256": digest})
    return point


def look(made: House) -> tuple[Clean, dict[str, tuple[bool | None, str]]]:
    tally = Tally()
    found = drill_attack.find_clean(made.platform, made.haven, TRUSTED, tally)
    return found, {check.what: (check.ok, check.detail) for check in tally.checks}


def test_the_newest_of_a_clean_history_is_the_clean_one(made: House) -> None:
    known(made)
    newest = known(made)
    found, checks = look(made)
    assert found.point == newest and not found.after
    assert [ok for ok, _ in checks.values()] == [True, True, True]


def test_a_broken_chain_ends_what_counts(made: House) -> None:
    first, second = known(made), known(made)
    flip(made.haven, "backups", chain.key_of(2))
    found, checks = look(made)
    assert found.point == first
    assert checks["the chain of restore points is intact"] == (
        False,
        "the chain is broken at link 2: points after it do not count",
    )
    assert second in checks["the newest stored restore point is clean"][1]


@pytest.mark.parametrize("why", ["unknown", "another", "failed", "inconsistent", "noise"])
def test_what_speaks_against_the_newest_point_is_told_and_the_one_before_is_taken(made: House, why: str) -> None:
    clean = known(made)
    ledger = made.platform.ledger
    if why == "unknown":
        newest, told = made.point(BODIES), "the ledger has no record of it"
    elif why == "another":
        newest, told = made.point(BODIES), "its manifest differs from its record"
        ledger.append("restore-point", newest, {"site": "haven", "manifest_sha256": "0" * 64})
    elif why == "failed":
        newest, told = known(made), "its last drill failed"
        ledger.append("drill", newest, {"ok": False, "proved": False})
    elif why == "inconsistent":
        newest, told = known(made, dangling=("model x",)), "inconsistent: 1 of"
    else:
        newest, told = known(made, bodies=NOISE), "6 objects that compressed before look encrypted"
    found, checks = look(made)
    ok, detail = checks["the newest stored restore point is clean"]
    assert found.point == clean and ok is False and f"{newest}: " in detail and told in detail


def test_where_no_point_is_clean_none_is_taken(made: House) -> None:
    known(made, dangling=("model x",))
    found, checks = look(made)
    assert found.point is None and checks["a clean restore point is found"][0] is False


def test_an_attack_is_played_behind_the_stored_points_and_leaves_nothing(made: House) -> None:
    point = known(made)
    found, _ = look(made)
    manifest = points.decode(made.haven.read("backups", f"points/{point}/manifest.json"))
    before = {info.key for info in made.haven.list("backups")}
    tally = Tally()
    drill_attack.play(
        made.platform.ledger, made.platform.clock(), found, manifest, (bytes(32), bytes(range(2, 34))), tally
    )
    # no database in these points: what could be deleted of one is not played
    assert [check.ok for check in tally.checks] == [True, None, None, True, True]
    assert {info.key for info in made.haven.list("backups")} == before
    assert (
        len(chain.verify(chain.read(made.haven, "backups", {SIGNER.id: SIGNER.public}), {SIGNER.id: SIGNER.public}))
        == 1
    )
