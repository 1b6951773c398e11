"""The source `sql` before anything is contacted: the policy, the connection's host and port."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import yaml

from rempart.errors import ConfigError, IngestError, PlacementDenied
from rempart.ingestion.sources.database import Relation
from rempart.ingestion.sources.port import Origin, Surroundings
from rempart.ingestion.sources.row_memory import Row
from rempart.ingestion.sources.sql import SqlExtraction, open_source
from rempart.settings import config as configuration
from rempart.settings.columns import Column
from rempart.settings.config import Config, Connection, project_root
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sources import Dialect
from rempart.sovereignty.policy import Decision
from rempart.sovereignty.sources import decide_source
from tests.unit.ingestion.sources.test_bucket import Sink

NOW = datetime(2026, 11, 24, tzinfo=UTC)
HERE = {"operator": "this-machine", "service": "machine", "region": "local"}
SHOP = Connection("shop", "postgres", "127.0.0.1", 5432, "reader", "secret", "shop")


def config(hosts: list[str], **personal: Any) -> Config:
    data = configuration.load().model_dump(by_alias=True, exclude_unset=True)
    data["connections"] = {"shop": {**HERE, "hosts": hosts}}
    data["policy"]["personal"] |= personal
    return Config.model_validate(data)


def pipeline() -> ModelPipeline:
    data = yaml.safe_load((project_root() / "include" / "pipelines" / "hotel_bookings.yaml").read_text())
    source = {"prefix": "hotel_bookings/", "kind": "sql", "connection": "shop", "table": "orders"}
    return ModelPipeline.model_validate({**data, "source": source, "on_conflict": "refuse"})


def around(settings: Config, connection: Connection, recorded: list[Decision]) -> Surroundings:
    def record(decision: Decision) -> None:
        recorded.append(decision)
        if not decision.allowed:
            raise decision.refusal()

    return Surroundings(settings, lambda name: connection, NOW, record)


def test_a_database_is_read_only_where_the_policy_lets_data_be_read_and_placed() -> None:
    recorded: list[Decision] = []
    open_source(pipeline(), around(config(["127.0.0.1"]), SHOP, recorded))
    assert [(d.allowed, d.what, d.place) for d in recorded] == [(True, "origin", "connection 'shop'")]
    denying = config(["127.0.0.1"], origins={"operators": [], "jurisdictions": ["EU"], "owner_jurisdictions": ["EU"]})
    with pytest.raises(PlacementDenied, match="may not be read from connection 'shop'"):
        open_source(pipeline(), around(denying, SHOP, recorded))
    assert {reason.rule for reason in recorded[-1].against} == {"policy.personal.origins.operators"}
    checked = decide_source(denying, "personal", pipeline().source, on=date(2026, 11, 24))
    assert checked is not None and not checked.allowed


@pytest.mark.parametrize(
    ("hosts", "port", "allowed"),
    [
        (["127.0.0.1"], 15432, True),
        (["127.0.0.1:5432"], 5432, True),
        (["127.0.0.1:5432"], None, True),
        (["127.0.0.1:5432"], 15432, False),
        (["127.0.0.2:15432"], 15432, False),
        ([], 5432, False),
    ],
)
def test_a_connection_leads_to_a_declared_host_and_port(hosts: list[str], port: int | None, allowed: bool) -> None:
    recorded: list[Decision] = []
    leading = Connection("shop", "postgres", "127.0.0.1", port, "reader", "secret", "shop")
    if allowed:
        open_source(pipeline(), around(config(hosts), leading, recorded))
    else:
        with pytest.raises(PlacementDenied, match="not among its hosts"):
            open_source(pipeline(), around(config(hosts), leading, recorded))
    assert [decision.allowed for decision in recorded] == [allowed]


def test_late_rows_that_the_database_does_not_find_by_their_keys_are_an_error() -> None:
    """A key that is written `007` in the database and declared as an integer is asked for as 7."""
    columns = {"id": Column(type="integer", known="made")}
    relation = Relation("t", None, columns, ["id"], "changed_at", timedelta(hours=1))

    class Reading:
        def keys(self) -> Iterator[Row]:
            return iter([(0, b"007"), (0, b"8")])

        def chosen(self, keys: Sequence[Sequence[str]]) -> Iterator[Row]:
            return ((0, key.encode()) for (key,) in keys if key in ("007", "8"))

    class Database:
        @contextmanager
        def reading(self, relation: Relation) -> Iterator[Any]:
            yield Reading()

    source = SqlExtraction(
        Database(), relation, Dialect(), Origin("acme", "t", "FR", "FR"), timedelta(minutes=1), 1 << 30
    )
    with pytest.raises(IngestError, match="has 2 late rows, and gave 1"):
        source.compare_keys(iter([]), {"cursor": "86400000000"}, Sink())


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
@pytest.mark.parametrize("mode", [None, "disable", "prefer", "require", "verify-ca", "verify-full"])
def test_another_machine_is_read_only_with_a_verified_certificate(
    kind: str, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    extra = {"sslmode": mode} if mode else {}
    leading = Connection("shop", kind, "db.example.eu", None, "reader", "secret", "shop", extra)
    there = around(config(["db.example.eu"]), leading, [])
    if mode in ("verify-ca", "verify-full"):
        open_source(pipeline(), there)
    else:
        with pytest.raises(ConfigError, match="leads to another machine"):
            open_source(pipeline(), there)
