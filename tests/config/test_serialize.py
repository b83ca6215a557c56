import json
from pathlib import Path

import pytest
from config_targets import Optimizer, Plan, Stage, anything

from limner.config.call import Call, call
from limner.config.serialize import from_json, to_json

OURS = ("config_targets.",)


def plan() -> Call:
    stage = call(Stage, name="one", optimizer=call(Optimizer, schedule="linear"))
    free = call(anything, pair=(1, (2,)), path=Path("a/b"), items=[None, True, 1.5])
    return call(Plan, stages=[stage], folder="out", meta={"free": free})


def test_json_keeps_the_tree():
    stored = json.dumps(to_json(plan()))
    assert from_json(json.loads(stored), allowed_prefixes=OURS) == plan()


def test_the_stored_form_names_targets_and_plain_values():
    assert to_json(call(Optimizer, schedule="linear", betas=(0.5, 1))) == {
        "_target_": "config_targets.Optimizer",
        "schedule": "linear",
        "betas": {"_tuple_": [0.5, 1.0]},
    }


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "limnerx.call",
        "config_targets.Optimizer",
        "limner.config.serialize.importlib.import_module",
        "limner.config.load.sys.exit",
        "limner.config.call.inspect.signature",
        "limner.config.serialize.call",
        "limner.config.serialize",
        "limner.nothing.here",
        "limner.",
        "",
        3,
    ],
)
def test_reading_takes_only_what_is_defined_below_the_allowed_prefixes(name: object):
    with pytest.raises(ValueError, match=r"stored configuration, `model`.*\nhint: "):
        from_json({"model": {"_target_": name}})


def test_reading_checks_the_arguments_again():
    data = {"stages": [{"_target_": "config_targets.Optimizer", "lr": 1}]}
    with pytest.raises(ValueError, match=r"`stages\.0`: Optimizer has no argument `lr`"):
        from_json(data, allowed_prefixes=OURS)


def test_a_target_that_cannot_be_imported_is_not_stored(monkeypatch: pytest.MonkeyPatch):
    tree = call(anything, part=call(Optimizer))
    monkeypatch.setattr("config_targets.Optimizer", None)
    with pytest.raises(ValueError, match="cannot store `part`: Optimizer cannot be imported"):
        to_json(tree)


def test_a_dict_key_that_marks_stored_types_is_refused():
    with pytest.raises(ValueError, match="`meta` has the key `_tuple_`"):
        to_json({"meta": {"_tuple_": 1}})
