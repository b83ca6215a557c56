from pathlib import Path

import pytest
from config_targets import Optimizer

from limner.config.call import call
from limner.config.load import list_functions, load

SOURCE = """
from dataclasses import dataclass
from pathlib import Path

from config_targets import Optimizer

from limner.config.call import Call, call
from limner.config.load import load

@dataclass
class Local:
    width: int = 3

def config():
    return call(Optimizer, learning_rate=1)

def small():
    tree = config()
    tree.learning_rate = 0.5
    return tree

def sibling():
    return load(Path(__file__).with_name("other.py"))

def local():
    return call(Local)

def scaled(factor):
    return call(Optimizer, learning_rate=factor)

def number():
    return 3

def pieces() -> list[Call]:
    return [config()]

def _private():
    return config()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "other.py").write_text(SOURCE.replace("learning_rate=1", "learning_rate=7"))
    path = tmp_path / "run.py"
    path.write_text(SOURCE)
    return path


def test_the_default_function_is_config(file: Path):
    assert load(file) == load(str(file)) == call(Optimizer, learning_rate=1)


def test_a_function_is_addressed_after_a_colon_or_by_name(file: Path):
    assert load(f"{file}:small") == load(file, function="small")
    assert load(f"{file}:small").learning_rate == 0.5


def test_every_load_gives_a_fresh_tree(file: Path):
    load(file).learning_rate = 9
    assert load(file).learning_rate == 1


def test_a_config_file_can_build_on_its_neighbour(file: Path):
    assert load(f"{file}:sibling").learning_rate == 7


def test_a_config_file_can_define_its_own_targets(file: Path):
    assert load(f"{file}:local").width == 3


def test_functions_without_required_arguments_are_listed(file: Path):
    assert list_functions(file) == ["config", "small", "sibling", "local", "number"]


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("run.yaml", "is no config file; expected path.py"),
        ("runs.py", r"no config file .*\nhint: did you mean `run.py`"),
        ("nowhere/run.py", "hint: there are no config files in"),
        ("run.py:smal", r"has no function `smal`\nhint: did you mean `small`"),
        ("run.py:_private", "has no function `_private`"),
        ("run.py:call", "has no function `call`"),
        ("run.py:", "names no function"),
        ("run.py:scaled", "needs factor; expected no required arguments"),
        ("run.py:number", "returned a int; expected a Call"),
    ],
)
def test_a_bad_address_says_what_was_expected(file: Path, address: str, problem: str):
    with pytest.raises(ValueError, match=problem):
        load(f"{file.parent}/{address}")


def test_an_error_inside_the_file_keeps_its_type_and_names_the_file(tmp_path: Path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError) as caught:
        load(path)
    assert caught.value.__notes__ == [f"while loading the config file {path}"]
