"""MLflow's server with people, jobs and what each of them made there."""

import dataclasses
import json
import os
import re
import secrets
import subprocess
import sys

from rempart.models import registry, tracking_users
from rempart.models.encoding import Feature
from rempart.models.tracking import session
from rempart.training import experiment
from rempart.training.experiment import Logged
from tests.integration.own_servers import own_servers
from tests.tracking_server import ask, tracking_server
from tests.unit.training.test_job import spec

REGISTERED = """
import json, os, sys
from mlflow.server import auth
from rempart.tracking_access.app import registered
print(json.dumps(sorted(set(registered(auth.create_app())))))
"""
API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


def tracking_stores(tmp_path_factory):
    with own_servers(tmp_path_factory.mktemp("tracking") / "var", ("postgresql", "site-primary")) as running:
        yield running


def administrator(servers):
    with tracking_server(servers) as connection:
        yield connection


def rules_of_routes(tmp_path_factory):
    """Method and rule of every route of the installed MLflow."""
    folder = tmp_path_factory.mktemp("routes")
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        "admin_username = routes\nadmin_password = of-a-server-that-is-not-started\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "x",
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    done = subprocess.run(
        [sys.executable, "-c", REGISTERED], env=os.environ | settings, capture_output=True, text=True, check=True
    )
    return [tuple(rule) for rule in json.loads(done.stdout.splitlines()[-1])]


@dataclasses.dataclass
class World:
    """A champion with its run and model, and a job's user of the same experiment with a run and model of its own."""

    port: int
    admin: object
    job: object
    experiment: str
    champion: Logged
    own: Logged

    def ask(self, method, path, body=None, user=None, **headers):
        return ask(user or self.job, self.port, method, path, body, headers)


FEATURES = [Feature("stay__lead", "number")]


def model_bytes():
    """A small true ONNX model: one number in, one number out."""
    from onnx import TensorProto, helper

    node = helper.make_node("Identity", ["x"], ["y"])
    place = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in "xy"]
    graph = helper.make_graph([node], "g", [place[0]], [place[1]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def new_world(admin):
    order = spec(pipeline="doors", tracking=spec().tracking.model_copy(update={"experiment": "doors"}), job_id="")
    files = {"model.onnx": model_bytes(), "plot.png": b"png"}
    champion = experiment.log(admin, order, FEATURES, {"mae": 1.0}, files)
    version = registry.register(
        admin, "doors", "", job_id=order.job_id, run_id=champion.run_id, model_id=champion.model_id, tags={}
    )
    registry.promote(admin, "doors", version, None, ())
    job = tracking_users.create(admin, f"job-{secrets.token_hex(8)}-1-", "doors")
    own = experiment.log(job, order, FEATURES, {"mae": 2.0}, files)
    with session(admin) as client:
        found = client.get_experiment_by_name("doors").experiment_id
    return World(admin.port, admin, job, found, champion, own)


def filled(world, template):
    """A path of a route, which names what is the champion's."""
    path = template.replace("<path:artifact_path>", f"{world.experiment}/{world.champion.run_id}/artifacts/plot.png")
    path = (
        path.replace("<model_id>", world.champion.model_id).replace("<path:path>", "x").replace("<path:filename>", "x")
    )
    return re.sub(r"<(?:path:)?\w+>", "1", path)


def client(connection):
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=connection.extra["endpoint_url"],
        aws_access_key_id=connection.login,
        aws_secret_access_key=connection.password,
        region_name="local-1",
    )


def objects(servers):
    """Every object of the site that has artifacts, with its ETag."""
    found = client(servers.connections("s3_primary"))
    pages = found.get_paginator("list_objects_v2").paginate(Bucket=servers.stack.config.buckets.artifacts)
    return {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", ())}
