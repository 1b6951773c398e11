"""Which pod goes to which node: pure functions from pods and nodes to decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from . import quantity
from .kinds import Obj
from .quota import finished
from .selection import requirement

UNTAINTED = "node.kubernetes.io/unschedulable"
_AFFINITY = "node(s) didn't match Pod's node affinity/selector"


@dataclass(frozen=True)
class Decision:
    """About one pending pod: the node it is bound to, or why none; `victims` make room for it by preemption."""

    pod: Obj
    node: str | None
    message: str = ""
    victims: tuple[Obj, ...] = ()


@dataclass
class _Room:
    node: Obj
    pods: list[Obj] = field(default_factory=list)

    def free(self, without: Sequence[Obj] = ()) -> quantity.Amounts:
        """What is allocatable and not requested by its pods."""
        amounts = quantity.parse_all(self.node["status"].get("allocatable"))
        amounts.setdefault("pods", Fraction(110))
        for pod in self.pods:
            if pod not in without:
                for name, value in _requests(pod).items():
                    amounts[name] = amounts.get(name, Fraction(0)) - value
        return amounts


def _requests(pod: Obj) -> quantity.Amounts:
    return quantity.add(quantity.of_pod(pod), {"pods": Fraction(1)})


def tolerates(pod: Obj, taint: Obj) -> Obj | None:
    """The pod's toleration of a taint, where it has one."""
    for toleration in pod["spec"].get("tolerations") or []:
        if toleration.get("effect") not in (None, "", taint["effect"]):
            continue
        if toleration.get("operator", "Equal") == "Exists":
            if toleration.get("key") in (None, "", taint["key"]):
                found: Obj = toleration
                return found
        elif toleration.get("key") == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or ""):
            return dict(toleration)
    return None


def matches_node(pod: Obj, node: Obj) -> bool:
    """Whether the node satisfies the pod's nodeSelector and required node affinity."""
    labels = node["metadata"].get("labels") or {}
    spec = pod["spec"]
    if any(labels.get(name) != value for name, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    names = {"metadata.name": node["metadata"]["name"]}
    return any(_term(term, labels, names) for term in required.get("nodeSelectorTerms") or [])


def _term(term: Obj, labels: dict[str, str], names: dict[str, str]) -> bool:
    wanted = [(each, labels) for each in term.get("matchExpressions") or []]
    wanted += [(each, names) for each in term.get("matchFields") or []]
    if not wanted:
        return False
    return all(requirement(each["key"], each["operator"], each.get("values") or [])(on) for each, on in wanted)


def _why_not(pod: Obj, room: _Room, without: Sequence[Obj] = ()) -> tuple[list[str], bool]:
    """Why a pod does not fit on a node (empty where it does), and whether fewer pods there could help."""
    node = room.node
    taints = list(node["spec"].get("taints") or [])
    if node["spec"].get("unschedulable") and not tolerates(pod, {"key": UNTAINTED, "effect": "NoSchedule"}):
        return ["node(s) were unschedulable"], False
    for taint in taints:
        if taint["effect"] in ("NoSchedule", "NoExecute") and taint["key"] != UNTAINTED and not tolerates(pod, taint):
            value = taint.get("value") or ""
            return [f"node(s) had untolerated taint {{{taint['key']}: {value}}}"], False
    if not matches_node(pod, node):
        return [_AFFINITY], False
    free = room.free(without)
    lacking = [name for name, value in _requests(pod).items() if value and value > free.get(name, Fraction(0))]
    if "pods" in lacking:
        lacking.remove("pods")
        return ["Too many pods", *(f"Insufficient {name}" for name in lacking)], True
    return [f"Insufficient {name}" for name in lacking], True


def queue(pods: Iterable[Obj]) -> list[Obj]:
    """The pods to schedule, in order: by priority, then by age (of the same second: as given)."""
    waiting = [
        pod
        for pod in pods
        if not pod["spec"].get("nodeName")
        and not finished(pod)
        and not pod["metadata"].get("deletionTimestamp")
        and not pod["spec"].get("schedulingGates")
        and pod["spec"].get("schedulerName", "default-scheduler") == "default-scheduler"
    ]

    return sorted(waiting, key=lambda pod: (-pod["spec"].get("priority", 0), pod["metadata"]["creationTimestamp"]))


def schedule(pods: Sequence[Obj], nodes: Sequence[Obj]) -> list[Decision]:
    """A decision about each pod that waits; earlier bindings take room from later ones."""
    rooms = {node["metadata"]["name"]: _Room(node) for node in sorted(nodes, key=lambda each: each["metadata"]["name"])}
    for pod in pods:
        home = rooms.get(pod["spec"].get("nodeName") or "")
        if home is not None and not finished(pod):
            home.pods.append(pod)
    decisions = []
    for pod in queue(pods):
        decision = _decide(pod, rooms)
        if decision.node is not None:
            rooms[decision.node].pods.append(pod)
        decisions.append(decision)
    return decisions


def _decide(pod: Obj, rooms: dict[str, _Room]) -> Decision:
    if not rooms:
        return Decision(pod, None, "no nodes available to schedule pods")
    reasons: Counter[str] = Counter()
    fitting: list[tuple[Fraction, str]] = []
    helpful: list[str] = []
    for name, room in rooms.items():
        why, fewer_pods_help = _why_not(pod, room)
        reasons.update(why)
        if not why:
            fitting.append((_load(pod, room), name))
        elif fewer_pods_help:
            helpful.append(name)
    if fitting:
        return Decision(pod, min(fitting)[1])
    total = len(rooms)
    text = f"0/{total} nodes are available: {', '.join(sorted(f'{n} {why}' for why, n in reasons.items()))}."
    victims = _victims(pod, [rooms[name] for name in helpful])
    if not victims:
        none = [(len(helpful), "No preemption victims found for incoming pod")]
        none += [(total - len(helpful), "Preemption is not helpful for scheduling")]
        shown = ", ".join(sorted(f"{n} {why}" for n, why in none if n))
        text += f" preemption: 0/{total} nodes are available: {shown}."
    return Decision(pod, None, text, victims)


def _load(pod: Obj, room: _Room) -> Fraction:
    """How full the node would be: the mean over cpu and memory."""
    allocatable = quantity.parse_all(room.node["status"].get("allocatable"))
    free, asked = room.free(), _requests(pod)
    shares = [
        1 - (free[name] - asked.get(name, Fraction(0))) / allocatable[name]
        for name in ("cpu", "memory")
        if allocatable.get(name)
    ]
    return sum(shares, Fraction(0)) / max(len(shares), 1)


def _victims(pod: Obj, rooms: list[_Room]) -> tuple[Obj, ...]:
    """The pods of lower priority whose removal makes room, on the node where that costs the least priority."""
    if pod["spec"].get("preemptionPolicy") == "Never":
        return ()
    mine = pod["spec"].get("priority", 0)
    options: list[tuple[int, int, str, list[Obj]]] = []
    for room in rooms:
        lower = [each for each in room.pods if each["spec"].get("priority", 0) < mine]
        if not lower or _why_not(pod, room, lower)[0]:
            continue
        for spared in sorted(lower, key=lambda each: -int(each["spec"].get("priority", 0))):
            fewer = [each for each in lower if each is not spared]
            if not _why_not(pod, room, fewer)[0]:
                lower = fewer
        top = max(each["spec"].get("priority", 0) for each in lower)
        options.append((top, len(lower), room.node["metadata"]["name"], lower))
    return tuple(min(options, key=lambda option: option[:3])[3]) if options else ()
