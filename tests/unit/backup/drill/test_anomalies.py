"""Signs of an attack: a clean history never has doubts, and each poison has."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.drill import attack
from rempart.backup.drill.anomalies import Candidate, JudgedPoint, examine, judge, walk
from rempart.backup.drill.attack import Poison
from rempart.backup.points import chain, points
from rempart.backup.points.chain import Link
from rempart.backup.points.points import Dump, HeldObject, Manifest, Secrets
from rempart.backup.points.sealing import SealedObject
from rempart.errors import IntegrityError
from rempart.ledger.keys import signer

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
INSIDER, STRANGER = signer(bytes(range(32))), signer(bytes(range(1, 33)))
PROMOTED = {("hotel_bookings", str(version)) for version in range(1, 40)}


def sealed(size: int) -> SealedObject:
    return SealedObject("dataset-x-395d", "0001", "sealed/x/aa/aa.age", "v1", "b" * 64, size, NOW)


def held(key: str, content: str, size: int = 20_000, ratio: float = 0.3) -> HeldObject:
    digest = hashlib.sha256(content.encode()).hexdigest()
    return HeldObject("lake", key, size, digest, "v1", sealed(int(size * ratio) + 200))


def manifest(number: int = 0, count: int = 20, **change: object) -> Manifest:
    """A point with so many objects, made half an hour after the one with the number before."""
    at = NOW + timedelta(minutes=30 * number)
    dumps = (
        Dump("ledger", "d", "0001", "9" * 64, "d" * 64, 10, {"public.evidence": 40 + number}, {}),
        Dump("airflow", "d", "0001", "9" * 64, "d" * 64, 10, {"public.dag_run": 60, "public.job": 900}, {}),
        Dump("feast_online", "d", "0001", "9" * 64, "d" * 64, 10, {"public.hotel": 5000}, {}),
    )
    objects = tuple(held(f"raw/{i}.csv", f"object {i}") for i in range(count))
    found = Manifest(
        points.new_id(at, "abcdef"), at, "primary", "0.1.0", "c" * 64, dumps, objects, {"hotel_bookings": "7"},
        (40 + number, f"{number:064x}"), (), 0.1, Secrets(sealed(300), "a" * 64, 12),
    )  # fmt: skip
    return dataclasses.replace(found, **change)  # type: ignore[arg-type]


def candidates(history: Iterable[Manifest]) -> list[Candidate]:
    return [Candidate(record.id, record) for record in history]


@st.composite
def histories(draw: st.DrawFn) -> list[Manifest]:
    """Points of a platform at work: it adds objects, replaces its few pointers, and forgets little."""
    found, count = [], draw(st.integers(0, 40))
    pointers = {f"snapshots/{name}/current.json": 0 for name in draw(st.sets(st.sampled_from("abcd"), max_size=4))}
    runs, jobs, champion = 60, 900, 7
    for number in range(draw(st.integers(1, 8))):
        count += draw(st.integers(0, 30))
        for name in draw(st.sets(st.sampled_from(sorted(pointers)))) if pointers else ():
            pointers[name] += 1
        runs = max(runs + draw(st.integers(-runs // 3, 20)), 0)
        jobs = draw(st.integers(0, 2000))  # tables that their owners clean up
        champion = draw(st.integers(champion, min(champion + 3, 39)))
        raw = [held(f"raw/{i}.csv", f"object {i}") for i in range(count)]
        small = [held(name, f"{name} {version}", size=90, ratio=1.2) for name, version in pointers.items()]
        base = manifest(number)
        dumps = tuple(
            dataclasses.replace(dump, tables={"public.dag_run": runs, "public.job": jobs})
            if dump.name == "airflow"
            else dump
            for dump in base.databases
        )
        found.append(
            dataclasses.replace(
                base, objects=(*raw, *small), databases=dumps, champions={"hotel_bookings": str(champion)}
            )
        )
    return found


@given(histories())
def test_a_clean_history_is_never_doubted(history: list[Manifest]) -> None:
    assert [candidate.doubts for candidate in walk(candidates(history), PROMOTED)] == [()] * len(history)


def encrypted(found: Manifest, share: float = 1.0) -> Manifest:
    some = round(len(found.objects) * share)
    noise = tuple(held(obj.key, f"noise {obj.key}", ratio=1.0) for obj in found.objects[:some])
    return dataclasses.replace(found, objects=noise + found.objects[some:])


def with_rows(found: Manifest, name: str, tables: dict[str, int]) -> Manifest:
    dumps = tuple(
        dataclasses.replace(database, tables=tables) if database.name == name else database
        for database in found.databases
    )
    return dataclasses.replace(found, databases=dumps)


POISONS = {
    "ciphertext": (encrypted(manifest(1)), "20 of 20 objects were replaced"),
    "a little ciphertext": (encrypted(manifest(1), 0.15), "3 objects that compressed before look encrypted"),
    "objects gone": (manifest(1, count=10), "10 of 20 objects vanished"),
    "evidence gone": (with_rows(manifest(1), "ledger", {"public.evidence": 39}), "ledger lost 1 of 40 records"),
    "runs gone": (with_rows(manifest(1), "airflow", {"public.dag_run": 2}), "dag_run 2 instead of 60"),
    "rows gone": (with_rows(manifest(1), "feast_online", {}), "public.hotel 0 instead of 5000"),
    "database gone": (manifest(1, databases=manifest(1).databases[:2]), "database feast_online is missing"),
    "ledger cut": (manifest(1, ledger_head=(12, "f" * 64)), "ended at record 40 before, and ends at record 12"),
    "ledger rewritten": (manifest(1, ledger_head=(40, "f" * 64)), "history was rewritten"),
    "champion": (manifest(1, champions={"hotel_bookings": "99"}), "the ledger has no promotion of it"),
    "no champion": (manifest(1, champions={}), "has no champion any more"),
    "dangling": (manifest(1, dangling=("model x",)), "inconsistent: 1 of"),
}


@pytest.mark.parametrize("name", POISONS)
def test_each_poison_is_doubted(name: str) -> None:
    poisoned, why = POISONS[name]
    assert why in "; ".join(judge(manifest(), poisoned, PROMOTED))


def test_a_view_with_other_columns_loses_no_rows() -> None:
    """Its former online table goes with the materialization after the next."""
    tables = {"public.hotel_stay_0a1b2c3d": 5000}, {"public.hotel_stay_44445555": 4900}
    before, after = (with_rows(manifest(number), "feast_online", rows) for number, rows in enumerate(tables))
    both = with_rows(manifest(1), "feast_online", tables[0] | tables[1])
    assert not judge(before, both, PROMOTED) and not judge(both, after, PROMOTED)
    fewer = with_rows(manifest(1), "feast_online", {"public.hotel_stay_44445555": 49})
    assert "public.hotel_stay 49 instead of 5000" in "; ".join(judge(before, fewer, PROMOTED))


@given(histories(), st.integers(1, 4))
def test_points_that_keep_what_an_attack_left_are_doubted_too(history: list[Manifest], more: int) -> None:
    clean = manifest(0, count=20, champions=history[-1].champions)
    later = [encrypted(manifest(number)) for number in range(1, more + 1)]
    judged = list(walk(candidates([clean, *later]), PROMOTED))
    assert [candidate.clean for candidate in judged] == [True] + [False] * more


def test_what_was_erased_on_record_is_no_sign_of_an_attack() -> None:
    fewer, erased = manifest(1, count=10), {("lake", f"raw/{number}.csv") for number in range(10, 20)}
    assert judge(manifest(), fewer, PROMOTED) and not judge(manifest(), fewer, PROMOTED, erased)


def test_without_a_ledger_a_new_champion_says_nothing() -> None:
    assert judge(manifest(), manifest(1, champions={"hotel_bookings": "99"})) == ()


def played(clean: Manifest) -> list[tuple[Poison, JudgedPoint]]:
    """Each poison, as the chain's verifier and the judge see it."""
    poisons = attack.play(clean, None, NOW + timedelta(hours=1), INSIDER, STRANGER)
    found = []
    for poison in poisons:
        assert poison.link
        links: list[Link] = []
        try:
            until = poisons.index(poison) + 1
            links = chain.verify(
                [poisoned.link for poisoned in poisons[:until] if poisoned.link], {INSIDER.id: INSIDER.public}
            )
        except IntegrityError:
            pass
        link = next((link for link in links if link.point == poison.point), None)
        (judged,) = walk([examine(poison.point, link, poison.body)], PROMOTED, clean)
        found.append((poison, judged))
    return found


def test_each_point_of_a_played_attack_is_seen() -> None:
    found = played(manifest())
    assert len(found) == 5 and not any(judged.clean for _, judged in found)
    told = {poison.what: "; ".join(judged.doubts) for poison, judged in found}
    assert "look encrypted" in told["objects are replaced by ciphertext, then backed up"]
    assert "ledger lost 40 of 40" in told["the rows of the databases are deleted, then backed up"]
    assert "not the manifest that the chain attests" in told["a manifest is altered after it was signed"]
    assert "no verified link" in told["a point is signed with another key"]


def test_what_a_point_does_not_hold_is_not_attacked() -> None:
    bare = manifest(count=1, champions={}, databases=())
    poisons = attack.play(bare, None, NOW, INSIDER, STRANGER)
    assert [poison.link is None for poison in poisons] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("body", "why"),
    [(None, "its manifest is gone"), (b"{}", "not the manifest that the chain"), ("other", "belongs to another point")],
)
def test_what_is_not_the_point_is_not_judged(body: bytes | str | None, why: str) -> None:
    found = manifest()
    raw = points.encode(manifest(3)) if body == "other" else body
    digest = hashlib.sha256(raw if body == "other" else b"x").hexdigest()  # type: ignore[arg-type]
    link = Link(1, found.id, NOW, digest, True, None, INSIDER.id)
    candidate = examine(found.id, link, raw)  # type: ignore[arg-type]
    assert candidate.manifest is None and why in candidate.fault
