"""Faults that a restore must survive or refuse: at sites in memory, and beside the stack if servers matter."""

import dataclasses
from pathlib import Path

import pytest

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import parse
from rempart.backup.keys.keyring import KeyPlace, Keyring
from rempart.backup.points import chain
from rempart.backup.points.object_sources import ObjectSources
from rempart.deployment.setup import paths
from rempart.errors import BackupError, ConfigError, IntegrityError, KeyMissing, KeyWrong, SiteUnavailable
from rempart.flows.restore import restore as flow
from rempart.flows.restore.restore_objects import Bringer
from rempart.flows.restore.restore_refusals import only_restore
from rempart.flows.restore.restore_source import Wish, find, plan
from rempart.ledger.keys import signer
from tests.memory_site import MemorySite
from tests.restorable import BODIES, OWN, SECRETS, TRUSTED, flip, house, wipe

# --- I7: what nobody vouches for is refused ---------------------------------------------------------------------------


def test_i7_a_manifest_that_was_altered_is_refused():
    made = house()
    point = made.point()
    key = f"points/{point}/manifest.json"
    bent = made.haven.read("backups", key).replace(b'"source":"primary"', b'"source":"mine"')
    made.haven.write("backups", key, bent)  # on top: the version that the link names is still beneath
    assert made.open().manifest.source == "primary"
    flip(made.haven, "backups", key, lambda body: bent)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        made.open()


@pytest.mark.parametrize(
    ("attack", "why"),
    [
        (lambda body: body.replace(b'"consistent":true', b'"consistent":false'), "signature does not match"),
        (lambda body: body[: body.index(b',"sig"')] + b"}\n", "it is not a link"),
    ],
    ids=["altered", "unsigned"],
)
def test_i7_a_link_that_was_altered_or_is_unsigned_is_refused(attack, why):
    made = house()
    points_made = [made.point() for _ in range(3)]
    key = chain.key_of(2)
    made.haven.write("backups", key, attack(made.haven.read("backups", key)))
    assert made.open().manifest.id == points_made[2], "what lies on top of a link displaces nothing"
    flip(made.haven, "backups", key, attack)
    for wish in ({}, {"point": points_made[0]}, {"force": True}):
        with pytest.raises(IntegrityError, match=f"broken at link 2 .*{why}"):
            made.open(**wish)
    # only who names an older point and says so gets one from before the break
    assert made.open(point=points_made[0], force=True).manifest.id == points_made[0]
    with pytest.raises(IntegrityError, match="the chain has none"):
        made.open(point=points_made[2], force=True)


def test_i7_a_link_that_is_gone_breaks_the_chain():
    made = house()
    for _ in range(3):
        made.point()
    made.haven.delete("backups", chain.key_of(2))  # a marker hides nothing: the version is still there
    assert len(made.find().links) == 3
    wipe(made.haven, "backups", chain.key_of(2))
    with pytest.raises(IntegrityError, match=r"broken at link 2 .*it is missing"):
        made.open()
    wipe(made.haven, "backups", chain.key_of(3))  # with the newest links gone, their points betray it
    with pytest.raises(IntegrityError, match="2 at the site have no link in the chain"):
        made.open()


def test_i7_a_point_of_another_signer_is_refused():
    made = house()
    made.point()
    made.point(signed_by=signer(bytes(32)))
    with pytest.raises(IntegrityError, match="which is not trusted"):
        made.open()
    with pytest.raises(IntegrityError, match="which is not trusted"):
        made.find(trusted={})


def test_i7_a_point_without_a_link_is_refused():
    made = house()
    made.point()
    stranger = made.point(vouched=False)
    with pytest.raises(IntegrityError, match=stranger):
        made.open()


def test_i7_an_older_point_and_an_inconsistent_one_are_taken_only_where_that_is_said():
    made = house()
    old, whole, lacking = made.point(), made.point(), made.point(dangling=("model x version 1: artifacts/x/",))
    assert made.open().manifest.id == whole
    with pytest.raises(BackupError, match=f"{old} is older than {whole}"):
        made.open(point=old)
    assert made.open(point=old, force=True).manifest.id == old
    assert made.open(point=lacking).manifest.dangling


def test_k1_a_wrong_identity_and_a_missing_key_are_refused_before_anything_is_done():
    made = house()
    made.point()
    with pytest.raises(KeyWrong, match="was not encrypted for"):
        plan(made.open(identity=age.new_identity()), Wish("haven"))
    for site in (made.haven, made.primary):
        for info in [*site.versions("backups", "keys/")]:
            site.delete("backups", info.key, version_id=info.version_id)
    with pytest.raises(KeyMissing, match="There is no key"):
        plan(made.open(), Wish("haven"))


def test_x7_a_damaged_card_of_another_key_stops_no_restore_and_is_told(caplog):
    made = house()
    made.point()
    for card in ("keys/dataset-other-1d/0001.json", "keys/dataset-bookings-395d/0001.json"):
        made.haven.write("backups", card, b'{"scope": "dataset-bookings-395d", "serial"')
    done = plan(made.open(), Wish("haven"))
    assert len(done.objects) == len(BODIES) and not done.withheld
    assert "keys/dataset-other-1d/0001.json in bucket backups at site 'haven': it is not valid" in caplog.text
    made.point()  # and a backup goes on: the key is there, and its card is written anew
    assert not Keyring((KeyPlace(made.haven, "backups"),), OWN, (), made.platform.clock).damaged(
        parse("dataset-bookings-395d")
    )


def test_x7_a_damaged_card_without_its_key_makes_no_new_key():
    made = house()
    made.point()
    for site in (made.haven, made.primary):
        site.write("backups", "keys/dataset-bookings-395d/0001.json", b"{")
        for info in list(site.versions("backups", "keys/dataset-bookings-395d/0001.age")):
            site.delete("backups", info.key, version_id=info.version_id)
    with pytest.raises(KeyMissing):
        made.point()
    with pytest.raises(IntegrityError, match=r"0001\.json.*it is not valid"):
        made.ring.open_or_make(parse("dataset-bookings-395d"))
    assert not [info for info in made.haven.list("backups", "keys/dataset-bookings-395d/") if info.key.endswith(".age")]


def test_k1_a_key_that_the_backup_site_lost_is_taken_from_another_site():
    made = house()
    made.point()
    for scope in ("dataset-bookings-395d", "platform-platform-372d"):
        body = made.haven.read("backups", f"keys/{scope}/0001.age")
        made.primary.write("backups", f"keys/{scope}/0001.age", body)
        made.haven.delete("backups", f"keys/{scope}/0001.age")
    assert made.open().secrets() == SECRETS


def test_k1_a_destroyed_scope_stays_gone_and_everything_else_comes_back():
    made = house()
    made.point()
    made.ring.destroy(parse("dataset-bookings-395d"), dry_run=False)
    selection = plan(made.open(), Wish("haven"))
    assert selection.withheld == {"dataset-bookings-395d": 1}
    assert [obj.key for obj in selection.objects] == ["mlflow/1/model.onnx"]


def test_a_site_that_is_not_declared_is_named():
    made = house()
    with pytest.raises(ConfigError, match="Site 'elsewhere' is not declared"):
        find(made.platform, Wish("elsewhere"), TRUSTED)


# --- C1: a site dies during the restore -------------------------------------------------------------------------------

MANY = {("artifacts", f"mlflow/{n:03}"): f"{n}".encode() * 10 for n in range(60)}


def bringer(made, target):
    point = made.open()
    copies = ObjectSources(point.site, "backups", lambda name: name, point.keys.of_sealed, point.others)
    return point, Bringer(copies, target, lambda name: f"{name}-aside")


def test_c1_a_site_dies_during_a_restore_and_the_other_copy_serves_object_by_object():
    made = house()
    made.point(MANY)
    for (bucket, key), body in MANY.items():
        made.primary.write(bucket, key, body)
    target = MemorySite("third")
    point, bringing = bringer(made, target)
    real, reads = made.haven.fetch, []

    def dies(bucket, key, **more):
        reads.append(key)
        if len(reads) > 25:
            raise SiteUnavailable(f"get {bucket}/{key} at site 'haven': no answer", "Wait.")
        return real(bucket, key, **more)

    def gone(*arguments, **more):
        raise SiteUnavailable("open at site 'haven': no answer", "Wait.")

    made.haven.fetch = dies
    opens = made.haven.open
    made.haven.open = lambda *a, **k: opens(*a, **k) if len(reads) <= 25 else gone()
    selection = plan(point, Wish("haven"))
    brought = bringing.bring(selection.objects, workers=1)
    assert brought.served["replica"] == 25 and brought.served["site primary"] == 35
    assert {key: target.read("artifacts-aside", key) for _, key in MANY} == {
        key: body for (_, key), body in MANY.items()
    }


def test_c1_damaged_replicas_are_replaced_by_their_sealed_forms():
    made = house()
    made.point(MANY)
    for number in range(0, 60, 3):
        key = f"mlflow/{number:03}"
        made.haven.delete("artifacts", key, version_id=made.haven.head("artifacts", key).version_id)
    target = MemorySite("third")
    point, bringing = bringer(made, target)
    brought = bringing.bring(plan(point, Wish("haven")).objects)
    assert brought.served == {"replica": 40, "sealed": 20}
    assert len(brought.passed_over) == 5 and "mlflow/000" in " ".join(brought.passed_over)
    assert all(target.read("artifacts-aside", key) == body for (_, key), body in MANY.items())


def test_x1_objects_of_a_broken_off_run_are_not_copied_again():
    made = house()
    made.point(MANY)
    target = MemorySite("third")
    point, bringing = bringer(made, target)
    selection, real, puts = plan(point, Wish("haven")), target.write_file, []

    def breaks(bucket, key, *arguments, **more):
        puts.append(key)
        if len(puts) > 20:
            raise SiteUnavailable(f"put {bucket}/{key} at site 'third': no answer", "Wait.")
        return real(bucket, key, *arguments, **more)

    target.write_file = breaks
    with pytest.raises(SiteUnavailable, match="objects were not restored"):
        bringing.bring(selection.objects, workers=1)
    target.write_file = real
    target.write("artifacts-aside", "mlflow/000", b"spoilt".ljust(len(MANY["artifacts", "mlflow/000"]), b"!")[:10])
    brought = bringing.bring(selection.objects, workers=1)
    assert brought.served == {"in place": 19, "replica": 41}


def test_x5_a_full_disk_while_objects_come_is_named_and_the_next_run_goes_on():
    made = house()
    made.point(MANY)
    target = MemorySite("third")
    point, bringing = bringer(made, target)
    held = plan(point, Wish("haven")).objects[0]
    with pytest.raises(
        BackupError, match=r"artifacts/mlflow/000 could not be written to /dev: No space left"
    ) as refused:
        bringing.copies.fetch(held, Path("/dev/full"))
    assert "TMPDIR" in refused.value.hint
    assert bringing.bring(plan(point, Wish("haven")).objects).served == {"replica": 60}


# --- X2: two at once --------------------------------------------------------------------------------------------------


def test_x2_a_second_restore_beside_a_live_one_is_refused_before_it_changes_anything(tmp_path):
    made = house()
    made.point()
    wish, stack = Wish("haven", aside="x"), dataclasses.replace(paths.current(), var=tmp_path / "var")
    point = made.open()
    with only_restore(stack), pytest.raises(BackupError, match="Another restore runs"):
        flow.restore(stack, point, wish, plan(point, wish), live=lambda: made.platform)
    assert not list(stack.var.glob("restore*.json"))


# --- D6 ---------------------------------------------------------------------------------------------------------------


def test_d6_without_the_fernet_key_a_restore_into_place_is_refused_before_anything_is_changed(tmp_path):
    made = house()
    made.point(kept={"AIRFLOW_CONN_S3_PRIMARY": "{}"})
    wish, stack = Wish("haven"), dataclasses.replace(paths.current(), var=tmp_path / "var")
    point = made.open()
    with pytest.raises(BackupError, match="lack Airflow's Fernet key"):
        flow.restore(stack, point, wish, plan(point, wish), live=lambda: made.platform)
    assert not stack.secrets.exists() and not stack.postgresql_data.exists()
