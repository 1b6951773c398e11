"""What a job cost by the contract of its pools: price per GPU hour times GPUs times the time that its pods ran. Pure.

The time is the cluster's, not the job's. What is not known is not guessed: then `euros` counts the known attempts only,
and `complete` is false.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rempart.settings.sections import Pool

SECONDS_PER_HOUR = 3600
JOULES_PER_KWH = 3_600_000


@dataclass(frozen=True)
class Cost:
    """Cost of the attempts of a job that got a node. `gpu_seconds`, `euros`: of those whose time (and price) is known.

    `unknown`: each attempt whose cost is not known, with the reason.
    """

    attempts: int
    gpu_seconds: float
    euros: float
    unknown: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Return whether the cost of every attempt is known."""
        return not self.unknown

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "unknown": list(self.unknown), "complete": self.complete, "currency": "EUR"}

    def figures(self) -> dict[str, float]:
        """Return the cost for MLflow; nothing if it is not complete, since a part of a sum misleads."""
        return {"cost_eur": self.euros, "gpu_seconds": self.gpu_seconds} if self.attempts and self.complete else {}


@dataclass(frozen=True)
class Spent:
    """What a job spent, as far as it is known: its cost, and the carbon of its GPUs' energy."""

    cost: Cost | None = None
    carbon: dict[str, Any] | None = None

    def figures(self) -> dict[str, float]:
        """Return the figures for MLflow by name."""
        grams = {} if self.carbon is None else {"carbon_grams": float(self.carbon["grams"])}
        return {**(self.cost.figures() if self.cost else {}), **grams}


NOTHING_SPENT = Spent()
"""Of a job beside Airflow, which no contract prices."""


def spent(pools: Mapping[str, Pool], ran: Sequence[Mapping[str, Any]], joules: float | None) -> Spent:
    """Return what a job spent. `ran`: its attempts, as for `cost`; `joules`: energy of its GPUs in the last of them."""
    if not ran:
        return NOTHING_SPENT
    return Spent(cost(pools, ran), carbon(pools.get(str(ran[-1].get("pool"))), joules))


def cost(pools: Mapping[str, Pool], ran: Sequence[Mapping[str, Any]]) -> Cost:
    """Return the cost of attempts; `ran`: where each ran, as its record says (pool, gpus, seconds)."""
    gpu_seconds = euros = 0.0
    unknown = []
    for number, attempt in enumerate(ran, start=1):
        name, seconds = str(attempt.get("pool")), attempt.get("seconds")
        if seconds is None:
            unknown.append(f"attempt {number} in pool {name}: the cluster did not tell how long it ran")
            continue
        used = float(seconds) * int(attempt.get("gpus") or 0)
        gpu_seconds += used
        price = pools[name].price_per_gpu_hour if name in pools else None
        if price is None:
            unknown.append(f"attempt {number} in pool {name}: price_per_gpu_hour is not declared")
            continue
        euros += used / SECONDS_PER_HOUR * price
    return Cost(len(ran), round(gpu_seconds, 3), round(euros, 6), tuple(unknown))


def carbon(pool: Pool | None, joules: float | None) -> dict[str, Any] | None:
    """Return the grams of CO2 of the energy that GPUs drew, or None if the pool declares no factor or none was told.

    It is a lower bound: the rest of the machine, its cooling, and earlier attempts are not in it.
    """
    if pool is None or pool.carbon_grams_per_kwh is None or joules is None:
        return None
    grams = joules / JOULES_PER_KWH * pool.carbon_grams_per_kwh
    return {"grams": round(grams, 6), "grams_per_kwh": pool.carbon_grams_per_kwh, "of": "energy of the GPUs"}
