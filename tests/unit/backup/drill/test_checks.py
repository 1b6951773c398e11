"""A drill's comparisons: only equality passes."""

import math

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.databases.postgresql import find_tools, first_error, libpq_environment
from rempart.backup.drill.checks import RestoreCheck, equal_count, equal_predictions, equal_tables, passed, passed_of
from rempart.backup.drill.tracking_server import marked_processes
from rempart.settings.config import TLS, Connection, parse_connection

counts = st.dictionaries(st.sampled_from(["a.x", "a.y", "a.z"]), st.integers(0, 3))
numbers = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=5)


@given(counts, counts)
def test_tables_are_equal_only_when_all_are(wanted, found):
    assert equal_tables("x", wanted, found, show=True).ok == (wanted == found and bool(wanted))


def test_a_digest_that_differs_names_the_table_only():
    check = equal_tables("x", {"public.t": "-12345"}, {"public.t": "777"}, show=False)
    assert (check.ok, check.detail) == (False, "differs: public.t")


def test_a_table_that_the_point_does_not_hold_is_no_success():
    assert equal_count("x", "public.dag_run", {}, {}).ok is False
    assert equal_count("x", "public.dag_run", {"public.dag_run": 3}, {"public.dag_run": 3}).ok is True
    assert equal_count("x", "public.dag_run", {"public.dag_run": 3}, {}).ok is False


@given(numbers, numbers)
def test_predictions_are_equal_only_when_finite_and_the_same(restored, live):
    same = restored == live and bool(live) and all(math.isfinite(number) for number in live)
    assert equal_predictions("x", restored, live).ok == same


@pytest.mark.parametrize(
    ("outcomes", "verdict"), [([], False), ([None], False), ([True, None], True), ([True, False], False)]
)
def test_what_did_not_run_never_counts_as_passed(outcomes, verdict):
    assert passed(RestoreCheck("x", ok, "") for ok in outcomes) is verdict


@pytest.mark.parametrize(
    "line",
    [
        'pg_restore: error: COPY failed for table "bookings": ERROR:  invalid input syntax: "Jane Doe"',
        "pg_restore: error: duplicate key\nDETAIL:  Key (agent)=(Jane Doe) already exists.",
        "pg_dump: error: Key (agent)=(Jane Doe",
        "pg_dump: error: value 'Jane Doe' is too long",
    ],
)
def test_no_value_of_a_row_leaves_a_tools_message(line):
    assert "Jane" not in first_error(line)
    assert "error:" in first_error(line)


def test_a_password_never_stands_in_the_arguments():
    connection = Connection(
        "pg_backup", "postgres", "db", 5433, "backup", "hidden", "airflow", {"sslmode": "verify-full"}
    )
    environment = libpq_environment(connection)
    assert environment["PGPASSWORD"] == "hidden"
    assert (environment["PGSSLMODE"], environment["PGDATABASE"]) == ("verify-full", "airflow")
    assert "hidden" not in repr(connection)


@pytest.mark.parametrize(
    ("extra", "environment", "mode"),
    [
        ({}, "", None),
        ({"sslmode": "require"}, "", "require"),
        ({"sslmode": "require"}, "verify-full", "verify-full"),
        ({"sslmode": "verify-full"}, "prefer", "verify-full"),
        ({}, "require", "require"),
    ],
)
def test_of_two_modes_of_tls_the_stricter_one_holds(monkeypatch, extra, environment, mode):
    for name in TLS:
        monkeypatch.delenv(f"PG{name.upper()}", raising=False)
    monkeypatch.setenv("PGSSLMODE", environment)
    connection = Connection("pg_backup", "postgres", "db", 5433, "backup", "hidden", "airflow", extra)
    assert libpq_environment(connection).get("PGSSLMODE") == mode
    assert connection.postgresql_url().partition("?")[2] == (f"sslmode={mode}" if mode else "")
    assert "?" not in connection.postgresql_url("postgresql+asyncpg")


def test_the_authority_of_the_environment_reaches_the_programs(monkeypatch):
    monkeypatch.setenv("PGSSLROOTCERT", "/run/ca.crt")
    connection = Connection("pg_backup", "postgres", "db")
    assert libpq_environment(connection)["PGSSLROOTCERT"] == "/run/ca.crt"
    given = parse_connection("pg_admin", "postgresql://o:p@db:5432/postgres?sslmode=verify-full&sslrootcert=/x")
    assert given.tls() == {"sslmode": "verify-full", "sslrootcert": "/x"}


def test_the_programs_use_a_libpq_with_tls_that_is_as_new_as_they_are():
    tools = find_tools()
    assert tools.library and tools.command("pg_dump")[1] == f"LD_PRELOAD={tools.library}"
    assert psycopg.pq.version() // 10000 >= tools.version()


def test_only_the_drills_own_processes_are_its_own():
    blocks = {1: b"A=1\0REMPART_DRILL=x-1\0", 2: b"REMPART_DRILL=x-12\0", 3: b"NOTE=REMPART_DRILL=x-1\0", 4: b""}
    assert marked_processes("x-1", blocks) == [1]


@given(st.lists(st.sampled_from([True, False, None])))
def test_a_check_that_did_not_run_counts_and_did_not_pass(outcomes):
    count, of = passed_of(iter(outcomes))
    assert of == len(outcomes) and count + outcomes.count(False) + outcomes.count(None) == of


def test_a_check_that_could_not_run_says_so_once() -> None:
    assert RestoreCheck("rows are equal", None, "not run: it is empty").line == "not run: rows are equal (it is empty)"
    assert RestoreCheck("rows are equal", True, "3 rows").line == "ok: rows are equal (3 rows)"
