"""The architecture, as checks on the source: who may import whom, what an import costs, how large a piece may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it where Python does not

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "soundwave"

# A module imports only from rows above its own; modules or packages that share a row never import each other.
LAYERS = [
    {"errors"},
    {"settings", "files"},
    {"inference_config"},
    {"configuration"},
    {"audio", "text"},
    {"processing", "ctc", "data"},
    {"model"},
    {"checkpoints"},
    {"inference"},
    {"training", "evaluation", "serving", "export", "doctor", "datatools"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}

MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "base", "helpers", "misc"}

IMPORT_NAMES = {"pyyaml": "yaml", "piper-tts": "piper"}  # where they differ from the distribution's name
# layers that may need more than the core installs
EXTRA_OF_LAYER = {
    "training": "train", "evaluation": "eval", "data": "train", "datatools": "train", "serving": "serve",
}
EXTRA_OF_MODULE = {"deepspeed": "zero", "metrics": "eval", "sounds": "live"}  # these modules need one more

MODULES = sorted(PACKAGE.rglob("*.py"))
PYTHON_FILES = sorted(
    path for folder in ("src", "tests", "recipes", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer_of(path: Path) -> str:
    """`model` for src/soundwave/model/shrink.py, `audio` for src/soundwave/audio.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of every import anywhere in a file; for `from a import b` it is `a.b`."""
    package = ["soundwave", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def broken_rules(path: Path) -> Iterator[str]:
    own = layer_of(path)
    for line, imported in imports_of(path):
        parts = imported.split(".")
        if parts[0] != "soundwave" or parts[1:2] == [own]:
            continue
        where = f"{name_of(path)}:{line} imports {imported}"
        other = parts[1] if len(parts) > 1 else "soundwave"
        if other not in LEVEL:
            if own != "cli":  # the command line is a user of the public package
                yield f"{where}: only cli may use the package as its users do"
        elif LEVEL[other] == LEVEL[own]:
            yield f"{where}: siblings never import each other"
        elif LEVEL[other] > LEVEL[own]:
            yield f"{where}: {other} lies above {own}"


@pytest.mark.parametrize("path", [path for path in MODULES if path != PACKAGE / "__init__.py"], ids=name_of)
def test_a_module_imports_only_from_the_layers_below_its_own(path: Path) -> None:
    assert layer_of(path) in LEVEL, f"{name_of(path)} belongs to no layer; add it to LAYERS and docs/architecture.md"
    assert list(broken_rules(path)) == []


@pytest.mark.parametrize(
    ("module", "statement", "verdict"),
    [
        ("audio.py", "from soundwave.errors import AudioError", None),
        ("audio.py", "from .errors import AudioError", None),
        ("audio.py", "from soundwave import text", "siblings never import each other"),
        ("model/shrink.py", "from ..inference import engine", "inference lies above model"),
        ("model/shrink.py", "from .adapters import AlignmentAdapter", None),
        ("training/loop.py", "import soundwave.evaluation.tasks", "siblings never import each other"),
        ("model/shrink.py", "def f():\n    import soundwave.cli.app", "cli lies above model"),
        ("model/shrink.py", "import soundwave", "only cli may use the package as its users do"),
        ("cli/app.py", "import soundwave", None),
    ],
)
def test_the_rule_itself_sees_what_it_should(
    module: str, statement: str, verdict: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    path = tmp_path / module
    path.parent.mkdir(exist_ok=True)
    path.write_text(statement)
    found = [line.split(": ")[1] for line in broken_rules(path)]
    assert found == ([verdict] if verdict else [])


def declared_names(extra: str | None) -> set[str]:
    """Import names of the distributions that pyproject.toml declares for the core, or for one of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = project["optional-dependencies"][extra] if extra else project["dependencies"]
    distributions = [re.split(r"[<>=!~\[; ]", requirement)[0].lower() for requirement in requirements]
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in distributions}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_needs_only_what_its_install_declares(path: Path) -> None:
    allowed = declared_names(None) | set(sys.stdlib_module_names) | {"soundwave"}
    if layer_of(path) in EXTRA_OF_LAYER:
        allowed |= declared_names(EXTRA_OF_LAYER[layer_of(path)])
    if "demo" in path.parts:
        allowed |= declared_names("demo")
    if path.stem in EXTRA_OF_MODULE:
        allowed |= declared_names(EXTRA_OF_MODULE[path.stem])
    undeclared = {name.split(".")[0] for _, name in imports_of(path)} - allowed
    assert undeclared == set(), f"{name_of(path)} imports what pyproject.toml does not declare"


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("soundwave", {"torch", "transformers", "av", "numpy", "typer", "rich", "huggingface_hub"}),
        ("soundwave.cli.app", {"torch", "transformers", "av", "numpy", "rich", "huggingface_hub"}),
    ],
)
def test_importing_does_no_work(module: str, forbidden: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert forbidden & set(loaded) == set()


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name_of)
def test_a_file_is_short_and_its_name_says_something(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES_OF_A_FILE, f"{name_of(path)} has {lines} lines; would a newcomer see one idea in it?"
    assert path.stem not in NAMES_THAT_SAY_NOTHING


@pytest.mark.parametrize("path", [path for path in PYTHON_FILES if "tests" not in path.parts], ids=name_of)
def test_functions_fit_on_a_screen(path: Path) -> None:
    too_long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]
    assert too_long == []


def texts_opened_in_the_systems_encoding(path: Path) -> Iterator[str]:
    """Calls of open, read_text and write_text that leave the encoding to the locale; those of bytes and audio pass."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", None)
        opens = name == "open" and owner not in ("archive", "av", "gzip", "os", "tarfile", "wave")
        if not opens and not (name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute)):
            continue
        texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        modes = [keyword.value for keyword in node.keywords if keyword.arg == "mode"]
        texts += [mode.value for mode in modes if isinstance(mode, ast.Constant)]
        binary = name == "open" and any(isinstance(text, str) and "b" in text for text in texts)
        said = any(keyword.arg == "encoding" for keyword in node.keywords) or bool({"utf-8", "ascii"} & set(texts))
        if not binary and not said:
            yield f"{name_of(path)}:{node.lineno} {name}(…)"


def test_every_text_is_read_and_written_as_utf_8() -> None:
    """A recipe with an umlaut is the same on every machine, whatever its locale."""
    assert [told for path in MODULES for told in texts_opened_in_the_systems_encoding(path)] == []
