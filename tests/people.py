"""Real people on the running stack: one of each role, created by `rempart users`, and tokens to be refused."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import jwt
from typer.testing import CliRunner

from rempart.cli import app
from rempart.deployment.setup import credentials, paths
from rempart.settings import access, config

PATIENCE = 120.0
"""Seconds for an answer of a busy server."""
OUTSIDE = {"nobody": {401}, "forged": {401, 403}, "unsigned": {401, 403}, "expired": {401}}
"""Callers with no token, or with one that is not good, and what each is answered."""


@dataclass
class Airflow:
    """Its address, and tokens of people by name."""

    url: str
    tokens: dict[str, str]

    def ask(self, who: str, route: str) -> int:
        method, path = route.split(" ")
        body = None if method == "GET" else {"conf": 1, "is_paused": "perhaps", "new_state": 7, "dag_run_id": []}
        return httpx.request(
            method, self.url + path, json=body, headers=self.as_(who), timeout=PATIENCE, trust_env=False
        ).status_code

    def as_(self, who: str) -> dict[str, str]:
        """The headers of a request of somebody's."""
        return {"Authorization": f"Bearer {self.tokens[who]}"} if who in self.tokens else {}

    def log_in(self, name: str, password: str) -> httpx.Response:
        body = {"username": name, "password": password}
        return httpx.post(f"{self.url}/auth/token", json=body, timeout=PATIENCE, trust_env=False)


def run(*words: str, given: str = "") -> str:
    """`rempart users ...`; what it says. It must end well."""
    done = CliRunner().invoke(app, ["users", *words], input=given)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def shown(output: str) -> str:
    """The password that it shows once."""
    found = re.search(r"shown once: (\S+)", output)
    assert found
    return found[1]


@contextmanager
def of_each_role(stack: paths.Stack, prefix: str) -> Iterator[Airflow]:
    """The stack's Airflow with one person of each role, who are gone afterwards, and the tokens of OUTSIDE."""
    api = config.environment_connections("airflow_api")
    found = Airflow(f"http://{api.host}:{api.port}", {})
    for name in access.ROLES:
        password = shown(run("add", f"{prefix}-{name}", "--role", name))
        found.tokens[name] = found.log_in(f"{prefix}-{name}", password).json()["access_token"]
    claims = jwt.decode(found.tokens["admin"], options={"verify_signature": False})
    secret = config.read_env_file(stack.secrets)["REMPART_AIRFLOW_JWT_SECRET"]
    algorithm = jwt.get_unverified_header(found.tokens["admin"])["alg"]
    long_ago = {"iat": time.time() - 9000, "nbf": time.time() - 9000, "exp": time.time() - 600}
    found.tokens["forged"] = jwt.encode(claims, credentials.new_signing_key(), algorithm=algorithm)
    found.tokens["unsigned"] = jwt.encode(claims, None, algorithm="none")
    found.tokens["expired"] = jwt.encode({**claims, **long_ago}, secret, algorithm=algorithm)
    yield found
    for name in access.ROLES:
        run("remove", f"{prefix}-{name}", "--yes")
