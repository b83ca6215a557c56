"""Hints for misspelt names.

Owns the wording of "did you mean" in configs, overrides and config files. Data flow: the given name
and the names that exist -> one hint line.
"""

import difflib
from collections.abc import Iterable

MAX_LISTED = 12
"""How many names a hint lists before it stops; longer lists hide the answer."""


def suggest(name: str, *, among: Iterable[str]) -> str:
    """Return `hint: ...`: the closest existing name, or else the names that exist."""
    names = list(among)
    closest = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if closest:
        return f"hint: did you mean `{closest[0]}`?"
    if not names:
        return "hint: there is no key here"
    listed = ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")
    return f"hint: there is {listed}"
