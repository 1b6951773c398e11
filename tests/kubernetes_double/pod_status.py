"""A pod's status as its kubelet reports it: changes to a pod object, in place."""

from __future__ import annotations

from .cluster import set_condition, stamp
from .kinds import Obj
from .quota import finished

INIT, MAIN = "initContainerStatuses", "containerStatuses"
_LOCATED = "The container could not be located when the pod was terminated"


def begin(pod: Obj, address: str) -> None:
    """The node has taken the pod, and gives it an address of its own."""
    status = pod["status"]
    status.setdefault("startTime", stamp())
    status |= {"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}]}
    status |= {"podIP": address, "podIPs": [{"ip": address}]}
    inits = pod["spec"].get("initContainers") or []
    waiting = {"reason": "PodInitializing" if inits else "ContainerCreating"}
    for field, specs in ((INIT, inits), (MAIN, pod["spec"]["containers"])):
        if specs:
            status[field] = [
                {"name": spec["name"], "image": spec["image"], "imageID": "", "ready": False, "restartCount": 0}
                | {"started": False, "state": {"waiting": dict(waiting)}, "lastState": {}}
                for spec in specs
            ]
    set_conditions(pod)


def container(pod: Obj, field: str, name: str) -> Obj:
    """The status of one container."""
    found: Obj = next(each for each in pod["status"][field] if each["name"] == name)
    return found


def set_state(pod: Obj, field: str, name: str, state: Obj, more: Obj) -> None:
    """A container is in another state; `more` are other fields of its status."""
    each = container(pod, field, name)
    running = "running" in state
    if "waiting" in state and "terminated" in each["state"]:
        each["lastState"] = each["state"]
    each |= {"state": state, "ready": running, "started": running} | more
    if field == INIT and (state.get("terminated") or {}).get("exitCode") == 0:
        each["ready"] = True
    if running and field == MAIN:
        pod["status"]["phase"] = "Running"
    set_conditions(pod)


def set_conditions(pod: Obj) -> None:
    """Initialized, Ready and ContainersReady, from the containers' states."""
    status = pod["status"]
    inits, mains = status.get(INIT) or [], status.get(MAIN) or []

    def passed(each: Obj) -> bool:
        return "running" in each["state"] or (each["state"].get("terminated") or {}).get("exitCode") == 0

    if all(passed(each) for each in inits):
        set_condition(pod, "Initialized", "True")
    else:
        names = " ".join(each["name"] for each in inits if not passed(each))
        message = f"containers with incomplete status: [{names}]"
        set_condition(pod, "Initialized", "False", "ContainersNotInitialized", message)
    unready = [each["name"] for each in mains if not each["ready"]]
    for name in ("Ready", "ContainersReady"):
        if not unready:
            set_condition(pod, name, "True")
        elif finished(pod):
            completed = status["phase"] == "Succeeded"
            set_condition(pod, name, "False", "PodCompleted" if completed else "PodFailed")
        else:
            message = f"containers with unready status: [{' '.join(unready)}]"
            set_condition(pod, name, "False", "ContainersNotReady", message)


def end(pod: Obj, ending: tuple[str, str] | None) -> None:
    """The pod is over: by its containers' exit codes, or Failed with the reason and message that ended it."""
    status = pod["status"]
    if finished(pod):
        return
    states = [each["state"].get("terminated") for each in status.get(MAIN) or []]
    good = all(state is not None and state["exitCode"] == 0 for state in states)
    status["phase"] = "Succeeded" if good and ending is None else "Failed"
    if ending is not None:
        status["reason"], status["message"] = ending
    set_conditions(pod)


def lose_containers(pod: Obj) -> None:
    """A restarted node no longer has the containers."""
    for each in [*(pod["status"].get(INIT) or []), *(pod["status"].get(MAIN) or [])]:
        if "terminated" not in each["state"]:
            ended = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": _LOCATED}
            each |= {"state": {"terminated": ended}, "ready": False, "started": False}
