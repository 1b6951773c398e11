"""The facts of a DAG that the rules judge, read from Airflow's objects: connections, images, owner, timeout.

Arguments are found by their names, as Airflow's operators use them: `..._conn_id` or `..._connection_id` names a
connection, `image` a container image. What a task does in its own code (a hook inside a function) cannot be seen here;
the egress rules and the network layer hold for that.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import cache
from types import FunctionType
from typing import Any

from airflow.sdk import BaseHook, BaseNotifier, BaseOperator
from airflow.triggers.base import BaseTrigger

from rempart.sovereignty.dag_rules import DagFacts, Image, Named, TaskFacts

_CONNECTION = re.compile(r"(^|_)conn(ection)?_ids?\Z")
_CLUSTER = ("config_file", "cluster_context", "in_cluster")
_POD = ("full_pod_spec", "pod_template_dict", "init_containers", "executor_config")
_HOLDERS = (BaseHook, BaseNotifier, BaseTrigger)
"""Objects whose own attributes may name connections."""
_BUILT_IN = frozenset((dict, list, tuple))
_CONTAINERS = (dict, list, tuple, Mapping, *_HOLDERS)
_PLAIN = frozenset((type(None), str, bool, int, float, set, frozenset, timedelta, datetime, FunctionType))
_OF_EVERY_TASK = frozenset(BaseOperator.__dataclass_fields__) - {
    "executor_config",
    *(name for name in BaseOperator.__dataclass_fields__ if name.endswith("_callback")),
}
"""Attributes that every operator has and that name nothing."""
_NOT_ARGUMENTS = frozenset({"params", "dag", "task_group", "default_args"})
_NAMES_NOTHING = _OF_EVERY_TASK | _NOT_ARGUMENTS


@cache
def _matters(name: str) -> bool:
    """Return whether the rules judge an argument of this name, whatever its value."""
    return _CONNECTION.search(name) is not None or name == "image" or name in _CLUSTER or name in _POD


@cache
def _telling(*names: str) -> tuple[tuple[str, bool], ...]:
    """Return arguments that may name a connection or image, and whether they are checked whatever their value.

    All operators of a class have the same attributes, so most answers come from the cache.
    """
    return tuple((name, _matters(name)) for name in names if name not in _NAMES_NOTHING)


def _relevant(values: Mapping[str, Any], names: Iterable[str]) -> list[tuple[str, Any]]:
    """Return named values that may name something. It is called for every argument of every task and must be fast."""
    arguments = []
    for name, matters in _telling(*names):
        value = values[name]
        kind = type(value)
        if kind in _PLAIN:
            if matters and value is not None:
                arguments.append((name, value))
        elif (value or kind not in _BUILT_IN) and (matters or _may_hold(value)):
            arguments.append((name, value))
    return arguments


def _judged(name: str, value: Any) -> bool:
    """Return whether an argument may name something, by its name or its value."""
    return value is not None and (_matters(name) or (type(value) not in _PLAIN and _may_hold(value)))


def _may_hold(value: Any) -> bool:
    """Return whether a complex value may contain named values."""
    kind = type(value)
    if kind is list or kind is tuple:
        for item in value:  # noqa: SIM110 - any() with a generator takes twice as long
            if type(item) not in _PLAIN:
                return True
        return False
    return isinstance(value, _CONTAINERS)


def dag_facts(dag: Any) -> DagFacts:
    """Return the facts of an SDK DAG that the rules need."""
    own = {
        "on_success_callback": dag.on_success_callback,
        "on_failure_callback": dag.on_failure_callback,
        "deadline": [alert.callback.kwargs for alert in dag.deadline or ()],
        "schedule": [watcher.trigger for watcher in _watchers(getattr(dag.timetable, "asset_condition", None))],
    }
    return DagFacts(dag.dag_id, frozenset(dag.tags), tuple(task_facts(task) for task in dag.tasks), tuple(_named(own)))


def task_facts(task: Any) -> TaskFacts:
    """Return the facts that the rules need about one task, mapped or not."""
    pairs = list(_mapped_arguments(task)) if task.is_mapped else _arguments(task)
    if not pairs:  # most tasks
        return TaskFacts(task.task_id, task.owner, task.execution_timeout)
    given = {name for name, value in pairs if value is not None}
    in_pod = "kubernetes_conn_id" in given
    return TaskFacts(
        task_id=task.task_id,
        owner=task.owner,
        timeout=task.execution_timeout,
        connections=tuple(dict.fromkeys(connection for name, value in pairs for connection in _named({name: value}))),
        images=tuple(dict.fromkeys(image for name, value in pairs for image in _images(name, value, in_pod))),
        clusters=tuple(name for name in _CLUSTER if in_pod and name in given),
    )


def _arguments(task: Any) -> list[tuple[str, Any]]:
    """Return an operator's attributes and constructor arguments, because some operators store an argument under
    another name.
    """
    own, given = vars(task), task._BaseOperator__init_kwargs
    operator: type = type(task)
    arguments = _relevant(own, own)
    if others := [name for name in given if given[name] is not own.get(name)]:
        arguments += _relevant(given, others)
    if of_class := _class_values(operator):
        arguments += [(name, of_class[name]) for name in of_class.keys() - own.keys()]
    if function := own.get("python_callable"):
        accepted = _accepted(function)
        values = accepted | dict(zip(accepted, task.op_args or (), strict=False))
        named = task.op_kwargs or {}  # found among its attributes already
        # any name may be a function's, also one that is an attribute of every task
        defaults = ((name, values[name]) for name in accepted if name not in named and values[name] is not ...)
        arguments += [(name, value) for name, value in defaults if _judged(name, value)]
    return arguments


def _accepted(function: Any) -> dict[str, Any]:
    """Return a function's parameters in order, with their defaults. A parameter without default has an ellipsis.

    Empty for a C callable without a signature; its keyword arguments are read all the same.
    """
    function = inspect.unwrap(function)
    if code := getattr(function, "__code__", None):  # many times faster than inspect.signature
        names, defaults = code.co_varnames[: code.co_argcount], function.__defaults__ or ()
        keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        given = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        bound = 1 if inspect.ismethod(function) else 0  # whose first parameter is the object
        return dict.fromkeys((*names[bound:], *keywords), ...) | given | (function.__kwdefaults__ or {})
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return {}
    return {
        name: ... if parameter.default is parameter.empty else parameter.default
        for name, parameter in parameters.items()
    }


def _defaults(accepted: Iterable[tuple[str, Any]], given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return the defaults of the omitted arguments."""
    yield from ((name, default) for name, default in accepted if name not in given and default is not ...)


def _mapped_arguments(task: Any) -> Iterator[tuple[str, Any]]:
    """Return the possible arguments of each expansion of a mapped task.

    An ellipsis stands for a value that another task returns.
    """
    function = getattr(task, "python_callable", None)  # of a @task: its arguments are what is expanded
    given = dict(task.partial_kwargs)
    own = given.get("op_kwargs", {}) if function else given
    accepted = _accepted(function) if function else _parameters(task.operator_class)
    expanded = task._get_specified_expand_input().value
    named: set[str] = set()
    for argument in (
        [expanded] if isinstance(expanded, Mapping) or not isinstance(expanded, (list, tuple)) else expanded
    ):
        if isinstance(argument, Mapping):
            named |= set(argument)
            yield from _each(argument) if argument is expanded else argument.items()
        else:  # another task's output: it may give any argument that is not given yet
            yield from ((name, ...) for name in accepted if name not in own)
    if function:
        yield from _defaults(accepted.items(), {**own, **dict.fromkeys(named)})
    declared = {**_class_values(task.operator_class), **_parameters(task.operator_class)}
    yield from {**{name: value for name, value in declared.items() if name not in named}, **given}.items()


def _each(expanded: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values that `expand` gives to each argument, one by one if the file contains them."""
    for name, values in expanded.items():
        if isinstance(values, (list, tuple)):
            yield from ((name, value) for value in values)
        else:
            yield name, ...


@cache
def _class_values(operator: type) -> dict[str, str]:
    """Return connections and images that an operator's class itself names."""
    values: dict[str, str] = {}
    for class_ in reversed(operator.__mro__):
        values |= {
            name: value
            for name, value in vars(class_).items()
            if isinstance(value, str) and (_CONNECTION.search(name) or name == "image")
        }
    return values


@cache
def _parameters(operator: type) -> dict[str, Any]:
    """Return every parameter of an operator and its bases that names a connection, cluster or image, with its
    default.
    """
    parameters: dict[str, Any] = {}
    for class_ in reversed(operator.__mro__):
        if "__init__" in vars(class_) and class_ is not object:
            parameters |= {
                name: None if parameter.default is parameter.empty else parameter.default
                for name, parameter in inspect.signature(vars(class_)["__init__"]).parameters.items()
                if _CONNECTION.search(name) or name == "image" or name in _CLUSTER
            }
    return parameters


def _named(arguments: Mapping[str, Any], within: str = "") -> Iterator[Named]:
    """Yield connections that arguments name, also inside dicts, lists, hooks, notifiers and triggers."""
    for key, value in arguments.items():
        name = str(key).removeprefix("_BaseOperator__").lstrip("_")
        path = f"{within}{name}"
        if _CONNECTION.search(name):
            yield from _values(path, value)
        elif isinstance(value, Mapping) and name not in _NOT_ARGUMENTS:
            yield from _named(value, "" if name == "init_kwargs" else f"{path}.")
        elif isinstance(value, _HOLDERS):
            yield from _named(vars(value), f"{path}.")
        elif isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, Mapping):
                    yield from _named(item, f"{path}.")
                elif isinstance(item, _HOLDERS):
                    yield from _named(vars(item), f"{path}.")


def _values(path: str, value: Any) -> Iterator[Named]:
    if isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _values(path, item)
    elif value is not None:
        yield Named(path, value if isinstance(value, str) else None)


def _images(name: str, value: Any, in_pod: bool) -> Iterator[Image]:
    if name == "image" and value is not None:
        yield Image(name, value if isinstance(value, str) else None, in_pod)
    elif name in ("full_pod_spec", "pod_template_dict", "init_containers", "executor_config") and value:
        pod = _field(value, "pod_override") if name == "executor_config" else value
        for image in _pod_images(pod):
            yield Image(name, image if isinstance(image, str) else None, True)


def _pod_images(pod: Any) -> Iterator[Any]:
    """Yield images of a pod, or of a list of containers, given as Kubernetes' own objects or as dicts."""
    if isinstance(pod, (list, tuple)):
        containers: Iterable[Any] = pod
    else:
        spec = _field(pod, "spec")
        containers = [*(_field(spec, "containers") or ()), *(_field(spec, "init_containers", "initContainers") or ())]
    yield from (image for container in containers if (image := _field(container, "image")) is not None)


def _field(value: Any, *names: str) -> Any:
    if isinstance(value, Mapping):
        return next((value[name] for name in names if name in value), None)
    return next((getattr(value, name) for name in names if hasattr(value, name)), None)


def _watchers(condition: Any) -> Iterator[Any]:
    """Yield the asset watchers of a schedule. Their triggers run in the triggerer, with their own connections."""
    yield from getattr(condition, "watchers", ())
    for watched in getattr(condition, "objects", ()):
        yield from _watchers(watched)
