"""Attack every listening port and Unix socket of the running embedded stack as users without access."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench import access_requests as asks
from bench import listening
from bench.access_attacks import Attack, Row, of_site, row, rows
from rempart.deployment.setup import launch, paths
from rempart.flows.governance import people
from rempart.flows.shared.platform import Platform
from rempart.flows.training import job_credentials
from rempart.models.tracking import session
from rempart.settings import config
from rempart.settings.config import Connection
from rempart.sites.s3.client import SESSION_TOKEN
from rempart.sovereignty.job_permission import JobSite as SitePlace
from rempart.training.job import Dataset, FeatureSpec, JobSpec, Output, Tracking, TrainerSpec

NOBODY = 65534
FILE = "access-embedded.json"
"""Where the table is kept, beside the proofs' reports."""
ANOTHER, PAGE, WRONG, JOB = "another local user", "a web page", "wrong password", "a job in a pool"
VIEWER, OPERATOR = "a viewer", "an operator"
COOKIE = "a web page, cookie of an admin"
_ROOT = Path(__file__).resolve().parents[1]


def send(attacks: Sequence[Attack], uid: int | None = None, prefix: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What each attack is answered; with `uid`, as that user of the machine (needs root)."""
    order = {"attacks": [dict(request.order) for request in attacks], "uid": uid if os.geteuid() == 0 else None}
    command = [*prefix, sys.executable, "-m", "bench.intruder"]
    done = subprocess.run(
        command, input=json.dumps(order), capture_output=True, text=True, cwd=_ROOT, check=False, timeout=300
    )
    if done.returncode:
        raise SystemExit(f"the intruder failed: {done.stderr[-800:]}")
    return list(json.loads(done.stdout))


@dataclass(frozen=True)
class Place:
    """Of the running stack: its declared ports by part, and every port and socket of its processes."""

    stack: paths.Stack
    ports: dict[listening.Port, int]
    sockets: dict[str, int]

    def part(self, port: listening.Port) -> str:
        """The declared name of a port; empty for one of which nobody said what it is."""
        names = {number: name for name, number in self.stack.ports.items()}
        return names.get(port.port, "") if port.kind == "tcp" else ""


def look(stack: paths.Stack) -> Place:
    """Everything on which a process of the stack listens. Each declared port must be among it."""
    pids = {process.pid for process in launch.leftovers(stack)}
    for pid in list(pids):
        try:
            pids |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        except psutil.Error:  # gone since
            continue
    pids.discard(os.getpid())
    return Place(stack, listening.of_processes(pids), listening.sockets_of_processes(pids))


def unknown(place: Place) -> list[Row]:
    """A red line for each port that nobody declared, and for each declared one that nobody was seen to listen on."""
    found = []
    for port, pid in place.ports.items():
        if not place.part(port):
            name = " ".join(psutil.Process(pid).cmdline()[:6])[:80]
            found.append(Row(f"{port.kind} {port.address}:{port.port}", "nobody said what it is", 1, (name,), (name,)))
        elif not port.address.startswith("127."):
            told = f"listens on {port.address}"
            found.append(Row(place.part(port), "other machines", 1, (told,), (told,)))
    seen = {place.part(port) for port in place.ports}
    return found + [
        Row(name, "was not seen to listen", 1, (str(port),), ("not looked at",))
        for name, port in place.stack.ports.items()
        if name not in seen
    ]


def anonymous(place: Place, bucket: str, key: str) -> list[Row]:
    """Every port, by another local user and by a web page, both without credentials."""
    attacks: list[Attack] = []
    for port in sorted(place.ports):
        if not (part := place.part(port)):
            continue
        where, (service, _, inner) = {"host": port.address, "port": port.port}, part.partition(" ")
        for who, headers in ((ANOTHER, {}), (PAGE, asks.page())):
            if service in place.stack.embedded_sites:
                attacks += of_site(service, inner, where, bucket, key, who, web=who == PAGE)
            elif service == "postgresql":
                attacks += asks.postgresql(where, who) if who == ANOTHER else _http_at(part, who, where)
            elif service == "mlflow":
                attacks += asks.requests(part, who, where, asks.MLFLOW, headers, asks.MLFLOW_PLAIN)
            elif service == "airflow":
                attacks += asks.requests(part, who, where, asks.AIRFLOW, headers, asks.AIRFLOW_PLAIN)
            elif service == "scorer":
                attacks += asks.requests(part, who, where, asks.SCORER, headers, asks.SCORER_PLAIN)
    return rows(attacks, send(attacks, NOBODY))


def _http_at(endpoint: str, who: str, where: Mapping[str, Any]) -> list[Attack]:
    return asks.requests(endpoint, who, where, (("GET", "/", None), ("POST", "/", {"x": 1})), asks.page())


def sockets(place: Place) -> list[Row]:
    """Every Unix socket, opened by another local user; without root only its mode can be looked at."""
    found = []
    for path in sorted(place.sockets):
        name = f"socket {re.sub('(?<=[-.])[0-9]+', 'N', Path(path).name)}"
        attack = Attack(name, ANOTHER, "open", {"unix": path, "how": "raw", "bytes": "00", "refusal": "Permission"})
        if os.geteuid() == 0:
            (answer,) = send([attack], NOBODY)
            opened = () if "Permission" in answer["text"] else (str(answer["text"])[:60],)
        else:
            closed = not Path(path).stat().st_mode & 0o002
            answer, opened = {"status": None, "text": "not permitted (by its mode)"}, () if closed else ("its mode",)
        found.append(Row(name, ANOTHER, 1, (row(name, ANOTHER, [attack], [answer]).answers), opened))
    return found


def wrong_passwords(place: Place, resolve: config.Connections) -> list[Row]:
    """Each service that has passwords, with a right name and a wrong password."""
    import boto3
    import psycopg
    from botocore.config import Config as BotoConfig
    from botocore.exceptions import ClientError

    found, wrong = list[Row](), secrets.token_hex(8)
    database = resolve("pg_airflow")
    try:
        psycopg.connect(database.postgresql_url(), password=wrong, connect_timeout=5).close()
        told, let = "200", ("a session",)
    except psycopg.OperationalError:
        told, let = "refused", ()
    found.append(Row("postgresql", WRONG, 1, (told,), let))
    for site in place.stack.embedded_sites:
        keys = resolve(place.stack.config.sites[site].connection)
        client = boto3.client(
            "s3",
            endpoint_url=keys.extra["endpoint_url"],
            aws_access_key_id=keys.login,
            aws_secret_access_key=wrong,
            region_name="local-1",
            config=BotoConfig(retries={"total_max_attempts": 1}),
        )
        try:
            client.list_buckets()
            told, let = "200", ("list of buckets",)
        except ClientError as error:
            told, let = str(error.response["ResponseMetadata"]["HTTPStatusCode"]), ()
        found.append(Row(site, WRONG, 1, (told,), let))
    attacks = []
    for name, wanted in (("mlflow", asks.MLFLOW), ("airflow", asks.AIRFLOW)):
        where = {"host": "127.0.0.1", "port": place.stack.ports[name]}
        headers = asks.basic("admin", "wrong") if name == "mlflow" else {"Authorization": "Bearer wrong"}
        attacks += asks.requests(name, WRONG, where, wanted, headers)
    return found + rows(attacks, send(attacks))


def signed_in(place: Place, platform: Platform) -> list[Row]:
    """Airflow, by a viewer, by an operator, and by a page that an administrator's browser shows."""
    where = {"host": "127.0.0.1", "port": place.stack.ports["airflow"]}
    attacks: list[Attack] = []
    with tokens(platform, where["port"], ("viewer", "operator", "admin")) as found:
        for who, role, wanted in ((VIEWER, "viewer", asks.VIEWER), (OPERATOR, "operator", asks.OPERATOR)):
            attacks += asks.requests("airflow", who, where, wanted, {"Authorization": f"Bearer {found[role]}"})
        headers = asks.page({"_token": found["admin"]}, same_site=True)
        attacks += asks.requests("airflow", COOKIE, where, asks.PAGE_WRITES, headers)
        return rows(attacks, send(attacks))


@contextmanager
def tokens(platform: Platform, port: int, roles: Sequence[str]) -> Iterator[dict[str, str]]:
    """A person of each role, who is gone afterwards; their tokens by role."""
    mark, found = secrets.token_hex(3), {}
    made = []
    try:
        for role in roles:
            name, password = f"access-{mark}-{role}", people.new_password()
            people.add(people.users_of(platform), name, role, password)
            made.append(name)
            body = {"username": name, "password": password}
            answer = httpx.post(f"http://127.0.0.1:{port}/auth/token", json=body, timeout=30, trust_env=False)
            found[role] = answer.raise_for_status().json()["access_token"]
        yield found
    finally:
        for name in made:
            people.remove(people.users_of(platform), name)


def job(place: Place, platform: Platform) -> list[Row]:
    """MLflow and the sites, with what the attempt of a job in a pool is given."""
    mark = secrets.token_hex(4)
    spec, other, model = _spec(platform, f"access-{mark}"), f"access-{mark}-other", f"access-{mark}-model"
    with session(platform.tracking()) as client:
        other_id = client.create_experiment(other)
        run = client.create_run(other_id).info.run_id
        client.log_text(run, "not yours", "secret.txt")
        client.create_registered_model(model)
    own = platform.site("primary", "public")
    own.write(spec.dataset.bucket, spec.dataset.key, b"data")
    own.write(spec.output.bucket, spec.key("order.json"), spec.to_json())
    try:
        granted = job_credentials.grant(
            platform.config,
            platform.connections,
            platform.record,
            spec,
            1,
            timedelta(hours=1),
            platform.clock().date(),
        )
        user = config.parse_connection("mlflow", granted.variables["AIRFLOW_CONN_MLFLOW"])
        with session(platform.tracking()) as client:
            own_id = client.get_experiment_by_name(spec.tracking.experiment).experiment_id
        where = {"host": "127.0.0.1", "port": place.stack.ports["mlflow"]}
        headers = asks.basic(user.login, user.password)
        attacks = asks.requests(
            "mlflow", JOB, where, asks.of_job(own_id, other_id, run, model, f"access-{mark}"), headers, strict=True
        )
        answers = [_secret_kept(request, answer) for request, answer in zip(attacks, send(attacks), strict=True)]
        keys = config.parse_connection("s3_primary", granted.variables["AIRFLOW_CONN_S3_PRIMARY"])
        return [*rows(attacks, answers), _job_at_site(platform, keys, spec)]
    finally:
        job_credentials.release(platform.config, platform.connections, spec, 1)
        with session(platform.tracking()) as client:
            for search_registered_model in client.search_registered_models(filter_string=f"name LIKE 'access-{mark}%'"):
                client.delete_registered_model(search_registered_model.name)
            for experiment in client.search_experiments(filter_string=f"name LIKE 'access-{mark}%'"):
                client.delete_experiment(experiment.experiment_id)


def _secret_kept(attack: Attack, answer: dict[str, Any]) -> dict[str, Any]:
    """GraphQL answers 200 to what it refuses: only what it says counts. Searches may find nothing."""
    empty = answer["status"] == 200 and (
        answer["text"].strip() in ("{}", '{"runs":[]}') or ('"errors"' in answer["text"] and "/graphql" in attack.what)
    )
    return {**answer, "status": 403} if empty else answer


def _job_at_site(platform: Platform, keys: Connection, spec: JobSpec) -> Row:
    """The session of a job at its site: each call must be refused."""
    import boto3
    from botocore.exceptions import ClientError

    names = platform.config.buckets
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=keys.extra["endpoint_url"],
        aws_access_key_id=keys.login,
        aws_secret_access_key=keys.password,
        aws_session_token=keys.extra.get(SESSION_TOKEN),
        region_name="local-1",
    )
    calls: dict[str, Callable[[], Any]] = {
        "list the lake": lambda: client.list_objects_v2(Bucket=names.lake),
        "read the landing": lambda: client.get_object(Bucket=names.landing, Key="x"),
        "write to backups": lambda: client.put_object(Bucket=names.backups, Key="x", Body=b"x"),
        "write to evidence": lambda: client.put_object(Bucket=names.evidence, Key="x", Body=b"x"),
        "write MLflow's artifacts": lambda: client.put_object(Bucket=names.artifacts, Key="mlflow/x", Body=b"x"),
        "write another job's": lambda: client.put_object(Bucket=names.artifacts, Key=f"jobs/{'0' * 16}/x", Body=b"x"),
        "change its order": lambda: client.put_object(Bucket=names.artifacts, Key=spec.key("order.json"), Body=b"x"),
        "delete its data": lambda: client.delete_object(Bucket=spec.dataset.bucket, Key=spec.dataset.key),
        "make a bucket": lambda: client.create_bucket(Bucket="intruder"),
        "delete a bucket": lambda: client.delete_bucket(Bucket=names.landing),
        "open a bucket": lambda: client.put_bucket_policy(Bucket=names.lake, Policy="{}"),
    }
    answers, let = set(), []
    for what, call in calls.items():
        try:
            call()
            answers.add("200")
            let.append(what)
        except ClientError as error:
            status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
            answers.add(str(status))
            if status == 404:
                let.append(f"{what}: told that it is not there")
    return Row("primary", JOB, len(calls), tuple(sorted(answers)), tuple(let))


def _spec(platform: Platform, name: str) -> JobSpec:
    place = SitePlace(name="primary", connection="s3_primary", region=platform.config.sites["primary"].region)
    names = platform.config.buckets
    return JobSpec(
        pipeline="access",
        classification="personal",
        task="regression",
        target=FeatureSpec(name="price", type="number"),
        features=(FeatureSpec(name="stay__lead", type="number"),),
        dataset=Dataset(
            site=place,
            bucket=names.lake,
            key=f"training/{name}.parquet",
            sha256="3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7",  # of the four bytes `data`
            rows=10,
            held_out="0" * 64,
            examples="0" * 64,
        ),
        trainer=TrainerSpec(use="gradient_boosting", params={"max_iter": 5}, seed=3),
        tracking=Tracking(connection="mlflow", experiment=name),
        output=Output(site=place, bucket=names.artifacts, prefix="jobs/"),
        snapshot="s1",
        code_version="1",
    )


def attack(stack: paths.Stack, platform: Platform) -> list[Row]:
    """The whole table of the running stack. Raises RempartError where a preparation fails."""
    landing, key = platform.config.buckets.landing, f"access-{secrets.token_hex(4)}"
    for name in stack.embedded_sites:
        platform.site(name, "public").write(landing, key, b"not yours")
    place = look(stack)
    found = [
        *unknown(place),
        *anonymous(place, landing, key),
        *sockets(place),
        *wrong_passwords(place, platform.connections),
        *signed_in(place, platform),
        *job(place, platform),
    ]
    for name in stack.embedded_sites:
        site = platform.site(name, "public")
        kept = site.read(landing, key) == b"not yours"
        found.append(Row(name, "afterwards", 1, ("the object is as it was",) if kept else (), () if kept else (key,)))
        site.delete(landing, key)
    return found
