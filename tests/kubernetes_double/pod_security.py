"""Pod Security admission: the baseline and restricted profiles of the Pod Security Standards."""

from __future__ import annotations

from collections.abc import Callable

from .kinds import Obj

LABEL = "pod-security.kubernetes.io/enforce"
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_BASELINE_CAPABILITIES = {
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
}


def violations(spec: Obj, profile: str) -> list[str]:
    """What of a pod's spec breaks the profile (privileged, baseline or restricted), in the real admission's words."""
    if profile == "privileged":
        return []
    found = _baseline(spec)
    return found + _restricted(spec) if profile == "restricted" else found


def _containers(spec: Obj) -> list[Obj]:
    return [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]


def _context(container: Obj) -> Obj:
    return container.get("securityContext") or {}


def _named(spec: Obj, bad: Callable[[Obj], bool]) -> str:
    """`container "a"` or `containers "a", "b"` of those that are bad; empty where none is."""
    names = [f'"{each["name"]}"' for each in _containers(spec) if bad(each)]
    return f"container{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else ""


def _baseline(spec: Obj) -> list[str]:
    found: list[str] = []
    host = [f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    if host:
        found.append(f"host namespaces ({', '.join(host)})")
    if names := _named(spec, lambda each: bool(_context(each).get("privileged"))):
        found.append(f"privileged ({names} must not set securityContext.privileged=true)")

    def excess(container: Obj) -> bool:
        return not set((_context(container).get("capabilities") or {}).get("add") or []) <= _BASELINE_CAPABILITIES

    if names := _named(spec, excess):
        found.append(f"non-default capabilities ({names} must not include more in securityContext.capabilities.add)")
    paths = [f'"{volume["name"]}"' for volume in spec.get("volumes") or [] if "hostPath" in volume]
    if paths:
        found.append(f"hostPath volumes (volume{'s' if len(paths) > 1 else ''} {', '.join(paths)})")
    if names := _named(spec, lambda each: any(port.get("hostPort") for port in each.get("ports") or [])):
        found.append(f"hostPort ({names} uses hostPort)")
    return found


def _restricted(spec: Obj) -> list[str]:
    found: list[str] = []
    pod = spec.get("securityContext") or {}
    odd = [each["name"] for each in spec.get("volumes") or [] if not (set(each) - {"name"}) <= _VOLUMES]
    if odd:
        found.append(f"restricted volume types (volumes {', '.join(odd)} use restricted volume types)")
    if names := _named(spec, lambda each: _context(each).get("allowPrivilegeEscalation") is not False):
        found.append(
            f"allowPrivilegeEscalation != false ({names} must set securityContext.allowPrivilegeEscalation=false)"
        )

    def undropped(container: Obj) -> bool:
        return "ALL" not in ((_context(container).get("capabilities") or {}).get("drop") or [])

    def added(container: Obj) -> bool:
        return not set((_context(container).get("capabilities") or {}).get("add") or []) <= {"NET_BIND_SERVICE"}

    reasons = []
    if names := _named(spec, undropped):
        reasons.append(f'{names} must set securityContext.capabilities.drop=["ALL"]')
    if names := _named(spec, added):
        reasons.append(f"{names} must not include more in securityContext.capabilities.add")
    if reasons:
        found.append(f"unrestricted capabilities ({'; '.join(reasons)})")

    def rootful(container: Obj) -> bool:
        return _context(container).get("runAsNonRoot", pod.get("runAsNonRoot")) is not True

    if names := _named(spec, rootful):
        found.append(f"runAsNonRoot != true (pod or {names} must set securityContext.runAsNonRoot=true)")
    if pod.get("runAsUser") == 0:
        found.append("runAsUser=0 (pod must not set runAsUser=0)")
    if names := _named(spec, lambda each: _context(each).get("runAsUser") == 0):
        found.append(f"runAsUser=0 ({names} must not set runAsUser=0)")

    def unprofiled(container: Obj) -> bool:
        profile = _context(container).get("seccompProfile") or pod.get("seccompProfile") or {}
        return profile.get("type") not in ("RuntimeDefault", "Localhost")

    if names := _named(spec, unprofiled):
        found.append(
            f'seccompProfile (pod or {names} must set securityContext.seccompProfile.type to "RuntimeDefault" or '
            '"Localhost")'
        )
    return found
