"""Types, clock times, dialects and kinds of sources in a pipeline file: what loads, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import time, timedelta
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rempart.settings.clock import parse_offset, uncertain_day, written_offset, zone_name
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline

SHIPPED = project_root() / "include" / "pipelines" / "hotel_bookings.yaml"
Change = Callable[[dict[str, Any]], object]


def load(*changes: Change) -> ModelPipeline:
    data = yaml.safe_load(SHIPPED.read_text())
    for change in changes:
        change(data)
    return ModelPipeline.model_validate(data)


def source(**keys: object) -> Change:
    return lambda d: d["source"].update(keys)


def column(**keys: object) -> Change:
    return lambda d: d["schema"].update(seen={"known": "booking", **keys})


def moment(**keys: object) -> Change:
    return lambda d: d["moments"].update(arrival=keys)


def replaced(**keys: object) -> Change:
    return lambda d: d.update(source={"prefix": "hotel_bookings/", **keys})


SQL = replaced(kind="sql", connection="shop", table="public.orders")
CURSOR = replaced(kind="sql", connection="shop", table="orders", cursor={"column": "seen", "overlap": "2h"})
HTTP = {"kind": "http", "url": "https://api.acme.example/v1/orders"}


@pytest.mark.parametrize(
    ("given", "read"),
    [("iso-8859-1", "latin-1"), ("ISO8859-1", "latin-1"), ("windows-1252", "cp1252"), ("UTF8", "utf-8")],
)
def test_an_encoding_has_one_name_whatever_the_file_calls_it(given: str, read: str) -> None:
    assert load(source(encoding=given)).source.encoding == read
    for wrong in ("utf-16", "nosuch", "a\0b", 7):
        with pytest.raises(ValidationError, match="'utf-8', 'latin-1' or 'cp1252'"):
            load(source(encoding=wrong))


@pytest.mark.parametrize(
    "changes",
    [
        [column(type="timestamp"), source(time_zone="Europe/Berlin")],
        [column(type="decimal", precision=12, scale=2)],
        [column(type="array", items="number", separator="|")],
        [source(decimal=",", thousands=".", dates="DD.MM.YYYY", delimiter=";", encoding="latin-1")],
        [source(time_zone="Europe/Lisbon"), moment(column="arrival_date", at="15:00")],
        [moment(column="arrival_date", minus="2 days 3 hours"), column(type="date")],
        [column(type="timestamp"), moment(column="seen", minus_hours="lead_time", minus="15 minutes")],
        [moment(column="arrival_date", plus="14 days")],
        [column(type="timestamp"), lambda d: d.update(partition_by="seen", partition_every="hour")],
        [lambda d: d.update(partition_every="day")],
        [column(type="timestamp"), lambda d: d.update(holdout={"column": "seen", "last": "30d"})],
        [column(type="timestamp"), lambda d: d["features"]["booking"]["calendar"].update(seen=["hour", "day_of_week"])],
        [SQL],
        [column(type="timestamp"), CURSOR],
        [replaced(**HTTP, records="data.items", pagination={"by": "cursor", "parameter": "after", "field": "next"})],
        [replaced(**HTTP, download=True, format="csv", delimiter=";", decimal=",")],
        [replaced(**HTTP, format="csv")],
        [replaced(kind="site", site="public", bucket="shared", format="parquet")],
        [replaced(site="haven", bucket="exports", folder="sales/")],
        [column(type="timestamp"), lambda d: d.update(on_conflict="history", version_by="seen")],
    ],
)
def test_it_loads(changes: list[Change]) -> None:
    assert load(*changes).name == "hotel_bookings"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([column(type="decimal", precision=4)], "`precision`, `scale` and `type: decimal` belong together"),
        ([column(type="decimal", precision=2, scale=4)], "larger than `precision`"),
        ([column(type="array")], "`items` and `type: array` belong together"),
        ([column(type="string", separator="|")], "`separator` belongs to `type: array`"),
        ([column(type="array", items="string"), lambda d: d["key"].append("seen")], "key: column 'seen' must be"),
        ([source(thousands=".")], "they must differ"),
        ([source(time_zone="CET")], "write UTC, or one such as Europe/Berlin"),
        ([source(time_zone="Europe/Atlantis")], "there is no time zone"),
        ([source(time_zone="../../etc/passwd")], "is not the name of a time zone"),
        ([source(dates="YY-MM-DD")], "dates"),
        ([moment(column="arrival_date", at="15:00")], "declare source.time_zone"),
        ([moment(column="arrival_date", at=900)], "valid string"),
        ([source(time_zone="Europe/Berlin"), moment(column="arrival_date", at="02:30")], "missing or exists twice"),
        ([column(type="timestamp"), moment(column="seen", at="15:00")], "a clock time belongs to a date column"),
        ([moment(column="arrival_date", minus_hours="meal")], "moments.arrival.minus_hours"),
        ([moment(column="arrival_date", minus="3 hours 2 days")], "days, hours and minutes in this order"),
        ([moment(column="arrival_date", minus="")], "days, hours and minutes in this order"),
        ([lambda d: d.update(partition_every="hour")], "partition_by: column 'arrival_date' must be timestamp"),
        (
            [lambda d: d["features"]["booking"]["calendar"].update(arrival_date=["hour"])],
            "is a date, which has no hour",
        ),
        ([column(type="timestamp"), lambda d: d["features"]["booking"]["columns"].append("seen")], "'seen' must be"),
        ([lambda d: d.update(gate={**d["gate"], "baseline_by": ["arrival_date.hour"]})], "must be timestamp"),
        ([lambda d: d.update(version_by="lead_time")], "it belongs to `on_conflict: newest`"),
        ([lambda d: d.update(on_conflict="history")], "needs the column with the time from which a row is valid"),
        ([lambda d: d.update(on_conflict="newest", version_by="country")], "must be date or timestamp or integer"),
        ([column(type="timestamp", nullable=True), CURSOR], "is nullable, but every row needs its version"),
        ([CURSOR], "source.cursor.column: column 'seen' is not in the schema"),
        ([replaced(kind="ftp")], "`kind` must be one of files, sql, http, site"),
        ([replaced(kind="sql", connection="shop")], "give either `table` or `query`"),
        ([replaced(kind="sql", connection="shop", table="orders; DROP TABLE x")], "table"),
        ([replaced(kind="sql", connection="shop", query="../secret.sql")], "query"),
        ([replaced(kind="sql", connection="shop", table="orders", delimiter=";")], "a database gives typed values"),
        ([replaced(kind="sql", connection="shop", table="orders", compare_keys="0 3 * * 0")], "belongs to `cursor`"),
        ([replaced(**{**HTTP, "url": "http://api.acme.example/"})], "must begin with https://"),
        ([replaced(**{**HTTP, "url": "https://me:secret@api.acme.example/"})], "without a password"),
        ([replaced(**HTTP, pagination={"by": "page"})], "`parameter` belongs to"),
        ([replaced(**HTTP, pagination={"by": "offset", "parameter": "from"})], "needs `size`"),
        ([replaced(**HTTP, format="parquet")], "set `download: true`"),
        ([replaced(**HTTP, decimal=",")], "JSON has its own"),
        ([replaced(**HTTP, download=True, records="a")], "stores one file as it is"),
        ([replaced(kind="site", site="public")], "bucket"),
        ([replaced(bucket="exports")], "`site` and `bucket` belong together"),
    ],
)
def test_it_is_refused_with_a_reason(changes: list[Change], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        load(*changes)


def test_a_cursor_means_newest_unless_said_otherwise() -> None:
    seen = column(type="timestamp")
    assert (load().conflict_rule, load().version_column) == ("refuse", None)
    assert (load(seen, CURSOR).conflict_rule, load(seen, CURSOR).version_column) == ("newest", "seen")
    assert load(seen, CURSOR, lambda d: d.update(on_conflict="refuse")).conflict_rule == "refuse"


def test_each_kind_of_source_and_rule_of_conflict_is_read() -> None:
    for change in (replaced(**HTTP), replaced(kind="site", site="acme", bucket="shared"), source(format="parquet")):
        assert load(change).conflict_rule == "refuse"
    assert load(column(type="timestamp"), CURSOR).conflict_rule == "newest"
    kept = load(column(type="timestamp"), lambda d: d.update(on_conflict="history", version_by="seen"))
    assert kept.row_key == [*kept.key, "seen"]


def test_offsets_and_zones() -> None:
    assert parse_offset("2 days 3 hours") == timedelta(days=2, hours=3)
    assert parse_offset("1 hour") == timedelta(hours=1)
    assert parse_offset("90 minutes") == timedelta(minutes=90)
    assert zone_name("America/Argentina/Buenos_Aires")
    assert uncertain_day(time(15), "Europe/Berlin") is None
    assert uncertain_day(time(0), "America/Sao_Paulo") is not None  # clocks were set forward at midnight
    assert uncertain_day(time(2, 30), "UTC") is None


@pytest.mark.parametrize(
    "text", ["1 day", "2 days 3 hours 4 minutes", "99999 days 99999 hours 99999 minutes", "0 days"]
)
def test_an_offset_is_written_as_a_file_may_have_it(text: str) -> None:
    assert parse_offset(written_offset(parse_offset(text))) == parse_offset(text)
