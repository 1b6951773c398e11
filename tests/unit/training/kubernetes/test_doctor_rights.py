"""The doctor of a pool names each missing right, and each excessive one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rempart.training.kubernetes import rights
from rempart.training.kubernetes.facts import Quota, Unknown
from rempart.training.kubernetes.rights import DANGEROUS, REQUIRED, Right, Rule, excess, needed
from tests.unit.training.kubernetes.healthy_pool import GPU, HEALTHY, NODE, configured, fails, findings


@given(st.sampled_from(needed()))
def test_each_missing_right_is_named(right: Right) -> None:
    assert isinstance(HEALTHY.may, dict)
    found = findings(replace(HEALTHY, may=HEALTHY.may | {right: False}))["rights"]
    assert str(right) in found.found
    assert found.outcome == "FAIL"


VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "escalate", "*")
RESOURCES = ("pods", "pods/exec", "secrets", "serviceaccounts/token", "roles", "nodes", "namespaces", "configmaps", "*")


@given(
    verb=st.sampled_from(VERBS),
    group=st.sampled_from(("", "apps", "rbac.authorization.k8s.io", "*")),
    resource=st.sampled_from(RESOURCES),
    where=st.sampled_from(("pool", "elsewhere")),
)
def test_excess_is_exactly_what_is_not_required(verb: str, group: str, resource: str, where: rights.Where) -> None:
    kept = {
        (v, right.group, right.resource) for right in REQUIRED if where == "pool" or right.cluster for v in right.verbs
    }
    found = excess([Rule((verb,), (group,), (resource,))], where)
    assert (found == ()) == ((verb, group, resource) in kept)
    if found:
        assert found[0].startswith(f"{verb} ")


def test_what_everybody_may_is_no_excess() -> None:
    rules = (
        Rule(("create",), ("authorization.k8s.io",), ("selfsubjectaccessreviews", "selfsubjectrulesreviews")),
        Rule(("create",), ("authentication.k8s.io",), ("selfsubjectreviews",)),
        Rule(
            ("get",), urls=("/api", "/api/*", "/openapi/*", "/version/", "/livez", "/.well-known/openid-configuration/")
        ),
    )
    assert excess(rules, "pool") == excess(rules, "elsewhere") == ()
    assert excess([Rule(("*",), urls=("*",))], "pool") == ("* *",)
    assert excess([Rule(("get",), urls=("/metrics",))], "pool") == ("get /metrics",)


def test_what_openshift_lets_every_identity_see_is_no_excess() -> None:
    rules = (
        Rule(("get",), urls=("/.well-known", "/.well-known/*", "/oapi/*", "/swagger.json", "/", "/version/*")),
        Rule(("get",), ("user.openshift.io",), ("users",), ("~",)),
        Rule(("list", "watch"), ("project.openshift.io",), ("projects",)),
        Rule(("create",), ("authorization.openshift.io",), ("selfsubjectrulesreviews",)),
    )
    assert excess(rules, "pool") == excess(rules, "elsewhere") == ()
    assert excess([Rule(("get",), urls=("/*",))], "pool") == ("get /*",)
    assert excess([Rule(("get",), ("user.openshift.io",), ("users",))], "pool") == ("get users.user.openshift.io",)
    assert excess([Rule(("create",), ("project.openshift.io",), ("projectrequests",))], "pool")


def test_a_dangerous_right_counts_though_the_list_of_rights_does_not_show_it() -> None:
    assert isinstance(HEALTHY.may, dict)
    facts = replace(HEALTHY, may=HEALTHY.may | {Right("list", "secrets"): True}, rules_complete=False)
    assert "list secrets" in findings(facts)["excess rights"].found and "excess rights" in fails(facts)
    assert findings(replace(HEALTHY, rules_complete=False))["excess rights"].outcome == "warn"


def test_nothing_required_is_a_wildcard_or_lists_secrets() -> None:
    rights_ = needed()
    assert not any("*" in (right.verb, right.resource, right.group) for right in rights_)
    assert {right.verb for right in rights_ if right.resource == "secrets"} == {"create"}
    assert {right.resource for right in rights_ if right.where == "cluster"} == {"nodes", "priorityclasses"}
    assert all(right.verb in ("get", "list") for right in rights_ if right.where == "cluster")
    assert not set(rights_) & set(DANGEROUS)


def test_a_pool_with_a_runtime_needs_it_and_the_rights_for_it() -> None:
    assert isinstance(HEALTHY.may, dict)
    config = configured(runtime="rempart", max_gpus=6)
    facts = replace(HEALTHY, may=HEALTHY.may | dict.fromkeys(needed("train jobs"), True))
    assert fails(facts, config) == {"quota", "gpus"}
    roomy = replace(
        facts,
        nodes=(NODE, replace(NODE, name="gpu-2")),
        quotas=(Quota("q", {f"requests.{GPU}": "8"}, {}),),
    )
    assert fails(roomy, config) == set()
    assert "create trainjobs.trainer.kubeflow.org" in findings(replace(roomy, may=HEALTHY.may), config)["rights"].found
    assert "runtime" in fails(replace(roomy, runtime=Unknown("404: not found", 404)), config)
    changed = findings(replace(roomy, runtime=("spec.template is not set",)), config)["runtime"]
    assert changed.outcome == "FAIL" and "spec.template is not set" in changed.found
