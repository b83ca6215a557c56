"""The house rules that a parser can check: layers, cycles, sizes, names.

Imports inside functions and under TYPE_CHECKING count as imports.
"""

import ast
import graphlib
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "limner"
LAYERS = {
    "document": 0,
    "config": 0,
    "zoo": 0,
    "zoo_names": 0,
    "tokens": 1,
    "modalities": 2,
    "backbone": 2,
    "model": 3,
    "data": 3,
    "train": 4,
    "generate": 4,
    "compositions": 5,
    "evaluate": 5,
    "serve": 5,
    "cli": 6,
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
PAPER_NAME = re.compile(r"dreamllm|lavit|multi_?token(?!iz)", re.IGNORECASE)
# zoo_names.py lists published models, whose names are its data; evaluate holds models against papers' wordings and
# values.
PAPER_NAMES_ALLOWED_IN = ("compositions", "evaluate", "zoo_names")

FILES = sorted(SOURCE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def imported_modules(tree: ast.AST, *, module: str, is_package: bool) -> Iterator[str]:
    """Yield the modules of this package that a file imports, wherever the import stands."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from limner.config import call` imports the module `limner.config.call`.
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else base for name in inner]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
        yield from (name for name in names if name.split(".")[0] == "limner")


def package_of(module: str) -> str:
    return [*module.split("."), ""][1]


def upward_imports(tree: ast.AST, *, module: str, is_package: bool) -> list[str]:
    """Return the imports that the layer table forbids, as text."""
    own = package_of(module)
    found = []
    for name in imported_modules(tree, module=module, is_package=is_package):
        other = package_of(name)
        if other == own or not other:
            continue
        if (own == "zoo" and other != "zoo_names") or own not in LAYERS or LAYERS.get(other, 99) > LAYERS[own]:
            found.append(f"{module} imports {name}")
    return found


def docstrings(tree: ast.AST) -> set[int]:
    """Return the ids of the constants that stand alone: docstrings and attribute docs."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def words_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, text) for identifiers and strings in code; docstrings and comments are prose."""
    prose = docstrings(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for field in ("id", "attr", "name", "arg", "module"):
            if isinstance(getattr(node, field, None), str):
                yield line, getattr(node, field)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield line, node.value


def parse(path: Path) -> ast.Module:
    with tokenize.open(path) as file:
        return ast.parse(file.read(), filename=str(path))


@each_file
def test_no_module_imports_from_a_higher_layer(path: Path):
    is_package = path.name == "__init__.py"
    assert upward_imports(parse(path), module=module_of(path), is_package=is_package) == []


def test_there_are_no_import_cycles():
    graph = {}
    for path in FILES:
        module, is_package = module_of(path), path.name == "__init__.py"
        imported = imported_modules(parse(path), module=module, is_package=is_package)
        graph[module] = {name for name in imported if name != module}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_every_package_has_a_layer():
    packages = {package_of(module) for module in MODULES} - {""}
    assert packages <= LAYERS.keys()


@each_file
def test_files_and_functions_are_short(path: Path):
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_FILE_LINES
    long = [
        f"{node.name}: {length} lines"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []


@each_file
def test_module_names_say_what_is_inside(path: Path):
    assert not VAGUE_NAMES & set(module_of(path).split("."))


@each_file
def test_every_module_explains_itself_and_packages_export_nothing(path: Path):
    tree = parse(path)
    assert ast.get_docstring(tree), "a module starts with a docstring"
    if path.name == "__init__.py" and path.parent != SOURCE:
        assert len(tree.body) == 1, "an __init__.py holds a docstring only"


@each_file
def test_annotations_are_never_postponed(path: Path):
    futures = [n for n in ast.walk(parse(path)) if isinstance(n, ast.ImportFrom)]
    assert "__future__" not in {node.module for node in futures}


@each_file
def test_protocols_can_be_checked_at_run_time(path: Path):
    # beartype checks every annotation in tests and cannot check a protocol without the decorator.
    classes = [node for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef)]
    protocols = [c for c in classes if any("Protocol" in ast.unparse(base) for base in c.bases)]
    decorated = [c for c in protocols if "runtime_checkable" in map(ast.unparse, c.decorator_list)]
    assert [c.name for c in protocols if c not in decorated] == []


@each_file
def test_the_library_never_prints(path: Path):
    if package_of(module_of(path)) == "cli":
        return
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    assert [n.lineno for n in calls if ast.unparse(n.func) == "print"] == []


@each_file
def test_papers_are_named_where_they_are_wired_or_measured_only(path: Path):
    module = module_of(path)
    if package_of(module) in PAPER_NAMES_ALLOWED_IN:
        return
    named = [(line, word) for line, word in words_of(parse(path)) if PAPER_NAME.search(word)]
    assert named == []
    assert not PAPER_NAME.search(module)


@pytest.mark.parametrize(
    "source",
    [
        "import limner.cli.main",
        "from limner.model import multimodal",
        "from ..train import trainer",
        "from .. import serve",
        "def f():\n    from limner.data.packing import pack",
        "if TYPE_CHECKING:\n    from limner.generate import engine",
        "importlib.import_module('limner.cli.main')",
    ],
)
def test_the_layer_check_sees_every_kind_of_import(source: str):
    known = MODULES | {"limner.serve"}
    tree = ast.parse(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "MODULES", known)
        assert upward_imports(tree, module="limner.tokens.render", is_package=False)


@pytest.mark.parametrize("source", ["from limner.document.document import Text", "from . import sequence", "import os"])
def test_the_layer_check_allows_what_lies_below_or_beside(source: str):
    assert not upward_imports(ast.parse(source), module="limner.tokens.render", is_package=False)


@pytest.mark.parametrize("source", ["x = 'dreamllm'", "lavit_mode = 1", "class MultiToken: ..."])
def test_the_paper_check_sees_strings_and_identifiers(source: str):
    assert any(PAPER_NAME.search(word) for _, word in words_of(ast.parse(source)))


def test_the_paper_check_leaves_prose_alone():
    source = '"""As in LaVIT."""\nx = 1  # dreamllm\nmulti_tokenizer = 2'
    assert not any(PAPER_NAME.search(word) for _, word in words_of(ast.parse(source)))
