"""The source `sql` before anything is contacted: the policy, the connection's host and port."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
import yaml

from rempart.errors import PlacementDenied
from rempart.ingestion.sources.port import Surroundings
from rempart.ingestion.sources.sql import open_source
from rempart.settings import config as configuration
from rempart.settings.config import Config, Connection, project_root
from rempart.settings.pipeline import Pipeline
from rempart.sovereignty.policy import Decision
from rempart.sovereignty.sources import decide_source

NOW = datetime(2026, 11, 24, tzinfo=UTC)
HERE = {"operator": "this-machine", "service": "machine", "region": "local"}
SHOP = Connection("shop", "postgres", "127.0.0.1", 5432, "reader", "secret", "shop")


def config(hosts: list[str], **personal: Any) -> Config:
    data = configuration.load().model_dump(by_alias=True, exclude_unset=True)
    data["connections"] = {"shop": {**HERE, "hosts": hosts}}
    data["policy"]["personal"] |= personal
    return Config.model_validate(data)


def pipeline() -> Pipeline:
    data = yaml.safe_load((project_root() / "include" / "pipelines" / "hotel_bookings.yaml").read_text())
    source = {"prefix": "hotel_bookings/", "kind": "sql", "connection": "shop", "table": "orders"}
    return Pipeline.model_validate({**data, "source": source, "on_conflict": "refuse"})


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
