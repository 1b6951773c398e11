"""K5: an erased subject does not come back by a restore, a killed run, or a second delivery of a file."""

import copy
import dataclasses
import itertools
import json
import secrets

import pytest

from rempart.backup.points import erasures as register
from rempart.backup.points.restore_plan import Part
from rempart.deployment.setup import paths
from rempart.errors import BackupError, IntegrityError, KeyDestroyed, SiteError, SiteUnavailable
from rempart.features import online, removal
from rempart.flows.backup.back_up import back_up
from rempart.flows.erasure import erase as erase_flow
from rempart.flows.replication.replicate import bring
from rempart.flows.restore import restore as restore_flow
from rempart.flows.restore import restore_erasures
from rempart.flows.restore.restore_source import Wish, find, open_point, plan
from rempart.flows.shared import erasures
from rempart.flows.shared import keys as flow
from rempart.flows.shared.keys import open_keyring, own_identity
from rempart.flows.training.materialize import materialize, materialize_rows
from rempart.ingestion import snapshots
from rempart.ledger.memory import MemoryLedger
from rempart.settings import sections
from rempart.settings.pipelines import load_all
from tests.erasable import ROWS, Lake, id_of, in_two_memories
from tests.integration.conftest import feature_databases  # noqa: F401 - a fixture
from tests.online_rows import online_rows
from tests.restorable import house
from tests.switchovers import Faulty

VICTIM = ROWS[3]
WHO = id_of(VICTIM)


def erase(lake, *bookings):
    keys = [(booking,) for booking in bookings]
    given = {"by": "data-protection-officer", "reason": "consent-withdrawn", "dry_run": False}
    return erase_flow.erase(lake.platform, lake.pipeline, keys, **given)


@pytest.fixture
def without_features(monkeypatch):
    monkeypatch.setattr(erase_flow, "reload_features", lambda *given: None)
    monkeypatch.setattr(erase_flow, "_feature_rows", lambda *given: {})
    monkeypatch.setattr("rempart.flows.erasure.erase_stores.feature_databases", lambda platform: None)


# --- the register -----------------------------------------------------------------------------------------------------

FORGED = {
    "unsigned": lambda body: body.split(b',"sig"')[0] + b"}\n",
    "altered": lambda body: body.replace(b'"reason":"objection"', b'"reason":"unlawful"'),
    "belongs to another place": lambda body: body,
    "made up": lambda body: json.dumps({"at": "2099-03-02T00:00:00Z", "pipeline": "bookings"}).encode(),
}


def entry_of(name, at, scope="platform-erasures-372d"):
    return register.Erasure(name, at, "bookings", ("a" * 64,), "officer", "objection", scope, "0001")


@pytest.mark.parametrize("attack", FORGED)
def test_k5_a_register_that_nobody_vouches_for_refuses_the_restore_unless_it_is_passed_by(tmp_path, attack, caplog):
    """Whoever can write there could hide an erasure, or have rows deleted that nobody wanted to be."""
    from tests.restorable import NOW, SIGNER

    made = house()
    made.point()
    name = "20990302T000000Z-0000000a"
    true = entry_of(name, NOW)
    where = register.key_of(name if attack != "belongs to another place" else "20990302T000000Z-0000000b")
    made.haven.write("backups", where, FORGED[attack](register.encode(true, SIGNER)))
    wish = Wish("haven", parts=(Part("dataset", "bookings"),))
    point, stack = made.open(), dataclasses.replace(paths.current(), var=tmp_path / "var")
    with pytest.raises(IntegrityError, match=where):
        restore_flow.restore(stack, point, wish, plan(point, wish), live=lambda: made.platform)
    assert not list(made.primary.list("lake"))
    assert restore_erasures.register_of(point, force=True) == []
    assert where in caplog.text


def test_k5_without_the_key_of_the_register_a_restore_is_refused():
    from tests.restorable import NOW, SIGNER

    made = house()
    made.point()
    entry = entry_of("20990302T000000Z-0000000a", NOW, "platform-erasures-9d")
    made.haven.write("backups", register.key_of(entry.id), register.encode(entry, SIGNER))
    with pytest.raises(BackupError, match="There is no key 0001 of scope platform-erasures-9d"):
        restore_erasures.register_of(made.open(), force=False)


def test_k5_beside_the_platform_erased_rows_are_refused_unless_that_is_said(caplog):
    from tests.restorable import SIGNER

    made = house()
    made.point()
    key = made.ring.open_or_make(register_scope())
    at = made.clock.replace(year=2100)
    entry = entry_of("21000302T000000Z-0000000a", at, key.scope.id)
    made.haven.write("backups", register.key_of(entry.id), register.encode(entry, SIGNER))
    point = made.open()
    entries = restore_erasures.register_of(point, force=False)
    wish = Wish("haven", parts=(Part("dataset", "bookings"),), aside="replica_of")
    with pytest.raises(BackupError, match="1 erasure is newer than the point"):
        restore_erasures.refuse_side_by_side(point, entries, plan(point, wish), MemoryLedger(), force=False)
    restore_erasures.refuse_side_by_side(point, entries, plan(point, wish), MemoryLedger(), force=True)
    assert "holds those rows again" in caplog.text
    models = plan(point, Wish("haven", parts=(Part("bucket", "artifacts"),)))
    restore_erasures.refuse_side_by_side(point, entries, models, MemoryLedger(), force=False)


def register_scope():
    from rempart.backup.keys.encryption_scopes import EncryptionScope

    return EncryptionScope("platform", register.KEYS, "372d")


def test_k5_the_register_cannot_be_taken_away_before_the_last_point_is_gone(without_features):
    lake = in_two_memories()
    lake.take_in("one", ROWS[:6])
    erase(lake, WHO)
    for name in ("primary", "haven"):
        (info,) = lake.site(name).versions("backups", register.PREFIX)
        until = lake.site(name).retained_until("backups", info.key, info.version_id)
        assert (until - lake.platform.clock()).days >= 12 * 31
        with pytest.raises(SiteError, match="locked until"):
            lake.site(name).delete("backups", info.key, version_id=info.version_id)
        lake.site(name).delete("backups", info.key)  # hidden is all that it can be, and that hides nothing
        ((_, body),) = register.read(lake.site(name), "backups")
        assert register.decode(info.key, body, lake.platform.trusted_keys()).pipeline == "hotel_bookings"


def test_k5_who_destroys_the_key_of_the_register_cannot_take_in_rows_any_more(without_features):
    lake = in_two_memories()
    lake.take_in("one", ROWS[:6])
    erase(lake, WHO)
    open_keyring(lake.platform).destroy(register_scope(), dry_run=False)
    with pytest.raises(KeyDestroyed):
        lake.take_in("two", ROWS[6:8])


def test_k5_the_key_of_the_register_is_not_destroyed_while_an_erasure_needs_it(without_features):
    lake = in_two_memories()
    lake.take_in("one", ROWS[:6])
    ring, scope = open_keyring(lake.platform), register_scope()
    ring.open_or_make(scope)
    assert flow.destroy(lake.platform.ledger, ring, scope.id).copies, "nobody was erased: it may go"
    erase(lake, WHO)
    for dry_run in (True, False):
        with pytest.raises(BackupError, match="1 erasure on record could not be applied any more"):
            flow.destroy(lake.platform.ledger, ring, scope.id, dry_run=dry_run)
    assert ring.open(scope), "no copy was deleted"
    lake.take_in("two", ROWS[6:8])


# --- a run that was cut off -------------------------------------------------------------------------------------------


def test_x1_an_erasure_cut_off_at_any_change_is_completed_by_the_next_run(without_features, monkeypatch):
    """After each prefix of its writes and deletes: the current snapshot can be read, and the same command converges."""
    loaded, whole = load_all(), in_two_memories()
    for module in ("erasure.erase_stores", "shared.keys"):  # the files of pipelines take longer to read than all else
        monkeypatch.setattr(f"rempart.flows.{module}.load_all", lambda: loaded)
    whole.take_in("one", ROWS[:6])
    whole.replicate()
    open_keyring(whole.platform).open_or_make(register_scope())
    for cut in itertools.count():
        sites, ledger = copy.deepcopy(whole.platform.sites), copy.deepcopy(whole.platform.ledger_)
        lake = Lake(dataclasses.replace(whole.platform, sites=sites, ledger_=ledger), whole.pipeline)
        done = itertools.count()

        def dies(name, cut=cut, done=done):
            if next(done) >= cut:
                raise SiteUnavailable("the process is gone", "Run again.")

        real = dict(lake.platform.sites)
        for name, site in real.items():
            lake.platform.sites[name] = Faulty(site, ("write", "write_new", "delete"), dies)
        try:
            ended = not erase(lake, WHO).pending
        except SiteUnavailable:
            ended = False
        lake.platform.sites.update(real)
        current = snapshots.current(lake.site("primary"), lake.bucket, "hotel_bookings")
        assert current and snapshots.load_table(lake.site("primary"), lake.bucket, current).num_rows in (5, 6)
        assert not erase(lake, WHO).pending
        assert lake.holders(WHO) == []
        now = snapshots.current(lake.site("primary"), lake.bucket, "hotel_bookings")
        assert now and now.rows == 5
        assert len(erasures.on_record(lake.platform.ledger)) == 1
        if ended:
            break
    assert cut > 8


# --- delivered once more ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["the same file", "among other rows", "with other values", "malformed"])
def test_a4_an_erased_row_that_is_delivered_again_does_not_come_back(without_features, again):
    lake = in_two_memories()
    lake.take_in("one", ROWS[:6])
    erase(lake, WHO)
    changed = VICTIM.split(",")
    changed[1] = "12.5"
    rows = {
        "the same file": ROWS[:6],
        "among other rows": [*ROWS[6:8], VICTIM],
        "with other values": [",".join(changed)],
        "malformed": [VICTIM + ",one,too,many"],
    }[again]
    result = lake.take_in("two", rows)
    assert result.total_rows == (7 if again == "among other rows" else 5)
    assert lake.holders(WHO) == []
    if again == "the same file":
        assert result.deliveries == 0
        return
    assert result.quarantined == 1 and result.accepted + 1 == result.delivered
    assert "1 × erased" in result.worst[0]
    assert erase_flow.again(lake.platform)[0].found == {}


# --- beside the stack -------------------------------------------------------------------------------------------------


@pytest.fixture
def standing(platform, proven_ledger, own_continuity, feature_databases, monkeypatch):  # noqa: F811
    """The lake at both of the stack's sites, in the test's own buckets; scratch feature stores; a ledger in memory."""
    monkeypatch.setattr("rempart.flows.backup.back_up.DATABASES", ("continuity",))
    monkeypatch.setattr("rempart.flows.erasure.erase_stores.feature_databases", lambda platform: feature_databases)
    monkeypatch.setattr("rempart.flows.training.materialize.feature_databases", lambda platform: feature_databases)
    mark = f"erase-{secrets.token_hex(4)}"
    buckets = sections.Buckets(
        landing=f"{mark}-landing", lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups"
    )
    sites = [platform.site(name, "personal") for name in ("primary", "haven")]
    for site in sites:
        for name in (buckets.landing, buckets.lake, buckets.artifacts):
            site.ensure_bucket(name, versioned=name != buckets.landing)
        site.ensure_bucket(buckets.backups, versioned=True, locked=True)  # and so it stays after the test
    settings = platform.config.model_copy(update={"buckets": buckets})
    lake = Lake(dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_continuity))
    yield lake
    removal.remove(feature_databases, lake.pipeline)  # another module loads a pipeline of this name
    for site in sites:
        for name in (buckets.landing, buckets.lake, buckets.artifacts):
            site.drop_bucket(name)


def features(lake, databases, booking):
    """What both feature stores have of a booking: rows offline, and values online."""
    from rempart.features import offline

    (row,) = online_rows(databases, lake.pipeline, "booking", [{"booking_id": booking}])
    there = [value for name, value in row.items() if name != "booking_id" and value is not None]
    return sum(key[0] == booking for key in offline.keys(databases, lake.pipeline)), len(there)


def copied(ledger):
    """A ledger as a dump of it holds it."""
    made = MemoryLedger()
    for kind in ("capabilities", "snapshot", "restore-point", "backup-key"):
        for record in reversed(ledger.find(kind, limit=1000)):
            made.append(kind, record.subject, record.body)
    return made


@pytest.mark.tracking
def test_k5_a_restore_does_not_bring_an_erased_booking_back(standing, stack, feature_databases, caplog):  # noqa: F811
    lake = standing
    lake.take_in("one", ROWS[:20])
    lake.take_in("two", ROWS[20:24])
    materialize(lake.platform, lake.pipeline)
    before = snapshots.current(lake.site("primary"), lake.bucket, "hotel_bookings")
    old_rows = snapshots.load_table(lake.site("primary"), lake.bucket, before)
    assert features(lake, feature_databases, WHO)[0] == 1 and features(lake, feature_databases, WHO)[1] > 5
    point_id = back_up(lake.platform).id
    old_ledger = copied(lake.platform.ledger)
    assert lake.holders(WHO, "haven") and lake.holders(WHO, "primary")

    done = erase(lake, WHO)
    assert not done.pending, done
    assert lake.holders(WHO) == [] and features(lake, feature_databases, WHO) == (0, 0)
    assert features(lake, feature_databases, id_of(ROWS[4]))[0] == 1
    # replication brings what stands now, and misses nothing that went
    bring(lake.platform, "primary", "haven", ("lake",), whenever=True)
    there = {name: [info.key for info in lake.site(name).list(lake.bucket)] for name in ("primary", "haven")}
    assert there["primary"] == there["haven"] and lake.holders(WHO) == []

    # everything as it was at the point: its lake by the restore, its databases played here
    materialize_rows(feature_databases, lake.pipeline, old_rows.to_reader(), before.id, lake.platform.clock())
    assert features(lake, feature_databases, WHO)[0] == 1
    wish = Wish("haven", point=point_id, parts=(Part("dataset", "hotel_bookings"),), force=True)
    detached = dataclasses.replace(lake.platform, ledger_=MemoryLedger())
    opened = open_point(
        find(detached, wish, lake.platform.trusted_keys()), wish, own_identity(lake.platform.connections)
    )
    restored = dataclasses.replace(lake.platform, ledger_=old_ledger)
    result = restore_flow.restore(stack, opened, wish, plan(opened, wish), live=lambda: restored)
    check = next(check for check in result.checks if "applied again" in check.what)
    assert check.ok and "1 subject" in check.what and "no row is found" in check.detail
    assert "sealed" in str(result.served)  # the rows did come back with it, before they went again
    assert lake.holders(WHO) == [] and features(lake, feature_databases, WHO) == (0, 0)
    after = snapshots.current(lake.site("primary"), lake.bucket, "hotel_bookings")
    assert after.rows == before.rows - 1
    states = [record.body["state"] for record in old_ledger.find("erasure")]
    assert set(states) == {"registered", "rewritten", "condemned", "ended"}
    # a delivery after it does not bring the booking back either, and whoever was not erased is served
    assert Lake(restored).take_in("three", [VICTIM, ROWS[30]]).quarantined == 1
    assert lake.holders(WHO) == [] and features(lake, feature_databases, id_of(ROWS[4]))[0] == 1
    # S2: the key of nobody is told
    message = json.dumps(
        [record.body for ledger in (old_ledger, lake.platform.ledger) for record in ledger.find("erasure")]
    )
    for text in (message, caplog.text):
        assert str(WHO) not in text


@pytest.mark.tracking
def test_k5_what_a_crash_left_online_goes_with_the_next_run(standing, feature_databases, monkeypatch):  # noqa: F811
    lake = standing
    lake.take_in("one", ROWS[:8])
    materialize(lake.platform, lake.pipeline)

    def dies(*given, **more):
        raise SiteUnavailable("the process is gone", "Run again.")

    with monkeypatch.context() as patched:
        patched.setattr(online, "materialize", dies)
        with pytest.raises(SiteUnavailable):
            erase(lake, WHO)
    assert features(lake, feature_databases, WHO)[1] > 5
    assert not erase(lake, WHO).pending
    assert features(lake, feature_databases, WHO) == (0, 0) and lake.holders(WHO) == []
