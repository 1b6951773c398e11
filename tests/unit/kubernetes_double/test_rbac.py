"""Rights by Role and binding, as deploy/kubernetes writes them: any other right in a namespace is 403 there."""

from __future__ import annotations

import pytest
from kubernetes import client

from tests.clusters import grant
from tests.kubernetes_double import KubernetesDouble

from .conftest import client_of, pod

pytestmark = pytest.mark.full


@pytest.fixture
def token(double: KubernetesDouble, api: client.CoreV1Api) -> str:
    """Of the account `airflow` in the namespace `training`."""
    double.add_namespace("other")
    return grant(api.api_client, "training")


def status(call: object, *arguments: object, **named: object) -> tuple[int, str]:
    with pytest.raises(client.ApiException) as told:
        call(*arguments, **named)  # type: ignore[operator] # a method of the official client
    return int(told.value.status), str(told.value.body)


def test_the_documented_role_reaches_its_namespace_and_no_other(double: KubernetesDouble, token: str) -> None:
    asked = client_of(double, token)
    asked.create_namespaced_pod("training", pod("one"))
    assert asked.read_namespaced_pod("one", "training").metadata.name == "one"
    assert asked.list_node().items and asked.read_namespace("training")
    code, body = status(asked.read_namespaced_pod, "one", "other")
    assert code == 403
    assert (
        'pods \\"one\\" is forbidden: User \\"system:serviceaccount:training:airflow\\" cannot get resource '
        '\\"pods\\" in API group \\"\\" in the namespace \\"other\\"' in body
    )
    for call, arguments in (
        (asked.list_namespaced_secret, ("training",)),
        (asked.list_pod_for_all_namespaces, ()),
        (asked.delete_node, ("gpu-1",)),
        (asked.create_namespaced_service_account_token, ("airflow", "training", {"spec": {"audiences": []}})),
    ):
        assert status(call, *arguments)[0] == 403


def test_a_binding_counts_at_once_when_it_comes_and_when_it_goes(
    double: KubernetesDouble, api: client.CoreV1Api, token: str
) -> None:
    asked, rbac = client_of(double, token), client.RbacAuthorizationV1Api(api.api_client)
    rbac.create_namespaced_role("other", {"metadata": {"name": "r"}, "rules": [RULE]})
    assert status(asked.list_namespaced_pod, "other")[0] == 403
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    group = {"kind": "Group", "name": "system:serviceaccounts:training"}
    rbac.create_namespaced_role_binding("other", {"metadata": {"name": "b"}, "roleRef": reference, "subjects": [group]})
    assert asked.list_namespaced_pod("other").items == []
    rbac.delete_namespaced_role_binding("b", "other")
    assert status(asked.list_namespaced_pod, "other")[0] == 403


RULE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}


def test_a_review_tells_what_every_account_may_besides(double: KubernetesDouble, token: str) -> None:
    review = client.AuthorizationV1Api(client_of(double, token).api_client).create_self_subject_rules_review(
        {"spec": {"namespace": "training"}}
    )
    urls = {url for rule in review.status.non_resource_rules for url in rule.non_resource_urls}
    assert {"/api/*", "/version", "/.well-known/openid-configuration"} <= urls
    assert any(rule.resources == ["selfsubjectreviews"] for rule in review.status.resource_rules)
