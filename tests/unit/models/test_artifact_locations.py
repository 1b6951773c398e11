"""Artifacts that MLflow does not serve would stay at their site: they are found, with the statement that helps."""

from __future__ import annotations

from rempart.models.artifact_locations import Location, unproxied

ROOT = "s3://artifacts/mlflow"


def experiment(location: str, name: str = "7") -> Location:
    return Location("experiments", "artifact_location", "experiment_id", name, location)


def test_what_the_server_serves_follows() -> None:
    assert not list(unproxied([experiment("mlflow-artifacts:/7")], ROOT))


def test_what_lies_below_the_servers_root_needs_one_statement() -> None:
    (found,) = unproxied([experiment("s3://artifacts/mlflow/7")], ROOT)
    assert found.statement == (
        "UPDATE experiments SET artifact_location = 'mlflow-artifacts:/7' WHERE experiment_id = '7';"
    )
    assert "experiments 7: s3://artifacts/mlflow/7 is at one site, so a failover would not move it" in found.line()


def test_what_lies_elsewhere_must_be_copied_first() -> None:
    for place in ("s3://other/7", "/var/mlruns/7", "s3://artifacts/mlflow-old/7"):
        (found,) = unproxied([experiment(place)], ROOT)
        assert found.statement is None and "copy its objects" in found.line()


def test_a_name_with_a_quote_stays_a_value() -> None:
    (found,) = unproxied([experiment(f"{ROOT}/o'brien", "o'brien")], ROOT)
    assert found.statement is not None and "/o''brien'" in found.statement and "= 'o''brien';" in found.statement
