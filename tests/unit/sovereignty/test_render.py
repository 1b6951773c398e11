"""The allow-list as rules for the network: each form states its allowed hosts and its limits, and tools accept it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.sovereignty.egress import Destination, EgressRules, JudgedDestination
from rempart.sovereignty.render import Cluster, cilium, destinations, kubernetes, names, nftables, unresolved

RULES = EgressRules(
    allowed=(
        Destination("*.s3.good.eu", 443, "sites.home", ("internal", "personal"), needed_by_jobs=True),
        Destination("api.good.eu", None, "hosts.api.good.eu", ("internal",)),
        Destination("192.0.2.7", 8443, "hosts.192.0.2.7:8443", ("internal",)),
        Destination("2001:db8::7", 5432, "connections.warehouse", ("internal",)),
        Destination("mlflow.tools.svc.cluster.local", 5000, "services.mlflow.external", needed_by_jobs=True),
        Destination("airflow-api-server", 8080, "Airflow's [api] base_url"),
    ),
    pulls=(Destination("registry.good.eu", 443, "registries.registry.good.eu", ("internal",)),),
    judged=(JudgedDestination(Destination("crm.foreign.eu", 443, "connections.crm"), ()),),
)
ADDRESSES = {"s3.good.eu": ("203.0.113.9", "203.0.113.10", "2001:db8::9"), "registry.good.eu": ("203.0.113.9",)}


def rule_to(policy: dict[str, Any], key: str) -> list[Any]:
    return [entry for rule in policy["spec"]["egress"] for entry in rule.get(key, [])]


def test_a_network_policy_denies_all_but_dns_neighbours_and_known_addresses() -> None:
    servers = (("10.32.0.1", 443), ("10.0.0.1", 6443))
    files = kubernetes(RULES, ADDRESSES, Cluster(jobs=("training",), api_servers=servers))
    assert list(files) == ["networkpolicy-airflow.yaml", "networkpolicy-training.yaml"]
    policy = yaml.safe_load(files["networkpolicy-airflow.yaml"])
    assert policy["kind"] == "NetworkPolicy"
    assert policy["spec"]["podSelector"] == {}
    assert policy["spec"]["policyTypes"] == ["Egress"]
    blocks = {entry["ipBlock"]["cidr"] for entry in rule_to(policy, "to") if "ipBlock" in entry}
    assert blocks == {
        "203.0.113.9/32",
        "203.0.113.10/32",
        "2001:db8::9/128",
        "192.0.2.7/32",
        "2001:db8::7/128",
        "10.32.0.1/32",
        "10.0.0.1/32",
    }
    namespaces = [e["namespaceSelector"]["matchLabels"] for e in rule_to(policy, "to") if "namespaceSelector" in e]
    assert namespaces == [{"kubernetes.io/metadata.name": name} for name in ("kube-system", "tools")]
    jobs = yaml.safe_load(files["networkpolicy-training.yaml"])
    assert "10.0.0.1/32" not in files["networkpolicy-training.yaml"]
    # a job reaches the sites and the tracking server, and neither Airflow nor what only DAGs need
    spaces = [peer["namespaceSelector"]["matchLabels"] for peer in rule_to(jobs, "to") if "namespaceSelector" in peer]
    assert spaces == [{"kubernetes.io/metadata.name": name} for name in ("kube-system", "tools")]
    reached = {peer["ipBlock"]["cidr"] for peer in rule_to(jobs, "to") if "ipBlock" in peer}
    assert reached == {"203.0.113.9/32", "203.0.113.10/32", "2001:db8::9/128"}
    assert {"podSelector": {}} in rule_to(policy, "to") and {"podSelector": {}} not in rule_to(jobs, "to")


def test_a_network_policy_says_what_it_cannot_do() -> None:
    text = kubernetes(RULES, ADDRESSES, Cluster())["networkpolicy-airflow.yaml"]
    assert "holds addresses, not names" in text
    assert "toFQDNs" in text
    assert "api.good.eu did not resolve" in text
    assert "*.s3.good.eu:443: a name below it that has other addresses" in text
    assert "crm.foreign.eu:443  (connections.crm)" in text
    assert "Pass its address with --api-server" in text
    assert "registry.good.eu:443" in text


def test_a_policy_without_any_destination_still_denies() -> None:
    policy = yaml.safe_load(kubernetes(EgressRules(()), {}, Cluster())["networkpolicy-airflow.yaml"])
    assert len(policy["spec"]["egress"]) == 2  # DNS, and the namespace's own pods


def test_cilium_allows_names_and_look_ups_of_those_names_alone() -> None:
    policy = yaml.safe_load(cilium(RULES, Cluster(jobs=("training",)))["ciliumnetworkpolicy-airflow.yaml"])
    assert policy["apiVersion"] == "cilium.io/v2"
    assert rule_to(policy, "toFQDNs") == [
        {"matchName": "s3.good.eu"},
        {"matchPattern": "*.s3.good.eu"},
        {"matchName": "api.good.eu"},
    ]
    assert rule_to(policy, "toCIDR") == ["192.0.2.7/32", "2001:db8::7/128"]
    assert rule_to(policy, "toEntities") == ["kube-apiserver"]
    dns = policy["spec"]["egress"][0]["toPorts"][0]["rules"]["dns"]
    assert {"matchPattern": "*"} not in dns
    assert {"matchName": "api.good.eu"} in dns
    jobs = yaml.safe_load(cilium(RULES, Cluster(jobs=("training",)))["ciliumnetworkpolicy-training.yaml"])
    assert rule_to(jobs, "toEntities") == []
    assert rule_to(jobs, "toFQDNs") == [{"matchName": "s3.good.eu"}, {"matchPattern": "*.s3.good.eu"}]
    assert rule_to(jobs, "toCIDR") == []


def test_names_that_did_not_resolve_are_told() -> None:
    outward = destinations(RULES, "kubernetes")
    assert names(outward) == ("api.good.eu", "s3.good.eu")
    assert unresolved(outward, ADDRESSES) == ("api.good.eu",)
    assert set(unresolved(destinations(RULES, "nftables"), ADDRESSES)) == {
        "api.good.eu",
        "airflow-api-server",
        "mlflow.tools.svc.cluster.local",
    }


# an ordinary user's PATH leaves the folder out where Debian puts it
NFT = shutil.which("nft", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


ISOLATED = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]


def _why_not() -> str:
    """Why `nft` cannot be asked on this machine, in a network namespace of its own; empty if it can."""
    if not (NFT and shutil.which("unshare")):
        return "nft is not installed: the rule set was not given to it (apt install nftables)"
    done = subprocess.run([*ISOLATED, NFT, "list", "ruleset"], capture_output=True, text=True, check=False)
    return f"nft cannot be asked here: {done.stderr.strip()}" if done.returncode else ""


def accept(text: str, folder: Path) -> None:
    """What `nft` says of a rule set, in a network namespace of its own."""
    file = folder / "rules.nft"
    file.write_text(text, encoding="utf-8")
    command = [*ISOLATED, str(NFT), "-c", "-f", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + text


needs_nft = pytest.mark.skipif(bool(WHY_NOT := _why_not()), reason=WHY_NOT)


@needs_nft
@pytest.mark.parametrize("uids", [(), (5000,), (5000, 5001)])
@pytest.mark.parametrize("rules", [RULES, EgressRules(())])
def test_nft_accepts_the_rule_set(rules: EgressRules, uids: tuple[int, ...], tmp_path: Path) -> None:
    accept(nftables(rules, ADDRESSES, uids=uids, resolvers=("192.0.2.53", "2001:db8::53")), tmp_path)


@needs_nft
@given(host=st.text(min_size=1, max_size=30), why=st.text(max_size=200))
@settings(max_examples=15)
def test_no_word_of_the_configuration_becomes_a_rule(
    host: str, why: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hostile = EgressRules(
        (Destination(host, 443, why), Destination('a"b } accept', 1, 'x"\n}\naccept'), Destination("e.eu", 1, why))
    )
    found = dict.fromkeys(names(destinations(hostile, "nftables")), ("203.0.113.9",))
    text = nftables(hostile, found)
    assert text.count("\n\t\toifname") == 1
    accept(text, tmp_path_factory.mktemp("nft"))
    for file in (*kubernetes(hostile, found, Cluster()).values(), *cilium(hostile, Cluster()).values()):
        assert yaml.safe_load(file)["metadata"]["name"] == "rempart-egress"


def test_nftables_holds_everybody_or_the_users_that_were_named() -> None:
    everybody, some = nftables(RULES, ADDRESSES), nftables(RULES, ADDRESSES, uids=(5000, 5001))
    assert "policy drop" in everybody
    assert "policy accept" in some
    assert "meta skuid { 5000, 5001 } goto egress" in some
    for text in (everybody, some):
        assert '203.0.113.9 . 443 comment "*.s3.good.eu, registry.good.eu"' in text
        assert '192.0.2.7 . 8443 comment "192.0.2.7"' in text
        assert text.index("accept\n\t\tlimit") > 0
        assert text.rstrip().endswith("reject with icmpx admin-prohibited\n\t}\n}")
