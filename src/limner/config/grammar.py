"""The grammar of one command-line override, as Hydra's users know it.

Owns the text form: `a.b=3`, `a.0.name="x y"`, `a.betas=[0.9, 0.95]`, `a.meta={source: web}`,
`~a.b`. Knows nothing about trees. Values are int, float (with inf and nan), bool, null, quoted or
bare text, lists and dicts, nested freely. A bare text holds letters, digits, inner spaces and `_ /
- \\ + . $ % * @ ? | :`; anything else is quoted. Of Hydra's grammar, what adds keys (`+`, `++`) and
what makes several runs (sweeps) is refused.

Data flow: text -> `parse_override` -> `Override`.
"""

import re
from dataclasses import dataclass
from typing import Any

KEY = re.compile(r"[^\W\d]\w*(\.\w+|\[\w+\])*")
INTEGER = re.compile(r"[+-]?(0|[1-9]\d*(_\d+)*)")
DIGITS = r"\d+(_\d+)*"
FLOAT = re.compile(
    rf"[+-]?(({DIGITS})?\.\d+([eE][+-]?\d+)?|{DIGITS}\.([eE][+-]?\d+)?|{DIGITS}[eE][+-]?\d+|inf|nan)",
    re.IGNORECASE,
)
BARE_TEXT = re.compile(r"[\w/\-\\+.$%*@?|: \t]*")
QUOTED = {quote: re.compile(rf"{quote}(?:[^{quote}\\]|\\.)*{quote}", re.DOTALL) for quote in "'\""}


@dataclass(frozen=True)
class Override:
    """One parsed override: where, and what to write there."""

    path: tuple[str, ...]
    value: Any = None
    text: str = ""
    """The value as written, empty for quoted text: what a text parameter takes when the value looks
    like a number.
    """
    deletes: bool = False


def parse_override(source: str) -> Override:
    """Parse `key=value` or `~key`. Raises ValueError where the text does not follow the grammar."""
    if source.startswith("+"):
        raise ValueError(
            f"the override `{source}` adds a key; only existing keys can be changed\nhint: write `{source.lstrip('+')}`"
        )
    deletes = source.startswith("~")
    key, equals, text = source.removeprefix("~").partition("=")
    key = key.strip()
    if deletes == bool(equals) or not KEY.fullmatch(key):
        raise ValueError(
            f"cannot read the override `{source}`; expected key=value or ~key\n"
            "hint: a key is names and list indices joined by dots, as in stages.0.optimizer.lr"
        )
    path = tuple(re.sub(r"\[(\w+)\]", r".\1", key).split("."))
    if deletes:
        return Override(path, deletes=True)
    value = parse_value(text, source=source)
    stripped = text.strip()
    return Override(path, value, text="" if stripped[:1] in {"'", '"', "[", "{"} else stripped)


def parse_value(text: str, *, source: str) -> Any:
    """Parse the right side of an override.

    Raises ValueError naming `source`, the whole override.
    """
    parser = _Parser(text.strip(), source)
    value = parser.value()
    if parser.rest.startswith(","):
        raise parser.error("a comma outside brackets would mean several runs", "write a list: key=[1,2]")
    if parser.rest:
        raise parser.error(
            f"cannot read `{parser.rest}`",
            "put the value in quotes, and the override in shell quotes",
        )
    return value


class _Parser:
    """Recursive descent over the text that is left to read."""

    def __init__(self, text: str, source: str) -> None:
        self.rest = text
        self.source = source

    def error(self, problem: str, hint: str) -> ValueError:
        return ValueError(f"cannot read the override `{self.source}`: {problem}\nhint: {hint}")

    def take(self, length: int) -> str:
        taken, self.rest = self.rest[:length], self.rest[length:].lstrip()
        return taken

    def value(self) -> Any:
        first = self.rest[:1]
        if first == "[":
            return self.items("]", self.value)
        if first == "{":
            return dict(self.items("}", self.pair))
        if first in QUOTED:
            return self.quoted()
        matched = BARE_TEXT.match(self.rest)
        return scalar(self.take(matched.end() if matched else 0).strip())

    def items(self, closing: str, element: Any) -> list[Any]:
        self.take(1)
        found: list[Any] = []
        while not self.rest.startswith(closing):
            if found and self.take(1) != ",":
                raise self.error(
                    f"expected `,` or `{closing}`",
                    "check the brackets and quote special characters",
                )
            before = self.rest
            found.append(element())
            if self.rest == before:
                raise self.error(f"expected a value before `{before[:1]}`", f"check for a missing `{closing}`")
        self.take(1)
        return found

    def pair(self) -> tuple[str, Any]:
        if self.rest[:1] in QUOTED:
            key = self.quoted()
        else:
            matched = re.match(r"[\w\-./]+", self.rest)
            key = self.take(matched.end()) if matched else ""
        if not key or self.take(1) != ":":
            raise self.error("expected `key: value` inside {}", "write {name: value, other: value}")
        return key, self.value()

    def quoted(self) -> str:
        quote = self.rest[0]
        matched = QUOTED[quote].match(self.rest)
        if not matched:
            raise self.error("a quote is never closed", f"end the text with {quote}")
        body = self.take(matched.end())[1:]
        # Backslashes are literal except before a quote, where they come in pairs:
        # \' is a quote inside the text, \\' is a backslash and the end.
        return re.sub(rf"\\+(?={quote})", lambda run: run[0][: len(run[0]) // 2], body)[:-1]


def scalar(text: str) -> Any:
    """Return the value of a bare word: null, bool, int, float or else the text itself."""
    if text.lower() in {"null", "true", "false"}:
        return {"null": None, "true": True, "false": False}[text.lower()]
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if FLOAT.fullmatch(text) else text
