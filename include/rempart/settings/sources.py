"""Sources of a pipeline: where its data come from, and how their text is written (the dialect).

Every kind of source ends in deliveries under `prefix` of the landing bucket. From there on all is one path, so every
section has a prefix. See docs/adr/0092.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from rempart.settings.clock import TimeZone
from rempart.settings.columns import NUMERIC, ColumnType, Name
from rempart.settings.schema import Duration, Strict

PREFIX = r"[A-Za-z0-9_\-]+/([A-Za-z0-9_\-]+/)*"
"""A folder of the landing bucket, such as `hotel_bookings/` or `hotel/bookings/`."""
COLUMN = r"^[a-z][a-z0-9_]{0,49}$"
SQL_FILE = r"^include/sql/[a-z][a-z0-9_]*\.sql$"
_ENCODINGS = {"utf-8": "utf-8", "iso8859-1": "latin-1", "cp1252": "cp1252"}
"""Names of encodings in a pipeline, by Python's own."""
UNIT = r"^[^\s\d.,;|'\"+-]{1,12}$"
"""A unit: no text that could be a part of a number or of a line."""
Kind = Literal["files", "sql", "http", "site", "derived"]
KINDS: tuple[Kind, ...] = ("files", "sql", "http", "site", "derived")
Format = Literal["csv", "jsonl", "parquet"]
DateFormat = Literal[
    "YYYY-MM-DD", "DD.MM.YYYY", "D.M.YYYY", "DD/MM/YYYY", "DD-MM-YYYY", "MM/DD/YYYY", "YYYY/MM/DD", "YYYYMMDD"
]  # fmt: skip


def _encoding(given: Any) -> Any:
    """Return the one name that an encoding has in a pipeline, of any name that Python knows it by."""
    try:
        return _ENCODINGS.get(codecs.lookup(given).name, given) if isinstance(given, str) else given
    except (LookupError, ValueError):
        return given


class Dialect(Strict):
    """How a source writes names of columns, text, numbers, dates and times. Declared once, for all columns."""

    encoding: Annotated[Literal["utf-8", "latin-1", "cp1252"], BeforeValidator(_encoding)] = Field(
        default="utf-8",
        description=(
            "Encoding of the text. Other names of these three are read, too, such as `iso-8859-1` (latin-1) and "
            "`windows-1252`."
        ),
    )
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="Character between two values.")
    null_values: list[str] = Field(default_factory=lambda: [""], description="Texts that stand for no value.")
    decimal: Literal[".", ","] = Field(default=".", description="Decimal mark of numbers.")
    thousands: Literal["", ".", ",", " ", "'"] = Field(
        default="",
        description=(
            "Mark between groups of three digits; none by default. A blank also means a narrow or non-breaking space."
        ),
    )
    dates: DateFormat = Field(default="YYYY-MM-DD", description="Form of dates, and of the date in a timestamp.")
    time_zone: TimeZone | None = Field(
        default=None,
        description=(
            "Time zone of timestamps without an offset, such as Europe/Berlin. Local times that a change of clocks "
            "makes ambiguous or missing are refused. Without it, each timestamp needs an offset. Days, months and "
            "hours of `calendar`, expressions and the hold-out are those of this zone, UTC by default."
        ),
    )

    header: dict[str, str] = Field(
        default_factory=dict,
        description=(
            "Names in the files (CSV header, fields of JSON, columns of Parquet) that differ from the schema's, as in "
            '`{"Order ID": order_id}`. Files are stored as they came.'
        ),
    )
    units: dict[str, Annotated[str, Field(pattern=UNIT)]] = Field(
        default_factory=dict,
        description=(
            'Unit that stands before or behind each number of a column, as in `{price: EUR, discount: "%"}`. The '
            "number is read without it. A number without its unit, or with another one, is refused."
        ),
    )

    def names(self, columns: Iterable[str]) -> dict[str, str]:
        """Return the name that the source gives each of these columns of the schema, in their order."""
        given = {column: name for name, column in self.header.items()}
        return {column: given.get(column, column) for column in columns}

    def named_columns(self) -> Iterator[tuple[str, str, tuple[ColumnType, ...]]]:
        """Yield each column of the schema that the source names: the path to it, its name, and its possible types."""
        yield from ((f"source.header.{name}", column, ()) for name, column in self.header.items())
        yield from ((f"source.units.{column}", column, NUMERIC) for column in self.units)

    def doubled_names(self, columns: Collection[str]) -> Iterator[str]:
        """Yield which of these columns of the schema has two names in the files, or one that another column has."""
        meant = Counter(self.header.values())
        for column in (column for column, times in meant.items() if times > 1):
            yield f"source.header: column '{column}' has {meant[column]} names; keep the one that the files have"
        names = self.names(columns)
        for name, column in self.header.items():
            if name in columns and names[name] == name != column:
                yield f"source.header.{name}: column '{name}' of the schema has this name, too; rename one of them"

    @model_validator(mode="after")
    def _marks_differ(self) -> Dialect:
        if self.thousands == self.decimal:
            raise ValueError(f"`thousands` and `decimal` are both '{self.decimal}': they must differ")
        return self


class Source(Dialect):
    """Deliveries that arrive under a prefix of the landing bucket."""

    prefix: str = Field(
        pattern=rf"^{PREFIX}$", max_length=200, description="Prefix in the bucket under which deliveries arrive."
    )
    format: Format = Field(
        default="csv",
        description=(
            "Format of the deliveries. Names end in .csv, .tsv or .txt (all three are `csv`), .jsonl or .ndjson, plain "
            "or with .gz or .zst, or in .parquet."
        ),
    )

    @property
    def incremental(self) -> bool:
        """Return whether rows may be read again, so that a newer version replaces an older one."""
        return False


class FilesSource(Source):
    """Deliveries: files that arrive under a prefix of the landing bucket, or of another bucket of a site."""

    kind: Literal["files"] = "files"
    site: Name | None = Field(
        default=None, description="Site of rempart.yaml from which files are fetched. Default: none are."
    )
    bucket: str | None = Field(default=None, description="Bucket at `site`.")
    folder: str | None = Field(default=None, pattern=rf"^{PREFIX}$", description="Prefix in `bucket`. Default: all.")

    @model_validator(mode="after")
    def _place_is_whole(self) -> FilesSource:
        if (self.site is None) != (self.bucket is None) or (self.folder and not self.site):
            raise ValueError("`site` and `bucket` belong together, and `folder` to both")
        return self


class Cursor(Strict):
    """How new rows are found: by a column that grows with each change."""

    column: str = Field(pattern=COLUMN, description="Column that grows with each change, such as updated_at.")
    overlap: Duration = Field(
        default="1h",
        validate_default=True,
        description=(
            "Time that is read again at each run, so that a transaction that commits late is not skipped. It must be "
            "longer than the longest transaction."
        ),
    )


_TEXT_KEYS = ("encoding", "delimiter", "null_values", "decimal", "thousands", "dates", "header", "units")


def _without_text_keys(schema: dict[str, Any]) -> None:
    """Remove the keys of text from a schema: a database gives typed values under the names of the schema."""
    for key in _TEXT_KEYS:
        schema["properties"].pop(key)


def _check_no_text_keys(source: Source) -> None:
    if text := source.model_fields_set.intersection(_TEXT_KEYS):
        raise ValueError(
            f"{', '.join(sorted(text))}: a database gives typed values under the schema's names; remove it"
        )


class SqlSource(Source):
    """Rows of a database: a table or a query, whole or by a cursor. A role that can only read is enough."""

    model_config = ConfigDict(json_schema_extra=_without_text_keys)

    kind: Literal["sql"]
    format: Literal["csv"] = Field(default="csv", description="Format of the deliveries that are written.")
    connection: str = Field(pattern=r"^[a-z0-9_]{1,60}$", description="Airflow connection of the database.")
    table: str | None = Field(
        default=None, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)?$", description="Table, such as sales.orders."
    )
    query: str | None = Field(
        default=None,
        pattern=SQL_FILE,
        description="SQL file with one SELECT, such as include/sql/orders.sql. Give either `table` or `query`.",
    )
    cursor: Cursor | None = Field(default=None, description="Read only new and changed rows. Default: all, each time.")
    compare_keys: str | None = Field(
        default=None,
        description="Cron expression (UTC) of the comparison of all keys, which finds deleted and late rows.",
    )
    statement_timeout: Duration = Field(
        default="1h", validate_default=True, description="Longest time of one statement at the database."
    )
    largest_run: int = Field(
        default=4096,
        ge=1,
        description=(
            "Size in MiB of the new rows that one run takes. The next run goes on. Rows with the same value of the "
            "cursor stay together."
        ),
    )

    @property
    def incremental(self) -> bool:
        return self.cursor is not None

    @model_validator(mode="after")
    def _one_origin(self) -> SqlSource:
        if (self.table is None) == (self.query is None):
            raise ValueError("give either `table` or `query`")
        if self.compare_keys is not None:
            from croniter import croniter

            if not croniter.is_valid(self.compare_keys):
                raise ValueError(f"'{self.compare_keys}' is not a cron expression: write five fields")
            if self.cursor is None:
                raise ValueError("`compare_keys` belongs to `cursor`: a source that is read whole has no late rows")
        _check_no_text_keys(self)
        return self


class Pagination(Strict):
    """How an API gives its rows in pages."""

    by: Literal["none", "link_header", "next_url", "page", "offset", "cursor"] = Field(
        default="none", description="What leads to the next page."
    )
    parameter: str | None = Field(
        default=None, description="Query parameter with the number of the page, the offset or the cursor."
    )
    field: str | None = Field(default=None, description="Field of the answer with the next address or cursor.")
    first: int = Field(default=1, ge=0, le=1, description="Number of the first page, for `by: page`.")
    size: int | None = Field(default=None, ge=1, le=100_000, description="Rows of one page.")
    size_parameter: str | None = Field(default=None, description="Query parameter with the rows of one page.")

    @model_validator(mode="after")
    def _has_its_keys(self) -> Pagination:
        if (self.parameter is not None) != (self.by in ("page", "offset", "cursor")):
            raise ValueError("`parameter` belongs to `by: page`, `by: offset` and `by: cursor`")
        if (self.field is not None) != (self.by in ("next_url", "cursor")):
            raise ValueError("`field` belongs to `by: next_url` and `by: cursor`")
        if self.by == "offset" and self.size is None:
            raise ValueError("`by: offset` needs `size`, the rows of one page")
        if self.size_parameter is not None and self.size is None:
            raise ValueError("`size_parameter` needs `size`")
        return self


class HttpSource(Source):
    """Rows of a REST API, or a file that is downloaded."""

    kind: Literal["http"]
    url: str = Field(max_length=2000, description="Address, beginning with https://. A token never stands in it.")
    format: Format = Field(
        default="jsonl", description="Format of the deliveries. JSON answers become JSON Lines or CSV."
    )
    download: bool = Field(default=False, description="True if the answer is one file, which is stored as it is.")
    records: str | None = Field(default=None, description="Field of a JSON answer with the list of rows, as `a.b`.")
    connection: str | None = Field(
        default=None, pattern=r"^[a-z0-9_]{1,60}$", description="Airflow connection with the token or password."
    )
    pagination: Pagination = Pagination()
    cursor: Cursor | None = Field(default=None, description="Read only new and changed rows. Default: all, each time.")
    cursor_parameter: str | None = Field(default=None, description="Query parameter that takes the cursor's value.")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Limit of requests. Default: none.")
    ca_file: str | None = Field(default=None, description="Certificates of a private authority, as a PEM file.")

    @property
    def incremental(self) -> bool:
        return self.cursor is not None

    @model_validator(mode="after")
    def _consistent(self) -> HttpSource:
        address = re.fullmatch(r"(https?)://([^/?#]*)([^#\s]*)", self.url)
        if not address or not address[2] or "@" in address[2]:
            raise ValueError("`url` must be an address such as https://api.acme.example/v1/orders, without a password")
        if address[1] == "http" and address[2].rsplit(":", 1)[0] not in ("localhost", "127.0.0.1", "[::1]"):
            raise ValueError("`url` must begin with https:// (only this machine may be asked without TLS)")
        if (self.cursor is None) != (self.cursor_parameter is None):
            raise ValueError("`cursor` and `cursor_parameter` belong together")
        if self.download and (self.records or self.cursor or self.pagination.by != "none"):
            raise ValueError("`download` stores one file as it is: remove `records`, `pagination` and `cursor`")
        if not self.download and self.format == "parquet":
            raise ValueError("JSON answers become `format: jsonl` or `csv`; for files of parquet set `download: true`")
        if not self.download and (self.delimiter, self.encoding, self.decimal) != (",", "utf-8", "."):
            raise ValueError("`delimiter`, `encoding` and `decimal` belong to `download: true`: JSON has its own")
        return self


class SiteSource(Source):
    """Files in a bucket of another operator. The policy's `origins` must allow it; nothing is ever written there."""

    kind: Literal["site"]
    site: Name = Field(description="Name under `origins` of rempart.yaml from which files are taken.")
    bucket: str = Field(min_length=1, max_length=63, description="Bucket at that place.")
    folder: str | None = Field(default=None, pattern=rf"^{PREFIX}$", description="Prefix in `bucket`. Default: all.")


class DerivedSource(Source):
    """Rows of a SQL file over the current snapshots of other pipelines."""

    model_config = ConfigDict(json_schema_extra=_without_text_keys)

    kind: Literal["derived"]
    format: Literal["parquet"] = Field(default="parquet", description="Format of the deliveries that are written.")
    inputs: list[Name] = Field(
        min_length=1, max_length=20, description="Pipelines whose rows the SQL file reads, as tables of these names."
    )
    sql: str = Field(
        pattern=SQL_FILE,
        description=(
            "SQL file (DuckDB) with one SELECT over the inputs, such as include/sql/trips_by_weather.sql. Its result "
            "must depend on their rows alone: no files, current time, random values, or LIMIT without ORDER BY."
        ),
    )

    @model_validator(mode="after")
    def _inputs_differ(self) -> DerivedSource:
        if len(set(self.inputs)) < len(self.inputs):
            raise ValueError("`inputs` names a pipeline twice")
        _check_no_text_keys(self)
        return self


def kind_of(section: Any) -> str:
    """Return the kind that a section names: `files` where it names none."""
    return str(section.get("kind", "files") if isinstance(section, dict) else getattr(section, "kind", "files"))


def is_extracted(source: Source) -> bool:
    """Return whether data are taken from elsewhere. Files arrive in the landing bucket by themselves, unless a site is
    named."""
    return not isinstance(source, FilesSource) or source.site is not None


AnySource = Annotated[
    Annotated[FilesSource, Tag("files")]
    | Annotated[SqlSource, Tag("sql")]
    | Annotated[HttpSource, Tag("http")]
    | Annotated[SiteSource, Tag("site")]
    | Annotated[DerivedSource, Tag("derived")],
    Discriminator(
        kind_of,
        custom_error_type="source_kind",
        custom_error_message=f"`kind` must be one of {', '.join(KINDS)}",
    ),
]


class Ingestion(Strict):
    """What ingestion may use, and how large a delivery may be. The defaults fit a laptop."""

    memory: int = Field(
        default=512, ge=64, description="Memory of the engine in MiB; rows that do not fit are written to disk."
    )
    threads: int = Field(default=2, ge=1, le=256, description="Threads of the engine.")
    largest_delivery: int = Field(
        default=512,
        ge=1,
        description="Size of the largest delivery in MiB, unpacked. A larger file is refused as a whole.",
    )
    unpacking_ratio: int = Field(
        default=200,
        ge=1,
        description=(
            "Maximum factor by which a packed file may grow when it is unpacked. Smaller files may grow to 16 MiB."
        ),
    )
