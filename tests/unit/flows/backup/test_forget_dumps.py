"""X7: dumps are forgotten although a key or a repository of another database is damaged."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rempart.backup.databases.restic_answers import ResticSnapshot
from rempart.backup.keys import encryption_scopes
from rempart.backup.points import retention
from rempart.errors import IntegrityError, KeyWrong, RepositoryDamaged, SiteUnavailable
from rempart.flows.backup import forget_dumps
from rempart.flows.backup.point_store import store_at
from tests.restorable import NOW, House, flip
from tests.restorable import house as made_house

KEPT = timedelta(days=30)


class Repository:
    """The dumps of one database: one of a point that is kept, one of a point that is gone."""

    def __init__(self, name: str) -> None:
        self.fault: Exception | None = None
        self.stored = {f"{name}-kept": "20260104T000000Z-abcdef", f"{name}-gone": "20251203T000000Z-abcdef"}

    def snapshots(self) -> tuple[ResticSnapshot, ...]:
        if self.fault:
            raise self.fault
        return tuple(
            ResticSnapshot(identity, NOW, 1, 1, 0.1, tags=(f"point={of}",)) for identity, of in self.stored.items()
        )

    def forget(self, ids: list[str]) -> None:
        for identity in ids:
            del self.stored[identity]


@pytest.fixture
def house() -> House:
    return made_house()


@pytest.fixture
def repositories(house: House) -> dict[str, Repository]:
    """By database; each with a key of its own."""
    made = {name: Repository(name) for name in ("airflow", "feast", "mlflow")}
    for name in made:
        house.ring.open_or_make(encryption_scopes.of_database(name, KEPT))
    return made


def forgotten(house: House, repositories: dict[str, Repository], *needed: str) -> dict[str, int]:
    """What a prune forgets that keeps one point, which names a dump of each of these databases."""
    kept = {
        retention.DumpSnapshot(encryption_scopes.of_database(name, KEPT).id, "0001", f"{name}-kept") for name in needed
    }
    return forget_dumps.forget(
        store_at(house.platform, house.haven),
        lambda: house.ring,
        lambda key: repositories[key.scope.name],  # type: ignore[arg-type, return-value] # a double
        kept,
        ["20260104T000000Z-abcdef"],
    )


def damage(house: House, name: str, kind: str) -> None:
    for place in house.ring.places:
        flip(place.site, place.bucket, f"keys/{encryption_scopes.of_database(name, KEPT).id}/0001.{kind}")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["age", "json"])
def test_x7_a_flipped_key_or_card_of_something_else_does_not_stop_a_prune(
    house: House, repositories: dict[str, Repository], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(house, "feast", kind)
    done = forgotten(house, repositories, "airflow", "mlflow")
    assert set(done) >= {encryption_scopes.of_database(name, KEPT).id for name in ("airflow", "mlflow")}
    for name in ("airflow", "mlflow"):
        assert list(repositories[name].stored) == [f"{name}-kept"]
    if kind == "age":
        assert len(repositories["feast"].stored) == 2
        assert any(
            record.levelname == "WARNING" and "database-feast" in record.getMessage() for record in caplog.records
        )


def test_x7_a_damaged_repository_of_something_else_does_not_stop_a_prune(
    house: House, repositories: dict[str, Repository]
) -> None:
    repositories["feast"].fault = RepositoryDamaged("repository of feast: wrong hash", "Look at it.")
    assert len(forgotten(house, repositories, "airflow", "mlflow")) == 2


@pytest.mark.parametrize("fault", ["key", "repository"])
def test_what_the_kept_points_need_is_told_after_all_others_were_done(
    house: House, repositories: dict[str, Repository], fault: str
) -> None:
    if fault == "key":
        damage(house, "feast", "age")
    else:
        repositories["feast"].fault = RepositoryDamaged("repository of feast: wrong hash", "Look at it.")
    with pytest.raises((IntegrityError, KeyWrong, RepositoryDamaged), match="feast"):
        forgotten(house, repositories, "airflow", "feast", "mlflow")
    for name in ("airflow", "mlflow"):
        assert list(repositories[name].stored) == [f"{name}-kept"]


def test_a_site_that_is_away_stops_a_prune(house: House, repositories: dict[str, Repository]) -> None:
    repositories["airflow"].fault = SiteUnavailable("list: no answer", "Retry.")
    with pytest.raises(SiteUnavailable):
        forgotten(house, repositories, "mlflow")
