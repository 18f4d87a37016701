"""The library as others use it: its wheel, installed in an environment of its own, in projects of their own."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from shutil import copytree, ignore_patterns
from textwrap import dedent

import pytest

pytestmark = pytest.mark.long  # it builds a wheel

ROOT = Path(__file__).parents[2]
SOURCES = ("lightning_sparsegrad", "pyproject.toml", "README.md", "LICENSE")


class Environment:
    """A virtual environment with the built wheel; the dependencies are those of the running one."""

    def __init__(self, folder: Path) -> None:
        source = folder / "source"
        source.mkdir()
        for name in SOURCES:
            origin = ROOT / name
            if origin.is_dir():
                copytree(origin, source / name, ignore=ignore_patterns("__pycache__"))
            else:
                (source / name).write_bytes(origin.read_bytes())
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder / "dist", source], check=True)
        venv.create(folder / "env")
        self.bin = folder / "env" / "bin"
        site = next((folder / "env" / "lib").glob("python*")) / "site-packages"
        # a path in a .pth file is searched, but .pth files there are not read: an editable install stays out of sight
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        wheel = next((folder / "dist").glob("*.whl"))
        subprocess.run([*pip, "--python", self.bin / "python", "install", "--no-deps", wheel], check=True)

    def run(self, *command: str, cwd: Path) -> str:
        environment = {
            name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PL_GLOBAL_SEED"}
        }
        done = subprocess.run(
            [self.bin / command[0], *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("wheel"))


TASK = """
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, TensorDataset


class Steps:
    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        return torch.nn.functional.cross_entropy(self.model(inputs), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(32, 16, generator=generator)
        return DataLoader(TensorDataset(inputs, inputs[:, 0].gt(0).long()), batch_size=8)


class Plain(Steps, LightningModule):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(16, 2)
"""
TRAINER = (
    "accelerator='cpu', max_epochs=1, logger=False, enable_checkpointing=False, "
    "enable_progress_bar=False, enable_model_summary=False"
)


def test_the_wheel_is_what_is_imported_and_is_typed(environment: Environment, tmp_path: Path) -> None:
    script = """
    from pathlib import Path
    import lightning_sparsegrad
    folder = Path(lightning_sparsegrad.__file__).parent
    print(folder, (folder / "py.typed").exists())
    """
    folder, typed = environment.run("python", "-c", dedent(script), cwd=tmp_path).split()
    assert Path(folder).is_relative_to(environment.bin.parent)
    assert typed == "True"


def test_a_plain_loop_loads_neither_lightning_nor_transformers(environment: Environment, tmp_path: Path) -> None:
    script = """
    import sys
    import torch
    from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop, GradientEngine

    model = torch.nn.Linear(16, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = GradientEngine(model, Chain([GradDrop(rate=0.5), ComponentNormClip(max_norm=0.05)]), seed=0)
    for step in range(3):
        with engine.window(step):
            model(torch.ones(4, 16)).sum().backward()
            engine.apply_()
        optimizer.step()
        optimizer.zero_grad()
    print(sorted({name.split(".")[0] for name in sys.modules} & {"lightning", "pytorch_lightning", "transformers"}))
    print(round(float(engine.statistics["kept"]), 1))
    """
    loaded, kept = environment.run("python", "-c", dedent(script), cwd=tmp_path).splitlines()
    assert loaded == "[]"
    assert 0.2 < float(kept) < 0.8


def test_a_project_subclasses_the_module(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TASK)
    script = f"""
    import torch
    from lightning.pytorch import Trainer
    from lightning_sparsegrad import GradDrop, GradientTransform, SparseGradModule
    from task import Steps

    class MyTask(Steps, SparseGradModule):
        def __init__(self, gradient_transform: GradientTransform) -> None:
            super().__init__(gradient_transform=gradient_transform)
            self.model = torch.nn.Linear(16, 2)

    task = MyTask(GradDrop(rate=0.5, resample_every=None))
    before = task.model.weight.detach().clone()
    Trainer({TRAINER}).fit(task)
    print(int((task.model.weight == before).sum()), before.numel())
    """
    still, total = map(int, environment.run("python", "-c", dedent(script), cwd=tmp_path).split())
    assert 0.2 < still / total < 0.8  # one mask for good and no momentum: what is dropped never moves


def test_a_project_adds_the_callback_to_a_module_of_its_own(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TASK)
    script = f"""
    from lightning.pytorch import Trainer
    from lightning_sparsegrad import ComponentNormClip, GradientTransformCallback
    from task import Plain

    task = Plain()
    before = task.model.weight.detach().clone()
    callback = GradientTransformCallback(ComponentNormClip(max_norm=1e-3))
    Trainer(callbacks=[callback], {TRAINER}).fit(task)
    print(float((task.model.weight - before).norm()))
    """
    moved = float(environment.run("python", "-c", dedent(script), cwd=tmp_path))
    assert 0 < moved <= 4 * 0.1 * 1e-3 * (1 + 1e-4)  # four steps of at most lr x max_norm


def test_a_project_names_our_classes_by_full_path_in_its_own_config(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TASK)
    config = """
    model: task.Plain
    trainer:
      accelerator: cpu
      max_epochs: 1
      logger: false
      enable_checkpointing: false
      callbacks:
        - class_path: lightning_sparsegrad.callbacks.GradientTransformCallback
          init_args:
            gradient_transform:
              class_path: lightning_sparsegrad.transforms.Chain
              init_args:
                transforms:
                  mask: {class_path: lightning_sparsegrad.GradDrop, init_args: {rate: 0.5}}
                  clip: {class_path: lightning_sparsegrad.transforms.ComponentNormClip, init_args: {max_norm: 0.05}}
    """
    (tmp_path / "task.yaml").write_text(dedent(config))
    script = (
        "from lightning.pytorch.cli import LightningCLI; import task; LightningCLI(auto_configure_optimizers=False)"
    )
    (tmp_path / "main.py").write_text(script)
    environment.run("python", "main.py", "fit", "--config", "task.yaml", cwd=tmp_path)


def test_the_console_script_reads_a_config_of_another_project(environment: Environment, tmp_path: Path) -> None:
    config = """
    model:
      class_path: lightning_sparsegrad.modules.SequenceClassification
      init_args:
        model_name_or_path: bert-base-uncased
        num_labels: 2
        gradient_transform: {class_path: lightning_sparsegrad.GradDrop, init_args: {rate: 0.5}}
    """
    (tmp_path / "config.yaml").write_text(dedent(config))
    printed = environment.run("sparsegrad", "fit", "--config", "config.yaml", "--print_config", cwd=tmp_path)
    assert "rate: 0.5" in printed
