import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.config.grammar import parse_override


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("-1_000", -1000),
        ("007", "007"),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("2.", 2.0),
        ("inf", math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("NULL", None),
        ("", ""),
        ("text", "text"),
        ("two words ", "two words"),
        ("a/b-c.d:e@f", "a/b-c.d:e@f"),
        ("projector.*", "projector.*"),
        ("été", "été"),
        ("'3'", "3"),
        ('"a, b=c"', "a, b=c"),
        (r"'it\'s'", "it's"),
        (r"'back\\'", "back\\"),
        (r"'c:\new'", r"c:\new"),
        ("[]", []),
        ("[1, 2.5, x, null, [true]]", [1, 2.5, "x", None, [True]]),
        ("{}", {}),
        ("{a: 1, 'b c': [x], d: {e: f}}", {"a": 1, "b c": ["x"], "d": {"e": "f"}}),
    ],
)
def test_values_are_read_as_hydra_reads_them(text: str, expected: object):
    value = parse_override(f"key={text}").value
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    "override",
    [
        "key",
        "=1",
        "a..b=1",
        "a b=1",
        "~a=1",
        "+a=1",
        "++a=1",
        "a=1,2",
        "a=choice(1,2)",
        "a=b=c",
        "a=[1,2",
        "a=[1,,2]",
        "a=[1 'x']",
        "a={b}",
        "a={b:1",
        "a={:1}",
        "a='open",
        "a='x' y",
    ],
)
def test_what_is_outside_the_grammar_is_refused_with_a_hint(override: str):
    with pytest.raises(ValueError, match="hint: ") as caught:
        parse_override(override)
    assert override in str(caught.value).split("\n")[0]


def test_paths_may_use_brackets_for_indices():
    assert parse_override("stages[0].name=x").path == parse_override("stages.0.name=x").path


def test_a_tilde_deletes():
    assert parse_override("~a.b").deletes


@given(st.text())
def test_any_quoted_text_comes_back(text: str):
    # A run of backslashes is doubled only before a quote or at the end.
    escaped = ""
    for index, character in enumerate(text):
        rest = text[index:].lstrip("\\")
        before_quote = rest[:1] in ("'", "")
        escaped += "\\'" if character == "'" else character
        escaped += "\\" if character == "\\" and before_quote else ""
    assert parse_override(f"key='{escaped}'").value == text


@given(st.text(max_size=20))
def test_any_text_parses_or_raises_value_error(text: str):
    with contextlib.suppress(ValueError):
        parse_override(f"key={text}")
