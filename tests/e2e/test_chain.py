"""The whole chain through Airflow on real servers, and the results that each user looks at."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.backup.databases import postgresql
from rempart.backup.keys import age
from rempart.flows.ingestion import delta_log, profile
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.settings import config, pipelines
from tests.e2e.chains import BAD, CANARY, DAGS, DELIVERED, GOOD, LOOKER, PIPELINE, Chain
from tests.e2e.readme_commands import asked_as_the_readme_says
from tests.levels import unpaused
from tests.people import PATIENCE

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def api() -> Iterator[AirflowApi]:
    with unpaused(AirflowApi(config.environment_connections("airflow_api")), *DAGS) as made:
        yield made


def logs_of_the_stack() -> Iterator[tuple[Path, str]]:
    """Every log of the stack; a server may rotate one while they are read."""
    for file in config.var_dir().rglob("*.log"):
        with suppress(FileNotFoundError, IsADirectoryError):
            yield file, file.read_text(encoding="utf-8", errors="replace")


def test_every_delivered_row_is_accepted_or_quarantined(chain: Chain) -> None:
    rows = chain.ingested
    assert rows["delivered"] == DELIVERED == rows["accepted"] + rows["quarantined"]
    assert rows["total_rows"] == rows["accepted"]
    assert rows["quarantined"] >= BAD


def test_the_snapshot_is_a_table_and_its_profile_was_made_beside_the_chain(chain: Chain, platform: Platform) -> None:
    assert chain.ingested["table_fault"] is None and chain.profiled["shown"] == chain.ingested["snapshot"]
    site, lake = platform.active_site("personal"), platform.config.buckets.lake
    assert delta_log.read(site, lake, PIPELINE)[0].snapshot == chain.ingested["snapshot"]
    assert CANARY.encode() not in site.read(lake, profile.key(PIPELINE, chain.ingested["snapshot"], "personal"))


def test_rows_in_quarantine_are_shown_to_who_has_the_key_and_that_is_evidence(chain: Chain, platform: Platform) -> None:
    told = json.loads(age.decrypt(base64.b64decode(chain.looked["sealed"]), LOOKER, "the rows"))
    assert chain.looked["rows"] == chain.looked["shown"] == len(told["rows"]) >= BAD
    assert sum(CANARY in row["raw"] for row in told["rows"]) == BAD
    (record,) = platform.ledger.find("look", PIPELINE)
    assert record.body["delivery"] == chain.looked["delivery"]
    assert record.body["written_by"]["run"].startswith("manual__")
    assert re.fullmatch(r"user [0-9]+|the platform's admin", record.body["by"])


def test_a_delivery_taken_in_again_by_the_same_rules_changes_nothing(chain: Chain, platform: Platform) -> None:
    assert not chain.again["changed"] and chain.again["snapshot"] == chain.ingested["snapshot"]
    assert chain.again["quarantined"] == chain.looked["rows"]
    assert len(platform.ledger.find("deliveries", PIPELINE)) == 1


def test_features_of_every_accepted_row_are_online(chain: Chain) -> None:
    assert chain.features["snapshot"] == chain.ingested["snapshot"]
    assert chain.features["views"] == 3 and chain.features["rows_online"] > chain.ingested["accepted"]


def test_the_candidate_beats_baseline_and_limit_and_is_champion(chain: Chain) -> None:
    assert chain.judged["promoted"] and chain.judged["champion"] == chain.trained["version"]
    assert chain.judged["metrics"]["mae"] <= 25.0 < chain.judged["baselines"]["mae"]


def test_two_commands_of_the_readme_get_the_champions_prediction(chain: Chain, platform: Platform) -> None:
    answer, wanted = asked_as_the_readme_says(platform, pipelines.with_model(pipelines.named(PIPELINE)))
    assert answer["version"] == chain.judged["champion"]
    assert answer["predictions"][0]["prediction"] == pytest.approx(wanted, rel=1e-6)


def test_a_bad_candidate_is_refused_with_reasons_and_the_champion_stays(chain: Chain) -> None:
    assert not chain.refused["promoted"] and chain.refused["champion"] == chain.judged["champion"]
    assert any("25" in reason for reason in chain.refused["reasons"]), chain.refused["reasons"]


def test_the_replica_is_complete_and_verified(chain: Chain) -> None:
    assert chain.copied["objects"] == chain.copied["verified"] > 0 and not chain.copied["failed"]


def test_the_drill_proves_the_restore_point(chain: Chain) -> None:
    assert chain.drilled["ok"] and chain.drilled["point_id"] == chain.point["id"]
    assert all(check["ok"] for check in chain.drilled["checks"]) and len(chain.drilled["checks"]) >= 8


def test_parts_of_a_point_are_restored_beside_the_platform_and_removed(chain: Chain) -> None:
    assert chain.restored_aside["result"]["ok"] and chain.restored_aside["databases"] == ["feast_registry_e2e"]
    assert chain.restored_aside["buckets"] == ["lake-e2e"] and chain.restored_aside["objects"] > 0
    assert chain.removed["did"] == "remove" and chain.removed["result"] is None


def test_canaries_are_where_personal_data_belongs(chain: Chain, platform: Platform) -> None:
    spec = pipelines.named(PIPELINE)
    site, lake = platform.active_site(spec.classification), platform.config.buckets.lake
    snapshot = snapshots.current(site, lake, PIPELINE)
    assert snapshot is not None
    agents = snapshots.load_table(site, lake, snapshot).column("agent").to_pylist()
    assert agents.count(CANARY) == GOOD
    assert CANARY in dump_text(platform, "feast_offline")
    assert CANARY in dump_text(platform, "feast_online")


@pytest.mark.parametrize("database", ["airflow", "mlflow", "feast_registry", "ledger"])
def test_no_canary_in_databases_that_hold_no_personal_data(chain: Chain, platform: Platform, database: str) -> None:
    text = dump_text(platform, database)
    assert len(text) > 1000
    assert CANARY not in text and CANARY.encode().hex() not in text


def test_no_canary_in_any_artifact_or_log(chain: Chain, platform: Platform) -> None:
    site, bucket = platform.active_site("personal"), platform.config.buckets.artifacts
    seen = 0
    for found in site.list(bucket):
        seen += 1
        assert CANARY.encode() not in site.read(bucket, found.key), found.key
    assert seen > 10
    logs = dict(logs_of_the_stack())
    assert any("task_id=ingest" in str(file) for file in logs), "the tasks' own logs were not looked at"
    assert not [file for file, text in logs.items() if CANARY in text]


def dump_text(platform: Platform, database: str) -> str:
    """A database as text, by the role that makes backups."""
    connection = postgresql.for_database(platform.database("backup"), database)
    command = [str(postgresql.find_tools().folder / "pg_dump"), "--inserts"]
    env = os.environ | postgresql.libpq_environment(connection)
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_every_dag_page_has_its_documentation_and_no_file_fails_to_import(chain: Chain, api: AirflowApi) -> None:
    assert api.import_errors() == []
    ids = api.dag_ids()
    for kind in ("ingest", "materialize_features", "train", "validate_model", "replicate", "backup", "restore_drill"):
        assert any(dag_id.startswith(kind) for dag_id in ids), kind
    for dag_id in ids:
        assert "When it fails" in api.get(f"/api/v2/dags/{dag_id}/details")["doc_md"], dag_id


@pytest.mark.parametrize(
    ("dag_id", "conf", "named"),
    [
        (f"train_{PIPELINE}", {"trainer_params": {"num_iterations": [1]}}, "trainer_params"),
        (f"train_{PIPELINE}", {"trainer_params": {"../x": 1}}, "trainer_params"),
        (f"validate_model_{PIPELINE}", {"version": "1; DROP TABLE x"}, "version"),
        (f"materialize_features_{PIPELINE}", {"snapshot": "../../etc/passwd"}, "snapshot"),
        (f"ingest_{PIPELINE}", {"prefix": "{{ var.value.secret }}"}, "prefix"),
        (f"ingest_{PIPELINE}", {"again": "../" + "0" * 61}, "again"),
        (f"preview_quarantine_{PIPELINE}", {"delivery": "0" * 64, "recipient": "age1; $(id)"}, "recipient"),
        (f"preview_quarantine_{PIPELINE}", {}, "delivery"),
        (f"roll_back_model_{PIPELINE}", {"dry_run": False, "replaces": "1 OR 1=1"}, "replaces"),
        ("restore_drill", {"point": "$(id)"}, "point"),
        ("restore_to_sandbox", {"aside": "x; DROP TABLE y"}, "aside"),
        ("restore_to_sandbox", {"aside": "before", "parts": ["database:{{ conn.pg_airflow.password }}"]}, "parts"),
        ("replicate_primary_to_haven", {"accept_deletes": -1}, "accept_deletes"),
    ],
)
def test_a_wrong_param_is_answered_with_400_and_its_name(
    chain: Chain, api: AirflowApi, dag_id: str, conf: dict[str, Any], named: str
) -> None:
    with pytest.raises(AirflowApiError, match="HTTP 400") as refused:
        api.trigger(dag_id, conf)
    assert named in str(refused.value)


def test_a_rollback_without_an_earlier_champion_fails_and_moves_nothing(chain: Chain, api: AirflowApi) -> None:
    dag_id = f"roll_back_model_{PIPELINE}"
    run_id = api.trigger(dag_id, {"dry_run": False})
    with pytest.raises(AirflowApiError, match="failed in roll_back"):
        api.follow(dag_id, run_id, lambda line: None)
    newest = api.get("/rempart/evidence")
    assert "rollback" not in newest
    assert newest["promotion"]["body"]["version"] == chain.judged["version"]


def test_the_plugin_is_listed_and_its_routes_ask_who_you_are(chain: Chain, api: AirflowApi) -> None:
    assert any(plugin["name"] == "rempart" for plugin in api.get("/api/v2/plugins")["plugins"])
    anonymous = httpx.get(f"{api.url}/rempart/evidence", timeout=PATIENCE, trust_env=False)
    assert anonymous.status_code == 401
    bearer = {"Authorization": "Bearer x.y.z"}
    forged = httpx.get(f"{api.url}/rempart/evidence", headers=bearer, timeout=PATIENCE, trust_env=False)
    assert forged.status_code in (401, 403)
    newest = api.get("/rempart/evidence")
    assert newest["promotion"]["body"]["version"] == chain.judged["version"]
    assert newest["refusal"]["body"]["reasons"]
    assert newest["drill"]["body"]["ok"]


def test_no_secret_in_any_log(chain: Chain) -> None:
    secrets = {
        value
        for key, value in config.read_env_file(config.secrets_file()).items()
        if ("PASSWORD" in key or "KEY" in key or "SECRET" in key) and len(value) >= 16
    }
    for name in ("s3_primary", "s3_haven", "pg_airflow", "pg_mlflow", "pg_ledger", "mlflow", "airflow_api"):
        secrets.add(config.environment_connections(name).password)
    for file, text in logs_of_the_stack():
        assert not [s for s in secrets if s in text], f"a secret stands in {file.name}"


def test_each_run_says_in_its_note_what_it_did(chain: Chain, api: AirflowApi) -> None:
    def notes(dag_id: str) -> list[str]:
        found = api.get(f"/api/v2/dags/{dag_id}/dagRuns?order_by=-run_after&limit=20")["dag_runs"]
        return [str(task["note"]) for task in found if task["state"] in ("success", "failed")]

    rows, point = chain.ingested, chain.point
    counted = f"{rows['delivered']:,} rows delivered, {rows['accepted']:,} accepted, "
    counted += f"{rows['quarantined']:,} refused in this run"
    expected = {
        f"ingest_{PIPELINE}": counted,
        f"materialize_features_{PIPELINE}": f"feature views of snapshot {rows['snapshot']}",
        f"train_{PIPELINE}": f"Version {chain.trained['version']} was trained",
        f"validate_model_{PIPELINE}": f"Version {chain.judged['version']} is the champion",
        "replicate_primary_to_haven": "objects verified at the target",
        "backup_platform": f"Restore point {point['id']}: {point['databases']} databases",
        "restore_drill": f"Restore point {point['id']} proved itself",
    }
    for dag_id, message in expected.items():
        told = notes(dag_id)
        assert [line for line in told if line.startswith("Rempart: ") and message in line], (dag_id, told)
        assert not [line for line in told if CANARY in line]
    assert [note for note in notes(f"validate_model_{PIPELINE}") if "was refused" in note]
    run = api.trigger(f"materialize_features_{PIPELINE}", {"snapshot": "0" * 32})
    with pytest.raises(AirflowApiError):
        api.follow(f"materialize_features_{PIPELINE}", run, lambda line: None)
    assert notes(f"materialize_features_{PIPELINE}")[0].startswith("Rempart: materialize failed: ")


def test_tasks_link_to_mlflow_and_to_pages_that_tell_of_their_run(chain: Chain, api: AirflowApi) -> None:
    def links(dag_id: str, task: str) -> dict[str, str]:
        # the newest that succeeded: a link is written a moment after its task has ended
        path = f"/api/v2/dags/{dag_id}/dagRuns?state=success&order_by=-run_after&limit=1"
        run = api.get(path)["dag_runs"][0]["dag_run_id"].replace("+", "%2B")
        found: dict[str, str] = api.get(f"/api/v2/dags/{dag_id}/dagRuns/{run}/taskInstances/{task}/links")[
            "extra_links"
        ]
        return found

    mlflow = config.environment_connections("mlflow")
    run = links(f"train_{PIPELINE}", "train")["MLflow run"]
    assert run.startswith(f"http://{mlflow.host}:{mlflow.port}/#/runs/")
    id_of_run = run.rpartition("/")[2]
    asked = httpx.get(
        f"http://{mlflow.host}:{mlflow.port}/api/2.0/mlflow/runs/get",
        params={"run_id": id_of_run},
        auth=(mlflow.login, mlflow.password),
        timeout=PATIENCE,
        trust_env=False,
    )
    assert asked.status_code == 200
    point = links("backup_platform", "back_up")["Restore point"].replace("/rempart/", "/rempart/api/")
    for _ in range(150):  # facts whose gathering began before the point was written do not have it
        with suppress(AirflowApiError):
            assert api.get(point)["point"]["state"] in ("good", "warning")
            break
        time.sleep(2)
    else:
        pytest.fail(f"unknown{point}")
    for task, topic in (("ingest", "snapshot"), ("validate", "gate")):
        dag_id = {"ingest": f"ingest_{PIPELINE}", "validate": f"validate_model_{PIPELINE}"}[task]
        name = {"ingest": "Data report", "validate": "Model gate"}[task]
        path, _, anchor = links(dag_id, task)[name].partition("#")
        assert anchor == topic
        shown = api.get(path.replace("/rempart/", "/rempart/api/"))
        # a warm run writes no snapshot of its own, and a version that is champion already no second promotion
        assert shown["dag"] == dag_id and {section["topic"] for section in shown["sections"]} <= {topic, "placement"}


def test_evidence_names_the_run_that_wrote_it(chain: Chain, api: AirflowApi) -> None:
    by = api.get("/rempart/evidence")["drill"]["body"]["written_by"]
    assert (by["dag"], by["task"]) == ("restore_drill", "report")
    found = api.get(f"/rempart/api/run?dag_id=restore_drill&run_id={by['run'].replace('+', '%2B')}")
    assert "drill" in {section["topic"] for section in found["sections"]}
