"""Parse the text of an expression: a small part of SQL, whose words mean the same in PostgreSQL and DuckDB. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

LONGEST = 500
"""Characters of an expression."""
MOST_TOKENS = 150
"""Names, numbers and signs of an expression, with its end."""
DEEPEST = 10
"""Parentheses, functions and CASE inside each other."""

_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<text>'(?:[^']|'')*')"
    r'|(?P<name>"[a-z][a-z0-9_]*"|[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?)'
    r"|(?P<sign><>|!=|<=|>=|[-+*/=<>(),])"
)
_WORDS = frozenset(
    ["and", "or", "not", "is", "null", "in", "between", "case", "when", "then", "else", "end", "true", "false", "from"]
)
"""Words that are no names of columns, unless they are written in double quotes."""
_COMPARED = ("=", "<>", "!=", "<", "<=", ">", ">=")
_END = "the end"


class ExpressionFault(ValueError):
    """Why an expression is refused, with the remedy. A section of a file tells it with its own path."""


@dataclass(frozen=True)
class Node:
    """A part of an expression: `literal`, `column`, an operator, `case`, or the name of a function.

    The parts of `case` are conditions and values in turn, and the value of ELSE.
    """

    kind: str
    parts: tuple[Node, ...] = ()
    value: object = None

    def columns(self) -> Iterator[str]:
        """Yield the columns that it names."""
        if self.kind == "column":
            yield str(self.value)
        for part in self.parts:
            yield from part.columns()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int

    @property
    def word(self) -> str:
        """Return a name in lower case, or a sign; nothing for a quoted name, a number or a text."""
        return self.text.lower() if self.kind in ("name", "sign") and not self.text.startswith('"') else ""

    @property
    def told(self) -> str:
        return self.text if self.kind == "end" else f"'{self.text[:40]}'"


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """Return the tree of an expression. Raises ExpressionFault with the place in the text."""
    if len(text) > LONGEST:
        raise ExpressionFault(
            f"it is longer than {LONGEST} characters; split it, or derive the column in a pipeline of `kind: derived`"
        )
    tokens = list(_tokens(text))
    if len(tokens) > MOST_TOKENS:
        raise ExpressionFault(f"it has more than {MOST_TOKENS} names, numbers and signs; split it")
    reader = _TokenReader(tokens)
    tree = reader.condition()
    reader.expect_end()
    return tree


def columns_of(text: str) -> list[str]:
    """Return the names of columns in an expression, each once; none if it cannot be parsed."""
    try:
        return list(dict.fromkeys(parse(text).columns()))
    except ExpressionFault:
        return []


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            hint = "close the text with '" if text[place] == "'" else "see docs/reference/expressions.md"
            raise ExpressionFault(f"character {place + 1}: {text[place]!r} is not part of an expression; {hint}")
        if found.lastgroup != "space":
            yield _Token(str(found.lastgroup), found[0], place + 1)
        place = found.end()
    yield _Token("end", _END, len(text) + 1)


class _TokenReader:
    """Reads tokens from left to right; each method reads what binds tighter than its name says."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens, self._next, self._depth = tokens, 0, 0

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._token
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _takes(self, *words: str) -> str | None:
        """Return the next word and go on, if it is one of these."""
        if self._token.word in words and self._token.word:
            return self._take().word
        return None

    def _expect(self, *words: str) -> str:
        if (found := self._takes(*words)) is None:
            raise self._wrong(f"expected {' or '.join(word.upper() for word in words)}")
        return found

    def _wrong(self, why: str) -> ExpressionFault:
        return ExpressionFault(f"character {self._token.place}: {why}, but found {self._token.told}; correct it there")

    def expect_end(self) -> None:
        if self._token.word == "over":
            raise ExpressionFault("OVER makes a window over other rows; declare a view of `kind: trailing`")
        if self._token.kind != "end":
            raise self._wrong("expected an operator or the end")

    def condition(self) -> Node:
        """Read an expression with OR."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise ExpressionFault(
                f"more than {DEEPEST} parentheses, functions or CASE stand inside each other; split it"
            )
        left = self._all()
        while self._takes("or"):
            left = Node("or", (left, self._all()))
        self._depth -= 1
        return left

    def _all(self) -> Node:
        left = self._negated()
        while self._takes("and"):
            left = Node("and", (left, self._negated()))
        return left

    def _negated(self) -> Node:
        count = 0
        while self._takes("not"):
            count += 1
        compared = self._compared()
        return Node("not", (compared,)) if count % 2 else compared

    def _compared(self) -> Node:
        left = self._sum()
        if sign := self._takes(*_COMPARED):
            return Node("<>" if sign == "!=" else sign, (left, self._sum()))
        if self._takes("is"):
            negative = self._takes("not")
            self._expect("null")
            return Node("is not null" if negative else "is null", (left,))
        negative = self._takes("not")
        if self._takes("between"):
            low = self._sum()
            self._expect("and")
            found = Node("between", (left, low, self._sum()))
        elif self._takes("in"):
            found = Node("in", (left, *self._list()))
        elif negative:
            raise self._wrong("expected IN or BETWEEN after NOT")
        else:
            return left
        return Node("not", (found,)) if negative else found

    def _list(self) -> list[Node]:
        self._expect("(")
        found = [self.condition()]
        while self._takes(","):
            found.append(self.condition())
        self._expect(")")
        return found

    def _sum(self) -> Node:
        left = self._product()
        while sign := self._takes("+", "-"):
            left = Node(sign, (left, self._product()))
        return left

    def _product(self) -> Node:
        left = self._signed()
        while sign := self._takes("*", "/"):
            left = Node(sign, (left, self._signed()))
        return left

    def _signed(self) -> Node:
        negative = False
        while sign := self._takes("-", "+"):
            negative ^= sign == "-"
        read = self._single()
        return Node("negative", (read,)) if negative else read

    def _single(self) -> Node:
        token = self._token
        match token.kind:
            case "number":
                return _number(self._take().text)
            case "text":
                return _text(self._take().text)
            case "name":
                return self._named()
        if self._takes("("):
            read = self.condition()
            self._expect(")")
            return read
        raise self._wrong("expected a column, a number, a text or a function")

    def _named(self) -> Node:
        token = self._token
        match token.word:
            case "true" | "false" | "null":
                self._take()
                return Node("literal", value={"true": True, "false": False, "null": None}[token.word])
            case "case":
                self._take()
                return self._case()
            case "select" | "with" | "exists" | "values":
                raise ExpressionFault(
                    f"{token.word.upper()} reads other rows, and an expression reads its own row alone; declare a view "
                    "of `kind: trailing`, or derive the column in a pipeline of `kind: derived`"
                )
            case word if word in _WORDS:
                raise self._wrong("expected a column, a number, a text or a function")
        self._take()
        if self._token.word == "(":
            return self._called(token)
        if token.word == "date" and self._token.kind == "text":
            return _date(self._take().text)
        return Node("column", value=token.text.strip('"'))

    def _called(self, name: _Token) -> Node:
        if name.word in ("cast", "try_cast"):
            raise ExpressionFault(
                f"{name.word}() is no part of the language; numbers need none, and a number of a condition is "
                "`case when a then 1 else 0 end`"
            )
        if name.word in ("negative", "literal", "column"):  # kinds of nodes, which are not called
            raise ExpressionFault(f"{name.word}() is no function of expressions")
        if name.word == "extract":
            self._expect("(")
            part = self._take().word
            self._expect("from")
            when = self.condition()
            self._expect(")")
            return Node("extract", (when,), part)
        empty = self._tokens[self._next + 1].word == ")"
        if empty:
            self._next += 2
        made = Node(name.text.lower(), () if empty else tuple(self._list()))
        if self._token.word == "over":
            raise ExpressionFault("OVER makes a window over other rows; declare a view of `kind: trailing`")
        return made

    def _case(self) -> Node:
        parts: list[Node] = []
        if self._token.word != "when":
            raise self._wrong("expected WHEN after CASE")
        while self._takes("when"):
            parts.append(self.condition())
            self._expect("then")
            parts.append(self.condition())
        parts.append(self.condition() if self._takes("else") else Node("literal"))
        self._expect("end")
        return Node("case", tuple(parts))


def _number(text: str) -> Node:
    value: int | float = int(text) if text.isdigit() else float(text)
    if value and not (1e-30 <= value <= (1e15 if isinstance(value, int) else 1e30)):
        raise ExpressionFault(f"{text[:40]} is too large or too small; write a number from 1e-30 to 1e30")
    return Node("literal", value=value)


def _text(text: str) -> Node:
    value = text[1:-1].replace("''", "'")
    if re.search(r"[\x00-\x1f\x7f\\\ud800-\udfff]|::", value):
        raise ExpressionFault("a text has a control character, a backslash or '::'; compare with another text")
    return Node("literal", value=value)


def _date(text: str) -> Node:
    try:
        return Node("literal", value=date.fromisoformat(text[1:-1]))
    except ValueError:
        raise ExpressionFault(f"date {text[:40]} is no date; write date '2026-01-31'") from None
