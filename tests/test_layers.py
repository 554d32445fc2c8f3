"""The layers of the architecture, read from the imports: nothing imports upwards or sideways among the axes."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"boxes", "precision"},
    {"losses"},
    {"represent", "quality", "target", "assign", "sampling"},
    {"backbone", "detector", "objective", "oracle", "postprocess"},
    {"data"},
    {"recipe"},
    {"engine"},
    {"interop"},
    {"cli", "__main__"},
]
BLIND = LAYERS[2]  # the axes do not know of each other
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
OUTSIDE = {
    "numpy",
    "pandas",
    "scipy",
    "pycocotools",
    "hotcoco",
    "matplotlib",
    "pyarrow",
    "PIL",
    "yaml",
    "analysis",
    "__future__",
}


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def room(dotted: str) -> str:
    """The module of the architecture that a dotted name lies in."""
    return dotted.split(".")[1] if "." in dotted else "__init__"


def test_every_module_has_a_layer():
    rooms = {
        p.stem if p.suffix else p.name for p in (ROOT / "qrepro").iterdir() if not p.name.startswith("__pycache__")
    }
    assert rooms - {"__init__", "recipes"} <= set(RANK)


def test_no_import_goes_up_or_sideways():
    wrong = []
    for path in (ROOT / "qrepro").rglob("*.py"):
        inside = path.relative_to(ROOT / "qrepro").parts[0].removesuffix(".py")
        for dotted in imports(path):
            if not dotted.startswith("qrepro"):
                if dotted.split(".")[0] == "analysis" and inside != "cli":
                    wrong.append(f"{path.name}: {dotted}")
                continue
            other = room(dotted)
            if other in ("__init__", inside):
                continue
            sideways = inside in BLIND and other in BLIND
            if inside not in ("__init__",) and (RANK[other] > RANK[inside] or sideways):
                wrong.append(f"{inside} imports {other}")
    assert wrong == []


def test_analysis_needs_neither_torch_nor_qrepro():
    standard = set(__import__("sys").stdlib_module_names)
    for path in (ROOT / "analysis").rglob("*.py"):
        tops = {name.split(".")[0] for name in imports(path)} - standard
        assert tops <= OUTSIDE, f"{path.name}: {tops - OUTSIDE}"


def test_only_the_shell_prints():
    for path in [*(ROOT / "qrepro").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")]:
        if "cli" in path.parts:
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path
