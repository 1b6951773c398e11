"""When the DAGs that run every so often run for the first time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the bounds
periods = st.timedeltas(timedelta(seconds=30), timedelta(days=30))


@given(moments, periods, st.floats(0, 1))
def test_the_first_run_is_soon_and_does_not_move_when_the_file_is_read_again(
    now: datetime, period: timedelta, later: float
) -> None:
    from rempart.orchestration.dags import FIRST_WITHIN, first_run

    first = first_run(now, period)
    assert now - timedelta(seconds=10) <= first <= now + min(period, FIRST_WITHIN)
    assert first_run(now + max(first - now, timedelta()) * later, period) == first


def test_a_new_platform_waits_and_then_the_period_counts() -> None:
    import pendulum
    from airflow.timetables.base import DataInterval, TimeRestriction

    from rempart.orchestration.dags import FIRST_WITHIN, Periodic

    either = TimeRestriction(earliest=None, latest=None, catchup=False)
    hourly = Periodic(timedelta(hours=1))
    now = datetime.now(UTC)
    new = hourly.next_dagrun_info(last_automated_data_interval=None, restriction=either)
    assert new is not None and now <= new.run_after <= now + FIRST_WITHIN + timedelta(seconds=1)
    ran = pendulum.instance(now - timedelta(minutes=10))
    after = hourly.next_dagrun_info(last_automated_data_interval=DataInterval.exact(ran), restriction=either)
    assert after is not None and after.run_after == ran + timedelta(hours=1)
