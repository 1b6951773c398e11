"""S6: the user of a job, a person and a stranger at a real MLflow server. Calls outside the list are refused.

The server has users in PostgreSQL and artifacts at a real site, as the platform starts it.
"""

import base64
import dataclasses
import http.client
import io
import json
import os
import secrets
import subprocess
import sys

import pytest

from rempart.deployment.setup import environment
from rempart.errors import ModelRefused
from rempart.models import loading, tracking_users
from rempart.models.tracking import session
from rempart.settings import config
from rempart.tracking_access import job_calls, routes
from tests.faults.tracking_worlds import (
    API,
    FEATURES,
    FILES,
    administrator,
    client,
    filled,
    new_world,
    objects,
    rules_of_routes,
    tracking_stores,
)
from tests.integration.test_job_credentials import status
from tests.tracking_server import ask

pytestmark = pytest.mark.fault("S6")


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    yield from tracking_stores(tmp_path_factory)


@pytest.fixture(scope="module")
def admin(servers):
    yield from administrator(servers)


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    return rules_of_routes(tmp_path_factory)


@pytest.fixture(scope="module")
def world(admin):
    return new_world(admin)


def test_every_route_of_mlflow_stands_in_the_list(rules):
    """A new MLflow has a new route: say in routes.txt who may call it, then this passes."""
    assert len(rules) > 400
    assert routes.unlisted(routes.listed(), rules) == []


def test_a_route_that_is_in_the_list_is_one_of_mlflow(rules):
    known = {(method, routes.template(rule)) for method, rule in rules}
    assert {(route.method, route.template) for route in routes.listed()} <= known


@pytest.mark.full
def test_no_other_route_answers_a_job(world, rules):
    answered = {}
    for method, rule in rules:
        route = routes.Route(method, routes.template(rule), frozenset())
        if any(
            "job" in listed.who
            for listed in routes.listed()
            if (listed.method, listed.template) == (method, route.template)
        ):
            continue
        if (method, rule) == ("GET", "/health"):
            continue
        status, _ = world.ask(method, filled(world, route.template), {} if method != "GET" else None)
        if status not in (401, 403):
            answered[f"{method} {rule}"] = status
    assert answered == {}


def test_no_route_answers_a_stranger(world, rules):
    answered = {}
    wrong = dataclasses.replace(world.job, password="wrong")
    for method, rule in rules:
        path = filled(world, routes.template(rule))
        found = ask(None, world.port, method, path)[0]
        if found != 401 and path != "/health":
            answered[f"{method} {rule}"] = found
    assert answered == {}
    assert ask(wrong, world.port, "GET", f"{API}/runs/get?run_id={world.own.run_id}")[0] == 401


def test_a_job_logs_what_it_made(world):
    with session(world.admin) as client:
        run = client.get_run(world.own.run_id)
        assert run.data.metrics["mae"] == 2.0 and run.info.status == "FINISHED"
        assert run.data.tags[job_calls.OWNER] == world.job.login
        assert client.get_logged_model(world.own.model_id).tags[job_calls.OWNER] == world.job.login
        assert {list_artifact.path for list_artifact in client.list_artifacts(world.own.run_id)} == {"plot.png"}


def test_nobody_chooses_where_artifacts_lie(world, servers):
    for place in ("s3://backups/points", f"file://{servers.stack.root}/dags", "mlflow-artifacts:/0", "/tmp/x"):
        body = {"name": f"x-{secrets.token_hex(4)}", "artifact_location": place}
        for user in (world.job, world.admin):
            for api in ("api", "ajax-api"):
                assert world.ask("POST", f"/{api}/2.0/mlflow/experiments/create", body, user)[0] == 403, place
        camel = {"name": body["name"], "artifactLocation": place}
        assert world.ask("POST", f"{API}/experiments/create", camel, world.admin)[0] == 403
    with session(world.admin) as client:
        locations = {search_experiment.artifact_location for search_experiment in client.search_experiments()}
    assert all(location.startswith("mlflow-artifacts:/") for location in locations)


def test_no_version_leads_to_another_place(world):
    body = {"name": "doors", "run_id": world.own.run_id}
    for source in (
        "s3://backups/points",
        "s3://lake/training",
        "file:///etc",
        "mlflow-artifacts:/1/x",
        f"runs:/{world.own.run_id}/x",
        f"models:/{world.own.model_id}\n",
        f"models:/{world.own.model_id}/../{world.champion.model_id}",
    ):
        assert world.ask("POST", f"{API}/model-versions/create", body | {"source": source})[0] == 403
        assert world.ask("POST", f"{API}/model-versions/create", body | {"source": source}, world.admin)[0] == 400, (
            source
        )
    assert world.ask("POST", f"{API}/registered-models/create", {"name": "mine"})[0] == 403


def test_what_is_another_s_is_not_written(world, servers):
    before = objects(servers)
    theirs, run, model = world.champion, world.own.run_id, world.own.model_id
    metric = {"run_id": run, "key": "mae", "value": 0.0, "timestamp": 1, "step": 0}
    output = {"run_id": run, "models": [{"model_id": theirs.model_id, "step": 0}]}
    tries = {
        "metric": ("POST", f"{API}/runs/log-metric", metric | {"run_id": theirs.run_id}),
        "metric by the old name": ("POST", f"{API}/runs/log-metric", {**metric, "run_uuid": theirs.run_id}),
        "metric by the old name alone": (
            "POST",
            f"{API}/runs/log-metric",
            {k: v for k, v in metric.items() if k != "run_id"} | {"run_uuid": theirs.run_id},
        ),
        "metric of the champion's model": ("POST", f"{API}/runs/log-metric", metric | {"model_id": theirs.model_id}),
        "in camel case": ("POST", f"{API}/runs/log-metric", metric | {"modelId": theirs.model_id}),
        "batch": ("POST", f"{API}/runs/log-batch", {"run_id": theirs.run_id, "metrics": [], "params": []}),
        "batch for the champion's model": (
            "POST",
            f"{API}/runs/log-batch",
            {"run_id": run, "metrics": [{"key": "a", "value": 1, "timestamp": 1, "model_id": theirs.model_id}]},
        ),
        "a tag by a batch": ("POST", f"{API}/runs/log-batch", {"run_id": run, "tags": [{"key": "a", "value": "b"}]}),
        "status": ("POST", f"{API}/runs/update", {"run_id": theirs.run_id, "status": "FAILED"}),
        "outputs": ("POST", f"{API}/runs/outputs", output),
        "a model of the champion's run": (
            "POST",
            f"{API}/logged-models",
            {"experiment_id": world.experiment, "name": "m", "source_run_id": theirs.run_id},
        ),
        "the champion's model": (
            "PATCH",
            f"{API}/logged-models/{theirs.model_id}",
            {"model_id": theirs.model_id, "status": 3},
        ),
        "its own model, and the champion's": (
            "PATCH",
            f"{API}/logged-models/{model}",
            {"model_id": theirs.model_id, "status": 3},
        ),
        "parameters": ("POST", f"{API}/logged-models/{theirs.model_id}/params", {"params": []}),
        "another's file": ("PUT", f"{FILES}/{world.experiment}/{theirs.run_id}/artifacts/plot.png", b"x"),
        "a file more": ("PUT", f"{FILES}/{world.experiment}/models/{theirs.model_id}/artifacts/extra.txt", b"x"),
        "the model": ("PUT", f"{FILES}/{world.experiment}/models/{theirs.model_id}/artifacts/model.onnx", b"x"),
        "a file of another experiment": ("PUT", f"{FILES}/0/{run}/artifacts/x", b"x"),
        "a file of none": ("PUT", f"{FILES}/x.txt", b"x"),
        "a file at the root of the experiment": ("PUT", f"{FILES}/{world.experiment}/x.txt", b"x"),
        "its owner": (
            "POST",
            f"{API}/runs/create",
            {"experiment_id": world.experiment, "tags": [{"key": job_calls.OWNER, "value": "job-x"}]},
        ),
        "a run of another experiment": ("POST", f"{API}/runs/create", {"experiment_id": "0"}),
        "a key twice": ("POST", f"{API}/runs/update", f'{{"run_id": "{theirs.run_id}", "run_id": "{run}"}}'.encode()),
        "another encoding": ("POST", f"{API}/runs/update", json.dumps({"run_id": theirs.run_id}).encode("utf-16")),
        "a query beside the body": ("POST", f"{API}/runs/update?run_id={theirs.run_id}", {"run_id": run}),
        "a list": ("POST", f"{API}/runs/update", [{"run_id": run}]),
    }
    answered = {what: found for what, call in tries.items() if (found := world.ask(*call)[0]) != 403}
    assert answered == {}
    assert objects(servers) == before


def test_what_is_another_s_is_not_read(world):
    theirs = world.champion
    tries = [
        ("GET", f"{API}/runs/get?run_id={theirs.run_id}", None),
        ("GET", f"{API}/runs/get?run_id={world.own.run_id}&run_uuid={theirs.run_id}", None),
        ("GET", f"{API}/runs/get?run_id={world.own.run_id}&run_id={theirs.run_id}", None),
        ("GET", f"{API}/runs/get", {"run_id": theirs.run_id}),
        ("GET", f"{API}/logged-models/{theirs.model_id}", None),
        ("GET", f"{FILES}/{world.experiment}/models/{theirs.model_id}/artifacts/model.onnx", None),
        ("GET", f"{FILES}?path={world.experiment}", None),
        ("GET", f"{API}/experiments/get-by-name?experiment_name=Default", None),
        ("POST", f"{API}/runs/search", {"experiment_ids": [world.experiment]}),
        ("POST", "/graphql", {"query": "{__schema{types{name}}}"}),
    ]
    assert [world.ask(*call)[0] for call in tries] == [403] * len(tries)


def test_no_spelling_of_a_path_is_a_way_past_the_list(world, servers):
    before = objects(servers)
    mine, file = (
        f"{world.experiment}/{world.own.run_id}/artifacts",
        f"models/{world.champion.model_id}/artifacts/extra.txt",
    )
    paths = [
        f"{FILES}/{mine}/../../{file}",
        f"{FILES}/{mine}/..%2f..%2f{file}",
        f"{FILES}/{mine}/%2e%2e/%2e%2e/{file}",
        f"{FILES}/{mine}/%252e%252e/%252e%252e/{file}",
        f"{FILES}/{mine}%2f..%2f..%2f{file}",
        f"{FILES}/{mine}/..%5c..%5c{file}",
        f"{FILES}/{mine}//../../{file}",
        f"{FILES}/{mine}/a%00b",
        f"{FILES}//{world.experiment}/{file}",
        f"{FILES}/{world.experiment}%2f{file}",
        f"{FILES}/./{world.experiment}/{file}",
        f"/{FILES}/{world.experiment}/{file}",
        f"{FILES.replace('/api/', '/ajax-api/')}/{mine}/own.txt",
        f"{FILES.replace('/api/', '/API/')}/{world.experiment}/{file}",
        f"{FILES.replace('/2.0/', '/3.0/')}/{world.experiment}/{file}",
        f"{FILES.replace('artifacts/artifacts', 'artifacts/mpu/create')}/{world.experiment}/{file}",
        f"http://127.0.0.1:{world.port}{FILES}/{world.experiment}/{file}",
    ]
    answered = {path: found for path in paths if (found := world.ask("PUT", path, b"x")[0]) not in (400, 403, 404)}
    assert answered == {}
    assert objects(servers) == before
    spelled = [
        f"{API}/experiments/create/",
        "/api/2.0//mlflow/experiments/create",
        "/api/2.0/mlflow/%65xperiments/create",
        "/api/2.0mlflow/experiments/search-datasets",
        "/api/3.0/mlflow/experiments/create",
        f"{API}/experiments%2fcreate",
        "/v1/traces",
        "/api/2.0/mlflow/webhooks",
        "/gateway/proxy/x/y",
        "/api/3.0/mlflow/prompt-optimization/jobs",
        "/ajax-api/3.0/mlflow/assistant/sessions",
        "/ajax-api/2.0/mlflow/upload-artifact",
    ]
    answered = {path: found for path in spelled if (found := world.ask("POST", path, {"name": "x"})[0]) != 403}
    assert answered == {}
    for headers in ({"X-HTTP-Method-Override": "DELETE"}, {"X-Original-URL": f"{API}/experiments/create"}):
        assert world.ask("POST", f"{API}/experiments/create", {"name": "x"}, **headers)[0] == 403


def test_two_users_in_one_request_are_none(world):
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
    connection.putrequest("GET", f"{API}/runs/get?run_id={world.own.run_id}")
    for user in (world.job, world.admin):
        message = base64.b64encode(f"{user.login}:{user.password}".encode()).decode()
        connection.putheader("Authorization", f"Basic {message}")
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_a_person_reads_what_was_granted_and_writes_nothing(world, admin):
    person = dataclasses.replace(admin, login=f"anna-{secrets.token_hex(3)}", password=secrets.token_hex(16))
    created = {"username": person.login, "password": person.password}
    assert world.ask("POST", f"{API}/users/create", created, admin)[0] == 200
    look = ("GET", f"{API}/runs/get?run_id={world.champion.run_id}")
    assert world.ask(*look, user=person)[0] == 403
    grant = {
        "username": person.login,
        "resource_type": "experiment",
        "resource_id": world.experiment,
        "permission": "MANAGE",
    }
    assert world.ask("POST", "/api/3.0/mlflow/users/permissions/grant", grant, admin)[0] == 200
    assert world.ask(*look, user=person)[0] == 200
    file = f"{FILES}/{world.experiment}/{world.champion.run_id}/artifacts/plot.png"
    assert world.ask("GET", file, user=person) == (200, b"png")
    for method, path, body in (
        ("PUT", file, b"x"),
        ("DELETE", file, None),
        ("POST", f"{API}/runs/set-tag", {"run_id": world.champion.run_id, "key": "a", "value": "b"}),
        ("POST", f"{API}/runs/create", {"experiment_id": world.experiment}),
        ("POST", f"{API}/experiments/create", {"name": "x"}),
        ("POST", f"{API}/registered-models/alias", {"name": "doors", "alias": "champion", "version": "1"}),
        ("POST", f"{API}/users/create", {"username": "b", "password": "x" * 12}),
    ):
        assert world.ask(method, path, body, user=person)[0] == 403, path
    assert world.ask("DELETE", f"{API}/users/delete", {"username": person.login}, admin)[0] == 200


def test_files_that_were_added_to_a_champion_s_folder_do_not_switch_it_off(world):
    folder = f"{FILES}/{world.experiment}/models/{world.champion.model_id}/artifacts"
    for name in ("extra.txt", "code/sitecustomize.py"):
        assert world.ask("PUT", f"{folder}/{name}", b"x", world.admin)[0] == 200
    record = {
        "name": "doors",
        "version": "1",
        "model_id": world.champion.model_id,
        "files": world.champion.model_files,
        "features": [feature.as_json() for feature in FEATURES],
        "inputs": [],
        "task": "regression",
    }
    model = loading.load(world.admin, record)
    assert "extra.txt" in model.ignored and "code/" in model.ignored
    missing = {**record, "files": {**record["files"], "gone.json": "0" * 64}}
    with pytest.raises(ModelRefused, match=r"file 'gone\.json' is missing"):
        loading.load(world.admin, missing)


def test_an_attempt_that_is_over_logs_nothing(world):
    """The next attempt of the same job has a user of its own, and what the first one made is not its."""
    prefix = world.job.login.rsplit("-", 2)[0]
    second = tracking_users.create(world.admin, f"{prefix}-2-", "doors")
    body = {"run_id": world.own.run_id, "status": "FAILED"}
    assert world.ask("POST", f"{API}/runs/update", body, second)[0] == 403
    tracking_users.remove(world.admin, f"{prefix}-2-")
    assert world.ask("POST", f"{API}/runs/update", body, second)[0] == 401


def test_the_key_of_the_server_reaches_its_own_prefix_alone(world, servers):
    """Also if the server were taken over: its environment holds no other key of a site."""
    settings = environment.mlflow(
        servers.stack, config.read_env_file(servers.stack.secrets), {"PATH": "/bin"}, "primary"
    )
    assert servers.connections("s3_primary").password not in str(settings)
    own, s3 = client(servers.connections("s3_primary")), client(servers.connections(config.tracker("primary")))
    own.put_object(Bucket="artifacts", Key="jobs/1/result.json", Body=b"{}")
    own.put_object(Bucket="lake", Key="training/x.parquet", Body=b"rows")
    s3.put_object(Bucket="artifacts", Key="mlflow/own", Body=b"x" * 9_000_000)
    s3.upload_fileobj(io.BytesIO(b"x" * 9_000_000), "artifacts", "mlflow/in-parts")
    assert s3.get_object(Bucket="artifacts", Key="mlflow/own")["ContentLength"] == 9_000_000
    assert s3.list_objects_v2(Bucket="artifacts", Prefix="mlflow/in")["KeyCount"] == 1
    s3.delete_objects(Bucket="artifacts", Delete={"Objects": [{"Key": "mlflow/own"}, {"Key": "mlflow/in-parts"}]})
    copy = {"Bucket": "lake", "Key": "training/x.parquet"}
    tries = {
        "read a job": lambda: s3.get_object(Bucket="artifacts", Key="jobs/1/result.json"),
        "write a job": lambda: s3.put_object(Bucket="artifacts", Key="jobs/1/result.json", Body=b"x"),
        "delete a job": lambda: s3.delete_object(Bucket="artifacts", Key="jobs/1/result.json"),
        "delete it with others": lambda: s3.delete_objects(
            Bucket="artifacts", Delete={"Objects": [{"Key": "jobs/1/result.json"}]}
        ),
        "beside the prefix": lambda: s3.put_object(Bucket="artifacts", Key="mlflow.txt", Body=b"x"),
        "climb": lambda: s3.get_object(Bucket="artifacts", Key="mlflow/../jobs/1/result.json"),
        "read the lake": lambda: s3.get_object(**copy),
        "copy the lake": lambda: s3.copy_object(Bucket="artifacts", Key="mlflow/copy", CopySource=copy),
        "list the bucket": lambda: s3.list_objects_v2(Bucket="artifacts"),
        "list the jobs": lambda: s3.list_objects_v2(Bucket="artifacts", Prefix="jobs/"),
        "list the versions": lambda: s3.list_object_versions(Bucket="artifacts"),
        "list backups": lambda: s3.list_objects_v2(Bucket="backups"),
        "write backups": lambda: s3.put_object(Bucket="backups", Key="points/x", Body=b"x"),
        "make a bucket": lambda: s3.create_bucket(Bucket="fresh"),
        "open the bucket": lambda: s3.put_bucket_policy(Bucket="artifacts", Policy="{}"),
        "stop the versions": lambda: s3.put_bucket_versioning(
            Bucket="artifacts", VersioningConfiguration={"Status": "Suspended"}
        ),
    }
    answered = {what: found for what, call in tries.items() if (found := status(call)) not in (207, 400, 403)}
    assert answered == {}
    assert own.get_object(Bucket="artifacts", Key="jobs/1/result.json")["Body"].read() == b"{}"


def test_a_task_reads_the_champion_without_configuration_and_writes_nothing(world, servers):
    """C7: `models:/NAME@champion` in the environment that tasks have."""
    secrets_ = config.read_env_file(servers.stack.secrets)
    settings = environment.of(servers.stack, secrets_, {"PATH": os.environ["PATH"]}, "airflow-scheduler")
    code = (
        "import mlflow.onnx, mlflow, sys\n"
        "print('loaded', len(mlflow.onnx.load_model('models:/doors@champion').graph.node))\n"
        "for act in (lambda: mlflow.MlflowClient().set_registered_model_alias('doors', 'champion', '1'),\n"
        "            lambda: mlflow.MlflowClient().create_experiment('x')):\n"
        "    try:\n        act()\n        print('WROTE')\n"
        "    except mlflow.exceptions.MlflowException as refused:\n        print(refused.get_http_status_code())\n"
    )
    settings = {name: value for name, value in settings.items() if not name.startswith("AIRFLOW_CONN_")}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["loaded", "1", "403", "403"], done.stderr[-2000:]
