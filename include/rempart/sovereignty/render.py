"""Render the allow-list as network rules: Kubernetes NetworkPolicies, Cilium policies, an nftables rule set. Text only.

The file's head lists as NOT COVERED what a form cannot express. The input holds no secrets: only host names, ports,
addresses and the configuration's words. Sources: the reference of networking.k8s.io/v1 NetworkPolicy, Cilium's "DNS
based policies" (`*` stands for one label), nft(8).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import yaml

from rempart.sovereignty.egress import Destination, EgressRules, is_address, normalise

Addresses = Mapping[str, tuple[str, ...]]
"""Addresses of names, as they resolved; a name without any is missing or has none."""

Form = Literal["kubernetes", "cilium", "nftables"]

_DNS_PODS = {"k8s-app": "kube-dns"}
_NAMESPACE = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Cluster:
    """Namespaces of a cluster: `platform` runs Airflow, `jobs` run training pods. `api_servers` are its addresses."""

    platform: str = "airflow"
    jobs: tuple[str, ...] = ()
    api_servers: tuple[tuple[str, int], ...] = ()

    @property
    def namespaces(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.platform, *self.jobs)))


def for_jobs(rules: EgressRules) -> EgressRules:
    """Return the destinations that a job needs: the sites and the tracking server only."""
    return replace(rules, allowed=tuple(destination for destination in rules.allowed if destination.needed_by_jobs))


def _inside(rules: EgressRules, cluster: Cluster, namespace: str) -> list[str]:
    """Return other namespaces that a namespace reaches: those of needed services; for Airflow also its own."""
    named = {space for destination in rules.allowed if (space := service_namespace(destination.host))}
    return sorted((named | ({cluster.platform} if namespace == cluster.platform else set())) - {namespace})


def service_namespace(host: str) -> str | None:
    """Return the namespace of an in-cluster name (`mlflow.tools.svc.cluster.local`), or None."""
    matched = re.fullmatch(r"[^.]+\.([^.]+)\.svc(\.cluster\.local)?", normalise(host))
    return matched[1] if matched else None


def _is_neighbour(host: str) -> bool:
    """Return whether a host is a bare name: a service in the namespace of the client."""
    return "." not in host and ":" not in host


def destinations(rules: EgressRules, form: Form) -> tuple[Destination, ...]:
    """Return the destinations with rules in a form: a host also pulls images, and a cluster's own services are pods."""
    if form == "nftables":
        return (*rules.allowed, *rules.pulls)
    return tuple(
        destination
        for destination in rules.allowed
        if not _is_neighbour(destination.host) and not service_namespace(destination.host)
    )


def addresses_of(destination: Destination, addresses: Addresses) -> tuple[str, ...]:
    """Return a destination's addresses: the destination itself if it is an address, else the addresses of its name."""
    name = normalise(destination.name)
    return (name,) if is_address(name) else tuple(sorted(map(normalise, addresses.get(name, ()))))


def names(destinations: Iterable[Destination]) -> tuple[str, ...]:
    """Return the names that rules by address need resolved."""
    every = (normalise(destination.name) for destination in destinations)
    return tuple(sorted({name for name in every if not is_address(name)}))


def unresolved(destinations: Iterable[Destination], addresses: Addresses) -> tuple[str, ...]:
    """Return names without an address: rules by address cannot allow them."""
    return tuple(name for name in names(destinations) if not addresses.get(name))


# --- comments ---------------------------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    return re.sub(r'[^\x20-\x7e]|["\\\\]', "?", text)


def _comment(lines: Iterable[str]) -> str:
    return "".join(f"# {_printable(line)}".rstrip() + "\n" for line in lines)


def _listing(destinations: Iterable[Destination], addresses: Addresses | None) -> list[str]:
    lines = []
    for target in destinations:
        line = f"  {target}  ({target.why}{'; ' + ', '.join(target.classifications) if target.classifications else ''})"
        if addresses is not None and not is_address(target.name):
            line += f" = {', '.join(addresses_of(target, addresses)) or 'NOT RESOLVED'}"
        lines.append(line)
    return lines or ["  nothing"]


def refused(rules: EgressRules) -> list[str]:
    """Return lines that name declared destinations allowed for no classification."""
    if not rules.refusals:
        return []
    head = "Declared, but refused by the policy (`rempart policy explain HOST` gives the reasons):"
    return [head, *(f"  {refusal.destination}  ({refusal.destination.why})" for refusal in rules.refusals)]


def _gaps(destinations: Sequence[Destination], addresses: Addresses) -> list[str]:
    wild = [str(destination) for destination in destinations if destination.host.startswith("*.")]
    lines = [f"  {name} did not resolve" for name in unresolved(destinations, addresses)]
    lines += [f"  {host}: a name below it that has other addresses" for host in wild]
    return ["NOT COVERED, and therefore refused:", *lines] if lines else []


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def _document(head: Iterable[str], content: Mapping[str, Any]) -> str:
    return _comment(head) + yaml.safe_dump(dict(content), sort_keys=False, width=120)


def _kubernetes_notes(rules: EgressRules, cluster: Cluster, namespace: str) -> list[str]:
    lines = ["Jobs may reach the sites and the tracking server. They may reach neither each other nor Airflow."]
    if namespace == cluster.platform:
        lines = [
            "Names without a dot are services of the same namespace. All pods of this namespace may reach each other."
        ]
    if rules.pulls:
        lines += ["Nodes pull the images, not pods. Allow at the nodes:", *_listing(rules.pulls, None)]
    return [*lines, *refused(rules)]


def _block(address: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": f"{address}/{128 if ':' in address else 32}"}}


def _port(port: int | None) -> dict[str, Any]:
    return {"ports": [{"protocol": "TCP", "port": port}]} if port else {}


def kubernetes(rules: EgressRules, addresses: Addresses, cluster: Cluster) -> dict[str, str]:
    """Return NetworkPolicies by file name, one per namespace: only DNS and the allowed addresses can be reached."""
    texts = {}
    for namespace in cluster.namespaces:
        own = rules if namespace == cluster.platform else for_jobs(rules)
        outward = destinations(own, "kubernetes")
        egress: list[dict[str, Any]] = [
            {
                "to": [{"namespaceSelector": {"matchLabels": {_NAMESPACE: "kube-system"}}} | _pods(_DNS_PODS)],
                "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
            },
        ]
        if namespace == cluster.platform:
            egress.append({"to": [{"podSelector": {}}]})
        # a policy judges the pod's port, a name gives the service's: they may differ, so none is stated
        others = _inside(own, cluster, namespace)
        egress += [{"to": [{"namespaceSelector": {"matchLabels": {_NAMESPACE: name}}}]} for name in others]
        for destination in outward:
            if found := addresses_of(destination, addresses):
                egress.append({"to": [_block(address) for address in found]} | _port(destination.port))
        if namespace == cluster.platform:
            egress += [{"to": [_block(host)]} | _port(port) for host, port in cluster.api_servers]
        head = [
            f"Egress of namespace {namespace}, from rempart.yaml by `rempart policy render kubernetes`.",
            "A NetworkPolicy holds addresses, not names: render it again when they change, or use Cilium's toFQDNs",
            "(`rempart policy render cilium`). It works only with a network plug-in that enforces it.",
            "DNS is open: every name can be looked up, and look-ups can carry data out.",
            "Allowed:",
            *_listing(outward, addresses),
            *_gaps(outward, addresses),
            *_api_server(cluster, namespace),
            *_kubernetes_notes(rules, cluster, namespace),
        ]
        texts[f"networkpolicy-{namespace}.yaml"] = _document(head, _policy("networking.k8s.io/v1", namespace, egress))
    return texts


def _api_server(cluster: Cluster, namespace: str) -> list[str]:
    if namespace != cluster.platform or cluster.api_servers:
        return []
    return ["The cluster's API server is not allowed. Pass its address with --api-server if Airflow starts pods here."]


def _pods(labels: Mapping[str, str]) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": dict(labels)}}


def _policy(api: str, namespace: str, egress: list[dict[str, Any]]) -> dict[str, Any]:
    cilium = api.startswith("cilium")
    selector = {"endpointSelector": {}} if cilium else {"podSelector": {}, "policyTypes": ["Egress"]}
    return {
        "apiVersion": api,
        "kind": "CiliumNetworkPolicy" if cilium else "NetworkPolicy",
        "metadata": {"name": "rempart-egress", "namespace": namespace},
        "spec": selector | {"egress": egress},
    }


# --- Cilium -----------------------------------------------------------------------------------------------------------


def _fqdns(host: str) -> list[dict[str, str]]:
    name = normalise(host.removeprefix("*."))
    return [{"matchName": name}, *([{"matchPattern": f"*.{name}"}] if host.startswith("*.") else [])]


def _cilium_ports(port: int | None) -> dict[str, Any]:
    return {"toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}]} if port else {}


def _cilium_pods(labels: Mapping[str, str]) -> dict[str, Any]:
    return {"toEndpoints": [{"matchLabels": {f"k8s:{key}": value for key, value in labels.items()}}]}


def cilium(rules: EgressRules, cluster: Cluster) -> dict[str, str]:
    """Return CiliumNetworkPolicies by file name, one per namespace.

    They allow names, and look-ups of these names only.
    """
    texts = {}
    for namespace in cluster.namespaces:
        own = rules if namespace == cluster.platform else for_jobs(rules)
        outward = destinations(own, "cilium")
        named = [destination for destination in outward if not is_address(destination.host)]
        lookups = [selector for destination in named for selector in _fqdns(destination.host)]
        lookups += [{"matchPattern": "*.*.svc.cluster.local"}, {"matchPattern": "*.*.svc"}]
        lookups = [dict(pairs) for pairs in dict.fromkeys(tuple(lookup.items()) for lookup in lookups)]
        dns = _cilium_pods({"io.kubernetes.pod.namespace": "kube-system", **_DNS_PODS})
        egress: list[dict[str, Any]] = [
            dns | {"toPorts": [{"ports": [{"port": "53", "protocol": "ANY"}], "rules": {"dns": lookups}}]},
            *([{"toEndpoints": [{}]}] if namespace == cluster.platform else []),
        ]
        egress += [_cilium_pods({"io.kubernetes.pod.namespace": name}) for name in _inside(own, cluster, namespace)]
        egress += [{"toFQDNs": _fqdns(destination.host)} | _cilium_ports(destination.port) for destination in named]
        for destination in outward:
            if is_address(destination.host):
                egress.append(
                    {"toCIDR": [_block(normalise(destination.host))["ipBlock"]["cidr"]]}
                    | _cilium_ports(destination.port)
                )
        if namespace == cluster.platform:
            egress.append({"toEntities": ["kube-apiserver"]})
        head = [
            f"Egress of namespace {namespace}, from rempart.yaml by `rempart policy render cilium`.",
            "Only the names listed here can be looked up. Set tofqdns-dns-reject-response-code: nameError in Cilium's",
            "configuration, so that a pod's search domains do not stop an allowed look-up.",
            "A `*` stands for one label, so use a bucket with a dot in its name path-style.",
            "Allowed:",
            *_listing(outward, None),
            *_kubernetes_notes(rules, cluster, namespace),
        ]
        texts[f"ciliumnetworkpolicy-{namespace}.yaml"] = _document(head, _policy("cilium.io/v2", namespace, egress))
    return texts


# --- nftables ---------------------------------------------------------------------------------------------------------


def _elements(destinations: Iterable[Destination], addresses: Addresses, version: int, *, ports: bool) -> list[str]:
    found: dict[str, list[str]] = {}
    for destination in destinations:
        if bool(destination.port) != ports:
            continue
        for address in addresses_of(destination, addresses):
            if (6 if ":" in address else 4) == version:
                found.setdefault(f"{address} . {destination.port}" if ports else address, []).append(destination.host)
    return [f'{key} comment "{_printable(", ".join(dict.fromkeys(hosts)))[:120]}"' for key, hosts in found.items()]


def _set(name: str, kind: str, elements: Sequence[str]) -> str:
    body = ",\n".join(f"\t\t\t{element}" for element in elements)
    inner = f"\t\telements = {{\n{body}\n\t\t}}\n" if elements else ""
    return f"\tset {name} {{\n\t\ttype {kind}\n{inner}\t}}\n"


def nftables(
    rules: EgressRules, addresses: Addresses, *, uids: Sequence[int] = (), resolvers: Sequence[str] = ()
) -> str:
    """Return a rule set for `nft -f` that restricts what these users (all, if none is given) send."""
    here = destinations(rules, "nftables")
    sets = []
    for version in (4, 6):
        kind = f"ipv{version}_addr"
        servers = [resolver for resolver in map(normalise, resolvers) if (6 if ":" in resolver else 4) == version]
        sets += [
            _set(f"resolvers{version}", kind, list(dict.fromkeys(servers))),
            _set(f"hosts{version}", kind, _elements(here, addresses, version, ports=False)),
            _set(
                f"allowed{version}",
                f"{kind} . inet_service",
                _elements(here, addresses, version, ports=True),
            ),
        ]
    who = f"users {', '.join(map(str, uids))}" if uids else "every user"
    head = [
        f"Egress of this host for {who}, from rempart.yaml by `rempart policy render nftables`.",
        "Load: nft -f FILE (replaces the table as a whole).  Watch: nft list counter inet rempart_egress refused",
        "The table holds addresses, not names: render it again when addresses change. Root can remove it.",
        "DNS to the resolvers is open: look-ups can carry data out, unless the resolver refuses names.",
        "Allowed:",
        *_listing(here, addresses),
        *_gaps(here, addresses),
        *refused(rules),
    ]
    entry = (
        "\tchain output {\n\t\ttype filter hook output priority filter; policy accept;\n"
        f"\t\tmeta skuid {{ {', '.join(map(str, uids))} }} goto egress\n\t}}\n"
        if uids
        else "\tchain output {\n\t\ttype filter hook output priority filter; policy drop;\n\t\tgoto egress\n\t}\n"
    )
    chain = [
        'oifname "lo" accept',
        "ct state established,related accept",
        f"meta l4proto ipv6-icmp icmpv6 type {{ {_NEIGHBOURHOOD} }} accept",
        *(f"{family} daddr @resolvers{v} meta l4proto {{ tcp, udp }} th dport 53 accept" for v, family in _FAMILIES),
        *(f"{family} daddr @hosts{v} accept" for v, family in _FAMILIES),
        *(f"{family} daddr . th dport @allowed{v} accept" for v, family in _FAMILIES),
        'limit rate 10/second burst 20 packets log prefix "rempart egress refused: " flags skuid',
        'counter name "refused"',
        "meta l4proto tcp reject with tcp reset",
        "reject with icmpx admin-prohibited",
    ]
    body = "".join(f"\t\t{line}\n" for line in chain)
    return (
        _comment(head)
        + "table inet rempart_egress\ndelete table inet rempart_egress\n\n"
        + "table inet rempart_egress {\n\tcounter refused {\n\t}\n"
        + "".join(sets)
        + entry
        + f"\tchain egress {{\n{body}\t}}\n}}\n"
    )


_FAMILIES = ((4, "ip"), (6, "ip6"))
_NEIGHBOURHOOD = "nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld2-listener-report"
"""Types of ICMPv6 that find neighbours; no router forwards them."""
