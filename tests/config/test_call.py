import copy
import functools
import pickle
import traceback

import pytest
import torch
from config_targets import (
    Encoder,
    Model,
    Optimizer,
    Plan,
    Stage,
    Wide,
    anything,
    explode,
    make_encoder,
    untyped,
)

from limner.config.call import Call, arguments_of, build, call, target_of


def test_a_wrong_argument_fails_on_the_line_that_writes_it():
    with pytest.raises(ValueError, match="no argument `learning_rat`") as caught:
        call(Optimizer, learning_rat=1e-3)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[0].name == "test_a_wrong_argument_fails_on_the_line_that_writes_it"
    assert "learning_rat=1e-3" in (frames[0].line or "")
    assert "hint: did you mean `learning_rate`?" in str(caught.value)


def test_a_missing_argument_fails_at_once():
    with pytest.raises(ValueError, match="Stage needs `name`, `optimizer`"):
        call(Stage)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": "fast"}, r"learning_rate: expected float, got 'fast' \(str\)"),
        ({"learning_rate": True}, "learning_rate: expected float, got True"),
        ({"betas": (0.9,)}, "betas: expected tuple"),
        ({"schedule": "square"}, "expected one of 'cosine', 'linear'"),
        ({"warmup": 1.5}, "warmup: expected int | None"),
        ({"learning_rate": {1: 2}}, "a dict cannot be recorded"),
    ],
)
def test_a_value_of_a_wrong_type_fails_at_once(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        call(Optimizer, **arguments)


def test_a_call_that_builds_the_wrong_class_is_refused():
    with pytest.raises(ValueError, match="got a call of Optimizer"):
        call(Model, encoder=call(Optimizer))
    assert isinstance(build(call(Model, encoder=call(make_encoder, width=3))).encoder, Encoder)
    assert build(call(Model, encoder=None)).encoder is None


def test_values_take_the_annotated_type_where_nothing_is_lost():
    optimizer = call(Optimizer, learning_rate=1, betas=[0, 1], schedule="linear")
    assert type(optimizer.learning_rate) is float
    assert optimizer.betas == (0.0, 1.0)
    assert build(optimizer) == Optimizer(1.0, (0.0, 1.0), Optimizer().schedule.LINEAR)


def test_live_objects_are_refused():
    with pytest.raises(ValueError, match=r"Model\.encoder: a Wide cannot be recorded"):
        call(Model, encoder=Wide())
    with pytest.raises(ValueError, match=r"anything\.a\.b\.0: a Tensor cannot be recorded"):
        call(anything, a={"b": [torch.zeros(1)]})


@pytest.mark.parametrize("target", [lambda: 1, functools.partial(untyped, size=1)])
def test_targets_without_an_importable_name_are_refused(target):
    with pytest.raises(ValueError, match="cannot record a call"):
        call(target)


def test_dataclasses_modules_and_functions_are_built_from_the_leaves_up():
    plan = call(Plan, stages=[call(Stage, name="one", optimizer=call(Optimizer))], meta={"a": [1]})
    assert build(plan) == Plan(stages=[Stage(name="one", optimizer=Optimizer())], meta={"a": [1]})
    assert build(call(Model, encoder=call(Wide, width=3))).encoder.linear.in_features == 3
    assert build({"x": (call(untyped), 1)})["x"][0]["size"] == 3
    assert build(call(anything, any_key=1)) == {"any_key": 1}


def test_building_twice_gives_two_objects_and_leaves_the_tree_alone():
    tree = call(anything, items=[1, 2])
    first, second = build(tree), build(tree)
    first["items"].append(3)
    assert second["items"] == [1, 2]
    assert tree.items == [1, 2]


def test_building_works_on_the_meta_device():
    with torch.device("meta"):
        model = build(call(Model, encoder=call(Wide, width=4096)))
    assert model.encoder.linear.weight.is_meta


def test_an_error_of_a_target_passes_through_and_names_the_key():
    with pytest.raises(RuntimeError, match="no tensor of 3") as caught:
        build(call(anything, parts=[call(explode, value=3)]))
    assert "while building `parts.0`: explode" in caught.value.__notes__


def test_one_call_in_two_places_is_refused():
    optimizer = call(Optimizer)
    plan = call(Plan, stages=[call(Stage, name=n, optimizer=optimizer) for n in "ab"])
    with pytest.raises(ValueError, match=r"`stages\.0\.optimizer` and `stages\.1\.optimizer`"):
        build(plan)


def test_only_existing_keys_can_be_read_and_set():
    optimizer = call(Optimizer)
    assert optimizer.learning_rate == 1e-3
    optimizer.learning_rate = 2
    assert arguments_of(optimizer) == {"learning_rate": 2.0}
    with pytest.raises(AttributeError, match="did you mean `learning_rate`"):
        optimizer.learning_rates = 3
    with pytest.raises(AttributeError, match="has no argument `momentum`"):
        _ = optimizer.momentum
    with pytest.raises(ValueError, match="expected float"):
        optimizer.learning_rate = "x"


def test_deleting_a_key_brings_its_default_back():
    stage = call(Stage, name="one", optimizer=call(Optimizer), kind="image")
    del stage.kind
    assert stage.kind == "text"
    with pytest.raises(AttributeError, match="needs `name`"):
        del stage.name
    with pytest.raises(AttributeError, match="no argument `nam`"):
        del stage.nam


def test_a_default_made_by_a_factory_reads_as_its_value():
    assert call(Stage, name="one", optimizer=call(Optimizer)).tags == []


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda tree: pickle.loads(pickle.dumps(tree))])
def test_copies_are_equal_and_independent(duplicate):
    tree = call(Stage, name="one", optimizer=call(Optimizer))
    other = duplicate(tree)
    assert other == tree
    other.optimizer.learning_rate = 5.0
    assert tree.optimizer.learning_rate == 1e-3
    assert other != tree
    assert isinstance(other, Call)
    assert target_of(other) is Stage
