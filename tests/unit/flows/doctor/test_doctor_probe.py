"""The doctor's pod is judged as a job's pod is, and runs the program of the jobs that the pool is for."""

from __future__ import annotations

from typing import Any

import pytest

from rempart.flows.doctor.doctor_probe import LABELS, probe_pod, targets
from rempart.flows.doctor.spark_account import addresses, ports_between
from rempart.settings.config import Config, Connection
from rempart.settings.pipeline_sections import SparkJobs
from rempart.spark.kubernetes import labels
from rempart.spark.order import code_version
from tests.unit.training.kubernetes.healthy_pool import CONFIG, TODAY

IMAGE = f"good.example.eu/spark@sha256:{'b' * 64}"
URL = "https://s3.example.eu"


def on_spark(training: str = "local", image: str = IMAGE) -> Config:
    spark = SparkJobs(backend="kubernetes", image=image)
    both = CONFIG.training.model_copy(update={"backend": training})
    return CONFIG.model_copy(update={"spark": spark, "training": both})


def container(config: Config) -> dict[str, Any]:
    pod = probe_pod(config, "a", [URL], on=TODAY)
    assert pod is not None
    made: dict[str, Any] = pod["spec"]["containers"][0]
    return made


def test_a_pool_for_spark_alone_is_probed_by_the_program_of_a_driver_without_an_order() -> None:
    pod = probe_pod(on_spark(), "a", [URL], on=TODAY)
    assert pod is not None
    made = pod["spec"]["containers"][0]
    assert made["image"] == IMAGE
    assert made["command"][-4:] == ["rempart.flows.distributed.job", "--probe", code_version(), URL]
    assert pod["metadata"]["labels"].items() >= (LABELS | {labels.ROLE: labels.DRIVER}).items()
    assert labels.JOB not in pod["metadata"]["labels"]  # it is nobody's driver
    # as each pod of a pool: no account, no secret, the restricted profile
    assert pod["spec"]["automountServiceAccountToken"] is False and "serviceAccountName" not in pod["spec"]
    assert not any("secret" in volume for volume in pod["spec"]["volumes"])
    assert made["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_policy_judges_the_probe_of_spark_as_it_judges_its_jobs() -> None:
    foreign = f"elsewhere.example.com/spark@sha256:{'b' * 64}"
    assert probe_pod(on_spark(image=foreign), "a", [URL], on=TODAY) is None


def test_a_pool_for_trainings_too_is_probed_by_the_program_of_a_training() -> None:
    assert "rempart.training.entrypoint" in container(on_spark("kubernetes"))["command"]


@pytest.mark.parametrize(("training", "count"), [("local", 1), ("kubernetes", 2)])
def test_jobs_of_spark_need_no_tracking_server(training: str, count: int) -> None:
    def connections(name: str) -> Connection:
        return Connection(name, "aws", host=f"{name}.example.eu", extra={"endpoint_url": f"https://{name}.example.eu"})

    assert len(targets(on_spark(training), connections, "a")) == count


def policy(name: str, way: str, *ports: dict[str, Any], cidr: str = "10.0.0.1/32") -> dict[str, Any]:
    peers = {"to" if way == "egress" else "from": [{"ipBlock": {"cidr": cidr}}]}
    return {"metadata": {"name": name}, "spec": {way: [peers | ({"ports": list(ports)} if ports else {})]}}


def test_the_way_to_the_api_has_the_ports_that_are_open() -> None:
    tcp, udp = {"protocol": "TCP", "port": 6443}, {"protocol": "UDP", "port": 53}
    assert addresses([policy("rempart-spark-api", "egress", tcp, udp)]) == ("10.0.0.1/32 port 6443",)
    assert addresses([policy("rempart-spark-api", "egress", udp)]) == ()
    assert addresses([policy("rempart-spark-api", "egress")]) == ("10.0.0.1/32 port of any number",)
    assert addresses([policy("another", "egress", tcp)]) == ()


def test_a_port_between_pods_of_spark_is_open_in_both_directions() -> None:
    driver, block = ({"port": number} for number in (7078, 7079))
    found = [policy("rempart-spark", "ingress", driver, block), policy("rempart-spark", "egress", driver)]
    assert ports_between(found) == {7078}
    every, spans = policy("rempart-spark", "ingress"), {"port": 7000, "endPort": 7078}
    assert ports_between([every, policy("rempart-spark", "egress", spans)]) == {7078}
    assert ports_between([every, policy("rempart-spark", "egress", {"protocol": "UDP"}, {"port": "block"})]) == set()
    assert ports_between([every]) == set()
