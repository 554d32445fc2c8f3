"""The walls of the house, read from the imports: arrows run downwards, and half of it needs no torch."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "qrepro"

# Rooms by floor, the lowest first. A room may import from its own floor only where it is the same room.
TORCH_FREE = [["reporter"], ["records"], ["metrics"], ["statistics", "plots"], ["papers"], ["report"]]
TORCH = [
    ["boxes", "amp"],
    ["priors", "ground_truth", "losses", "fusion"],
    ["box_coder", "quality", "target", "assign", "sampling", "layers"],  # the axes do not know of each other
    ["backbone", "neck"],
    ["detector"],
    ["matching", "oracle", "postprocess"],
    ["objective", "ranking"],
    ["data"],
    ["recipe"],
    ["engine"],
    ["interop"],
    ["experiments"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: floor for floor, rooms in enumerate([*TORCH_FREE, *TORCH]) for room in rooms}

# Modules of rooms with torch that must be importable without it, because commands of the light install use them.
WITHOUT_TORCH = {
    "recipe": {"__init__", "load", "parts", "schema"},
    "data": {"__init__", "annotations", "check", "clean", "coco", "download", "fetch", "sets", "voc"},
    "interop": {"__init__", "zoo"},
    "experiments": {"__init__", "claims", "experiment", "run_index", "synthetic", "tables"},
}
NEEDS_TORCH = {"torch", "torchvision", "timm"}
LIGHT = {
    "numpy", "pandas", "scipy", "pycocotools", "hotcoco", "matplotlib", "pyarrow", "PIL", "yaml", "pydantic", "rich",
    "typer", "qrepro", *sys.stdlib_module_names,
}  # fmt: skip


def modules() -> Iterator[tuple[str, str, Path]]:
    """Room, name of the module in it, and file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield parts[0], parts[-1], path


def imports(path: Path, eager: bool = False) -> set[str]:
    """Dotted names that a file imports; eager: those that run when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(_eager(tree)) if eager else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "qrepro"}
    return names


def _eager(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements outside of functions and of `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _eager(node)


def room_of(dotted: str) -> str:
    """The room that a dotted name of the package lies in, empty for the package itself."""
    return dotted.split(".")[1] if "." in dotted else ""


def test_every_room_has_a_floor():
    assert {room for room, _, _ in modules()} - {"__init__"} == set(FLOOR)


def test_no_import_goes_up_or_sideways():
    wrong = []
    for room, name, path in modules():
        if room == "__init__":
            continue
        for dotted in imports(path):
            other = room_of(dotted) if dotted.split(".")[0] == "qrepro" else ""
            if other and other in FLOOR and other != room and FLOOR[other] >= FLOOR[room]:
                wrong.append(f"{room}/{name} imports {other}")
    assert wrong == []


def test_no_module_of_a_room_imports_in_a_circle():
    edges: dict[str, set[str]] = {}
    for _, _, path in modules():
        dotted = "qrepro." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        edges[dotted] = imports(path, eager=True)
    known = set(edges)
    edges = {name: {other for other in found if other in known and other != name} for name, found in edges.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(edges[name]):
                # a package's own __init__ gathers its modules: that arrow points downwards
                if not name.startswith(f"{other}."):
                    visit(other, (*trail, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())


@pytest.mark.parametrize("rooms", [[room for rooms in TORCH_FREE for room in rooms]])
def test_the_lower_half_needs_no_torch(rooms):
    for room, _, path in modules():
        if room in rooms:
            tops = {name.split(".")[0] for name in imports(path)}
            assert tops <= LIGHT, f"{path.relative_to(ROOT)}: {sorted(tops - LIGHT)}"


def test_modules_of_the_light_install_import_no_torch():
    light = {room for rooms in TORCH_FREE for room in rooms}
    for room, name, path in modules():
        inside = path.relative_to(PACKAGE).parts
        if name not in WITHOUT_TORCH.get(room, ()) or len(inside) > 2:
            continue
        for dotted in imports(path, eager=True):
            top, _, rest = dotted.partition(".")
            assert top not in NEEDS_TORCH, f"{path.relative_to(ROOT)}: {dotted}"
            other, *module = rest.split(".") if top == "qrepro" and rest else [""]
            if other and other not in light:
                allowed = WITHOUT_TORCH.get(other, set())
                assert (module[0] if module else "__init__") in allowed, f"{path.relative_to(ROOT)}: {dotted}"


def test_nothing_imports_the_command_line():
    for room, _, path in modules():
        if room not in ("cli", "__main__"):
            assert not [name for name in imports(path) if name.startswith("qrepro.cli")], path


def test_only_the_command_line_prints():
    for room, _, path in modules():
        if room == "cli":
            continue
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path
