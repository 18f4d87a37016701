"""Programs that are compiled or captured: a window runs as plain Python, and a CUDA graph of one is refused."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from lightning_sparsegrad import ConfigurationError, GradDrop, GradientEngine, GradientTransform, SparseMask
from lightning_sparsegrad.transforms import Window


class Program:
    """Windows of a linear model under a strategy."""

    def __init__(self, transform: GradientTransform) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(8, 4)
        self.engine = GradientEngine(self.model, transform)

    def step(self, batch: Tensor) -> None:
        self.model.zero_grad()
        self.engine.open()
        self.model(batch).square().sum().backward()
        self.engine.apply_()
        self.engine.abandon()

    def gradients(self, step: Callable[[Tensor], None]) -> Tensor:
        batch, gradients = torch.ones(2, 8), []
        for _ in range(3):
            step(batch)
            assert self.model.weight.grad is not None
            gradients.append(self.model.weight.grad.clone())
        return torch.stack(gradients)


def test_a_compiled_program_draws_a_new_mask_in_every_window() -> None:
    plain, compiled = Program(GradDrop(0.5)), Program(GradDrop(0.5))
    expected = plain.gradients(plain.step)
    assert not torch.equal(expected[0], expected[1])
    assert torch.equal(compiled.gradients(torch.compile(compiled.step, backend="aot_eager")), expected)
    assert compiled.engine.step == 3


class _Traced(SparseMask):
    """Notes whether it was compiled around an optimizer step."""

    def before_step_(self, weights: Mapping[str, Tensor], window: Window) -> None:
        self.traced = [torch.compiler.is_compiling()]
        super().before_step_(weights, window)

    def after_step_(self, weights: Mapping[str, Tensor], window: Window, happened: Tensor) -> None:
        self.traced.append(torch.compiler.is_compiling())
        super().after_step_(weights, window, happened)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # by the compiler itself
def test_a_step_in_a_compiled_program_runs_as_plain_python() -> None:
    program = Program(_Traced(0.5, score="random", exclude_head=False))
    optimizer = torch.optim.SGD(program.model.parameters(), lr=1.0)
    program.engine.attach(optimizer)

    @torch.compile(backend="aot_eager")
    def step(batch: Tensor) -> None:
        program.step(batch)
        optimizer.step()

    for _ in range(2):
        step(torch.ones(1, 8))
        assert isinstance(program.engine.transform, _Traced)
        assert program.engine.transform.traced == [False, False]


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function from whose call on a CUDA graph seems to be captured."""

    def begin() -> None:
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)

    return begin


def test_a_window_does_not_open_in_a_capture(captured: Callable[[], None]) -> None:
    engine = Program(GradDrop(0.5)).engine
    captured()
    with pytest.raises(ConfigurationError, match=r"GradientEngine.open\(\) should run outside of CUDA graphs"):
        engine.open()


def test_a_strategy_is_not_applied_in_a_capture(captured: Callable[[], None]) -> None:
    program = Program(GradDrop(0.5))
    program.engine.open()
    program.model(torch.ones(1, 8)).sum().backward()
    assert program.model.weight.grad is not None
    before = program.model.weight.grad.clone()
    captured()
    with pytest.raises(ConfigurationError, match=r"GradientEngine.apply_\(\) should run outside of CUDA graphs"):
        program.engine.apply_()
    assert torch.equal(program.model.weight.grad, before)


def test_a_followed_optimizer_does_not_step_in_a_capture(captured: Callable[[], None]) -> None:
    program = Program(SparseMask(0.5, score="random", exclude_head=False))
    optimizer = torch.optim.SGD(program.model.parameters(), lr=1.0)
    program.engine.attach(optimizer)
    program.step(torch.ones(1, 8))
    before = program.model.weight.detach().clone()
    captured()
    with pytest.raises(ConfigurationError, match=r"attach` follows should run outside of CUDA graphs"):
        optimizer.step()
    assert torch.equal(program.model.weight, before)
