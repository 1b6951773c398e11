"""Rights: bearer tokens, and the rules of their users or of the roles that are bound to their accounts."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import Refusal, forbidden
from .kinds import Kind, Obj


@dataclass(frozen=True)
class Rule:
    """What a Role and its binding allow. Empty `namespaces` means all, as of a ClusterRoleBinding.

    `urls` are paths of the API server that are no resources; such a rule has no groups.
    """

    verbs: tuple[str, ...]
    api_groups: tuple[str, ...]
    resources: tuple[str, ...]
    namespaces: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()

    @staticmethod
    def of(rule: Rule | Mapping[str, Sequence[str]]) -> Rule:
        """A rule from a role's mapping, with `namespaces` added."""
        if isinstance(rule, Rule):
            return rule
        known = ("apiGroups", "resources", "namespaces", "resourceNames", "nonResourceURLs")
        if unknown := set(rule) - {"verbs", *known}:
            raise ValueError(f"a rule has no {sorted(unknown)}")
        groups, resources, namespaces, names, urls = (tuple(rule.get(name) or ()) for name in known)
        if not urls and not (groups and resources):
            raise ValueError("a rule names resources and their groups, or URLs")
        return Rule(tuple(rule["verbs"]), groups, resources, () if "*" in namespaces else namespaces, names, urls)

    def applies_in(self, namespace: str) -> bool:
        """Whether it was granted there; a request at cluster scope has an empty namespace."""
        return not self.namespaces or namespace in self.namespaces

    def allows(self, verb: str, group: str, resource: str, namespace: str, name: str) -> bool:
        """Whether it allows the request; `resource` may have a subresource, as pods/log."""
        subresource = resource.partition("/")[2]
        resources = {"*", resource} | ({f"*/{subresource}"} if subresource else set())
        return (
            bool({"*", verb} & set(self.verbs))
            and bool({"*", group} & set(self.api_groups))
            and bool(resources & set(self.resources))
            and self.applies_in(namespace)
            and (not self.resource_names or name in self.resource_names)
        )


ALL = Rule(("*",), ("*",), ("*",))


@dataclass(frozen=True)
class User:
    """An authenticated user."""

    name: str
    rules: tuple[Rule, ...]

    def may(self, verb: str, group: str, resource: str, namespace: str = "", name: str = "") -> bool:
        """Whether any rule allows the request."""
        return any(rule.allows(verb, group, resource, namespace, name) for rule in self.rules)

    def demand(self, verb: str, kind: Kind, subresource: str, namespace: str, name: str) -> None:
        """Raises Refusal 403 unless the request is allowed."""
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        if self.may(verb, kind.group, resource, namespace, name):
            return
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        why = f'User "{self.name}" cannot {verb} resource "{resource}" in API group "{kind.group}" {where}'
        raise forbidden(kind, name, why)


Account = tuple[str, str]
"""Namespace and name of a service account."""


class Tokens:
    """The tokens that the API server accepts. `bound` tells a service account's rules, asked at each request."""

    def __init__(self) -> None:
        self._users: dict[str, User | Account] = {}
        self.bound: Callable[[str, str], tuple[Rule, ...]] = lambda namespace, name: ()

    def add(self, name: str, rules: Iterable[Rule | Mapping[str, Sequence[str]]]) -> str:
        """A new token of a user."""
        token = f"{name.replace(':', '-')}-{secrets.token_hex(8)}"
        self._users[token] = User(name, tuple(Rule.of(rule) for rule in rules))
        return token

    def issue(self, namespace: str, name: str) -> str:
        """A new token of a service account."""
        token = f"{namespace}-{name}-{secrets.token_hex(16)}"
        self._users[token] = (namespace, name)
        return token

    def revoke(self, token: str) -> None:
        """Makes a token invalid."""
        self._users.pop(token, None)

    def authenticate(self, header: str | None) -> User:
        """The user of an Authorization header. Raises Refusal 401."""
        scheme, _, token = (header or "").partition(" ")
        user = self._users.get(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise Refusal(401, "Unauthorized")
        if isinstance(user, User):
            return user
        return User(f"system:serviceaccount:{user[0]}:{user[1]}", self.bound(*user))


def review(user: User, resource: str, body: Obj) -> Obj:
    """The answer to a SelfSubjectAccessReview or a SelfSubjectRulesReview."""
    spec: dict[str, Any] = body.get("spec") or {}
    if resource == "selfsubjectrulesreviews":
        shown = [rule for rule in user.rules if rule.applies_in(spec.get("namespace", ""))]
        rules = [
            {"verbs": [*rule.verbs], "apiGroups": [*rule.api_groups], "resources": [*rule.resources]}
            | ({"resourceNames": [*rule.resource_names]} if rule.resource_names else {})
            for rule in shown
            if not rule.urls
        ]
        others = [{"verbs": [*rule.verbs], "nonResourceURLs": [*rule.urls]} for rule in user.rules if rule.urls]
        return body | {"status": {"resourceRules": rules, "nonResourceRules": others, "incomplete": False}}
    wanted = spec.get("resourceAttributes")
    if not wanted:
        return body | {"status": {"allowed": ALL in user.rules}}
    resource = "/".join(filter(None, (wanted.get("resource", ""), wanted.get("subresource", ""))))
    request = (wanted.get("verb", ""), wanted.get("group", ""), resource, wanted.get("namespace", ""))
    allowed = user.may(*request, wanted.get("name", ""))
    return body | {"status": {"allowed": allowed} | ({"reason": "RBAC: allowed by RoleBinding"} if allowed else {})}
