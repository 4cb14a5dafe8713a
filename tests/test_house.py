"""The house keeps itself: floors, the map that names them, light imports, files of a readable length.

The floors are read from the table in docs/index.md, so the map is the law. Each check is a function of a source tree
and is shown to fail on a small house with the fault planted in it.
"""

from __future__ import annotations

import ast
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("probes", "audit")
LONGEST = 400
ROW = re.compile(r"^\|\s*(\d+)\b[^|]*\|\s*`((?:probes|audit)/[\w/]+\.py)`\s*\|", re.MULTILINE)
TORCH_FREE = (
    "estimate", "finding", "scores", "policy", "plan", "verdict", "record", "provenance", "baseline", "waiver",
    "case", "gate",
)  # fmt: skip
HELP_SECONDS = 0.5


def floors(root: Path) -> dict[str, tuple[int, int]]:
    """Module path -> (floor, position in the table), as docs/index.md lists them."""
    rows = ROW.findall((root / "docs" / "index.md").read_text())
    assert rows, "docs/index.md has no table of modules"
    paths = [path for _, path in rows]
    numbers = [int(floor) for floor, _ in rows]
    assert len(set(paths)) == len(paths), f"listed twice: {sorted({path for path in paths if paths.count(path) > 1})}"
    assert numbers == sorted(numbers), "docs/index.md: the floors are out of order"
    return {path: (floor, position) for position, (floor, path) in enumerate(zip(numbers, paths, strict=True))}


def sources(root: Path) -> list[Path]:
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def bare(path: Path) -> bool:
    """Whether a file holds nothing but a docstring."""
    body = ast.parse(path.read_text()).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def modules(root: Path) -> set[str]:
    """Every source file as the map writes it; an `__init__` that holds only a docstring is no module."""
    return {path.relative_to(root).as_posix() for path in sources(root) if path.name != "__init__.py" or not bare(path)}


def _file(root: Path, dotted: str) -> Path | None:
    """The source file of a dotted name of the house, or None where there is none."""
    stem = root.joinpath(*dotted.split("."))
    plain, package = stem.with_suffix(".py"), stem / "__init__.py"
    return plain if plain.is_file() else package if package.is_file() else None


def imports(root: Path, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of the house in a file, wherever it stands, `__init__` named in full.

    `from package import name` means the module of that name where there is one, else the package's `__init__`.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            here = path.relative_to(root).with_suffix("").parts
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            names = [f"{source}.{alias.name}" for alias in node.names]
            wanted = [name if _file(root, name) else source for name in names]
        elif isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        else:
            continue
        for name in wanted:
            if name.split(".")[0] in PACKAGES:
                found = _file(root, name)
                yield node.lineno, f"{name}.__init__" if found is not None and found.name == "__init__.py" else name


def climbing(root: Path) -> list[str]:
    """Imports that do not go down: to a higher floor, to a module listed later, or to one with no row."""
    rows = floors(root)
    faults = []
    for path in sources(root):
        here = path.relative_to(root).as_posix()
        for line, name in dict.fromkeys(imports(root, path)):
            there = name.replace(".", "/") + ".py"
            if here not in rows or (there not in rows and name.endswith("__init__") and bare(root / there)):
                continue  # the map test names a missing row; an `__init__` without content gives nothing away
            if there not in rows:
                faults.append(f"{here}:{line} imports {there}, which docs/index.md does not list")
            elif rows[there] >= rows[here]:
                faults.append(f"{here}:{line} (floor {rows[here][0]}) imports {there} (floor {rows[there][0]})")
    return faults


def own_package(root: Path) -> list[str]:
    """Imports of the `__init__` of a package that the file itself lies in."""
    faults = []
    for path in sources(root):
        inside = path.relative_to(root).parent.parts
        ancestors = {".".join((*inside[: depth + 1], "__init__")) for depth in range(len(inside))}
        here = path.relative_to(root).as_posix()
        faults += [f"{here}:{line} imports {name}" for line, name in imports(root, path) if name in ancestors]
    return faults


def unmapped(root: Path) -> tuple[list[str], list[str]]:
    """(modules without a row, rows without a module)."""
    listed, there = set(floors(root)), modules(root)
    return sorted(there - listed), sorted(listed - there)


def too_long(root: Path) -> list[str]:
    files = [*sources(root), *(root / "tests").rglob("*.py")]
    lengths = {path.relative_to(root).as_posix(): len(path.read_text().splitlines()) for path in files}
    return [f"{name}: {length} lines" for name, length in sorted(lengths.items()) if length > LONGEST]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_imports_go_down_the_floors() -> None:
    assert climbing(ROOT) == []


def test_nothing_imports_its_own_package() -> None:
    assert own_package(ROOT) == []


def test_map_names_every_module_and_no_other() -> None:
    assert unmapped(ROOT) == ([], [])


def test_no_file_is_too_long() -> None:
    assert too_long(ROOT) == []


def test_tests_are_no_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_imports_stay_light() -> None:
    heavy = ("transformer_lens", "sae_lens", "plotly", "sklearn")
    done = run(f"import sys, audit, probes; print([name for name in {heavy!r} if name in sys.modules])")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_every_module_stays_light() -> None:
    """What the package promises holds for its modules too: the heavy ones are imported where they are used."""
    names = [path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in sorted(modules(ROOT))]
    done = run(
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = [h for h in ('transformer_lens', 'sae_lens', 'sklearn', 'plotly') if h in sys.modules]\n"
        "    if heavy: print(name, heavy); break\n"
    )
    assert (done.stdout, done.stderr) == ("", "")


def torch_free() -> list[str]:
    """The modules that must be importable without torch: a record can be read and rendered anywhere."""
    windows = [f"audit.report.{path.stem}" for path in sorted((ROOT / "audit" / "report").glob("*.py"))]
    return [f"audit.{name}" for name in TORCH_FREE] + [name for name in windows if not name.endswith("__init__")]


@pytest.mark.parametrize("name", torch_free())
def test_judgement_and_windows_need_no_torch(name: str) -> None:
    """torch is not merely absent afterwards: it cannot be imported at all."""
    done = run(f"import sys; sys.modules['torch'] = None; import {name}")
    assert done.returncode == 0, done.stderr


def test_help_loads_no_torch_and_answers_at_once() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['persona-audit', '--help']\n"
        "from audit.cli import main\n"
        "try:\n    main()\nexcept SystemExit as leave:\n    assert not leave.code, leave.code\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    seconds = []
    for _ in range(4):  # the first run compiles
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "Usage" in done.stdout
    assert min(seconds) < HELP_SECONDS, f"--help took {min(seconds):.2f} s of processor time"


def test_makefile_targets_are_phony() -> None:
    """A folder is called `audit`: without .PHONY, make would find that target up to date and do nothing."""
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:(.*)$", text, re.MULTILINE)
    assert phony is not None
    assert set(re.findall(r"^([a-z]+):(?!=)", text, re.MULTILINE)) == set(phony.group(1).split())


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house without a fault."""
    files = {
        "docs/index.md": "| floor | module | for |\n|---|---|---|\n| 0 ground | `probes/low.py` | a |\n"
        "| 0 ground | `probes/next.py` | b |\n| 5 evidence | `audit/high.py` | c |\n",
        "probes/__init__.py": '"""Bare."""\n',
        "probes/low.py": "x = 1\n",
        "probes/next.py": "from probes.low import x\n",
        "audit/high.py": "def f():\n    from probes import low\n    return low\n",
        "tests/test_x.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def faults(root: Path) -> list[str]:
    without_row, without_module = unmapped(root)
    return climbing(root) + own_package(root) + without_row + without_module + too_long(root)


def test_small_house_is_clean(house: Path) -> None:
    assert faults(house) == []


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("probes/low.py", "import audit.high\n", "probes/low.py:1 (floor 0) imports audit/high.py (floor 5)"),
        ("probes/low.py", "def f():\n    from audit.high import g\n", "probes/low.py:2 (floor 0)"),
        ("probes/low.py", "from probes.next import x\n", "probes/low.py:1 (floor 0) imports probes/next.py (floor 0)"),
        ("probes/low.py", "from .next import x\n", "probes/low.py:1 (floor 0) imports probes/next.py (floor 0)"),
        ("probes/next.py", "from probes import x\n", "probes/next.py:1 imports probes.__init__"),
        ("probes/next.py", "from . import x\n", "probes/next.py:1 imports probes.__init__"),
        ("probes/extra.py", "x = 1\n", "probes/extra.py"),
        ("probes/low.py", None, "probes/low.py"),
        ("probes/__init__.py", "from probes.low import x\n", "probes/__init__.py"),
        ("probes/low.py", "x = 1\n" * (LONGEST + 1), f"probes/low.py: {LONGEST + 1} lines"),
    ],
)
def test_planted_fault_is_found(house: Path, name: str, text: str | None, told: str) -> None:
    (house / name).unlink() if text is None else (house / name).write_text(text)
    assert any(fault.startswith(told) for fault in faults(house)), faults(house)
