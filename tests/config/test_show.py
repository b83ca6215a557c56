from pathlib import Path

import config_targets
from config_targets import Model, Optimizer, Plan, Schedule, Stage, Wide, anything
from hypothesis import given
from hypothesis import strategies as st

from limner.config.call import Call, call
from limner.config.overrides import apply_overrides
from limner.config.show import diff, show

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | inner.map(lambda value: call(anything, value=value))
    ),
    max_leaves=12,
)


def plan() -> Call:
    first = call(Stage, name="one", optimizer=call(Optimizer, learning_rate=1e-3))
    second = call(Stage, name="two", optimizer=call(Optimizer, schedule="linear"), trainable=("projector.*",))
    return call(Plan, stages=[first, second], folder="out/run", meta={"source": "web"})


def test_show_reads_like_the_source():
    assert show(plan()) == (
        "Plan(\n"
        "    stages=[\n"
        '        Stage(name="one", optimizer=Optimizer(learning_rate=0.001)),\n'
        "        Stage(\n"
        '            name="two",\n'
        "            optimizer=Optimizer(schedule=Schedule.LINEAR),\n"
        '            trainable=("projector.*",),\n'
        "        ),\n"
        "    ],\n"
        '    folder=Path("out/run"),\n'
        '    meta={"source": "web"},\n'
        ")"
    )


def test_show_of_a_short_tree_takes_one_line():
    assert show(call(Model, encoder=call(Wide, width=3))) == "Model(encoder=Wide(width=3))"


def evaluate(source: str) -> object:
    """Run shown source with every target recording its call."""

    def recorder(target):
        return lambda **arguments: call(target, **arguments)

    targets = [Plan, Stage, Optimizer, anything]
    scope = {target.__qualname__: recorder(target) for target in targets}
    return eval(source, {**scope, "Path": Path, "Schedule": Schedule})


def test_what_is_shown_evaluates_to_the_same_tree():
    assert evaluate(show(plan())) == plan()


@given(VALUES)
def test_any_shown_value_evaluates_to_itself(value: object):
    tree = call(config_targets.anything, value=value)
    assert evaluate(show(tree)) == tree


def test_diff_names_the_keys_of_the_command_line():
    changed = apply_overrides(plan(), ["seed=3", "stages.1.optimizer.learning_rate=1e-4", "~folder"])
    assert diff(plan(), changed).split("\n") == [
        "stages.1.optimizer.learning_rate: 0.001 -> 0.0001",
        'folder: Path("out/run") -> Path("out")',
        "seed: 0 -> 3",
    ]


def test_a_key_set_to_its_default_is_no_difference():
    assert diff(call(Optimizer), call(Optimizer, learning_rate=1e-3)) == ""
    explicit = call(Stage, name="x", optimizer=call(Optimizer), tags=[])
    assert diff(call(Stage, name="x", optimizer=call(Optimizer)), explicit) == ""


def test_another_target_length_or_dict_key_is_a_difference():
    assert diff(call(Model, encoder=call(Wide)), call(Model, encoder=None)) == "encoder: Wide() -> None"
    assert diff({"a": [1]}, {"a": [1, 2]}) == "a: [1] -> [1, 2]"
    assert diff({"a": 1}, {"b": 1}) == "b: <not set> -> 1\na: 1 -> <not set>"
    assert diff(1, True) == "<root>: 1 -> True"
