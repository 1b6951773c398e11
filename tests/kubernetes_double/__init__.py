"""A Kubernetes cluster for tests, without root or containers: the real HTTP API on 127.0.0.1, containers as processes.

API server (authentication, RBAC, admission, watches), scheduler, kubelets and the controllers that training jobs meet.
An image is a name, an environment and an entrypoint; a container is its command run as a local process, in its pod's
temporary folder. Volumes are folders there, at which variables point (mounts.py); workingDir and securityContext are
not applied. Each pod has an address of its own on this machine's loopback, so pods reach one another. With a Docker
Engine (containers.py) a pod is a container of a real image, with the user, rights, limits and volumes of its spec.

kmock (PyPI) was considered: it answers as a test scripts it, and has no scheduler, kubelet, quota or logs.
"""

from .access import Rule
from .api import Request
from .double import KubernetesDouble
from .history import PodRecord
from .images import Image

__all__ = ["Image", "KubernetesDouble", "PodRecord", "Request", "Rule"]
