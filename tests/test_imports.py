"""Dependencies point one way, and what needs no jax does not bring it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "reskill_jax"

# Lowest first. A package, or a file of the top level, imports from itself and from
# lower layers: nothing from above, and nothing from its neighbours in a layer. Single
# environments (`environments.*`) stand above the methods: no method can know one.
LAYERS = (
    # Files, JSON, random streams, memory, modules by name, the terminal, answers of
    # reasoning models, secrets.
    {
        "storage",
        "codec",
        "seeds",
        "process",
        "modules",
        "terminal",
        "reasoning",
        "scrub",
    },
    {"command_line", "objectives"},  # words of flags; variants, as plain data
    {"distributed", "checkpoint", "workdir"},  # several processes; a run's directory
    {"termination"},
    {"skills", "llm"},
    {"environments", "policy", "trials"},
    {"rollout"},
    {"grpo"},
    {"creator"},
    {"memories"},  # what methods have written, through the creator's seam
    {"strategies"},
    {"environments.*"},
    {"laboratory"},
    {"defaults", "report"},
    {"build", "memory_shares", "stored_config"},
    {"build_strategy", "memory_report", "keys", "gpu_topology"},
    {
        "validate",
        "evaluate",
        "memory_plan",
        "export",
        "run",
    },
    {"train", "supervise", "doctor", "write_task_set"},
    {"main"},
    {"benchmarks"},
    {"experiments"},
)
WITHOUT_JAX = ("skills", "llm", "creator")
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
MAY_NAME_ALFWORLD = (
    "environments/alfworld/",
    "laboratory/",
    "benchmarks/",
    "experiments/",
)
REGISTRY = "environments/registry.py"  # of environments; may name each in one line


def assert_none(found: set[str]) -> None:
    """Fail with all that was found."""
    assert not found, "not allowed:\n" + "\n".join(sorted(found))


@cache
def modules() -> dict[str, Path]:
    """Return the file of every module below the package, by the module's name."""
    names = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del names[PACKAGE]  # every import brings it, and it brings nothing
    return names


def statements(node: ast.AST, typing: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports below a node, those in functions too.

    Args:
        node: where to look.
        typing: whether to yield what only type checkers import.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for branch in (child.body if typing else []) + child.orelse:
                yield from statements(ast.Module([branch], []), typing)
        else:
            yield from statements(child, typing)


@cache
def imports(module: str, typing: bool = False) -> frozenset[str]:
    """Return the modules that a module names in its imports, in full."""
    names = set()
    for statement in statements(ast.parse(modules()[module].read_text()), typing):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        else:
            assert not statement.level, f"{module}: relative imports are not followed"
            for alias in statement.names:
                name = f"{statement.module}.{alias.name}"
                names.add(name if name in modules() else str(statement.module))
    return frozenset(names)


@cache
def reachable(module: str) -> frozenset[str]:
    """Return the project's modules that importing a module may import in the end."""
    seen: set[str] = set()
    ahead = {module}
    while ahead:
        ahead = {name for at in ahead for name in imports(at)} & set(modules()) - seen
        seen |= ahead
    return frozenset(seen)


def package(module: str) -> str:
    """Return the package, file of the top level or single environment of a module."""
    _, first, *rest = module.split(".")
    if first == "environments" and (
        len(rest) > 1 or (rest and modules()[module].name == "__init__.py")
    ):
        return f"{first}.{rest[0]}"
    return first


def layer(module: str) -> int:
    """Return the place of a module in LAYERS."""
    name = package(module)
    for place, patterns in enumerate(LAYERS):
        if any(fnmatch(name, pattern) for pattern in patterns):
            return place
    pytest.fail(f"{module} has no layer: add {name!r} to LAYERS")


def test_no_modules_import_each_other():
    circles = {
        frozenset(other for other in reachable(module) if module in reachable(other))
        for module in modules()
    }
    assert_none({" <-> ".join(sorted(c)) for c in circles if c})


def test_no_module_imports_upwards():
    assert_none(
        {
            f"{module} imports {name}"
            for module in modules()
            for name in imports(module, typing=True) & set(modules())
            if package(name) != package(module) and layer(name) >= layer(module)
        },
    )


def test_skills_llm_and_creator_do_not_import_jax():
    found = set()
    for module in modules():
        if package(module) in WITHOUT_JAX:
            for other in {module} | reachable(module):
                if JAX & {name.split(".")[0] for name in imports(other)}:
                    found.add(f"{module} reaches it through {other}")
    assert_none(found)


def test_importing_skills_llm_and_creator_brings_no_jax():
    pytest.importorskip("pydantic", reason="needs the extra llm: pip install '.[llm]'")
    names = [module for module in modules() if package(module) in WITHOUT_JAX]
    program = f"import sys, {', '.join(names)}; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "False\n", done.stderr


def test_only_the_environment_itself_and_what_measures_on_it_name_alfworld():
    found = set()
    for path in sorted((ROOT / PACKAGE).rglob("*")):
        name = str(path.relative_to(ROOT / PACKAGE))
        if path.suffix in {".py", ".md"} and not name.startswith(MAY_NAME_ALFWORLD):
            text = path.read_text().lower()
            lines = [line for line in text.splitlines() if "alfworld" in line]
            if len(lines) > (name == REGISTRY):
                found.add(name)
    assert_none(found)
