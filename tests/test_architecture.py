"""The rooms of the package: their list, what each may import, and which names are public."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import lightning_sparsegrad
from lightning_sparsegrad.data import encodings
from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.modules import TransformerTask
from tests.cases import cases

PACKAGE = "lightning_sparsegrad"
FOLDER = Path(lightning_sparsegrad.__file__).parent
ABOVE_ALL = {"", "__main__", "_moved"}  # the package itself, its start, and its old names
NAMED_IN_CONFIGS = {"loops.learning_rates"}  # as the paths of its functions, which no package exports
NAMED_BY_USERS = {  # these look at modules that a config, a checkpoint or a Trainer names
    "cli._replacing",
    "loops._twins",
    "untrusted._callables",
    "untrusted._imports",
    "untrusted._jsonargparse",
} | {"cli._printing", "cli._torch"}  # and these have a module of torch stand aside while Lightning is imported
BY_NAME = {"__import__", "builtins", "eval", "exec", "import_object", "importlib", "jsonargparse._util.import_object"}
BY_NAME |= {"pkgutil", "pkgutil.resolve_name", "runpy", "sys.modules"}
LIGHTNING = ["lightning", "pytorch_lightning", "torchmetrics"]
TASKS = ["transformers", "datasets", "jsonargparse", "pandas", "accelerate", "peft", "trl", "matplotlib"]
BLOCKED = [*TASKS, "filelock", "huggingface_hub", "pyarrow", "ray", "rich", "scipy", "sklearn", "tokenizers", "yaml"]

# ------------------------------------------------------------ what is written in the package
_DOTTED = re.compile(rf"\b{PACKAGE}\.[\w.]+")
_BULLET = re.compile(r"^- `(\w+)`:", re.MULTILINE)
_ABOVE, _BELOW = str(lightning_sparsegrad.__doc__).split("imports torch alone", 1)
TORCH_ONLY = _BULLET.findall(_BELOW)
ROOMS = [*_BULLET.findall(_ABOVE), *TORCH_ONLY]
MODULES = {
    ".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in FOLDER.rglob("*.py")
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imported(module: str) -> Iterator[str]:
    """Yield the full names that a module imports, in functions and for type checkers as well."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"`{module}` has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            yield from (str(name.value) for name in node.args if isinstance(name, ast.Constant))
        elif isinstance(node, ast.Name) and node.id == PACKAGE:  # which `import` of any module of it has bound
            yield PACKAGE


def of_ours(name: str) -> str | None:
    """Return the module of the package that a full name leads to, the longest that exists, or `None`."""
    first, *rest = name.split(".")
    if first != PACKAGE:
        return None
    while rest and ".".join(rest) not in MODULES:
        rest.pop()
    return ".".join(rest)


def own_imports(module: str) -> set[str]:
    return {ours for name in imported(module) if (ours := of_ours(name)) is not None}


def room(module: str) -> str:
    return module.partition(".")[0]


def goes_up(module: str, other: str) -> bool:
    if room(module) in ABOVE_ALL:
        return False
    return room(other) in ABOVE_ALL or ROOMS.index(room(other)) < ROOMS.index(room(module))


def strings(module: str) -> Iterator[str]:
    """Yield the strings of a module without its docstrings."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    bodies = [node.body for node in ast.walk(tree(module)) if isinstance(node, documented)]
    first = [body[0].value for body in bodies if body and isinstance(body[0], ast.Expr)]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in first:
            yield node.value


# ------------------------------------------------------------ rooms and imports
def test_every_module_is_in_a_room_of_the_docstring() -> None:
    assert {room(module) for module in MODULES} - ABOVE_ALL == set(ROOMS)
    assert len(ROOMS) == len(set(ROOMS))


def test_the_root_holds_at_most_six_modules() -> None:
    assert len(list(FOLDER.glob("*.py"))) <= 6


def test_imports_go_one_way() -> None:
    pairs = [(module, other) for module in MODULES for other in own_imports(module)]
    assert [pair for pair in pairs if goes_up(*pair)] == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter({module: own_imports(module) - {module} for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_string_leads_up() -> None:
    named = [(module, name) for module in MODULES for text in strings(module) for name in _DOTTED.findall(text)]
    assert [pair for pair in named if goes_up(pair[0], str(of_ours(pair[1])))] == []


def opened_by_name(module: str) -> Iterator[str]:
    """Yield the expressions of a module that reach modules otherwise than by an import or a literal name."""
    called = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
    named = {call.func for call in called if call.args and re.fullmatch(r"'\w[\w.]*'", ast.unparse(call.args[0]))}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Name | ast.Attribute):
            text = ast.unparse(node)
            if text in BY_NAME or (text == "import_module" and node not in named):
                yield text
        elif isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names = {f"{start}{alias.name}": alias.asname for alias in node.names}
            yield from (
                name
                for name, other in names.items()
                if name in BY_NAME or (other and name == "importlib.import_module")
            )


def test_no_name_of_a_module_is_put_together() -> None:
    """The argument of `import_module` is a string literal, which the test above reads."""
    by_name = {module: set(opened_by_name(module)) for module in MODULES if room(module) not in ABOVE_ALL}
    assert {module for module, names in by_name.items() if names} == NAMED_BY_USERS


def test_the_lower_rooms_import_torch_alone() -> None:
    lower = [module for module in MODULES if room(module) in TORCH_ONLY]
    first = {(module, name.partition(".")[0]) for module in lower for name in imported(module)}
    first.remove(("transforms.masks._mask_file", "safetensors"))  # imported where a mask file is read or made
    first.remove(("functional._triton_kernels", "triton"))  # imported at the first gradients on a GPU
    assert [pair for pair in sorted(first) if pair[1] not in {*sys.stdlib_module_names, "torch", PACKAGE}] == []


# ------------------------------------------------------------ what runs where only some is installed
def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


LOOP = """
from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop, GradientEngine
model = torch.nn.Linear(3, 2)
engine = GradientEngine(model, Chain([GradDrop(0.5), ComponentNormClip(0.1)]), total_steps=10)
with engine.window(0):
    model(torch.ones(1, 3)).sum().backward()
    engine.apply_()
assert float(engine.statistics["kept"]) < 1
"""


def test_the_lower_rooms_and_a_plain_loop_run_with_torch_alone() -> None:
    rooms = ", ".join(f"{PACKAGE}.{name}" for name in TORCH_ONLY)
    loaded = f"print([name for name in {LIGHTNING + TASKS} if name in sys.modules])"
    assert run(f"import sys, torch, {rooms}\n{LOOP}\n{loaded}") == "[]\n"


def test_the_callback_for_transformers_imports_no_other_loop() -> None:
    loaded = "print([name for name in ['lightning', 'trl'] if name in sys.modules])"
    assert run(f"import sys\nfrom {PACKAGE} import TransformersCallback, TransformersMixin\n{loaded}") == "[]\n"


_FIT = """
from lightning.pytorch import LightningModule, Trainer
class Task({base}):
    def training_step(self, batch, _):
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
task = Task({arguments})
task.layer = torch.nn.Linear(2, 1)
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
data = torch.utils.data.DataLoader(torch.ones(2, 2))
Trainer(accelerator="cpu", max_steps=2, callbacks={callbacks}, **quiet).fit(task, data)
"""
_USES = {
    "engine.GradientEngine": """
layer = torch.nn.Linear(2, 1)
engine = GradientEngine(layer, GradDrop(rate=0.5), total_steps=2, seed=0)
with engine.window(0):
    layer(torch.ones(2, 2)).mean().backward()
    engine.apply_(loss_scale=None)
""",
    "modules.base.SparseGradModule": _FIT.format(
        base="SparseGradModule", arguments="gradient_transform=GradDrop(rate=0.5)", callbacks="[]"
    ),
    "callbacks.gradient_transform.GradientTransformCallback": _FIT.format(
        base="LightningModule", arguments="", callbacks="[GradientTransformCallback(GradDrop(rate=0.5))]"
    ),
}


def test_the_engine_and_both_doors_work_with_torch_and_lightning() -> None:
    # Lightning has torchmetrics, which imports transformers where that is installed
    block = "import sys, warnings, torch, lightning.pytorch\nwarnings.simplefilter('ignore')\n"
    block += "for name in list(sys.modules):\n"
    block += f" if name.partition('.')[0] in {BLOCKED}: del sys.modules[name]\n"
    block += f"sys.modules.update(dict.fromkeys({BLOCKED}))\n"
    block += f"from {PACKAGE} import GradDrop\n"
    for used, code in _USES.items():
        module, _, name = used.rpartition(".")
        block += f"from {PACKAGE}.{module} import {name}\n{code}\nprint({name}.__name__)\n"
    lines = run(block).splitlines()
    assert {used.rpartition(".")[2] for used in _USES} <= set(lines)


# ------------------------------------------------------------ names
def test_lazy_names_are_those_that_the_packages_export() -> None:
    named = {package: names.split() for package, names in lightning_sparsegrad._LAZY.items()}
    for package, names in named.items():
        module = import_module(f"{PACKAGE}.{package}")
        assert set(names) <= set(getattr(module, "__all__", vars(module)))
    assert dir(lightning_sparsegrad) == sorted(lightning_sparsegrad.__all__)
    assert len(set(lightning_sparsegrad.__all__)) == len(lightning_sparsegrad.__all__)
    for name in lightning_sparsegrad.__all__:
        assert getattr(lightning_sparsegrad, name).__name__ == name


def defined(module: str) -> set[str]:
    body = tree(module).body
    names = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return names | {target.id for target in targets if isinstance(target, ast.Name)}


def exported_above(module: str) -> set[str]:
    packages = [
        PACKAGE,
        *(f"{PACKAGE}.{'.'.join(module.split('.')[:depth])}" for depth in range(1, module.count(".") + 1)),
    ]
    return {name for package in packages for name in getattr(import_module(package), "__all__", ())}


def test_a_module_is_private_by_name_unless_a_package_exports_what_it_defines() -> None:
    files = {module for module, path in MODULES.items() if path.name != "__init__.py"} - {"main"}
    public = {module for module in files if not module.rpartition(".")[2].startswith("_")}
    assert {module for module in public if not defined(module) & exported_above(module)} == NAMED_IN_CONFIGS


@cases("kind", TaskKind)
def test_a_kind_of_task_is_of_one_task_which_it_names_and_has_an_encoding(kind: TaskKind) -> None:
    exported = [getattr(lightning_sparsegrad, name) for name in lightning_sparsegrad.__all__]
    tasks = [each for each in exported if isinstance(each, type) and issubclass(each, TransformerTask)]
    assert [task.__name__ for task in tasks if task.task_kind is kind] == [kind.value]
    kinds = [getattr(encodings, name) for name in encodings.__all__]
    assert [each for each in kinds if getattr(each, "task_kind", None) is kind]
