"""A search from its frozen rows to its evidence, on sites and a ledger in memory; MLflow is not used here."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rempart.errors import IntegrityError, TrainingError
from rempart.flows.search import choose, freeze, records, trials
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import load
from rempart.settings.learning import Intervals
from rempart.training import datasets, experiment
from rempart.training.search import tracked
from tests.unit.settings.search.test_ranges import pipeline
from tests.unit.training import stage
from tests.unit.training.test_entrypoint import nowhere

START = datetime(2026, 11, 1, tzinfo=UTC)
SEARCH = {"trials": 6, "at_once": 2}


@pytest.fixture(autouse=True)
def told(monkeypatch):
    """Calls to MLflow: runs of jobs, with their tags, and what the search's run was told at its end."""
    found = {"jobs": [], "finished": []}

    def log(tracking, spec, features, metrics, files):
        found["jobs"].append(spec.tracking.tags)
        hashes = {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
        return experiment.Logged(f"run-{len(found['jobs'])}", "m-1", hashes)

    monkeypatch.setattr(experiment, "log", log)
    monkeypatch.setattr(tracked, "parent", lambda tracking, name, search, tags: f"parent-{search}")
    monkeypatch.setattr(tracked, "finish", lambda *given: found["finished"].append(given))
    return found


class House:
    """A platform in memory, a pipeline with a search, and its tasks as Airflow would run them."""

    def __init__(self, **search):
        self.now = START
        made = stage.platform_in_memory(load(stage.project_file("rempart.yaml")), nowhere)
        self.platform = replace(made, clock=lambda: self.now)
        self.site = self.platform.sites["primary"]
        self.backend = stage.InProcess(self.site, nowhere)
        self.pipeline = pipeline({**SEARCH, **search})
        self.search = freeze.freeze_rows(self.platform, self.pipeline, stage.table(), "s1")
        self.asked = []

    def generation(self, number, run=True):
        asked = trials.ask(self.platform, self.pipeline, self.search, self.asked, number)
        passed_on = json.loads(json.dumps([vars(each) for each in asked]))  # through Airflow's XCom
        assert [trials.AskedTrial.of(each) for each in passed_on] == asked
        self.asked += asked
        return [self.run(each) for each in asked] if run else asked

    def run(self, asked):
        return trials.run(self.platform, self.pipeline, self.search, asked, self.backend)

    def ordered(self, asked):
        """Return a trial with the job that it really is."""
        spec = trials._spec(self.platform, self.pipeline, self.search, asked)
        return replace(asked, job_id=spec.job_id)

    def choose(self):
        return choose.choose(self.platform, self.pipeline, self.search, self.asked)

    def whole(self):
        for number in range(1, self.pipeline.trainer.search.generations + 1):
            self.generation(number)
        return self.choose()


@pytest.fixture(scope="module")
def seen():
    """A whole search, and what MLflow was told: tests only read it."""
    with pytest.MonkeyPatch.context() as patch:
        found = {"jobs": [], "finished": []}

        def log(tracking, spec, features, metrics, files):
            found["jobs"].append(spec.tracking.tags)
            hashes = {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
            return experiment.Logged(f"run-{len(found['jobs'])}", "m-1", hashes)

        patch.setattr(experiment, "log", log)
        patch.setattr(tracked, "parent", lambda tracking, name, search, tags: f"parent-{search}")
        patch.setattr(tracked, "finish", lambda *given: found["finished"].append(given))
        house = House()
        return house, house.whole(), found


def test_one_record_tells_each_trial_once_and_the_best_has_the_smallest_error_on_validation(seen):
    house, chosen, _ = seen
    (search,) = records.searches(house.platform.ledger, "stays_test")
    assert [trial.number for trial in search.trials] == list(range(6))
    assert [trial.generation for trial in search.trials] == [1, 1, 2, 2, 3, 3]
    assert len({trial.job for trial in search.trials}) == 6
    complete = [trial for trial in search.trials if trial.state == "complete"]
    assert search.best_trial().value == min(trial.value for trial in complete) == pytest.approx(chosen.value)
    assert (search.metric, search.direction, search.ended, search.pruner) == ("mae", "minimize", "trials", "median")
    assert search.fixed == {"max_iter": 20}
    assert search.space["max_leaf_nodes"] == {"low": 4, "high": 31, "log": True}
    assert {trial.place for trial in search.trials} == {"local"} and all(trial.seconds > 0 for trial in search.trials)
    assert sum(search.importances.values()) == pytest.approx(1)
    assert search.seq > 0 and search.at is not None
    house.choose()  # the task is run again: the same search is one record
    assert len(house.platform.ledger.find("search")) == 1


def test_no_trial_opens_the_hold_out_learns_from_the_validation_part_or_becomes_a_version(seen):
    house, _, _ = seen
    ledger = house.platform.ledger
    assert ledger.find("opening") == ledger.find("candidate") == []
    results = trials.results(house.platform, house.pipeline, house.search, house.asked)
    place = results[0].spec.dataset
    for each in results:
        assert each.spec.backtest is None and not each.spec.validation.refit
        assert each.result.rows == each.result.validation.rows_fit < place.rows
    held_out = datasets.held_out_key("stays_test", place.held_out)
    assert place.key != held_out and "held-out" not in json.dumps([each.spec.model_dump_json() for each in results])


def test_each_trial_is_a_child_of_the_searchs_run_in_mlflow(seen):
    house, chosen, found = seen
    parent = f"parent-{house.search.search}"
    assert [tags["mlflow.parentRunId"] for tags in found["jobs"]] == [parent] * 6
    assert [tags["rempart.trial"] for tags in found["jobs"]] == [str(number) for number in range(6)]
    _, run, search, params, figures = found["finished"][0]
    assert (run, search, params) == (parent, house.search.search, chosen.params)
    assert figures["validation_mae"] == pytest.approx(chosen.value)


def test_an_equal_search_elsewhere_finds_the_same_parameters_and_figures(seen):
    house, chosen, _ = seen
    again = House()
    assert again.search.search == house.search.search
    assert again.whole() == chosen
    (first,), (second,) = (records.searches(each.platform.ledger) for each in (house, again))
    assert [(t.params, t.state, t.value, t.job) for t in first.trials] == [
        (t.params, t.state, t.value, t.job) for t in second.trials
    ]


def test_the_candidate_is_the_job_that_a_training_with_these_parameters_orders(seen):
    house, chosen, _ = seen
    spec = choose.order(house.platform, house.pipeline, house.search, chosen.params)
    params = {**house.pipeline.trainer.params, **chosen.params}
    plain = stage.pipeline(trainer={"params": params}, validation={"last": "60d"})
    assert spec.job_id == stage.ordered(house.platform, plain, stage.table()).job_id
    assert spec.trainer.params == params and spec.validation.refit


def test_a_trial_that_is_run_again_is_the_same_job_and_trains_nothing():
    house = House(pruner="none")
    first, second = house.generation(1)
    house.backend.lines.clear()
    assert house.run(house.asked[0]) == first and house.backend.lines == []
    # killed after it asked: the generation is asked for anew
    before, house.asked = house.asked, []
    assert trials.ask(house.platform, house.pipeline, house.search, [], 1) == before
    assert second.job != first.job


def test_a_hopeless_trial_is_pruned_in_a_later_generation_without_a_clock():
    """The first generation has good learning rates, and the second one that learns next to nothing."""
    house = House(trials=6, at_once=5, params={"learning_rate": {"low": 0.0001, "high": 0.5}})
    house.pipeline = house.pipeline.model_copy(
        update={"trainer": house.pipeline.trainer.model_copy(update={"params": {"max_iter": 64}})}
    )
    house.search = freeze.freeze_rows(house.platform, house.pipeline, stage.table(), "s1")
    good = [house.ordered(trials.AskedTrial(n, 1, {"learning_rate": 0.1 + 0.01 * n}, ())) for n in range(5)]
    for each in good:
        house.run(each)
    house.asked = good
    (asked,) = trials.ask(house.platform, house.pipeline, house.search, good, 2)
    assert [step for step, _ in asked.stop_if_worse] == [32, 64]
    bad = house.ordered(replace(asked, params={"learning_rate": 0.0002}))
    pruned = house.run(bad)
    assert pruned.state == "pruned" and pruned.value > max(house.run(each).value for each in good)
    house.asked = [*good, bad]
    assert house.choose().best != pruned.number


def test_a_failed_trial_does_not_end_the_search_and_without_a_complete_one_nothing_is_chosen():
    house = House()
    house.generation(1, run=False)
    with pytest.raises(TrainingError, match="none is complete"):
        house.choose()
    house.run(house.asked[1])
    assert house.choose().best == 1
    (search,) = records.searches(house.platform.ledger)
    failed = search.trials[0]
    assert (failed.state, failed.value, failed.run, failed.seconds) == ("failed", None, None, 0)


def test_a_job_that_tells_a_better_figure_than_its_model_gives_is_never_chosen():
    house = House()
    house.generation(1)
    lying = trials.results(house.platform, house.pipeline, house.search, house.asked)[0]
    told = lying.result.model_copy(update={"metrics": {**lying.result.metrics, "validation_mae": 0.001}})
    house.site.write("artifacts", lying.spec.key("result.json"), told.to_json())
    with pytest.raises(IntegrityError, match=r"its job tells mae 0\.001 on the validation part, but its model gives"):
        house.choose()
    assert house.platform.ledger.find("search") == []


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_a_figure_is_compared_in_the_targets_unit(unit):
    assert choose.agree(2.0 * unit, 2.000001 * unit, 10 * unit)
    assert not choose.agree(0.0, 2.0 * unit, 10 * unit) and not choose.agree(1.99 * unit, 2.0 * unit, 10 * unit)
    assert not choose.agree(float("nan"), 2.0 * unit, 10 * unit)


def test_a_result_of_other_rows_than_ordered_counts_as_failed():
    house = House()
    house.generation(1)
    odd = trials.results(house.platform, house.pipeline, house.search, house.asked)[0]
    told = odd.result.model_copy(update={"rows": odd.result.rows + 1})
    house.site.write("artifacts", odd.spec.key("result.json"), told.to_json())
    states = [each.trial.state for each in trials.results(house.platform, house.pipeline, house.search, house.asked)]
    assert states == ["failed", "complete"]


def test_after_its_time_a_search_asks_for_nothing_and_says_so():
    house = House(time="1h")
    house.generation(1)
    house.now = START + timedelta(minutes=61)
    assert house.generation(2) == []
    assert house.choose().ended == "time" and len(house.asked) == 2


def test_a_file_that_changed_meanwhile_ends_the_search_with_its_cause():
    house = House()
    house.generation(1)
    house.pipeline = pipeline({**SEARCH, "at_once": 3})
    with pytest.raises(TrainingError, match="has changed since it began") as refused:
        house.generation(2)
    assert "trigger search_stays_test" in refused.value.hint


@pytest.mark.parametrize("params", [{"max_leaf_nodes": 3000}, {"learning_rate": 0.9}, {"max_iter": 5}, {}])
def test_a_trial_that_was_not_asked_for_is_neither_trained_nor_chosen(params):
    """A person may change what tasks told each other in Airflow, with the id of the job that it then is."""
    house = House()
    first, second = house.generation(1, run=False)
    house.run(second)
    changed = {**first.params, **params} if params else {"learning_rate": first.params["learning_rate"]}
    forged = house.ordered(replace(first, params=changed))
    with pytest.raises(IntegrityError, match="outside of the ranges"):
        house.run(forged)
    house.asked = [forged, second]
    for go_on in (house.choose, lambda: house.generation(2)):
        with pytest.raises(IntegrityError, match="outside of the ranges"):
            go_on()
    assert house.platform.ledger.find("search") == []


def test_other_rows_than_those_on_record_end_the_search_although_its_id_fits():
    house = House()
    (first, _) = house.generation(1, run=False)
    other = stage.table().slice(0, stage.table().num_rows - 40)
    elsewhere = freeze.freeze_rows(replace(house.platform, ledger_=MemoryLedger()), house.pipeline, other, "s1")
    assert elsewhere.search != house.search.search
    mixed = {**house.search.dataset, "held_out": elsewhere.dataset["held_out"]}
    pair = replace(house.search, dataset=mixed)
    for forged in (elsewhere, replace(pair, search=freeze.identity(house.pipeline, pair.rows().dataset))):
        house.search = forged
        for go_on in (lambda: house.run(first), house.choose, lambda: house.generation(1)):
            with pytest.raises(IntegrityError, match="other rows than the search began with"):
                go_on()


@pytest.mark.parametrize("held_out", [False, True])
def test_a_search_on_rows_of_which_one_was_erased_meanwhile_gives_no_model(held_out):
    house = House(trials=2)
    house.generation(1)
    chosen, place = house.choose(), house.search.rows().dataset
    key = datasets.held_out_key("stays_test", place.held_out) if held_out else place.key
    gone = {"bucket": place.bucket, "key": key, "to": f"{key}-e1", "to_sha256": "e1" * 32}
    house.platform.ledger.append("erasure", "stays_test", {"state": "rewritten", "successors": [gone]})
    for go_on in (
        house.choose,
        lambda: house.run(house.asked[0]),
        lambda: house.generation(2),
        lambda: choose.train_found(house.platform, house.pipeline, house.search, chosen.params, house.backend),
    ):
        with pytest.raises(TrainingError, match="were erased since it began"):
            go_on()


def test_a_candidate_is_trained_with_the_parameters_on_record_only(seen):
    house, chosen, _ = seen
    choose.check_found(house.platform.ledger, house.pipeline, house.search, dict(chosen.params))
    for forged in ({**chosen.params, "max_leaf_nodes": 3}, {}, {**chosen.params, "l2_regularization": 1.0}):
        for train in (choose.train_found, choose.place_found, choose.finish_found):
            with pytest.raises(IntegrityError, match="other parameters than its record"):
                train(house.platform, house.pipeline, house.search, forged)


def test_a_generation_that_failed_to_ask_is_asked_later_and_no_number_stands_for_two_trials():
    house = House()
    first = house.generation(1, run=False)
    third = house.generation(3, run=False)  # the site did not answer the second
    second = trials.ask(house.platform, house.pipeline, house.search, first, 2)
    assert [each.number for each in (*first, *second, *third)] == [0, 1, 2, 3, 4, 5]
    house.asked = [*first, house.ordered(replace(third[0], number=0))]
    with pytest.raises(IntegrityError, match="same number"):
        house.choose()


def test_what_a_pool_trained_is_registered_by_the_order_for_the_found_parameters_alone(seen, monkeypatch):
    house, chosen, _ = seen
    finished = []
    monkeypatch.setattr(choose.pod_job, "finish", lambda *given: finished.append(given[2:]))
    choose.finish_found(house.platform, house.pipeline, house.search, chosen.params)
    candidate = choose.order(house.platform, house.pipeline, house.search, chosen.params)
    assert finished == [("artifacts", f"jobs/{candidate.job_id}/order.json")]


def test_a_file_that_changes_what_is_trained_is_not_taken_for_trials_that_failed():
    house = House()
    house.generation(1)
    house.pipeline = house.pipeline.model_copy(
        update={"trainer": house.pipeline.trainer.model_copy(update={"intervals": Intervals(coverage=0.8)})}
    )
    for go_on in (house.choose, lambda: house.generation(2)):
        with pytest.raises(TrainingError, match="has changed since it began"):
            go_on()


def test_more_trials_or_time_go_on_with_the_same_search():
    house = House()
    more = pipeline({**SEARCH, "trials": 60, "at_once": 2, "time": "2h", "gpu_hours": 1})
    assert freeze.identity(more, house.search.rows().dataset) == house.search.search


@pytest.mark.parametrize(
    ("made", "unasked", "over_time", "over_budget", "ended"),
    [
        (6, 0, True, True, "trials"),
        (4, 0, True, True, "budget"),
        (4, 0, True, False, "time"),
        (4, 0, False, False, "trials"),  # a small space has no more
        (4, 2, False, False, "unasked"),
        (4, 2, True, True, "unasked"),  # the limits passed later
        (3, 2, True, False, "time"),
        (3, 2, False, False, "unasked"),
    ],
)
def test_the_record_says_why_a_search_ended(made, unasked, over_time, over_budget, ended):
    assert choose.ended(made, 6, unasked=unasked, over_time=over_time, over_budget=over_budget) == ended


def test_a_search_that_could_not_ask_for_a_generation_does_not_say_that_it_made_all_its_trials():
    house = House()
    house.generation(1)
    house.generation(3, run=False)  # the site did not answer the second
    choose.choose(house.platform, house.pipeline, house.search, house.asked, unasked=[2])
    (search,) = records.searches(house.platform.ledger)
    assert (len(search.trials), search.ended) == (4, "unasked")
    house.asked += trials.ask(house.platform, house.pipeline, house.search, house.asked[:2], 2)  # cleared, and resumed
    house.choose()
    newest, _ = records.searches(house.platform.ledger)
    assert (len(newest.trials), newest.ended) == (6, "trials")
