"""Check the observed facts of a pool for `rempart pool doctor`: one finding for each check. Pure.

An unreadable fact fails its check, and a fact that was not requested says so. Neither is ever `ok`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

from rempart.settings.config import Config
from rempart.settings.sections import Pool
from rempart.sovereignty.places import decide_pool
from rempart.training.kubernetes import doctor_images, doctor_nodes, doctor_spark, rights
from rempart.training.kubernetes.doctor_images import remedies
from rempart.training.kubernetes.facts import (
    ENTRY_POINT,
    KUBERNETES_API,
    Outcome,
    PoolFacts,
    PoolFinding,
    Unknown,
    left_of,
    unseen,
)
from rempart.training.kubernetes.rights import DANGEROUS, Need, Right, Rule, Where, excess, needed

MANIFESTS = "deploy/kubernetes"
PROFILE = "pod-security.kubernetes.io/enforce"
EGRESS_POLICY = "rempart-egress"
"""The NetworkPolicy that `rempart policy render` writes."""


def judge(config: Config, name: str, facts: PoolFacts, *, on: date) -> tuple[PoolFinding, ...]:
    """Return every check of a pool, in the order in which a job meets them."""
    pool = config.gpu_pools[name]
    declared = (*_policy(config, name, on), *doctor_images.judge(config, name, on))
    if isinstance(facts.version, Unknown):
        later = (PoolFinding(check, "not run", "the cluster refused access") for check in _LIVE)
        return (*declared, _refusal(pool, facts.server, facts.version), *later)
    return (
        *declared,
        _cluster(pool, facts),
        *_rights(pool, facts),
        _namespace(pool, facts),
        *_quota(pool, facts),
        *doctor_nodes.judge(config, name, facts),
        _priority_class(pool, facts),
        _queue(pool, facts),
        _runtime(name, pool, facts),
        *doctor_spark.judge(pool, facts.spark),
        *_network(pool, facts),
        *_probe(config, name, facts),
    )


def passed(findings: Iterable[PoolFinding]) -> bool:
    """Return whether nothing failed."""
    return all(finding.outcome != "FAIL" for finding in findings)


_LIVE = (
    *("rights", "excess rights", "namespace", "quota", "nodes", "gpus", "priority class", "queue", "runtime"),
    *doctor_spark.CHECKS,
    "network",
    *("image pull", ENTRY_POINT, "reach"),
)


# --- what the configuration says --------------------------------------------------------------------------------------


def _policy(config: Config, name: str, on: date) -> Iterator[PoolFinding]:
    decisions = [decide_pool(config, classification, "job", name, on=on) for classification in config.policy]
    none = not any(decision.allowed for decision in decisions)
    for decision in decisions:
        check = f"policy {decision.classification}"
        if decision.allowed:
            yield PoolFinding(check, "ok", "jobs are allowed here")
        else:
            facts = "; ".join(f"{reason.rule}: {reason.fact}" for reason in decision.against)
            yield PoolFinding(
                check, "FAIL" if none else "warn", f"the policy allows no job here: {facts}", remedies(decision)
            )


# --- the cluster and who we are there ---------------------------------------------------------------------------------


def _refusal(pool: Pool, server: str, answer: Unknown) -> PoolFinding:
    if answer.status:
        remedy = f"{_token(pool)} and put it into connection {pool.kubernetes_connection} ({MANIFESTS}/README.md)."
        return PoolFinding("cluster", "FAIL", f"{server} refuses the connection: {answer.why}", remedy)
    remedy = (
        f"Correct connection {pool.kubernetes_connection}, or ask {pool.operator} whether the cluster is up. "
        f"`kubectl version{f' --server={server}' if server else ''}` contacts it from this machine."
    )
    return PoolFinding("cluster", "FAIL", answer.why, remedy)


def _token(pool: Pool) -> str:
    return f"Make a new token, `kubectl create token airflow -n {pool.namespace} --duration=2160h`,"


def _cluster(pool: Pool, facts: PoolFacts) -> PoolFinding:
    text = f"{facts.server}, Kubernetes {facts.version}" + (f", as {facts.who}" if facts.who else "")
    if not facts.verified:
        remedy = (
            "Use https, because jobs' secrets are sent to it, and put the cluster's CA into the kubeconfig "
            f"(certificate-authority-data): `kubectl get configmap kube-root-ca.crt -n {pool.namespace} -o "
            "jsonpath='{.data.ca\\.crt}'`."
        )
        return PoolFinding("cluster", "FAIL", f"{text}: the identity of the cluster is not verified", remedy)
    return PoolFinding("cluster", "ok", text)


def _rights(pool: Pool, facts: PoolFacts) -> Iterator[PoolFinding]:
    apply = (
        f"Apply the Role and ClusterRole: `kubectl apply -k {MANIFESTS}/cluster`, and `kubectl apply -k OVERLAY` with "
        f"the overlay of {pool.namespace} ({MANIFESTS}/README.md)."
    )
    if isinstance(facts.may, Unknown):
        yield unseen("rights", facts.may, f"{_token(pool)} and put it into connection {pool.kubernetes_connection}.")
        yield PoolFinding("excess rights", "not run", "the cluster does not list the rights of this identity")
        return
    may = facts.may
    needs = rights.needs(pool.runtime)
    lacking = {need: [right for right in needed(need) if not may.get(right)] for need in needs}
    if not any(lacking.values()):
        yield PoolFinding("rights", "ok", f"all {len(needed(*needs))} required rights")
    for need, missing in lacking.items():
        outcome, who = _NEEDS[need]
        if missing:
            yield PoolFinding(
                "rights", outcome, f"{who} needs these rights and lacks them: {', '.join(map(str, missing))}", apply
            )
    yield _excess(pool, facts, [right for right in DANGEROUS if may.get(right)])


_NEEDS: dict[Need, tuple[Outcome, str]] = {
    "jobs": ("FAIL", "a job"),
    "doctor": ("FAIL", "this doctor"),
    "train jobs": ("FAIL", "a job on several nodes"),
    "spark jobs": ("FAIL", "a Spark job"),
}


def _excess(pool: Pool, facts: PoolFacts, dangerous: list[Right]) -> PoolFinding:
    remedy = (
        f"Bind this identity to the Role and ClusterRole of {MANIFESTS} only. `kubectl get "
        "rolebindings,clusterrolebindings -A -o wide` shows every binding, `kubectl delete` removes one."
    )
    excessive: list[str] = []
    looks: dict[Where, tuple[Rule, ...] | Unknown] = {"pool": facts.rules, "elsewhere": facts.rules_elsewhere}
    for where, rules in looks.items():
        if not isinstance(rules, Unknown):
            excessive += excess(rules, where)
    named = " ".join(excessive)
    excessive += [str(right) for right in dangerous if "everything" not in named and str(right) not in excessive]
    if excessive:
        shown = ", ".join(excessive[:8]) + (f", and {len(excessive) - 8} more" if len(excessive) > 8 else "")
        return PoolFinding("excess rights", "FAIL", f"more than a pool needs: {shown}", remedy)
    for rules in looks.values():
        if isinstance(rules, Unknown):
            asked = (
                f"`kubectl auth can-i --list -n {pool.namespace}` with the connection's kubeconfig shows the same list"
            )
            return unseen(
                "excess rights", rules, f"The cluster must answer this request; {asked}: ask {pool.operator}."
            )
    if not facts.rules_complete:
        fact = "none found, but the cluster says that its list of this identity's rights is incomplete"
        return PoolFinding(
            "excess rights", "warn", fact, f"{remedy} Ask {pool.operator} what else its authorizer grants."
        )
    return PoolFinding("excess rights", "ok", "none, here or in other namespaces")


# --- the namespace ----------------------------------------------------------------------------------------------------


def _namespace(pool: Pool, facts: PoolFacts) -> PoolFinding:
    seen, remedy = facts.namespace, f"Apply its overlay: `kubectl apply -k OVERLAY` ({MANIFESTS}/README.md)."
    if isinstance(seen, Unknown):
        if seen.status == 404:
            return PoolFinding("namespace", "FAIL", f"{pool.namespace} does not exist", remedy)
        return unseen("namespace", seen, doctor_nodes.GRANT.format(pool.namespace))
    profile = seen.labels.get(PROFILE, "")
    if seen.ending:
        wait = f"Wait, `kubectl wait --for=delete namespace/{pool.namespace} --timeout=10m`, then apply it again."
        return PoolFinding("namespace", "FAIL", f"{pool.namespace} is being deleted", wait)
    if profile != "restricted":
        text = f"{pool.namespace} enforces {f'the profile {profile}' if profile else 'no profile'} on pods"
        return PoolFinding(
            "namespace", "FAIL", text, f"`kubectl label namespace {pool.namespace} {PROFILE}=restricted --overwrite`."
        )
    return PoolFinding("namespace", "ok", f"{pool.namespace}, which enforces the restricted profile")


def _quota(pool: Pool, facts: PoolFacts) -> Iterator[PoolFinding]:
    key, wanted = f"requests.{pool.gpu}", pool.quota if pool.quota is not None else pool.max_gpus
    remedy = (
        f"Set requests.{pool.gpu} of the ResourceQuota in the overlay of {pool.namespace} to {wanted} and apply it: "
        "`kubectl apply -k OVERLAY`."
    )
    if isinstance(facts.quotas, Unknown):
        yield unseen("quota", facts.quotas, doctor_nodes.GRANT.format(pool.namespace))
        return
    if not facts.quotas:
        yield PoolFinding("quota", "FAIL", f"{pool.namespace} has no ResourceQuota, so its cost is not limited", remedy)
        return
    holding = [quota for quota in facts.quotas if key in quota.hard]
    if not holding:
        outcome: Outcome = "FAIL" if pool.max_gpus else "ok"
        yield PoolFinding("quota", outcome, f"no quota limits {pool.gpu}", remedy if pool.max_gpus else "")
        return
    try:
        counts = [left_of(quota, key) for quota in holding]
    except ValueError as error:
        yield PoolFinding("quota", "FAIL", f"the quota is not a count: {error}", remedy)
        return
    hard, left = min(count[0] for count in counts), min(count[1] for count in counts)
    text = f"{left} of {hard} GPU left"
    if hard < pool.max_gpus:
        yield PoolFinding(
            "quota", "FAIL", f"{text}, but max_gpus is {pool.max_gpus}, so a job of that size never fits", remedy
        )
    elif pool.quota is not None and hard != pool.quota:
        more = "more than the contract grants" if hard > pool.quota else "less than the contract grants"
        yield PoolFinding("quota", "warn", f"{text}, but quota in rempart.yaml is {pool.quota}: {more}", remedy)
    elif left < 1 <= pool.max_gpus:
        yield PoolFinding(
            "quota",
            "warn",
            f"{text}: the next job waits or moves to the next pool",
            "Wait, or ask the operator for a higher quota.",
        )
    else:
        yield PoolFinding("quota", "ok", text)


# --- what else a job meets --------------------------------------------------------------------------------------------


def _priority_class(pool: Pool, facts: PoolFacts) -> PoolFinding:
    check, named, seen = "priority class", pool.priority_class, facts.priority_class
    if named is None:
        return PoolFinding(check, "ok", "no class is declared")
    if isinstance(seen, Unknown):
        return unseen(check, seen, doctor_nodes.GRANT.format(pool.namespace))
    if not seen:
        make = f"`kubectl apply -k {MANIFESTS}/cluster` creates the shipped classes"
        remedy = f"Create it ({make}), or leave priority_class out."
        return PoolFinding(check, "FAIL", f"{named} does not exist, so no pod is admitted", remedy)
    return PoolFinding(check, "ok", named)


def _queue(pool: Pool, facts: PoolFacts) -> PoolFinding:
    named, seen = pool.queue, facts.queue
    if named is None:
        return PoolFinding("queue", "ok", "no queue is declared")
    if isinstance(seen, Unknown):
        return unseen("queue", seen, doctor_nodes.GRANT.format(pool.namespace))
    if seen is None:
        remedy = (
            "Create it (`kubectl apply -k OVERLAY`, with local-queue.yaml among its resources), have Kueue installed, "
            "or leave queue out."
        )
        text = f"LocalQueue {named} does not exist, or Kueue is not installed: jobs skip this pool"
        return PoolFinding("queue", "FAIL", text, remedy)
    if seen.active is None:
        remedy = "Check that Kueue runs: `kubectl get pods -n kueue-system`."
        return PoolFinding("queue", "warn", f"the state of {named} is unknown", remedy)
    if not seen.active:
        remedy = (
            "Ask the cluster's administrator to create its ClusterQueue, or to resume it: `kubectl describe "
            f"localqueue {named} -n {pool.namespace}`."
        )
        return PoolFinding("queue", "FAIL", f"{named} admits no job: {seen.why}", remedy)
    return PoolFinding("queue", "ok", f"{named}, active")


def _runtime(name: str, pool: Pool, facts: PoolFacts) -> PoolFinding:
    if pool.runtime is None:
        return PoolFinding("runtime", "ok", "no runtime is declared, so jobs run on one node")
    seen = facts.runtime
    remedy = (
        "Render and apply it: `rempart policy render kubernetes --out policies/`, "
        f"`kubectl apply -f policies/trainingruntime-{name}.yaml`."
    )
    if isinstance(seen, Unknown):
        if seen.status == 404:
            fact = f"TrainingRuntime {pool.runtime} does not exist, or Kubeflow Trainer is not installed"
            return PoolFinding("runtime", "FAIL", fact, remedy)
        return unseen("runtime", seen, doctor_nodes.GRANT.format(pool.namespace))
    if seen:
        shown = "; ".join(seen[:3]) + (f"; and {len(seen) - 3} more" if len(seen) > 3 else "")
        return PoolFinding("runtime", "FAIL", f"{pool.runtime} differs from rempart.yaml: {shown}", remedy)
    return PoolFinding("runtime", "ok", f"{pool.runtime}, as in rempart.yaml")


def _network(pool: Pool, facts: PoolFacts) -> Iterator[PoolFinding]:
    if isinstance(facts.policies, Unknown):
        yield unseen("network", facts.policies, doctor_nodes.GRANT.format(pool.namespace))
        return
    closed = {direction for policy in facts.policies if policy.every_pod for direction in policy.closes}
    if open_ := [direction for direction in ("Ingress", "Egress") if direction not in closed]:
        fact = f"{' and '.join(open_)} of pods is not denied by default"
        remedy = f"Apply the NetworkPolicies of the overlay of {pool.namespace}: `kubectl apply -k OVERLAY`."
        yield PoolFinding("network", "FAIL", fact, remedy)
    for policy in facts.policies:
        if policy.opens:
            fact = f"NetworkPolicy {policy.name} opens all {' and '.join(policy.opens)}"
            remedy = (
                f"Run `kubectl delete networkpolicy {policy.name} -n {pool.namespace}`: {EGRESS_POLICY} allows "
                "what jobs need."
            )
            yield PoolFinding("network", "FAIL", fact, remedy)
    if open_ or any(policy.opens for policy in facts.policies):
        return
    if not any(policy.name == EGRESS_POLICY for policy in facts.policies):
        fact = (
            f"all traffic is denied by default, but NetworkPolicy {EGRESS_POLICY} does not exist (Cilium's "
            "policies are not checked)"
        )
        yield PoolFinding(
            "network", "warn", fact, "Render and apply it: `rempart policy render kubernetes` (or cilium)."
        )
        return
    yield PoolFinding("network", "ok", f"denied by default; {EGRESS_POLICY} lists what is allowed")


def _probe(config: Config, name: str, facts: PoolFacts) -> Iterator[PoolFinding]:
    pool = config.gpu_pools[name]
    if (probe := facts.probe) is None:
        for check in ("image pull", ENTRY_POINT, "reach"):
            yield PoolFinding(check, "not run", "this check needs a pod: add --probe")
        return
    if probe.left:
        yield PoolFinding("pod left", "FAIL", probe.left, f"`kubectl delete pod -n {pool.namespace} {probe.pod}`.")
    if not probe.started:
        remedy = (
            "Check the digest, the registry, and that the nodes may pull from it. `rempart policy explain` shows "
            "the registry's decision."
        )
        yield PoolFinding("image pull", "FAIL", f"the pod did not start: {probe.detail}", remedy)
        yield PoolFinding(ENTRY_POINT, "not run", "no pod started")
        yield PoolFinding("reach", "not run", "no pod started")
        return
    yield PoolFinding("image pull", "ok", f"started on {probe.node or 'a node'}")
    nodes = () if isinstance(facts.nodes, Unknown) else facts.nodes
    node = next((seen for seen in nodes if seen.name == probe.node), None)
    if node and (why := doctor_nodes.abroad(pool, node)):
        remedy = f"Ask {pool.operator} for the reason: `kubectl get node {node.name} --show-labels`."
        yield PoolFinding("placement", "FAIL", f"the pod was bound to {probe.node}, where {why}", remedy)
    answers = [reached for reached in probe.reached or () if reached.target != ENTRY_POINT]
    entry = next((reached for reached in probe.reached or () if reached.target == ENTRY_POINT), None)
    rebuild = "Build the image from this version of Rempart (`make images`) and set it in training.image."
    if doctor_images.is_for_spark(config, name):
        rebuild = "Build the image from this version of Rempart (`docker build --target spark .`): spark.image."
    if entry is None:
        yield PoolFinding(
            ENTRY_POINT, "FAIL", f"the output of the job's command cannot be read: {probe.detail}", rebuild
        )
    else:
        yield PoolFinding(ENTRY_POINT, "ok" if entry.ok else "FAIL", entry.detail, "" if entry.ok else rebuild)
    if not answers:
        yield PoolFinding("reach", "not run", "the job's command ended before this check")
    for answer in answers:
        remedy = (
            ""
            if answer.ok
            else answer.remedy
            or (doctor_spark.OPEN_API if answer.target.startswith(KUBERNETES_API) else "")
            or (
                "Check the address. If it is right, allow it on the network: `rempart policy render kubernetes "
                "--out policies/`, then `kubectl apply -f` the pool's file "
                "(docs/how-to/enforce-on-the-network.md)."
            )
        )
        yield PoolFinding("reach", "ok" if answer.ok else "FAIL", f"{answer.target}: {answer.detail}", remedy)
