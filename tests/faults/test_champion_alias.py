"""S8: the alias champion is moved by hand in MLflow. The ledger's decisions say which version is champion."""

import dataclasses
import secrets
from datetime import timedelta

import pytest

from rempart.flows.restore import restore_checks
from rempart.flows.training import champions
from rempart.flows.training.train import train_on
from rempart.flows.training.validate import roll_back, validate
from rempart.models import registry
from rempart.models.tracking import session
from rempart.settings import sections
from tests.unit.training import stage

pytestmark = pytest.mark.tracking


@pytest.fixture
def house(platform):
    """The stack's MLflow; site and ledger in memory. (platform, pipeline, train)"""
    own = stage.platform_in_memory(
        platform.config.model_copy(update={"buckets": sections.Buckets()}), platform.connections
    )
    pipeline = stage.pipeline(f"alias_{secrets.token_hex(4)}")
    backend = stage.InProcess(own.sites["primary"], platform.connections)

    def train(trees):
        table = stage.table()
        made = train_on(own, pipeline, table, "s1", params={"max_iter": trees}, backend=backend)
        return made.version

    yield own, pipeline, train
    with session(platform.tracking()) as client:
        client.delete_registered_model(pipeline.name)
        client.delete_experiment(client.get_experiment_by_name(pipeline.name).experiment_id)


def move(platform, pipeline, version):
    """As a person does in MLflow's pages."""
    with session(platform.tracking()) as client:
        client.set_registered_model_alias(pipeline.name, registry.CHAMPION, version)


def alarms(platform):
    return [record.body for record in platform.ledger.find("denial") if record.body["what"] == champions.ALARM]


def test_s8_a_refused_version_that_was_made_champion_by_hand_is_not_the_champion(house):
    platform, pipeline, train = house
    first = train(60)
    assert validate(platform, pipeline).promoted
    bad = train(1)
    assert not validate(platform, pipeline).promoted
    move(platform, pipeline, bad)
    third = train(80)
    judged = validate(platform, pipeline)
    assert judged.promoted and (judged.version, judged.previous) == (third, first)
    (promotion, before) = platform.ledger.find("promotion", pipeline.name)
    assert promotion.body["previous"] == first
    # compared with the true champion: the intruder's error is many times as large
    assert promotion.body["champion_metrics"]["mae"] == pytest.approx(before.body["metrics"]["mae"], rel=0.5)
    (told,) = alarms(platform)
    assert (told["found"], told["champion"]) == (bad, first) and "by hand" in told["reasons"][0]
    assert registry.champion(platform.tracking(), pipeline.name) == third


def test_the_refused_version_itself_is_judged_anew_and_the_alias_is_put_back(house):
    platform, pipeline, train = house
    first = train(60)
    assert validate(platform, pipeline).promoted
    bad = train(1)
    move(platform, pipeline, bad)
    judged = validate(platform, pipeline)
    assert not judged.promoted and judged.champion == first
    assert registry.champion(platform.tracking(), pipeline.name) == first
    assert len(alarms(platform)) == 1
    assert not validate(platform, pipeline).promoted
    assert len(alarms(platform)) == 1


def test_s8_an_alias_without_any_decision_is_taken_away(house):
    platform, pipeline, train = house
    version = train(1)
    move(platform, pipeline, version)
    assert not validate(platform, pipeline).promoted
    assert registry.champion(platform.tracking(), pipeline.name) is None
    (told,) = alarms(platform)
    assert (told["found"], told["champion"]) == (version, None)


@pytest.mark.full
def test_a_rollback_goes_from_the_champion_on_record(house):
    platform, pipeline, train = house
    versions = []
    for trees in (60, 80, 100):
        versions.append(train(trees))
        assert validate(platform, pipeline).promoted
    bad = train(1)
    move(platform, pipeline, bad)
    planned = roll_back(platform, pipeline)
    assert (planned.champion, planned.replaces) == (versions[1], versions[2]) and not alarms(platform)
    done = roll_back(platform, pipeline, dry_run=False, replaces=versions[2])
    assert done.done and registry.champion(platform.tracking(), pipeline.name) == versions[1]
    assert [told["found"] for told in alarms(platform)] == [bad]


@pytest.mark.full
def test_an_alias_back_at_the_champion_before_is_an_alarm_once_no_run_can_have_been_cut_off(house):
    platform, pipeline, train = house
    first, second = train(60), None
    assert validate(platform, pipeline).promoted
    second = train(80)
    assert validate(platform, pipeline).promoted
    move(platform, pipeline, first)
    assert validate(platform, pipeline).champion == second and not alarms(platform)
    move(platform, pipeline, first)
    later = dataclasses.replace(platform, clock=lambda: platform.clock() + timedelta(hours=2))
    assert validate(later, pipeline).champion == second and len(alarms(platform)) == 1


@pytest.mark.full
def test_a_restored_registry_whose_alias_was_moved_names_the_champion_on_record_again(house):
    platform, pipeline, train = house
    first = train(60)
    assert validate(platform, pipeline).promoted
    move(platform, pipeline, train(1))
    (check,) = restore_checks.champions(
        platform.tracking, platform.ledger, {pipeline.name: first}, platform.sites["primary"]
    )
    assert check.ok and "to the champion on record" in check.detail
    assert registry.champion(platform.tracking(), pipeline.name) == first


def test_a_look_names_the_moved_alias_and_changes_nothing(house):
    platform, pipeline, train = house
    first = train(60)
    assert validate(platform, pipeline).promoted
    assert not [line for line in champions.lines(platform) if pipeline.name in line]
    bad = train(1)
    move(platform, pipeline, bad)
    (line,) = [line for line in champions.lines(platform) if pipeline.name in line]
    assert line.startswith(champions.MOVED) and f"version {bad}" in line and f"version {first}" in line
    assert registry.champion(platform.tracking(), pipeline.name) == bad and not alarms(platform)


def test_a_look_names_an_alias_of_a_model_without_any_decision(house):
    platform, pipeline, train = house
    move(platform, pipeline, train(1))
    (line,) = [line for line in champions.lines(platform) if pipeline.name in line]
    assert line.startswith(champions.MOVED) and "version none" in line


@pytest.mark.full
def test_a_backup_says_so_and_puts_the_alias_back(house):
    platform, pipeline, train = house
    first = train(60)
    assert validate(platform, pipeline).promoted
    bad = train(1)
    move(platform, pipeline, bad)
    (line,) = champions.settle_all(
        platform.tracking,
        platform.ledger,
        platform.continuity.active_sites(platform.config.active_site),
        platform.clock,
        [pipeline.name],
    )
    assert f"put back to version {first}" in line and len(alarms(platform)) == 1
    assert registry.champion(platform.tracking(), pipeline.name) == first
