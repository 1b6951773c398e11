"""Decide where a job may run, in which order pools are tried, and the next step, as pure functions.

The plan names every pool with the reasons that admit or exclude it. The step after each attempt follows from the job's
record alone, so a retry, a cleared task or another scheduler continues at the same step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Literal

from rempart.settings.config import Config
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sections import Classification, Pool
from rempart.sovereignty.places import decide_image, decide_pool
from rempart.sovereignty.pool_pods import image_at
from rempart.training.waiting import Waiting

Outcome = Literal["succeeded", "capacity", "interrupted", "unreachable", "denied", "failed", "ended"]
"""How an attempt ended.

`capacity`: the pool had no place. `interrupted`: the job ran, and was evicted or lost. `unreachable`: the pool, or a
service that the job needs, did not answer. `denied`: the policy refuses the pod's node. `failed`: the training code
failed. `ended`: a person ended it.
"""
_MOVES_ON: frozenset[Outcome] = frozenset(("capacity", "interrupted", "unreachable", "denied"))
LONGEST_PAUSE = 10
"""Maximum factor by which the pause between rounds grows."""


@dataclass(frozen=True)
class Request:
    """A job's request. `limit` is its maximum run time, for the price; `order` names pools in order of preference.

    `gpus` counts those of each of its `nodes`: pods that run at the same time, each on a separate machine.
    """

    classification: Classification
    gpus: int
    limit: timedelta
    order: tuple[str, ...]
    nodes: int = 1

    @property
    def all_gpus(self) -> int:
        """Return the GPUs of all nodes together."""
        return self.gpus * self.nodes


@dataclass(frozen=True)
class Option:
    """A pool that may be asked: its place in the order, the job's image there, and the most that the job can cost.

    `gpus` are those of each of the `nodes`.
    """

    pool: str
    operator: str
    region: str
    connection: str
    namespace: str
    image: str
    gpus: int
    euros_at_most: float | None
    reasons: tuple[str, ...]
    nodes: int = 1
    waiting: Waiting | None = None
    """Waiting time of the last jobs in the pool, or None if unknown."""


@dataclass(frozen=True)
class Excluded:
    """A pool that may not be asked, and each reason with its remedy."""

    pool: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Pools in the order to try them, and excluded pools."""

    options: tuple[Option, ...]
    excluded: tuple[Excluded, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the plan for a task's page."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Return the plan as text: one line for each pool, one for its waiting time, and one for each reason."""
        for number, option in enumerate(self.options, start=1):
            price = "price not declared" if option.euros_at_most is None else f"at most {option.euros_at_most:.2f} EUR"
            asked = f"{option.gpus} GPU" if option.nodes == 1 else f"{option.nodes} nodes with {option.gpus} GPU each"
            yield f"{number}. pool {option.pool} ({option.operator}, {option.region}), {asked}: {price}"
            yield (
                f"     wait {option.waiting.text() if option.waiting else 'unknown: no job that it took is recorded'}"
            )
            yield from (f"     yes  {reason}" for reason in option.reasons)
        for out in self.excluded:
            yield f"-  pool {out.pool} is never tried:"
            yield from (f"     no   {reason}" for reason in out.reasons)

    def option(self, pool: str) -> Option | None:
        return next((option for option in self.options if option.pool == pool), None)


def request_of(config: Config, pipeline: ModelPipeline) -> Request:
    """Return the request of a pipeline's jobs: from its trainer, else from `training` in rempart.yaml."""
    trainer, settings = pipeline.trainer, config.training
    order = trainer.gpu_pools or settings.gpu_pools or list(config.gpu_pools)
    gpus = settings.gpus if trainer.gpus is None else trainer.gpus
    return Request(pipeline.classification, gpus, trainer.timeout, tuple(order), trainer.nodes)


def plan(
    config: Config,
    request: Request,
    *,
    on: date,
    free: Mapping[str, int] | None = None,
    waiting: Mapping[str, Waiting] | None = None,
) -> Plan:
    """Return every declared pool, admitted or excluded, on a day.

    `free` holds the known free GPUs of pools: pools with too few are tried after the others, in the same order. A pool
    without known capacity keeps its place. `waiting` is shown, and changes no order.
    """
    options, excluded = [], []
    for name in dict.fromkeys((*request.order, *config.gpu_pools)):
        against = tuple(_against(config, request, name, on))
        if against:
            excluded.append(Excluded(name, against))
        else:
            option = _option(config, request, name, on, free or {})
            options.append(replace(option, waiting=(waiting or {}).get(name)))
    options.sort(key=lambda choice: (free or {}).get(choice.pool, request.all_gpus) < request.all_gpus)
    return Plan(tuple(options), tuple(excluded))


def image_for(config: Config, pool: Pool) -> str:
    """Return the job's image as this pool pulls it: from the pool's registry if named, else from its own."""
    return image_at(pool, config.training.image)


def _against(config: Config, request: Request, name: str, on: date) -> Iterator[str]:
    if name not in request.order:
        yield f"the job allows only {', '.join(request.order) or 'no pool'} (trainer.gpu_pools, training.gpu_pools)"
        return
    decision = decide_pool(config, request.classification, "job", name, on=on)
    yield from (f"{reason.rule}: {reason.fact}. {reason.remedy}" for reason in decision.against)
    if (pool := config.gpu_pools.get(name)) is None:
        return
    if request.nodes > 1 and pool.runtime is None:
        yield (
            f"gpu_pools.{name}.runtime: not set, but the job needs {request.nodes} nodes. Set the pool's "
            "TrainingRuntime (docs/how-to/gpu-pools.md), or request one node (trainer.nodes)."
        )
    fewer = "Request fewer (trainer.gpus, which counts for each node, or trainer.nodes)."
    for key, most in (("max_gpus", pool.max_gpus), ("quota", pool.quota)):
        if most is not None and request.all_gpus > most:
            yield f"gpu_pools.{name}.{key}: {most}, but the job needs {request.all_gpus}. {fewer}"
    image = image_for(config, pool)
    held = decide_image(config, request.classification, image, on=on)
    yield from (f"{held.place}: {reason.rule}: {reason.fact}. {reason.remedy}" for reason in held.against)


def _option(config: Config, request: Request, name: str, on: date, free: Mapping[str, int]) -> Option:
    pool = config.gpu_pools[name]
    reasons = [
        f"{reason.rule}: {reason.fact}"
        for reason in decide_pool(config, request.classification, "job", name, on=on).reasons
    ]
    if name in free and free[name] < request.all_gpus:
        reasons.append(f"{free[name]} GPU known to be free, so it is tried after the others")
    price = pool.price_per_gpu_hour
    hours = request.limit / timedelta(hours=1)
    return Option(
        name,
        pool.operator,
        pool.region,
        pool.kubernetes_connection,
        pool.namespace,
        image_for(config, pool),
        request.gpus,
        None if price is None else round(price * request.all_gpus * hours, 2),
        tuple(reasons),
        request.nodes,
    )


@dataclass(frozen=True)
class Attempt:
    """One attempt of a job in a pool, as its record says; `outcome` is None while it runs."""

    number: int
    pool: str
    started: datetime
    outcome: Outcome | None = None
    ended: datetime | None = None
    cause: str = ""


@dataclass(frozen=True)
class Start:
    """Ask this pool, as this attempt."""

    number: int
    option: Option


@dataclass(frozen=True)
class Resume:
    """An attempt is on: find its pod."""

    attempt: Attempt
    option: Option


@dataclass(frozen=True)
class Wait:
    """Every pool was asked: go round again at this moment."""

    until: datetime
    round: int
    why: str


@dataclass(frozen=True)
class GiveUp:
    """Result: no pool took the job. `why` names each pool with its last answer."""

    why: str
    denied: bool = False


Step = Start | Resume | Wait | GiveUp


def next_step(
    plan: Plan, attempts: Sequence[Attempt], *, now: datetime, since: datetime, deadline: timedelta, pause: timedelta
) -> Step:
    """Return a job's next step.

    `attempts` are in order; `since` is the start of this run, from which `deadline` counts. Each round tries every pool
    of the plan once, in order, and ends with a pause. A pool whose node the policy refused is not tried again.
    """
    if attempts and attempts[-1].outcome is None:
        option = plan.option(attempts[-1].pool)
        if option is None:
            return GiveUp(
                f"attempt {attempts[-1].number} is running in pool {attempts[-1].pool}, which is not allowed now"
            )
        return Resume(attempts[-1], option)
    denied = {attempt.pool for attempt in attempts if attempt.outcome == "denied"}
    options = [candidate for candidate in plan.options if candidate.pool not in denied]
    if not options:
        return GiveUp(_answers(plan, attempts), denied=True)
    if now - since >= deadline:
        return GiveUp(f"no place was found within {deadline}. {_answers(plan, attempts)}")
    number = attempts[-1].number + 1 if attempts else 1
    rounds = _rounds(attempts)
    asked = {attempt.pool for attempt in rounds[-1]}
    if waiting := next((candidate for candidate in options if candidate.pool not in asked), None):
        return Start(number, waiting)
    last = max(attempt.ended or attempt.started for attempt in rounds[-1])
    until = min(last + pause * min(2 ** (len(rounds) - 1), LONGEST_PAUSE), since + deadline)
    if now >= until:
        return Start(number, options[0])
    return Wait(until, len(rounds) + 1, _answers(plan, attempts))


def _rounds(attempts: Sequence[Attempt]) -> list[list[Attempt]]:
    """Group attempts by round: a new round begins when a pool is tried again, or the order does not move on."""
    rounds: list[list[Attempt]] = [[]]
    for attempt in attempts:
        if any(attempt.pool == earlier.pool for earlier in rounds[-1]):
            rounds.append([])
        rounds[-1].append(attempt)
        if attempt.outcome not in _MOVES_ON:
            rounds = [[]]
    return rounds


def _answers(plan: Plan, attempts: Sequence[Attempt]) -> str:
    """Return the last answer of each pool, and why the others are not tried."""
    last = {attempt.pool: attempt for attempt in attempts}
    told = [f"{pool}: {attempt.outcome} ({attempt.cause})" for pool, attempt in last.items()]
    told += [
        f"{excluded.pool}: not allowed ({'; '.join(excluded.reasons)})"
        for excluded in plan.excluded
        if excluded.pool not in last
    ]
    return "; ".join(told) or "no pool is declared"
