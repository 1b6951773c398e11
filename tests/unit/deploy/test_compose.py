"""Dockerfile and docker-compose.yml: no service is root, no file holds a secret, only the gate's ports are open."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rempart.deployment.compose import containers, images
from rempart.deployment.servers import postgresql
from rempart.deployment.setup import credentials, environment, paths, profiles, services
from rempart.errors import StackError
from rempart.orchestration.airflow_servers import EGRESS_PROXY
from rempart.settings import config
from rempart.settings.config import read_env_file
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sovereignty.egress import endpoints, is_allowed, rules
from tests.certificates import certificates

ROOT = Path(__file__).resolve().parents[3]
FILE = (ROOT / "docker-compose.yml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(FILE)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXECUTORS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "executors.yaml").read_text("utf-8"))[
    "services"
]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
IMAGES = ROOT / "deploy" / "images"
RUNNING = sorted(set(SERVICES) - {"trainer"})
PROXY = {"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"}
PUBLISHED = {"REMPART_AIRFLOW_URL", "REMPART_MLFLOW_URL", "REMPART_SCHEME", "REMPART_LISTEN"}
HARMLESS = {"WEED_MASTER_VOLUME_GROWTH_COPY_1", profiles.EXECUTOR, profiles.CHOSEN, *PROXY, *PUBLISHED}


def stack(tmp_path: Path) -> paths.Stack:
    return paths.Stack(ROOT, tmp_path / "var", config.load(ROOT / "rempart.yaml"), python="/usr/bin/python3")


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str]:
    """What `rempart stack init` would write, by file, with secrets that can be told apart."""
    inside, numbers = containers.in_containers(stack(tmp_path)), itertools.count(1000)
    secrets = credentials.plan(inside, {}, lambda: f"secret-{next(numbers)}", lambda: "secret-fernet")
    return containers.files(inside, secrets, certificates(inside)) | {"egress.allowed": "# nothing\n", "gate.pem": ""}


def mounted(service: str) -> list[str]:
    """Files of a container; of the scheduler's with each executor."""
    found = [SERVICES[service], *(EXECUTORS.values() if service == "scheduler" else ())]
    return [
        secret if isinstance(secret, str) else secret["source"] for part in found for secret in part.get("secrets", [])
    ]


def test_every_image_sets_every_switch_against_telemetry() -> None:
    base = DOCKERFILE.split("FROM base AS")[0]
    (block,) = re.findall(r"^ENV (.+?[^\\])$", base, re.M | re.S)
    found = dict(word.split("=", 1) for word in block.replace("\\", " ").split())
    assert TELEMETRY_OFF.items() <= found.items()
    # every stage that becomes an image stands on `base`
    parents = {child: parent for parent, child in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.M)}
    for parent in {service["build"]["target"] for service in SERVICES.values() if "build" in service}:
        while parent in parents and parent != "base":
            parent = parents[parent]
        assert parent == "base"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert (service["user"], service["read_only"], service["cap_drop"]) == ("50000:0", True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "extra_hosts"} & set(service)
    assert service["pull_policy"] == "never" and service["image"].startswith("rempart/"), (
        "nothing comes from a registry"
    )
    assert "docker.sock" not in json.dumps(service)


@pytest.mark.parametrize("name", RUNNING)
def test_every_container_has_limits_and_a_way_to_tell_that_it_works(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"] and service["pids_limit"]
    assert service["healthcheck"].get("test") or name in ("airflow-init", "cli", "restore"), "those end by themselves"


def test_only_the_gate_has_ports_and_only_the_proxy_has_a_route() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"gate"}
    assert all(port.startswith("${REMPART_LISTEN:-127.0.0.1}:") for port in published["gate"])
    networks = COMPOSE["networks"]
    assert [name for name, network in networks.items() if not network.get("internal")] == ["world", "front"]
    assert [name for name, service in SERVICES.items() if "front" in service.get("networks", [])] == ["gate"]
    assert [name for name, service in SERVICES.items() if "world" in service.get("networks", [])] == ["egress"]
    assert mounted("gate") == ["gate.pem"]
    assert SERVICES["gate"]["networks"] == ["platform", "monitoring", "serving", "front"]
    assert mounted("egress") == ["egress.allowed"] and SERVICES["egress"]["networks"] == ["outward", "world"]
    assert networks["front"]["driver_opts"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"


def test_the_two_sites_and_the_database_do_not_know_each_other() -> None:
    assert [SERVICES[name]["networks"] for name in ("postgres", "primary", "haven")] == [
        ["data"],
        ["primary"],
        ["haven"],
    ]


def test_no_password_stands_in_the_compose_file_or_in_env_example(made: dict[str, str]) -> None:
    for text in (FILE, (ROOT / ".env.example").read_text("utf-8"), DOCKERFILE):
        named = r"(?i)(password|passwd|secret_key|access_key|token)\s*[:=]\s*['\"]?(?!file:///run/secrets/)\w"
        assert not re.search(named, text)
    for service in SERVICES.values():
        assert set(service.get("environment", {})) <= HARMLESS
        assert "env_file" not in service


def test_every_file_that_is_mounted_is_written_by_init(made: dict[str, str]) -> None:
    written = set(made) | set(containers.build_files({}, ""))
    assert set(COMPOSE["secrets"]) == written
    assert {name for service in SERVICES for name in mounted(service)} == set(made)
    for name, secret in COMPOSE["secrets"].items():
        assert secret["file"] == f"${{REMPART_FILES:-./var/compose}}/{name}"


def test_each_container_is_given_what_it_needs_and_no_more(made: dict[str, str]) -> None:
    """The superuser's password reaches who makes roles, a site's inner keys that site alone."""
    superuser = made["superuser"].strip()
    assert {name for name in SERVICES if any(superuser in made[file] for file in mounted(name))} == {
        "postgres",
        "airflow-init",
        "restore",
    }
    for site, other in (("primary", "haven"), ("haven", "primary")):
        key = re.findall(r'key = "(.+)"', made[f"{site}.security.toml"])[0]
        assert {name for name in SERVICES if any(key in made[file] for file in mounted(name))} == {site}
        assert not any(made[f"{other}.security.toml"] == made[file] for file in mounted(site))
    for word, holders in {
        "AIRFLOW_CONN_LEDGER_KEY": {"scheduler", "worker", "cli", "airflow-init", "restore"},
        "AIRFLOW_CONN_BACKUP_KEY": {"scheduler", "worker", "cli", "airflow-init", "restore"},
        "AIRFLOW_CONN_S3_PRIMARY": {"scheduler", "worker", "cli", "airflow-init", "restore"},
        "AIRFLOW_CONN_S3_MLFLOW_PRIMARY": {"mlflow"},
        "AIRFLOW_CONN_S3_LANDING_PRIMARY": {"landing-watch"},
        "AIRFLOW_CONN_S3_SCORER_PRIMARY": {"scorer"},
        "AIRFLOW_CONN_PG_SCORER": {"scorer", "airflow-init", "restore"},
        "AIRFLOW_CONN_AIRFLOW_LANDING_WATCH": {"landing-watch", "airflow-init", "restore"},
        "REMPART_AIRFLOW_MLFLOW_PASSWORD": {"scheduler", "worker", "cli", "airflow-init", "restore", "mlflow"},
        "REMPART_AIRFLOW_API_SECRET": {"api-server", "airflow-init", "restore"},
        "REMPART_AIRFLOW_JWT_SECRET": {"api-server", "scheduler", "cli", "airflow-init", "restore"},
        "REMPART_MLFLOW_SECRET_KEY": {"mlflow"},
    }.items():
        assert {name for name in SERVICES if any(f"{word}=" in made[file] for file in mounted(name))} == holders, word
    assert "AIRFLOW_CONN_LEDGER_KEY" not in made["scheduler.env"], "with Celery, workers alone sign"


def test_the_scorer_reads_with_keys_of_its_own_and_its_log_lies_where_tasks_ship_it(made: dict[str, str]) -> None:
    scorer = SERVICES["scorer"]
    assert scorer["profiles"] == ["serving"] and scorer["image"] == SERVICES["scheduler"]["image"]
    assert mounted("scorer") == ["scorer.env"]
    held = set(read_env_file_text(made["scorer.env"]))
    assert held == {"AIRFLOW_CONN_PG_SCORER", "AIRFLOW_CONN_S3_SCORER_PRIMARY", "AIRFLOW_CONN_S3_SCORER_HAVEN"}
    assert set(scorer["networks"]) == {"data", "primary", "haven", "serving", "outward"}
    assert COMPOSE["networks"]["serving"]["internal"]
    assert {name for name in SERVICES if "serving" in SERVICES[name].get("networks", [])} == {"scorer", "gate", "cli"}
    (log, own) = scorer["volumes"]
    assert log == "predictions:/var/lib/rempart/prediction-log" and own.endswith("/scorer")
    assert {name for name in SERVICES if log in SERVICES[name].get("volumes", [])} == {
        "scorer", "scheduler", "worker", "cli",
    }  # fmt: skip
    folders = [volume.partition(":")[2] for volume in (log, own)]
    made_in_image = next(line for line in DOCKERFILE.splitlines() if "prediction-log" in line)
    assert all(folder in made_in_image for folder in folders), "a volume takes the owner of the folder in the image"


def read_env_file_text(text: str) -> list[str]:
    """Names of the variables in a file of secrets."""
    return [line.partition("=")[0] for line in text.splitlines()]


def test_the_files_are_closed_to_others_and_secrets_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = tmp_path / ".env"
    containers.initialise(stack(tmp_path), settings, {})
    folder = tmp_path / "var" / "compose"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(settings.stat().st_mode) == stat.S_IMODE((folder / "secrets.env").stat().st_mode) == 0o600
    secrets = credentials.plan(
        containers.in_containers(stack(tmp_path)), read_env_file(folder / "secrets.env"), str, str
    )
    for value in secrets.values():
        password = json.loads(value)["password"] if value.startswith("{") else value
        assert password not in settings.read_text("utf-8") and password not in caplog.text

    settings.write_text("REMPART_MLFLOW_PORT=16000\nTEAM=ours\n", "utf-8")
    containers.initialise(stack(tmp_path), settings, {})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    kept = read_env_file(settings)
    assert (kept["REMPART_MLFLOW_PORT"], kept["TEAM"], kept["BASE_IMAGE"]) == ("16000", "ours", "debian:trixie-slim")


def test_a_restore_point_s_secrets_become_the_containers_own_and_never_replace_others(tmp_path: Path) -> None:
    settings, ours = tmp_path / ".env", stack(tmp_path)
    point = credentials.plan(ours, {}, credentials.new_token, credentials.new_fernet_key)  # of an embedded stack
    containers.initialise(ours, settings, {}, restored=point)
    made = read_env_file(tmp_path / "var" / "compose" / "local-tasks.env")
    assert made["REMPART_AIRFLOW_FERNET_KEY"] == point["REMPART_AIRFLOW_FERNET_KEY"]
    assert not credentials.others(made, point)
    assert json.loads(made["AIRFLOW_CONN_PG_AIRFLOW"])["host"] == "postgres", "places are the containers' own"

    another = credentials.plan(ours, {}, credentials.new_token, credentials.new_fernet_key)
    with pytest.raises(StackError, match="holds other secrets than the restore point") as refused:
        containers.initialise(ours, settings, {}, restored=another)
    assert "docker compose down --volumes" in refused.value.hint
    assert read_env_file(tmp_path / "var" / "compose" / "local-tasks.env") == made


def test_env_example_is_what_init_writes() -> None:
    fresh = containers.settings_text({}).splitlines()
    assert read_env_file(ROOT / ".env.example") == dict(line.split("=", 1) for line in fresh if line[0] != "#")
    of_the_commit = {f"REMPART_{name}" for name in ("REVISION", "VERSION", "CREATED", "EPOCH")}  # the Makefile's
    assert set(re.findall(r"\$\{(\w+)", FILE)) <= {*read_env_file(ROOT / ".env.example"), *of_the_commit}


def test_who_may_go_out_goes_through_the_proxy_and_to_its_neighbours_without_it() -> None:
    for name, service in SERVICES.items():
        if "outward" in service.get("networks", []) and name not in ("egress", "pass"):
            assert set(service["environment"]) >= PROXY, name
            assert service["environment"]["HTTPS_PROXY"] == "http://{}:{}".format(*EGRESS_PROXY)
            near = service["environment"]["NO_PROXY"].split(",")
            ended = {"airflow-init", "cli", "restore", "trainer"}
            assert set(SERVICES) - ended <= set(near), "a container that is not named there is asked for by the proxy"


def test_services_find_each_other_by_name_and_the_policy_lets_them(tmp_path: Path) -> None:
    inside = containers.in_containers(stack(tmp_path))
    secrets = credentials.plan(inside, {}, lambda: "token", lambda: "fernet")
    resolve = credentials.connections(inside, secrets)
    led = endpoints(inside.config, resolve)
    assert {value.rpartition("//")[2].partition(":")[0] for value in led.values()} <= set(SERVICES)
    today = max(operator.as_of for operator in inside.config.operators.values())
    allowed = rules(inside.config, led, on=today)
    for host, port in (("primary", 18333), ("haven", 18433), ("postgres", 15432), ("mlflow", 15000)):
        assert is_allowed(allowed, host, port), host
    variables = environment.airflow(inside, secrets, {}, "airflow-scheduler")
    assert variables["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://api-server:18080/execution/"
    assert variables["AIRFLOW__API__HOST"] == inside.listen


def test_only_s3_listens_beyond_a_site_s_own_container(tmp_path: Path) -> None:
    for settings in (stack(tmp_path), containers.in_containers(stack(tmp_path))):
        options = services.site_options(settings, "primary")
        assert {"-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.ip.bind={settings.listen}"} <= set(options)


def test_nothing_is_installed_without_hashes_and_nothing_is_fetched_by_address() -> None:
    shell = DOCKERFILE + (IMAGES / "install.sh").read_text("utf-8")
    commands = [line for line in shell.splitlines() if not line.lstrip().startswith("#")]
    for line in commands:
        if re.search(r"\bpip3? (install|download)\b|\buv (pip|add|sync)\b", line):
            assert "--require-hashes" in line, line
        assert not re.search(r"https?://|\b(curl|wget)\b", line), line
    assert not re.search(r"(?m)^(ADD|ARG .*(TOKEN|PASSWORD|SECRET)|# *syntax=)", DOCKERFILE)
    assert set(re.findall(r"(?m)^FROM (\S+)", DOCKERFILE)) - set(re.findall(r"(?m)^FROM \S+ AS (\S+)", DOCKERFILE)) == {
        "${BASE_IMAGE}"
    }


def test_what_an_image_must_not_hold_is_not_even_sent_to_the_engine() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and line[0] != "#"]
    assert lines[0] == "*", "all stays out but what is named"
    assert not {"!var", "!.env", "!.git", "!."} & set(lines)


@pytest.mark.parametrize(
    "target", ["airflow", "mlflow", "trainer", "spark", "postgres", "object-store", "broker", "monitoring", "gate"]
)
def test_every_image_runs_as_an_ordinary_user_says_what_it_is_and_how_it_fares(target: str) -> None:
    stages = dict(re.findall(r"(?ms)^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE))
    parent = {child: of for of, child in re.findall(r"(?m)^FROM (\S+) AS (\S+)", DOCKERFILE)}
    chain = [target]
    while chain[-1] in parent and parent[chain[-1]] in stages:
        chain.append(parent[chain[-1]])
    text = "".join(stages[name] for name in reversed(chain))
    assert re.findall(r"(?m)^USER (\S+)", text)[-1] == "50000:0"
    assert 'ENTRYPOINT ["/usr/bin/tini", "--"]' in text
    assert "HEALTHCHECK" in stages[target]
    for label in ("version", "created", "revision"):  # the Makefile's, so that nobody types them
        assert f'org.opencontainers.image.{label}="${{{label.upper()}}}"' in stages[target], label


@pytest.mark.parametrize("target", ["airflow", "mlflow", "trainer", "spark", "postgres", "object-store", "gate"])
def test_every_image_holds_a_bill_of_what_is_in_it(target: str) -> None:
    stages = dict(re.findall(r"(?ms)^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE))
    parent = {child: of for of, child in re.findall(r"(?m)^FROM (\S+) AS (\S+)", DOCKERFILE)}
    copied = re.findall(rf"(?m)^COPY --from=(\S+) .* {images.BILL}$", stages[target])
    assert f"--mount=type=bind,from={parent[target]},target=/scan rempart audit sbom --image /scan" in stages[copied[0]]


def test_the_image_of_spark_is_built_as_the_others_and_by_itself() -> None:
    (service,) = yaml.safe_load((IMAGES / "spark.yaml").read_text("utf-8"))["services"].values()
    trainer = SERVICES["trainer"]
    others = {name: value for name, value in trainer["build"]["args"].items() if name != "TRAINER"}
    assert service["build"] == trainer["build"] | {"target": "spark", "args": others}
    alike = ("user", "read_only", "cap_drop", "security_opt", "profiles", "pull_policy", "network_mode")
    assert {name: service[name] for name in alike} == {name: trainer[name] for name in alike}
    assert "spark" not in SERVICES, "most platforms need none of its 1.3 GB"


@pytest.mark.parametrize("stage", ["base", "python", "platform", "spark-files", "gate-files"])
def test_what_apt_leaves_is_taken_away_where_an_image_would_have_it(stage: str) -> None:
    stages = dict(re.findall(r"(?ms)^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE))
    assert "/run/packages.sh" in stages[stage] and "apt-get" not in stages[stage]


def test_postgresql_is_made_in_its_image_as_the_embedded_one_is() -> None:
    script = (IMAGES / "postgres.sh").read_text("utf-8")
    embedded = Path(postgresql.__file__).read_text("utf-8")
    for option in re.findall(r'"(--(?:auth|data|encoding|locale|builtin)[^"]*)"', embedded):
        assert option in script, option
    assert f"-U {credentials.SUPERUSER} " in script and " trust" not in script


@pytest.mark.parametrize("script", sorted(IMAGES.glob("*.sh")), ids=lambda file: file.name)
def test_each_script_can_be_read_by_its_shell(script: Path) -> None:
    shell = script.read_text("utf-8").splitlines()[0].rpartition("/")[2].split()[-1]
    subprocess.run([shell, "-n", script], check=True)


def test_set_up_starts_from_the_files_that_the_builder_stage_has(tmp_path: Path) -> None:
    """Before anything is installed: with the standard library, and with the files that the Dockerfile copies."""
    copied = re.findall(r"include/rempart/deployment/setup/\w+\.py", DOCKERFILE)
    for name in {*copied, "include/rempart/__init__.py"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    program = f"import sys; sys.path[:0] = [{str(tmp_path / 'include')!r}]; import rempart.deployment.setup.bootstrap"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
