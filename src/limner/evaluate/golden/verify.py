"""Which family recorded a directory, and its checks gathered case by case.

directory --family (recognises)--> checks --gather--> one CaseResult per case, the worst of its checks on top
"""

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from limner.evaluate.golden.check import Check

FAMILIES = ("dreamllm", "multi_token", "lavit")
"""Modules beside this one; each has `recognises(directory)` and `checks(directory, *, only=None)`."""


@dataclass(frozen=True)
class CaseResult:
    """All checks of one case, which is named by the first two parts of theirs ("forward/mixed/logits")."""

    case: str
    checks: tuple[Check, ...]

    @property
    def worst(self) -> Check:
        """The check that uses most of its tolerance, or fails most."""
        return max(self.checks, key=strain)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that do not pass."""
        return tuple(check for check in self.checks if not check.passed)


def strain(check: Check) -> float:
    """Difference over tolerance: above 1 it fails. A NaN, and any difference of an exact check, is infinitely far."""
    if not check.passed:
        over = check.difference / check.tolerance if check.tolerance else float("inf")
        return over if over > 1.0 else float("inf")
    return check.difference / check.tolerance if check.tolerance else 0.0


def family_of(directory: Path) -> ModuleType:
    """The module that can check a directory. Raises ValueError when none knows its format."""
    if not directory.is_dir():
        raise ValueError(f"`{directory}` is no directory\nhint: give the folder that holds the recorded cases")
    known = [name for name in FAMILIES if importlib.util.find_spec(f"{__package__}.{name}") is not None]
    for name in known:
        module = importlib.import_module(f"{__package__}.{name}")
        if module.recognises(directory):
            return module
    raise ValueError(
        f"`{directory}` holds no recorded cases of a known family: {', '.join(known)}\n"
        "hint: give the folder that holds `cases/` or its like, not one of its checkpoints"
    )


def verify(directory: Path, *, only: str | None = None) -> Iterator[CaseResult]:
    """Run the checks of a directory, case by case, as they are done.

    `only` is a glob over cases ("forward/*") or over sections ("forward").
    Raises ValueError for a directory of no known family, and when `only` matches nothing.
    """
    found = False
    for result in gather(family_of(directory).checks(directory, only=only)):
        found = True
        yield result
    if not found:
        named = f"no case of `{directory}` matches `{only}`" if only else f"`{directory}` holds no cases"
        raise ValueError(f"{named}\nhint: leave --only out to see the cases there are")


def gather(checks: Iterable[Check]) -> Iterator[CaseResult]:
    """Neighbouring checks of one case, together."""
    case, gathered = "", []
    for check in checks:
        name = "/".join(check.case.split("/")[:2])
        if gathered and name != case:
            yield CaseResult(case, tuple(gathered))
            gathered = []
        case = name
        gathered.append(check)
    if gathered:
        yield CaseResult(case, tuple(gathered))
