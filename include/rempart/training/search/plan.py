"""Decide what a search tries next: equal trials so far, seed and generation give equal parameters. Pure.

Optuna's sampler (TPE) proposes the values. It is made anew for each generation, with a seed of its own, and learns from
the trials so far: nothing of it is stored between two generations, so no state can be lost or altered.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rempart import canonical_json
from rempart.training.job import Param
from rempart.training.search.space import Choices, Space

if TYPE_CHECKING:
    import optuna

State = Literal["complete", "pruned", "failed"]
Direction = Literal["minimize", "maximize"]
Curve = tuple[tuple[int, float], ...]
RANDOM_TRIALS = 10
"""So many trials are drawn at random before the sampler learns from them."""
LEAST_CURVES, WARM_UP = 4, 32
"""A trial is ended early only at or after this iteration, and only if so many complete trials tell their loss there."""
_DIGITS, _TRIES = 6, 8


@dataclass(frozen=True)
class Done:
    """A trial that has ended. `value`: its figure, None if it failed. `curve`: smallest loss so far, by iteration."""

    params: Mapping[str, Param]
    state: State
    value: float | None = None
    curve: Curve = ()


def ask(
    space: Space, done: Sequence[Done], *, seed: int, generation: int, count: int, direction: Direction
) -> list[dict[str, Param]]:
    """Return parameters for the next `count` trials. None repeats another; fewer if a small space has no more.

    `done`: the trials of the generations before, in the order of their numbers.
    """
    if count < 1:
        return []
    with _quiet() as optuna:
        sampler = optuna.samplers.TPESampler(
            seed=generation_seed(seed, generation),
            n_startup_trials=RANDOM_TRIALS,
            multivariate=True,
            constant_liar=True,  # trials of one generation keep away from each other
            warn_independent_sampling=False,
        )
        study = _study(space, done, direction, sampler)
        known, asked = {_name(trial.params) for trial in done}, list[dict[str, Param]]()
        ranges = distributions(space)
        for _ in range(count * _TRIES):
            params = _rounded(space, study.ask(ranges).params)
            if (name := _name(params)) not in known:
                known.add(name)
                asked.append(params)
            if len(asked) == count:
                break
    return asked


def stop_if_worse(curves: Sequence[Curve]) -> Curve:
    """Return by iteration the loss above which a trial is hopeless: the median of the complete trials' curves.

    A trial that ended before an iteration counts there with its last loss. No clock decides, so an equal search ends
    the same trials.
    """
    steps = sorted({step for curve in curves for step, _ in curve if step >= WARM_UP and step & (step - 1) == 0})
    found = []
    for step in steps:
        losses = [loss for curve in curves if (loss := _loss_at(curve, step)) is not None]
        if len(losses) >= LEAST_CURVES:
            found.append((step, float(statistics.median(losses))))
    return tuple(found)


def best(done: Sequence[tuple[int, Done]], direction: Direction) -> int | None:
    """Return the number of the complete trial with the best value, the first of several; None without one."""
    sign = 1 if direction == "minimize" else -1
    complete = [(number, trial) for number, trial in done if trial.state == "complete"]
    usable = [(sign * value, number) for number, trial in complete if (value := _figure(trial)) is not None]
    return min(usable)[1] if usable else None


def affordable(budget: float | None, spent: Sequence[float], count: int) -> int:
    """Return how many of `count` trials fit into the rest of a budget, if each costs as much as the mean so far.

    `spent`: the cost of each trial so far, in the budget's unit. The first trials are asked for in any case, because
    nobody knows their cost.
    """
    if budget is None or not spent:
        return count
    rest, mean = budget - sum(spent), sum(spent) / len(spent)
    if rest <= 0:
        return 0
    return count if mean <= 0 or rest / mean >= count else math.floor(rest / mean)


def importances(space: Space, done: Sequence[Done], direction: Direction) -> dict[str, float]:
    """Return the share of each parameter in the differences between complete trials (fANOVA). They add up to 1.

    Empty if fewer than four trials are complete, or all have the same value.
    """
    complete = [trial for trial in done if trial.state == "complete" and _figure(trial) is not None]
    if len(complete) < LEAST_CURVES or len({trial.value for trial in complete}) < 2:
        return {}
    with _quiet() as optuna:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        study = _study(space, complete, direction, optuna.samplers.RandomSampler(seed=0))
        try:
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # its trees found no difference
            return {}
    return {name: float(share) for name, share in found.items()} if sum(found.values()) > 0 else {}


def distributions(space: Space) -> dict[str, Any]:
    """Return Optuna's distributions of a space, by name."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    return {
        each.name: CategoricalDistribution(each.options)
        if isinstance(each, Choices)
        else IntDistribution(int(each.low), int(each.high), log=each.log)
        if each.whole
        else FloatDistribution(float(each.low), float(each.high), log=each.log)
        for each in space
    }


def generation_seed(seed: int, generation: int) -> int:
    """Return the sampler's seed of a generation: 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {generation}".encode()).digest()[:4], "big")


@contextmanager
def _quiet() -> Iterator[Any]:
    """Provide Optuna without its log lines and its warnings about experimental arguments."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield optuna
    finally:
        optuna.logging.set_verbosity(before)


def _study(space: Space, done: Sequence[Done], direction: Direction, sampler: Any) -> optuna.Study:
    """Return a study in memory that has the trials so far."""
    import optuna
    from optuna.trial import TrialState, create_trial

    study = optuna.create_study(direction=direction, sampler=sampler)
    ranges = distributions(space)
    for trial in done:
        given: dict[str, Any] = {"params": dict(trial.params), "distributions": ranges}
        value = _figure(trial)
        if trial.state == "failed" or value is None:
            study.add_trial(create_trial(state=TrialState.FAIL, **given))
        elif trial.state == "pruned":
            study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: value}, **given))
        else:
            study.add_trial(create_trial(state=TrialState.COMPLETE, value=value, **given))
    return study


def _rounded(space: Space, drawn: Mapping[str, Any]) -> dict[str, Param]:
    """Return parameters with few digits, so that a person can copy them, within their bounds."""
    made: dict[str, Param] = {}
    for each in space:
        value = drawn[each.name]
        if not isinstance(each, Choices):
            value = int(value) if each.whole else float(f"{value:.{_DIGITS}g}")
            value = min(max(value, each.low), each.high)
            value = int(value) if each.whole else float(value)
        made[each.name] = value
    return made


def _name(params: Mapping[str, Param]) -> bytes:
    return canonical_json.encode(dict(params))


def _figure(trial: Done) -> float | None:
    """Return a trial's value if it is a finite number."""
    return trial.value if trial.value is not None and math.isfinite(trial.value) else None


def _loss_at(curve: Curve, step: int) -> float | None:
    """Return the loss of a trial after so many iterations; its last one if it ended before."""
    upto = [loss for at, loss in curve if at <= step]
    return upto[-1] if upto else None
