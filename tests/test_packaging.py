"""What is pinned, and whether a wheel built from the clone works away from it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r"([a-z0-9][a-z0-9-]*)==([0-9][A-Za-z0-9.!]*)")


def faults(text: str) -> list[str]:
    """Lines of a constraints file that are anything but `name==version`, without local tag, URL, hash or marker."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#") and not PIN.fullmatch(line)]


def pins(text: str) -> dict[str, str]:
    found = [PIN.fullmatch(line.strip()) for line in text.splitlines()]
    return {match[1]: match[2] for match in found if match}


def constraints() -> str:
    return (ROOT / "constraints.txt").read_text()


def required() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(text) for group in groups for text in group]


def test_constraints_pin_exact_versions_that_any_index_has() -> None:
    assert faults(constraints()) == []
    assert pins(constraints())["torch"] == "2.13.0"
    names = [name for name in re.findall(r"^([^#=\s]+)==", constraints(), re.MULTILINE)]
    assert names == sorted(set(names), key=names.index)
    assert names == [canonicalize_name(name) for name in names]


@pytest.mark.parametrize(
    "line",
    ["torch==2.13.0+cpu", "torch @ https://example.org/torch.whl", "torch>=2.6", "-e .", "--index-url https://x.org"],
)
def test_planted_loose_pin_is_found(line: str) -> None:
    assert faults(f"# a comment\nnumpy==2.4.6\n{line}\n") == [line]


def test_every_requirement_is_pinned_within_its_range() -> None:
    pinned = pins(constraints())
    for wanted in required():
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)], prereleases=True), str(wanted)


def _closure(roots: list[Requirement]) -> set[str]:
    """Every distribution that the requirements need here, as far as it is installed."""
    names: set[str] = set()
    waiting = [(canonicalize_name(root.name), frozenset(root.extras)) for root in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            needs = [Requirement(text) for text in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        names.add(name)
        for need in needs:
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((canonicalize_name(need.name), frozenset(need.extras)))
    return names


def test_everything_needed_is_pinned_and_no_leftover_is() -> None:
    """The CUDA builds of PyTorch bring their own libraries, which PyTorch pins itself."""
    needed = {name for name in _closure(required()) if not name.startswith(("nvidia-", "cuda-")) and name != "triton"}
    pinned = set(pins(constraints()))
    assert needed <= pinned, sorted(needed - pinned)
    installed = {canonicalize_name(each.metadata["Name"]) for each in metadata.distributions()}
    assert pinned & installed <= needed | {"editables"}, sorted((pinned & installed) - needed)


def test_project_declares_what_its_readers_expect() -> None:
    assert (PROJECT["name"], PROJECT["version"], PROJECT["requires-python"]) == ("persona-audit", "0.1.0", ">=3.11")
    assert PROJECT["scripts"] == {"persona-audit": "audit.cli:main"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built without network from this tree."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("persona_audit-*.whl"))


def shipped(root: Path) -> dict[str, int]:
    """Path -> bytes of every file that the packages consist of, caches left out."""
    files = [path.relative_to(root) for package in ("probes", "audit") for path in (root / package).rglob("*.*")]
    kept = [path for path in files if not any(part.startswith((".", "__pycache__")) for part in path.parts)]
    return {path.as_posix(): (root / path).stat().st_size for path in kept if (root / path).is_file()}


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {info.filename: info.file_size for info in archive.infolist() if ".dist-info/" not in info.filename}
    assert held == shipped(ROOT)
    assert {".jsonl", ".toml", ".j2"} <= {Path(name).suffix for name in held}


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it, far from the clone."""
    target = tmp_path_factory.mktemp("elsewhere") / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(target)]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def run(code: str, target: Path) -> str:
    """Standard output of `code`, run beside the installed wheel; the clone's own packages must not be what answers."""
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(target), "PYTHONSAFEPATH": "1"}
    check = "import audit, probes\nfor p in (audit, probes): assert p.__file__.startswith({target!r}), p.__file__\n"
    done = subprocess.run(
        [sys.executable, "-c", check.format(target=str(target)) + code],
        capture_output=True,
        text=True,
        cwd=target.parent,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_personas_are_found_in_the_installed_wheel(elsewhere: Path) -> None:
    told = run(
        "from probes.persona import builtin, read\n"
        "library = read(builtin())\n"
        "print(sorted(persona.name for persona in library.personas), len(library.plain) > 0)",
        elsewhere,
    )
    headers = sorted(path.stem for path in (ROOT / "probes" / "personas").glob("*.toml"))
    assert len(headers) == 8 and told.strip() == f"{headers} True"


def test_bundled_organisms_are_found_in_the_installed_wheel(elsewhere: Path) -> None:
    told = run(
        "from importlib.resources import files\n"
        "folder = files('audit') / 'organisms' / 'bundled'\n"
        "print(sorted(each.name for each in folder.iterdir() if (each / 'config.json').is_file()))",
        elsewhere,
    )
    names = sorted(path.parent.name for path in (ROOT / "audit" / "organisms" / "bundled").glob("*/config.json"))
    assert names, "no organism is bundled"
    assert told.strip() == str(names)


@pytest.mark.skipif(not (ROOT / "audit" / "cli.py").exists(), reason="there is no command line yet")
def test_command_answers_in_the_installed_wheel(elsewhere: Path) -> None:
    told = run("import sys\nsys.argv = ['persona-audit', '--help']\nfrom audit.cli import main\nmain()", elsewhere)
    assert "doctor" in told
