"""S5 on the whole running stack: every port and socket of its processes, attacked by the code of `prove-doors`."""

from __future__ import annotations

import pytest

from bench import doors_embedded
from rempart.flows.platform import Platform
from rempart.stack import layout

pytestmark = pytest.mark.stack


def test_s5_no_port_or_socket_of_the_stack_lets_anybody_in_who_has_no_right(
    stack: layout.Stack, platform: Platform
) -> None:
    rows = doors_embedded.attack(stack, platform)
    assert set(stack.ports) <= {one.door for one in rows}, "every declared port was attacked"
    assert [(one.door, one.who, one.let_in) for one in rows if not one.ok] == []
