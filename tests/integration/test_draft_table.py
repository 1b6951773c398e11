"""A draft of a PostgreSQL table: types, enumerations and key of the catalogue, read by a role that can only read."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
import yaml
from psycopg import sql

from rempart.backup.databases import postgresql
from rempart.errors import DatabaseUnavailable, PipelineError
from rempart.ingestion.draft import draft_pipeline
from rempart.ingestion.sampling import tables
from rempart.settings.config import Connection, environment_connections
from rempart.settings.pipeline import ModelPipeline
from tests.unit.ingestion.drafts import folded

pytestmark = pytest.mark.stores
CANARY = "CANARY-buyer-5d1e"


@pytest.fixture(scope="module")
def shop() -> Iterator[Connection]:
    """A table `shop.orders` of 300,000 rows and a view of some; the connection's role may read these only."""
    drill, name = environment_connections("pg_drill"), f"scratch_{secrets.token_hex(4)}_shop"
    reader = replace(environment_connections("pg_continuity"), schema=name)
    owner, role = replace(drill, schema=name), reader.login
    with psycopg.connect(drill.postgresql_url(), autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    with psycopg.connect(owner.postgresql_url(), autocommit=True) as opened:
        opened.execute(f"""
            CREATE SCHEMA shop;
            CREATE TYPE shop.state AS ENUM ('open', 'paid', 'lost');
            CREATE TABLE shop.orders (
                order_no integer, line smallint, placed timestamptz NOT NULL, due date, shipped timestamp,
                total numeric(9, 2) NOT NULL, weight numeric, state shop.state NOT NULL, country char(2),
                buyer text, gift boolean, sizes integer[], tags text[], updated_at timestamptz NOT NULL,
                PRIMARY KEY (order_no, line)
            );
            INSERT INTO shop.orders SELECT i / 2, i % 2, '2025-01-01'::timestamptz + i * interval '1 minute',
                '2025-01-01'::date + i / 1440, '2025-01-01'::timestamp + i * interval '1 minute',
                i % 700 / 4.0, i * 0.5,
                (ARRAY['open', 'paid', 'lost']::shop.state[])[i % 3 + 1], (ARRAY['de', 'fr'])[i % 2 + 1],
                '{CANARY}' || i, i % 2 = 0, ARRAY[i, 2], ARRAY['a'], now()
                FROM generate_series(1, 300000) i;
            CREATE VIEW shop.few AS SELECT order_no * 2 + line AS id, placed, total FROM shop.orders LIMIT 50;
            CREATE TABLE shop.secret (at date);
            ANALYZE shop.orders;
            GRANT CONNECT ON DATABASE {name} TO {role};
            GRANT USAGE ON SCHEMA shop TO {role};
            GRANT SELECT ON shop.orders, shop.few TO {role};
        """)
    yield reader
    with psycopg.connect(drill.postgresql_url(), autocommit=True) as server:
        postgresql.drop_database(server, name)


def test_the_catalogue_gives_types_and_key(shop: Connection) -> None:
    text = draft_pipeline(tables.of_table("shop.orders", "shop_db", shop))
    assert text.startswith("# Drafted from a sample of 50,000 of about 300,000 rows of shop.orders."), text[:200]
    assert CANARY not in text and "  # cursor: {column: updated_at}    # CHECK" in folded(text)
    spec = ModelPipeline.model_validate(yaml.safe_load(text))
    assert (spec.name, spec.key, spec.source.kind) == ("orders", ["order_no", "line"], "sql")
    assert (spec.source.connection, spec.source.table) == ("shop_db", "shop.orders")
    assert spec.source.time_zone == "UTC"  # of `shipped`, which has none: a question
    assert {name: column.full_type for name, column in spec.columns.items()} == {
        "order_no": "integer",
        "line": "integer",
        "placed": "timestamp",
        "due": "date",
        "shipped": "timestamp",
        "total": "decimal(9,2)",
        "weight": "number",
        "state": "category",
        "country": "category",
        "buyer": "string",
        "gift": "boolean",
        "sizes": "array(number)",
        "tags": "array(string)",
        "updated_at": "timestamp",
    }
    assert spec.columns["state"].values == ["open", "paid", "lost"]


def test_a_view_is_read_as_a_whole(shop: Connection) -> None:
    text = draft_pipeline(tables.of_table("shop.few", "shop_db", shop))
    assert "all 50 rows of shop.few" in text
    assert ModelPipeline.model_validate(yaml.safe_load(text)).key == ["id"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("shop.nothing", "there is no such table"),
        ("shop.secret", "the role may not read it"),
        ("shop.orders; DROP TABLE x", "no name of a table"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(shop: Connection, table: str, says: str) -> None:
    with pytest.raises(PipelineError, match=says) as error:
        tables.of_table(table, "shop_db", shop)
    assert error.value.hint and shop.password not in str(error.value)


def test_no_server_is_told_without_the_password(shop: Connection) -> None:
    with pytest.raises(DatabaseUnavailable, match="no answer") as error:
        tables.of_table("shop.orders", "shop_db", replace(shop, password="wrong-1f7c"))
    assert "wrong-1f7c" not in f"{error.value.what} {error.value.hint}"
