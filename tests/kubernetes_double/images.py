"""The images that nodes can pull."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PATH = os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])


@dataclass(frozen=True)
class Image:
    """An image: its digest, the environment it sets and its entrypoint and command."""

    reference: str
    digest: str
    env: Mapping[str, str] = field(default_factory=dict)
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()

    @property
    def image_id(self) -> str:
        """What a container's status names: registry/repository@digest."""
        return f"{repository(self.reference)}@{self.digest}"


def repository(reference: str) -> str:
    """The reference without tag and digest, with the registry that a runtime supplies where it is missing."""
    name = reference.split("@", 1)[0]
    head, slash, last = name.rpartition("/")
    name = f"{head}{slash}{last.split(':', 1)[0]}"
    first = name.split("/", 1)[0]
    if "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}" if "/" in name else f"docker.io/library/{name}"
    return name


class Registry:
    """Images by reference; each is found by its digest too."""

    def __init__(self) -> None:
        self._images: dict[str, Image] = {}

    def add(
        self,
        reference: str,
        digest: str | None = None,
        env: Mapping[str, str] | None = None,
        entrypoint: Sequence[str] = (),
        command: Sequence[str] = (),
    ) -> Image:
        """Publishes an image; a reference that is published already is moved, as a tag is."""
        if digest is None:
            named = reference.partition("@")[2]
            digest = named or f"sha256:{hashlib.sha256(reference.encode()).hexdigest()}"
        image = Image(reference, digest, {"PATH": PATH} | dict(env or {}), tuple(entrypoint), tuple(command))
        for name in (reference, image.image_id, f"{reference.split('@', 1)[0]}@{digest}"):
            self._images[name] = image
        return image

    def remove(self, reference: str) -> None:
        """Unpublishes an image; what was pulled stays with its containers."""
        self._images.pop(reference, None)

    def find(self, reference: str) -> Image | None:
        """The image of a reference."""
        return self._images.get(reference)
