"""The MLflow server: the file of its user store, and the requests that prove it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
from collections.abc import Mapping

from rempart import private_files
from rempart.deployment.servers import rest
from rempart.deployment.setup import environment
from rempart.deployment.setup.paths import Stack
from rempart.errors import StackError
from rempart.settings.config import TRACKED, Connection

MODULE = "rempart.tracking_access.serve"
"""MLflow's basic-auth app behind the list of who may make which call. The module runs in a process of its own."""
PREFIX = TRACKED
_CHECKSUM = f"{PREFIX}/.rempart-checksum"
_HEALTH = "api/2.0/mlflow-artifacts/artifacts/.rempart-health"
_UPGRADE = "import os; from mlflow.db import commands; commands(['upgrade', os.environ.pop('REMPART_MIGRATE')])"
"""The command, without the database's URL where every user could read it."""
_BODY = b"written by `rempart up` through the tracking server\n"


def write_authentication(stack: Stack, database: Connection) -> None:
    """Write MLflow's basic-auth settings: users are in PostgreSQL, and have no access by default.

    A verified password is cached for a minute: each hash takes half a second of CPU.
    """
    text = (
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = {database.postgresql_url('postgresql+psycopg')}\n"
        "auth_cache_ttl_seconds = 60\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    ).replace("%", "%%")
    file = stack.var / "mlflow" / "basic_auth.ini"
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        private_files.write(file, text)


def migrate(stack: Stack, database: Connection) -> None:
    """Run `mlflow db upgrade` on the tracking database, because the server refuses an old schema. Raises StackError."""
    log = stack.logs / "mlflow-migrate.log"
    variables = environment.base(stack, os.environ) | {
        environment.MARKER: f"{stack.id}:mlflow-migrate",
        "REMPART_MIGRATE": database.postgresql_url("postgresql+psycopg"),
    }
    with log.open("wb") as out:
        done = subprocess.run(
            [stack.python, "-c", _UPGRADE],
            env=variables,
            cwd=stack.var,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        raise StackError(
            f"migrate MLflow's database: `mlflow db upgrade` ended with exit code {done.returncode}:\n{tail}",
            f"Read {log}.",
        )


def upload_checksums(variables: Mapping[str, str], bucket: str) -> dict[str, str]:
    """Return the setting that sends a SHA-256 with each upload, or nothing if the site does not store it.

    The test uploads one small object with the server's own `variables` and upload code, because the server cannot read
    the doctor's record.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    from rempart.sites.s3.client import open_client

    region = variables["AWS_DEFAULT_REGION"]
    connection = Connection(
        "mlflow's",
        "aws",
        login=variables["AWS_ACCESS_KEY_ID"],
        password=variables["AWS_SECRET_ACCESS_KEY"],
        extra={"endpoint_url": variables["MLFLOW_S3_ENDPOINT_URL"]},
    )
    client, where = open_client("mlflow", connection, region, attempts=2), {"Bucket": bucket, "Key": _CHECKSUM}
    asked = {"ChecksumAlgorithm": "SHA256"}
    try:
        try:
            head = client.head_object(**where, ChecksumMode="ENABLED")
        except ClientError as absent:
            if absent.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                raise
            client.upload_fileobj(io.BytesIO(_BODY), bucket, _CHECKSUM, ExtraArgs=asked)
            head = client.head_object(**where, ChecksumMode="ENABLED")
        kept = head.get("ChecksumSHA256") == base64.b64encode(hashlib.sha256(_BODY).digest()).decode()
        whole = client.get_object(**where)["Body"].read() == _BODY  # some store the transfer's framing as content
    except (BotoCoreError, ClientError, Boto3Error):
        return {}
    return {"MLFLOW_S3_UPLOAD_EXTRA_ARGS": json.dumps(asked)} if kept and whole else {}


def check(connection: Connection) -> str:
    """Query the tracking store, and read an artifact through the server's proxy. Raises StackError.

    The artifact is written once and read each time, because its bucket keeps every version.
    """
    url, user = connection.http_url(), (connection.login, connection.password)
    answer = rest.call("POST", f"{url}/api/2.0/mlflow/experiments/search", body={"max_results": 1}, basic=user)
    if not isinstance(answer, dict):
        raise StackError(f"check MLflow: {url} is not an MLflow server", "Check the connection 'mlflow'.")
    try:
        body = rest.call("GET", f"{url}/{_HEALTH}", basic=user, timeout=30)
    except rest.HttpRefused as absent:
        if absent.status not in (404, 500):  # the proxy answers 500 for a missing object
            raise
        rest.call("PUT", f"{url}/{_HEALTH}", body=_BODY, basic=user, timeout=30)
        body = rest.call("GET", f"{url}/{_HEALTH}", basic=user, timeout=30)
    if body != _BODY:
        raise StackError(
            f"check MLflow: {url} returned another artifact than was written",
            "Check the artifacts bucket of the active site.",
        )
    return "queries and artifacts work"
