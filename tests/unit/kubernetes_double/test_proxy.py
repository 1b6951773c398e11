"""The proxy in front of a cluster's API: requests that it passes, disturbs and records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from tests.api_proxy import Loop, Proxy, Upstream
from tests.kubernetes_double import KubernetesDouble
from tests.pod_watch import PodWatch
from tests.unit.kubernetes_double.conftest import pod, reaches, until

pytestmark = pytest.mark.full


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def upstream(double: KubernetesDouble) -> Upstream:
    found = client.Configuration()
    config.load_kube_config_from_dict(double.kubeconfig(), client_configuration=found)
    return Upstream.of(found)


@pytest.fixture
def proxy(loop: Loop, upstream: Upstream) -> Iterator[Proxy]:
    made = Proxy(loop, upstream, guarded=True).start()
    yield made
    made.close()


def through(proxy: Proxy, token: str = "") -> client.CoreV1Api:
    settings = client.Configuration(host=proxy.url, api_key={"BearerToken": f"Bearer {token or proxy.token}"})
    settings.retries = False
    return client.CoreV1Api(client.ApiClient(settings))


def refused(call: Any, *arguments: Any) -> int:
    with pytest.raises(ApiException) as caught:
        call(*arguments)
    return int(caught.value.status)


def test_only_its_token_is_let_through_and_the_cluster_sees_another(proxy: Proxy, double: KubernetesDouble) -> None:
    assert refused(through(proxy, "guessed").list_namespaced_pod, "training") == 401
    assert refused(through(proxy, double.admin_token).list_namespaced_pod, "training") == 401
    assert not double.requests
    selected = through(proxy).list_namespaced_pod("training", label_selector="a in (b, c)")
    assert selected.items == [] and "labelSelector=a" in double.requests[0].path
    assert [request.status for request in proxy.requests][-1] == 200


def test_faults_come_in_turn_and_a_lost_answer_took_effect(proxy: Proxy, api: client.CoreV1Api) -> None:
    proxy.fail(429, method="POST", retry_after=1)
    proxy.fail(0, method="POST", done=True)
    asked = through(proxy)
    assert refused(asked.create_namespaced_pod, "training", pod("one")) == 429
    with pytest.raises(HTTPError):
        asked.create_namespaced_pod("training", pod("one"))
    assert api.read_namespaced_pod("one", "training").metadata.name == "one"
    assert refused(asked.create_namespaced_pod, "training", pod("one")) == 409


def test_a_watch_and_a_log_come_through_line_by_line(proxy: Proxy, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod("training", pod("one", "import time; print('first', flush=True); time.sleep(300)"))
    reaches(api, "one", "Running")
    asked = through(proxy)
    began = time.monotonic()
    for event in watch.Watch().stream(asked.list_namespaced_pod, "training"):
        assert event["object"].metadata.name == "one"
        break
    log = asked.read_namespaced_pod_log("one", "training", follow=True, _preload_content=False)
    assert next(iter(log.stream(5))) == b"first"
    assert time.monotonic() - began < 120


def test_an_api_that_is_away_refuses_and_comes_back_at_the_same_address(proxy: Proxy) -> None:
    asked = through(proxy)
    proxy.stop()
    with pytest.raises(HTTPError):
        asked.list_namespaced_pod("training")
    assert proxy.start() is proxy
    assert asked.list_namespaced_pod("training").items == []


def test_every_pod_is_known_through_an_interruption_of_the_watch(
    loop: Loop, upstream: Upstream, double: KubernetesDouble, api: client.CoreV1Api
) -> None:
    seen = PodWatch(loop, upstream, "training").start()
    try:
        api.create_namespaced_pod("training", pod("one"))
        until(lambda: seen.records and seen.records[0].exit_code == 0)
        double.stop()
        double.start()
        double.compact()
        api.delete_namespaced_pod("one", "training")
        api.create_namespaced_pod("training", pod("two"))
        until(lambda: len(seen.records) == 2 and seen.records[0].deleted and seen.records[1].finished)
        assert [(record.name, record.node) for record in seen.records] == [("one", "gpu-1"), ("two", "gpu-1")]
    finally:
        seen.close()
