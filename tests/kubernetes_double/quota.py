"""ResourceQuota: the usage of a namespace, and the requests that would exceed the quota."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from . import quantity
from .kinds import CONFIG_MAP, POD, QUOTA, SECRET, Kind, Obj

_COUNTED = {"pods": POD, "secrets": SECRET, "configmaps": CONFIG_MAP, "resourcequotas": QUOTA}
_DEMANDED = {"cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"}


def finished(pod: Obj) -> bool:
    """Whether a pod's phase is terminal."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def charge(kind: Kind, obj: Obj) -> quantity.Amounts:
    """What one object counts against a quota, by the quota's names."""
    charged = {f"count/{kind.resource}": Fraction(1)}
    if kind is not POD:
        return charged | {name: Fraction(1) for name, counted in _COUNTED.items() if counted is kind}
    if finished(obj):
        return charged
    requests = quantity.of_pod(obj)
    charged |= {"pods": Fraction(1)}
    charged |= {f"requests.{name}": value for name, value in requests.items()}
    charged |= {f"limits.{name}": value for name, value in quantity.of_pod(obj, "limits").items()}
    return charged | {name: requests[name] for name in ("cpu", "memory", "ephemeral-storage") if name in requests}


def used(hard: Obj, objects: Iterable[tuple[Kind, Obj]]) -> quantity.Amounts:
    """What the objects of a namespace use of a quota's `spec.hard`."""
    total = quantity.add(*(charge(kind, obj) for kind, obj in objects))
    return {name: total.get(name, Fraction(0)) for name in hard}


def refusal(quota: Obj, kind: Kind, obj: Obj, objects: Iterable[tuple[Kind, Obj]]) -> str | None:
    """Why a quota refuses an object that is to be created beside the present ones; None where it does not."""
    hard: Obj = quota["spec"].get("hard") or {}
    name = quota["metadata"]["name"]
    if kind is POD and (missing := _missing(hard, obj)):
        return f"failed quota: {name}: must specify {missing}"
    asked = {what: value for what, value in charge(kind, obj).items() if what in hard and value}
    present = used(hard, objects)
    over = sorted(what for what, value in asked.items() if present[what] + value > quantity.parse(hard[what]))
    if not over:
        return None

    def shown(values: quantity.Amounts) -> str:
        return ",".join(f"{what}={quantity.show(what, values[what])}" for what in over)

    limits = quantity.parse_all({what: hard[what] for what in over})
    return f"exceeded quota: {name}, requested: {shown(asked)}, used: {shown(present)}, limited: {shown(limits)}"


def _missing(hard: Obj, pod: Obj) -> str:
    wanting: dict[str, list[str]] = {}
    for what in sorted(_DEMANDED & set(hard)):
        side, _, resource = what.rpartition(".")
        for container in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]:
            if resource not in ((container.get("resources") or {}).get(side or "requests") or {}):
                wanting.setdefault(what, []).append(container["name"])
    return "; ".join(f"{what} for: {','.join(names)}" for what, names in wanting.items())
