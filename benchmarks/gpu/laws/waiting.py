"""Laws of waiting: the host does not wait for the device, and a captured graph is refused."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu.laws._law import (
    UnsupportedError,
    adamw,
    engine_for,
    every_strategy,
    loss_of,
    set_gradients,
    small,
    tokens_of,
)
from lightning_sparsegrad import (
    ConfigurationError,
    GradDrop,
    GradientEngine,
    GradientMeter,
    GradientTransform,
    Identity,
)
from lightning_sparsegrad.engine._nonfinite import NonFinite

_READS_ONE = frozenset({"SpikeSkip"})  # as their documentation says


def check_no_waiting(device: torch.device) -> str:
    """No exported strategy makes the host wait in `open`, `apply_` or a step, but for what its documentation says."""
    strategies = every_strategy()
    waits = {name: _count_waits(make(), device) for name, make in strategies.items()}
    too_many = {name: [*calls] for name, calls in waits.items() if len(calls) > 3 * (name in _READS_ONE)}
    assert not too_many, f"the host waits in three windows: {too_many}"
    return f"{len(waits)} strategies" + ("" if device.type == "cuda" else ", which a CPU cannot show")


def check_policies(device: torch.device) -> str:
    """`nonfinite` reads one number per window; a meter, and the statistics that a loop logs, none."""
    policies: tuple[NonFinite, ...] = ("propagate", "skip", "raise")
    for policy in policies:
        calls = _count_waits(Identity(), device, nonfinite=policy)
        assert len(calls) <= 3 * (policy != "propagate"), f"{policy}: {calls}"
    calls = _count_waits(GradDrop(0.3), device, meter=True)
    assert not calls, f"a meter waits: {calls}"
    return "3 policies, a meter"


def _count_waits(
    transform: GradientTransform, device: torch.device, *, nonfinite: NonFinite = "propagate", meter: bool = False
) -> list[str]:
    """Return where the host waits in three windows, after three that make and compile what stays."""
    model = small(device)
    engine = engine_for(model, transform, nonfinite=nonfinite)
    if meter:
        engine.meter = GradientMeter(engine.parameters, engine.transform, every=1)
    optimizer = adamw(model, foreach=True)
    engine.attach(optimizer)
    calls: list[str] = []
    for step in range(6):
        unseen: list[str] = []
        with _watched(device, calls if step >= 3 else unseen):
            engine.open(step, epoch=step // 2)
        loss_of(model, step, device).backward()  # type: ignore[no-untyped-call]
        with _watched(device, calls if step >= 3 else unseen):
            engine.apply_()
            engine.abandon()
            _ = engine.statistics
            optimizer.step()
        optimizer.zero_grad()
    return calls


@contextmanager
def _watched(device: torch.device, calls: list[str]) -> Iterator[None]:
    """Record the lines of the library at which the host waits for a GPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "called a synchronizing" in str(warning.message)]
    calls += [f"{'/'.join(warning.filename.split('/')[-2:])}:{warning.lineno}" for warning in waits]


def check_watch(device: torch.device) -> str:
    """What watches for waiting sees a read, and a copy of pageable memory."""
    if device.type != "cuda":
        raise UnsupportedError("needs a GPU")
    calls: list[str] = []
    with _watched(device, calls):
        torch.ones((), device=device).item()
        torch.tensor([1.0, 2.0]).to(device)
    assert len(calls) == 2, f"saw {calls}"
    return "2 of 2"


def check_capture(device: torch.device) -> str:
    """A window does not open or close in a CUDA graph that is captured."""
    if device.type != "cuda":
        raise UnsupportedError("needs a GPU")
    model = small(device)
    engine = engine_for(model, GradDrop(0.3))
    assert _is_refused(engine.open), "open() is captured"
    engine.abandon()
    set_gradients(model, 0)
    engine.open(0)
    assert _is_refused(engine.apply_), "apply_() is captured"
    engine.abandon()
    _train_around_graph(engine, device)
    return "open, apply_; a forward pass in a graph trains"


def _is_refused(call: Callable[[], object]) -> bool:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    graph, message = torch.cuda.CUDAGraph(), ""
    torch.cuda.synchronize()
    with torch.cuda.stream(stream), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*graph is empty")
        graph.capture_begin()
        try:
            call()
        except ConfigurationError as error:
            message = str(error)
        finally:
            graph.capture_end()
    return "CUDA graph" in message


def _train_around_graph(engine: GradientEngine, device: torch.device) -> None:
    """Apply a strategy behind a forward and a backward pass that a graph replays."""
    model = engine.parameters.model
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tokens, graph = tokens_of(0, device), torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(tokens).square().mean().backward()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        model(tokens).square().mean().backward()
    masks = []
    for step in range(2):
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
        with engine.window(step):
            graph.replay()
            engine.apply_()
        gradient = next(iter(model.get_submodule("head").parameters())).grad
        assert gradient is not None
        masks.append(gradient == 0)
    share = [float(mask.float().mean()) for mask in masks]
    assert all(0.1 < each < 0.6 for each in share), f"{share} of the entries are dropped in place of 0.3"
    assert not torch.equal(*masks), "two windows have one mask"
