"""A ClusterQueue's quota for a Workload, and the Workloads that it preempts: pure functions, with Kueue's words."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from . import quantity
from .kinds import Obj


def requests(workload: Obj) -> quantity.Amounts:
    """What a Workload asks for, of all its pods together."""
    total: quantity.Amounts = {}
    for pod_set in workload["spec"]["podSets"]:
        each = quantity.of_pod(pod_set["template"])
        total = quantity.add(total, {name: value * pod_set["count"] for name, value in each.items()})
    return total


def quotas(queue: Obj) -> dict[str, tuple[str, Fraction]]:
    """Flavor and nominal quota of a ClusterQueue, by resource."""
    found = {}
    for group in queue["spec"].get("resourceGroups") or ():
        flavor = group["flavors"][0]
        for resource in flavor["resources"]:
            found[resource["name"]] = (flavor["name"], quantity.parse(resource["nominalQuota"]))
    return found


def why_not(queue: Obj, workload: Obj, held: Sequence[Obj]) -> tuple[str, bool]:
    """Why a Workload has no quota beside those that hold some (empty: it has), and whether fewer of them would help."""
    nominal = quotas(queue)
    used = quantity.add(*(requests(obj) for obj in held))
    begin = f"couldn't assign flavors to pod set {workload['spec']['podSets'][0]['name']}: "
    waits: list[str] = []
    for name, amount in sorted(requests(workload).items()):
        if not amount:
            continue
        if name not in nominal:
            return f"{begin}resource {name} unavailable in ClusterQueue", False
        flavor, most = nominal[name]
        if amount > most:
            asked = (
                f"previously considered podsets requests (0) + current podset request ({quantity.show(name, amount)})"
            )
            over = f"insufficient quota for {name} in flavor {flavor}, {asked} > maximum capacity"
            return f"{begin}{over} ({quantity.show(name, most)})", False
        missing = used.get(name, Fraction(0)) + amount - most
        if missing > 0:
            more = quantity.show(name, missing)
            waits.append(f"insufficient unused quota for {name} in flavor {flavor}, {more} more needed")
    return (f"{begin}{', '.join(waits)}", True) if waits else ("", False)


def victims_of(queue: Obj, workload: Obj, staying: Sequence[Obj], leaving: Sequence[Obj]) -> list[Obj]:
    """Whom to preempt, of lower priority: the lowest and newest first. None where those that leave are enough."""
    policy = (queue["spec"].get("preemption") or {}).get("withinClusterQueue", "Never")
    if policy == "Never" or (leaving and not why_not(queue, workload, staying)[0]):
        return []
    newest_first = [obj for obj in staying if obj["spec"]["priority"] < workload["spec"]["priority"]][::-1]
    lower = sorted(newest_first, key=lambda resource: int(resource["spec"]["priority"]))
    for count in range(1, len(lower) + 1):
        if not why_not(queue, workload, [obj for obj in staying if obj not in lower[:count]])[0]:
            return lower[:count]
    return []
