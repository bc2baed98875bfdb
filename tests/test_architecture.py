"""The layout's promises, read from the source: who may import whom, who may touch what, how long things get."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = {
    "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "app.py", "pages", "core", "assets", "tests",
    ".gitignore", ".streamlit", ".ci",
}  # fmt: skip
STAGES = ["load", "trace", "measure", "plan", "apply", "evaluate", "export"]
# What every stage may use. Solvers know no stage at all.
SHARED = {"records", "errors", "registry", "config", "solvers"}
# Above the stages: the published methods, what is kept, what is shown of it, long work, the course and the command
# line; each may use what stands to its left. The pipeline, which tells the whole story, stands beside them.
ABOVE = ["recipes", "keep", "show", "work", "learn", "cli"]
# Pages speak to core through its public names, and to the work around it.
OPEN_TO_PAGES = {"core", "core.work.jobs", "core.keep.store", "core.keep.workspace"}
CORE = sorted((ROOT / "core").rglob("*.py"))
PAGES = [ROOT / "app.py", *sorted((ROOT / "pages").rglob("*.py"))]
PAGES = [path for path in PAGES if path.exists()]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
MAX_LINES, MAX_FUNCTION = 400, 60


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def each(paths: list[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """The test is held on every file; all that fall short are named together."""

    def held(test: Callable[[Path], None]) -> Callable[[], None]:
        def on_every_file() -> None:
            faults = []
            for path in paths:
                try:
                    test(path)
                except AssertionError as error:
                    faults.append(f"{name_of(path)}: {error}")
            assert not faults, "\n".join(faults)

        on_every_file.__name__, on_every_file.__doc__ = test.__name__, test.__doc__
        return on_every_file

    return held


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(parse(path)))


@pytest.fixture(autouse=True, scope="module")
def _let_go() -> Iterator[None]:
    """Half a million nodes would slow what runs afterwards."""
    yield
    parse.cache_clear()
    nodes.cache_clear()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import, also those inside functions."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import"
            for alias in node.names:  # "from core import workspace" imports core.keep.workspace
                inside = ROOT / (node.module or "").replace(".", "/") / alias.name
                found = inside.is_dir() or inside.with_suffix(".py").is_file()
                yield node.lineno, f"{node.module}.{alias.name}" if found else node.module or ""


def only_for_types(path: Path) -> set[int]:
    """Lines under ``if TYPE_CHECKING``: names for annotations, which import nothing when the program runs."""
    return {
        inner.lineno
        for node in nodes(path)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    }


def part_of_core(path: Path) -> str:
    """ "trace" for core/trace/graph.py, "records" for core/records.py, "" for core/__init__.py."""
    first = path.relative_to(ROOT / "core").parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def test_top_level_is_fixed() -> None:
    ignored = {line.strip().strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    found = {path.name for path in ROOT.iterdir() if path.is_file() or any(path.iterdir())} - {".git"}
    left_over = {name for name in found - TOP_LEVEL if not any(Path(name).match(rule) for rule in ignored if rule)}
    assert not left_over, f"not part of the layout: {sorted(left_over)}"
    assert not (ROOT / "pages" / "__init__.py").exists(), "pages/ must not be a package"


@each([*CORE, *PAGES, *TESTS])
def test_no_relative_imports_and_no_utils(path: Path) -> None:
    assert all(module for _, module in imports(path))
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}, f"{name_of(path)}: name what it is about"


@each(CORE)
def test_core_knows_no_interface(path: Path) -> None:
    banned = {"streamlit", "plotly", "altair", "matplotlib", "pages", "app", "tests"}
    found = [f"line {line}: {module}" for line, module in imports(path) if module.split(".")[0] in banned]
    assert not found, f"{name_of(path)} imports {found}"


@each(CORE)
def test_stages_import_only_what_stands_to_their_left(path: Path) -> None:
    here, order = part_of_core(path), [*STAGES, *ABOVE]
    if here in {"", "pipeline"}:
        return
    assert here in order or here in SHARED, f"core/{here} has no place in the order: give it one in this test"
    allowed = SHARED | set(order[: order.index(here) + 1]) if here in order else SHARED - {"solvers"} | {here}
    annotations = only_for_types(path)
    for line, module in imports(path):
        first, _, rest = module.partition(".")
        if first == "core" and line not in annotations:
            part = rest.partition(".")[0]
            assert part in allowed, f"{name_of(path)}:{line}: {here} imports {module}"


@each([path for path in CORE if part_of_core(path) == "solvers"])
def test_solvers_see_no_model(path: Path) -> None:
    assert "nn.Module" not in path.read_text(encoding="utf-8")


@each(PAGES)
def test_pages_use_only_public_names(path: Path) -> None:
    for line, module in imports(path):
        first = module.split(".")[0]
        assert first not in {"torch", "torchvision", "numpy", "scipy", "sklearn"}, f"{name_of(path)}:{line}: {module}"
        if first == "core":
            assert module in OPEN_TO_PAGES, f"{name_of(path)}:{line}: {module} is not public"


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """(line, last name) of every call: ``a.b.c(x)`` gives "c"."""
    for node in nodes(path):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.lineno, node.func.attr
            elif isinstance(node.func, ast.Name):
                yield node.lineno, node.func.id


@each(CORE)
def test_hooks_only_in_probes(path: Path) -> None:
    if name_of(path) == "core/trace/probes.py":
        return
    found = [(line, name) for line, name in calls(path) if re.fullmatch(r"register_\w*hook\w*", name)]
    assert not found, f"{name_of(path)} registers hooks: {found}"


@each(CORE)
def test_only_surgery_slices_weights(path: Path) -> None:
    """index_select on weights is surgery's. Replacing a parameter in a module is too: everybody else returns values.

    Layers that gather do it to what they are given, when they run. A scan does it to values that no module holds.
    """
    if name_of(path) in {"core/apply/surgery.py", "core/trace/layers/gather.py", "core/measure/scan/narrow.py"}:
        return
    found = [(line, name) for line, name in calls(path) if name == "index_select"]
    assert not found, f"{name_of(path)} slices: {found}"


@each(PAGES)
def test_session_state_only_in_session(path: Path) -> None:
    if name_of(path) == "pages/components/session.py":
        return
    found = [node.lineno for node in nodes(path) if isinstance(node, ast.Attribute) and node.attr == "session_state"]
    assert not found, f"{name_of(path)} touches st.session_state on lines {found}"


@each([*CORE, *PAGES])
def test_nothing_grows_too_long(path: Path) -> None:
    """Targets are 300 lines and 40; these are the walls."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{name_of(path)} has {lines} lines"
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{name_of(path)}:{node.lineno}: {node.name} has {length} lines"


@each([*CORE, *PAGES])
def test_every_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(parse(path)), f"{name_of(path)} has no docstring"


@each([*CORE, *PAGES])
def test_nothing_is_unpickled(path: Path) -> None:
    """The pickle module may lend the name of its error, nothing else; torch.load reads weights only."""
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in PICKLERS, f"{name_of(path)}:{node.lineno}"
        elif isinstance(node, ast.Import):
            assert not PICKLERS - {"pickle"} & {alias.name for alias in node.names}, f"{name_of(path)}:{node.lineno}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            assert node.attr == "UnpicklingError", f"{name_of(path)}:{node.lineno}: pickle.{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = [ast.unparse(word.value) for word in node.keywords if word.arg == "weights_only"]
            assert safe == ["True"], f"{name_of(path)}:{node.lineno}: torch.load without weights_only=True"
