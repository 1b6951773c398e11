"""What a search tries next: the same from the same trials, within the ranges, and nothing twice."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.training.search import plan
from rempart.training.search.plan import Done
from rempart.training.search.space import Choices, Numbers

SPACE = (
    Numbers("depth", 1, 64, log=True, whole=True),
    Choices("leave_out", ("", "a__*")),
    Numbers("rate", 0.01, 0.3, log=True, whole=False),
    Numbers("weight", 0, 10, log=False, whole=False),
)


@st.composite
def trials(draw):
    params = {
        "depth": draw(st.integers(1, 64)),
        "leave_out": draw(st.sampled_from(["", "a__*"])),
        "rate": draw(st.floats(0.01, 0.3)),
        "weight": draw(st.floats(0, 10)),
    }
    state = draw(st.sampled_from(["complete", "complete", "complete", "pruned", "failed"]))
    value = None if state == "failed" else draw(st.floats(-100, 100))
    return Done(params, state, value)


@settings(max_examples=25, deadline=None)
@given(st.lists(trials(), max_size=20), st.integers(-5, 5), st.integers(1, 9), st.integers(0, 5))
def test_equal_trials_seed_and_generation_ask_for_the_same_within_the_ranges(done, seed, generation, count):
    def ask():
        return plan.ask(SPACE, done, seed=seed, generation=generation, count=count, direction="minimize")

    asked = ask()
    assert asked == ask() and len(asked) == count
    for params in asked:
        assert list(params) == ["depth", "leave_out", "rate", "weight"]
        assert type(params["depth"]) is int and 1 <= params["depth"] <= 64
        assert 0.01 <= params["rate"] <= 0.3 and 0 <= params["weight"] <= 10
        assert float(f"{params['rate']:.6g}") == params["rate"]
    keys = [tuple(params.items()) for params in asked]
    assert len(set(keys)) == len(keys) and not {*keys} & {tuple(trial.params.items()) for trial in done}


def test_another_seed_or_generation_asks_for_something_else():
    first = plan.ask(SPACE, [], seed=1, generation=1, count=3, direction="minimize")
    assert first != plan.ask(SPACE, [], seed=2, generation=1, count=3, direction="minimize")
    assert first != plan.ask(SPACE, [], seed=1, generation=2, count=3, direction="minimize")


def test_a_small_space_ends_with_its_last_value():
    space = (Choices("leave_out", ("", "a", "b")),)
    asked = plan.ask(
        space, [Done({"leave_out": "a"}, "complete", 1.0)], seed=0, generation=1, count=9, direction="maximize"
    )
    assert sorted(params["leave_out"] for params in asked) == ["", "b"]


def searched(direction):
    """Values of 8 generations of 4 trials of a known function, best where `rate` is 0.1 and `depth` 8."""
    sign, done = (1 if direction == "minimize" else -1), []
    for generation in range(1, 9):
        for params in plan.ask(SPACE, done, seed=3, generation=generation, count=4, direction=direction):
            far = math.log(params["rate"] / 0.1) ** 2 + math.log(params["depth"] / 8) ** 2
            done = [*done, Done(params, "complete", sign * far)]
    return done


def test_later_generations_are_nearer_to_the_best_than_the_first():
    for direction in ("minimize", "maximize"):
        far = [abs(trial.value) for trial in searched(direction)]
        first, last = far[: plan.RANDOM_TRIALS], far[16:]
        assert sum(last) / len(last) < sum(first) / len(first) and min(last) < min(first)


def test_importances_name_what_matters_and_add_up_to_one():
    found = plan.importances(SPACE, searched("minimize"), "minimize")
    assert found.keys() == {"depth", "leave_out", "rate", "weight"} and math.isclose(sum(found.values()), 1)
    assert found["depth"] + found["rate"] > 0.8
    assert found == plan.importances(SPACE, searched("minimize"), "minimize")


def test_importances_of_too_few_or_equal_trials_are_unknown():
    few = [Done({"x": 1.0 * n}, "complete", n) for n in range(3)]
    same = [Done({"x": 1.0 * n}, "complete", 1.0) for n in range(9)]
    space = (Numbers("x", 0, 9, log=False, whole=False),)
    assert plan.importances(space, few, "minimize") == plan.importances(space, same, "minimize") == {}


@given(st.lists(st.floats(0, 100), min_size=4, max_size=9))
def test_a_trial_is_ended_where_its_loss_is_above_the_median(losses):
    limits = dict(plan.stop_if_worse([((8, 200.0), (32, loss)) for loss in losses]))
    assert list(limits) == [32]  # not at 8: a small learning rate begins slowly
    above = sum(loss > limits[32] for loss in losses)
    assert above <= len(losses) / 2


def test_a_trial_that_ended_before_counts_with_its_last_loss_and_few_end_nobody():
    assert plan.stop_if_worse([((32, 1.0),)] * 3) == ()
    early, late = ((32, 1.0), (40, 0.5)), ((32, 4.0), (64, 3.0))
    assert plan.stop_if_worse([early, early, early, late]) == ((32, 1.0), (64, 0.5))


def test_the_best_is_complete_and_the_first_of_equals():
    done = [(0, Done({}, "failed")), (1, Done({}, "pruned", 0.1)), (2, Done({}, "complete", 2.0))]
    done += [(3, Done({}, "complete", 1.0)), (4, Done({}, "complete", 1.0)), (5, Done({}, "complete", math.nan))]
    assert plan.best(done, "minimize") == 3 and plan.best(done, "maximize") == 2
    assert plan.best(done[:2], "minimize") is None


@given(st.floats(0.1, 10), st.lists(st.floats(0, 2), max_size=9), st.integers(0, 9))
def test_no_trial_starts_that_would_exceed_the_budget_at_the_mean_cost(budget, spent, count):
    found = plan.affordable(budget, spent, count)
    assert 0 <= found <= count
    if spent and found and sum(spent):
        assert sum(spent) + found * sum(spent) / len(spent) <= budget * (1 + 1e-9)
    assert plan.affordable(None, spent, count) == count == plan.affordable(budget, [], count)
