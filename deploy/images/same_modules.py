"""Of install.sh: `same_modules.py FOLDER` writes every compiled module below it as one process in one order would.

A compiler's memory shows in two things that mean nothing: which constants a module marks as shared, and whether equal
sets are one. Here equal sets become one, and the marks are made anew.
"""

import marshal
import sys
from pathlib import Path
from types import CodeType

HEAD = 16


def settled(code: CodeType, sets: dict[frozenset[object], frozenset[object]]) -> CodeType:
    constants = []
    for one in code.co_consts:
        if isinstance(one, CodeType):
            constants.append(settled(one, sets))
        elif isinstance(one, frozenset) and all(isinstance(member, str) for member in one):
            constants.append(sets.setdefault(one, one))
        else:
            constants.append(one)
    return code.replace(co_consts=tuple(constants))


for file in sorted(Path(sys.argv[1]).rglob("*.pyc")):
    body = file.read_bytes()
    file.write_bytes(body[:HEAD] + marshal.dumps(settled(marshal.loads(body[HEAD:]), {})))  # noqa: S302 # compiled here
