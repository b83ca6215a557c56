import pytest
from config_targets import Model, Optimizer, Plan, Schedule, Stage, Wide, anything, untyped

from limner.config.call import Call, arguments_of, call
from limner.config.overrides import apply_overrides


def plan() -> Call:
    stages = [call(Stage, name=name, optimizer=call(Optimizer)) for name in ("one", "two")]
    return call(Plan, stages=stages, meta={"source": "web", "pages": 3})


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("seed=3", lambda t: t.seed, 3),
        (
            "stages.1.optimizer.learning_rate=1e-4",
            lambda t: t.stages[1].optimizer.learning_rate,
            1e-4,
        ),
        ("stages[1].optimizer.learning_rate=1", lambda t: t.stages[1].optimizer.learning_rate, 1.0),
        ("stages.0.optimizer.betas=[0.8,0.9]", lambda t: t.stages[0].optimizer.betas, (0.8, 0.9)),
        ("stages.0.optimizer.betas.1=0.5", lambda t: t.stages[0].optimizer.betas, (0.9, 0.5)),
        ("stages.0.optimizer.warmup=null", lambda t: t.stages[0].optimizer.warmup, None),
        ("stages.0.optimizer.warmup=10", lambda t: t.stages[0].optimizer.warmup, 10),
        (
            "stages.0.optimizer.schedule=linear",
            lambda t: t.stages[0].optimizer.schedule,
            Schedule.LINEAR,
        ),
        ("stages.0.name=123", lambda t: t.stages[0].name, "123"),
        ("stages.0.name='null'", lambda t: t.stages[0].name, "null"),
        (
            "stages.0.trainable=[projector.*, 'a b']",
            lambda t: t.stages[0].trainable,
            ["projector.*", "a b"],
        ),
        ("folder=runs/a", lambda t: str(t.folder), "runs/a"),
        ("meta.pages=4", lambda t: t.meta, {"source": "web", "pages": 4}),
        ("meta={a: 1}", lambda t: t.meta, {"a": 1}),
        ("~meta.pages", lambda t: t.meta, {"source": "web"}),
    ],
)
def test_overrides_are_typed_and_set_existing_keys(override: str, read, expected: object):
    tree = plan()
    changed = apply_overrides(tree, [override])
    assert read(changed) == expected
    assert type(read(changed)) is type(expected)
    assert tree == plan()


def test_later_overrides_win_and_deletion_brings_the_default_back():
    assert apply_overrides(plan(), ["seed=1", "seed=2"]).seed == 2
    assert "seed" not in arguments_of(apply_overrides(plan(), ["seed=1", "~seed"]))


@pytest.mark.parametrize(
    ("override", "problem", "hint"),
    [
        ("seeds=1", "no key `seeds`: Plan has no `seeds`", "did you mean `seed`"),
        ("stages.0.optimizer.learning=1", "no key", "`stages.0.optimizer.learning_rate`"),
        ("learning_rate=1", "no key `learning_rate`", "`stages.0.optimizer.learning_rate`"),
        ("stages.2.name=x", "`stages` has no `2`", "there is 0, 1"),
        ("stages.-1.name=x", "cannot read the override", "key is names and list indices"),
        ("meta.sources=x", "`meta` has no `sources`", "did you mean `meta.source`"),
        ("seed.low=1", "`seed` is 0, which has no keys", "override `seed` itself"),
        ("seed=abc", "`seed`: expected int, got 'abc'", "it is now 0"),
        ("seed=1.5", "expected int, got 1.5", "it is now 0"),
        ("seed=true", "expected int, got True", "it is now 0"),
        ("seed=null", "expected int, got None", "it is now 0"),
        ("stages.0.kind=audio", "expected Literal", "it is now 'text'"),
        ("stages.0.name=null", "expected str, got None", "it is now 'one'"),
        ("stages.0.optimizer=fast", "is a call of Optimizer", "stages.0.optimizer.learning_rate="),
        ("stages.0.optimizer=null", "expected Optimizer, got None", "it is now Optimizer"),
        ("stages.0.optimizer.betas=[1]", "expected tuple", "it is now (0.9, 0.95)"),
        ("~stages.0", "it is a list item", "override the whole list"),
        ("~stages.0.name", "it has no default", "set another value"),
        ("~nothing", "no key `nothing`", "there is"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_key_and_a_hint(override: str, problem: str, hint: str):
    with pytest.raises(ValueError, match="hint: ") as caught:
        apply_overrides(plan(), [override])
    first, *rest = str(caught.value).split("\n")
    assert problem in first
    assert hint in "\n".join(rest)


def test_a_call_can_be_switched_off_where_none_is_allowed():
    tree = call(Model, encoder=call(Wide))
    assert apply_overrides(tree, ["encoder=null"]).encoder is None


def test_without_annotation_the_present_value_decides_the_type():
    tree = call(untyped)
    changed = apply_overrides(tree, ["size=4", "label=5", "items=[3]", "nothing=x"])
    assert arguments_of(changed) == {"size": 4, "label": "5", "items": (3,), "nothing": "x"}
    with pytest.raises(ValueError, match="expected int, got 'big'"):
        apply_overrides(tree, ["size=big"])


def test_free_keyword_targets_take_recorded_keys_only():
    tree = call(anything, width=3)
    assert apply_overrides(tree, ["width=4"]).width == 4
    with pytest.raises(ValueError, match="no key `height`"):
        apply_overrides(tree, ["height=4"])
