"""A person approves what passed the gate, on a real MLflow."""

import pytest

from rempart.errors import ModelRefused
from rempart.flows.approval.decide import Decided, Desk
from rempart.flows.approval.directory import Directory
from rempart.flows.approval.rules import Person, Reply
from rempart.flows.training.validate import roll_back, validate
from rempart.models import registry
from rempart.models.tracking import session
from tests.integration.test_training import fast  # noqa: F401 - a fixture
from tests.unit.training import stage

pytestmark = pytest.mark.tracking
OWNER = Person(5, ("operator",))


def approve(platform, pipeline, version, *, dry_run=True) -> Decided:
    answer = Reply(True, OWNER, "errors are even over agents", platform.clock())
    return Desk(platform, pipeline).decide(version, answer, Directory((OWNER,)), dry_run=dry_run)


@pytest.mark.full
def test_a_candidate_waits_for_a_person_and_its_approval_is_evidence(fast):  # noqa: F811 - the fixture
    platform, pipeline, train = fast
    gated = stage.pipeline(
        pipeline.name,
        gate={"metric": "mae", "limit": 12, "baseline_by": ["agent"], "baseline_margin": 0.1}
        | {"approval": {"by": "operator", "four_eyes": False}},
    )
    ledger, tracking = platform.ledger, platform.tracking()
    first = train().version
    for _ in range(2):
        judged = validate(platform, gated)
        assert judged.awaits and not judged.promoted and judged.champion is None
    assert len(ledger.find("approval", pipeline.name)) == 1 and not ledger.find("promotion", pipeline.name)
    with session(tracking) as client:
        assert client.get_model_version(pipeline.name, first).tags["gate"] == "awaits approval"
    assert not approve(platform, gated, first).promoted
    assert registry.champion(tracking, pipeline.name) is None
    for _ in range(2):  # the second run changes nothing
        assert approve(platform, gated, first, dry_run=False).promoted
    (record,) = ledger.find("promotion", pipeline.name)
    assert record.body["approved_by"] == "user 5"
    assert record.body["approval"] == ledger.find("approval", pipeline.name)[0].seq
    assert registry.champion(tracking, pipeline.name) == first

    second = train({"max_iter": 80}).version
    assert validate(platform, gated).awaits
    assert validate(platform, pipeline, second).promoted  # another champion than the one it was judged against
    third = train({"max_iter": 100}).version
    assert validate(platform, gated).awaits
    roll_back(platform, pipeline, dry_run=False)
    anew = approve(platform, gated, third, dry_run=False)
    assert not anew.promoted and "was judged anew" in anew.told and "It waits again" in anew.told
    assert registry.champion(tracking, pipeline.name) == first
    with pytest.raises(ModelRefused, match=f"does not wait for an approval; these do: {third}"):
        approve(platform, gated, second)
    assert approve(platform, gated, third, dry_run=False).promoted
