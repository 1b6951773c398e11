"""S5 on the whole running stack: the code of `prove-access` attacks every port and socket of its processes."""

from __future__ import annotations

import pytest

from bench import access_embedded
from bench.access_attacks import Row
from bench.access_embedded import COOKIE, JOB
from rempart.deployment.setup import paths
from rempart.flows.shared.platform import Platform

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def rows(stack: paths.Stack, platform: Platform) -> list[Row]:
    """The table of the running stack."""
    return access_embedded.attack(stack, platform)


def let_in(rows: list[Row], who: set[str]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(row.endpoint, row.who, row.let_in) for row in rows if row.who in who and not row.ok]


def test_s5_no_port_or_socket_of_the_stack_lets_anybody_in_who_has_no_right(
    stack: paths.Stack, rows: list[Row]
) -> None:
    assert set(stack.ports) <= {row.endpoint for row in rows}, "every declared port was attacked"
    assert let_in(rows, {row.who for row in rows} - {COOKIE, JOB}) == []


def test_s5_a_job_in_a_pool_gets_no_more_than_its_own_at_mlflow_and_at_its_site(rows: list[Row]) -> None:
    assert {row.endpoint for row in rows if row.who == JOB} == {"mlflow", "primary"}
    assert let_in(rows, {JOB}) == []


def test_s10_a_page_at_another_port_writes_nothing_with_the_cookie_of_an_administrator(rows: list[Row]) -> None:
    assert [row.endpoint for row in rows if row.who == COOKIE] == ["airflow"]
    assert let_in(rows, {COOKIE}) == []
