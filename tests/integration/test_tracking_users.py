"""An MLflow user for one attempt of a job: it may log its job and nothing else, and is removed afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from rempart.errors import TrackingRefused
from rempart.flows.shared.platform import Platform
from rempart.models import tracking_users
from rempart.models.tracking import session
from rempart.settings.config import Connection

pytestmark = pytest.mark.tracking


@pytest.fixture
def mark(platform: Platform) -> Iterator[str]:
    name = f"job-{secrets.token_hex(4)}"
    yield name
    with session(platform.tracking()) as client:
        for experiment in client.search_experiments(filter_string=f"name LIKE '{name}%'"):
            client.delete_experiment(experiment.experiment_id)
    tracking_users.remove(platform.tracking(), name)


def test_it_logs_to_its_experiment_and_sees_no_other(platform: Platform, mark: str) -> None:
    admin = platform.tracking()
    with session(admin) as client:
        other = client.create_experiment(f"{mark}-other")
        run = client.create_run(other).info.run_id
        client.create_registered_model(f"{mark}-champion")
    try:
        user = tracking_users.create(admin, f"{mark}-1-", f"{mark}-own")
        assert user.login != admin.login and user.password != admin.password
        with session(user) as client:
            own = client.get_experiment_by_name(f"{mark}-own").experiment_id
            made = client.create_run(own)
            client.log_metric(made.info.run_id, "mae", 1.0)
            client.log_text(made.info.run_id, "x", "note.txt")
            client.set_terminated(made.info.run_id, "FINISHED")
            model = client.create_logged_model(own, name="m", source_run_id=made.info.run_id)
            client.finalize_logged_model(model.model_id, "READY")

        def refused(act) -> None:  # type: ignore[no-untyped-def]
            with pytest.raises(TrackingRefused, match="403"), session(user) as client:
                act(client)

        refused(lambda client: client.search_experiments(filter_string=f"name = '{mark}-other'"))
        refused(lambda client: client.get_run(run))
        refused(lambda client: client.log_metric(run, "mae", 0.0))
        refused(lambda client: client.log_text(run, "x", "note.txt"))
        refused(lambda client: client.delete_experiment(other))
        refused(lambda client: client.get_registered_model(f"{mark}-champion"))
        refused(lambda client: client.set_registered_model_alias(f"{mark}-champion", "champion", "1"))
        refused(lambda client: client.delete_registered_model(f"{mark}-champion"))
        with pytest.raises(TrackingRefused, match="403"):
            tracking_users.create(user, f"{mark}-2-", f"{mark}-own")
        with pytest.raises(TrackingRefused, match="403"):
            tracking_users.remove(user, mark)
    finally:
        with session(admin) as client:
            client.delete_registered_model(f"{mark}-champion")


def test_it_is_removed_with_its_attempt_and_no_other_is(platform: Platform, mark: str) -> None:
    admin = platform.tracking()
    first = tracking_users.create(admin, f"{mark}-1-", f"{mark}-own")
    second = tracking_users.create(admin, f"{mark}-2-", f"{mark}-own")
    assert tracking_users.remove(admin, f"{mark}-1-") == [first.login]
    assert tracking_users.remove(admin, f"{mark}-1-") == []
    with pytest.raises(TrackingRefused, match="401"), session(first) as client:
        client.get_experiment_by_name(f"{mark}-own")
    with session(second) as client:
        assert client.get_experiment_by_name(f"{mark}-own")


def test_a_wrong_password_makes_nobody(platform: Platform, mark: str) -> None:
    stranger = Connection(**{**platform.tracking().__dict__, "password": "x"})
    with pytest.raises(TrackingRefused, match="401"):
        tracking_users.create(stranger, f"{mark}-1-", f"{mark}-own")
