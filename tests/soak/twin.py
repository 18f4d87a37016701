"""The slow reference engine: a twin of the model computes everything, and Python floats say what should come of it."""

from copy import deepcopy
from dataclasses import replace
from math import isnan

import torch
from torch import Tensor, nn

from tests.reference import Entries, Values, When, frozen_entries, stepped
from tests.soak.configurations import Configuration, Plan
from tests.soak.loop import Loop, backward, fresh_model, fresh_optimizer, fresh_scaler, put
from tests.soak.reports import Applied, Ranges, merged, ones
from tests.soak.strategies import Drawn
from tests.transforms.small import weights_of

# of values, relative: an error of a rounding for each of a few strategies; norms are taken in float32
_CLOSE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


class Twin:
    """Looks on at a training, and holds every window to the reference.

    Args:
        configuration: The training.

    Attributes:
        comparisons: How many tensors were compared.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.configuration, self.comparisons = configuration, 0
        self._drawn = deepcopy(configuration.drawn)  # whose references learn
        self.model = fresh_model(configuration)
        self.optimizer = fresh_optimizer(configuration, self.model)
        self.scaler = fresh_scaler(configuration)
        self._hooks = _count_hooks(self.model)
        self._required = _required(self.model)
        self._given: dict[str, Tensor] = {}  # what the engine was given

    def before(self, loop: Loop, plan: Plan) -> None:
        """Take over weights and states, and what `zero_grad` has left."""
        self.model.load_state_dict(loop.model.state_dict())
        self.optimizer.load_state_dict(deepcopy(loop.optimizer.state_dict()))  # which holds the very tensors
        self.scaler.load_state_dict(loop.scaler.state_dict())
        for name, parameter in loop.model.named_parameters():
            self.model.get_parameter(name).grad = None if parameter.grad is None else parameter.grad.clone()

    def computed(self, loop: Loop, plan: Plan) -> None:
        """Compute everything, and compare with what was computed."""
        state = torch.get_rng_state()
        for seed in plan.batches:
            backward(self.configuration, self.model, self.scaler, seed, plan.divisor)
        assert torch.equal(state, torch.get_rng_state()), "skipping work changes what a forward pass draws"
        put(self.model, plan.overflow)
        self._given = {
            name: parameter.grad.clone()
            for name, parameter in loop.model.named_parameters()
            if parameter.requires_grad and parameter.grad is not None  # zeros that `zero_grad` left do not count
        }
        for name, parameter in self.model.named_parameters():
            if name in self._given:
                assert parameter.grad is not None, f"{name} has a gradient out of nowhere"
                self.comparisons += 1
                _assert_close(self._given[name], parameter.grad, f"the computed gradient of {name}")
            elif parameter.grad is not None:
                assert self.configuration.engine["skip_dropped"], f"{name} was not computed"

    def applied(self, loop: Loop, plan: Plan, *, refused: bool) -> None:
        """Compare gradients and statistics with those of the reference."""
        scale = loop.scaler.get_scale() if loop.scaler.is_enabled() else 1.0
        values = {name: _entries(parameter.grad, scale) for name, parameter in self.model.named_parameters()}
        expected, masks, ranges = self._reference(values, plan, scale)
        for name, parameter in self.model.named_parameters():
            self._compare(name, loop.model.get_parameter(name).grad, expected[name], masks[name], scale)
            entries = expected[name]
            parameter.grad = None if entries is None else _tensor(entries, scale, parameter.dtype)
        everything = any(entries is not None for entries in values.values())
        dropped = all(entries is None for entries in expected.values())
        assert refused == (everything and dropped and loop.scaler.is_enabled()), "all dropped under a loss scale"
        assert _required(loop.model) == self._required, "some requires_grad is not back"
        assert _count_hooks(loop.model) == self._hooks, "hooks are left on the model"
        if ranges is not None:
            _check_statistics(loop.engine.statistics, ranges)

    def stepped(self, loop: Loop, *, taken: bool) -> None:
        """Step as the training did, and compare the weights."""
        before = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        if taken:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self._restore(before)
        assert self.scaler.state_dict() == loop.scaler.state_dict(), "the scaler saw something else"
        self._learn(loop, taken=taken)
        eps = torch.finfo(self.configuration.dtype).eps
        for name, parameter in self.model.named_parameters():
            actual = loop.model.get_parameter(name).detach()
            if parameter.grad is None or not taken:
                assert torch.equal(actual, before[name]), f"{name} moved although it was dropped whole"
                continue
            self.comparisons += 1
            expected = parameter.detach()
            moved, sizes = (expected - before[name]).abs(), expected.abs() + before[name].abs()
            allowed = _CLOSE[self.configuration.dtype] * (self.configuration.rate + moved) + 2 * eps * sizes
            same = (actual == expected) | (actual.isnan() & expected.isnan()) | ((actual - expected).abs() <= allowed)
            assert bool(same.all()), f"the weight {name} is {actual}, the reference says {expected}"

    def _restore(self, before: dict[str, Tensor]) -> None:
        """Restore the entries that strategies freeze."""
        for leaf in self._drawn.leaves():
            for name, positions in frozen_entries(leaf.does, self.configuration.layout).items():
                weight = self.model.get_parameter(name).detach().view(-1)
                for position in positions:
                    weight[position] = before[name].view(-1)[position]

    # ------------------------------------------------------------ the reference
    def _learn(self, loop: Loop, *, taken: bool) -> None:
        """Tell the references of a step that changed the weights; a scaler skips one if a gradient is not finite."""
        left = {name: p.grad for name, p in loop.model.named_parameters() if p.grad is not None}
        if taken and all(bool(gradient.isfinite().all()) for gradient in left.values()):
            for leaf in self._drawn.leaves():
                stepped(leaf.does, left.keys())

    def _reference(self, values: Values, plan: Plan, scale: float) -> tuple[Values, Values, Ranges | None]:
        engine = self.configuration.engine
        layout = replace(self.configuration.layout, weights=weights_of(self.model))
        when = When(
            step=plan.step,
            epoch=plan.epoch,
            total_steps=engine["total_steps"],
            seed=engine["seed"],
            scaled=self.scaler.is_enabled(),
        )
        masks = ones(values)

        def walk(drawn: Drawn, values: Values) -> tuple[Values, Ranges | None]:
            nonlocal masks
            if drawn.parts:
                reports: dict[str, Ranges | None] = {}
                for name, part in drawn.parts.items():
                    values, reports[name] = walk(part, values)
                known = {name: ranges for name, ranges in reports.items() if ranges is not None}
                return values, merged(known) if len(known) == len(reports) else None
            after = self._rounded(drawn.does(values, when, layout), scale)
            if drawn.masks:
                masks = drawn.does(masks, when, layout)
            applied = Applied(values, after, self._given, when, layout)
            return after, None if drawn.reports is None else drawn.reports(applied)

        after, ranges = walk(self._drawn, values)
        return after, masks, ranges

    def _rounded(self, values: Values, scale: float) -> Values:
        dtype = self.configuration.dtype
        return {name: entries and _entries(_tensor(entries, scale, dtype), scale) for name, entries in values.items()}

    def _compare(
        self, name: str, actual: Tensor | None, expected: Entries | None, mask: Entries | None, scale: float
    ) -> None:
        if actual is None or expected is None:
            assert actual is None, f"{name} should be dropped whole"
            assert expected is None, f"{name} should not be dropped whole"
            return
        self.comparisons += 1
        dtype = self.configuration.dtype
        info = torch.finfo(dtype)
        wanted = _tensor(expected, scale, dtype)
        smallest = info.tiny * info.eps
        _assert_close(actual, wanted, f"the gradient of {name}", rtol=_CLOSE[dtype], atol=3 * smallest)
        assert mask is not None
        dropped = torch.tensor([value == 0 for value in mask.values], dtype=torch.bool).view(mask.shape)
        assert not actual[dropped & actual.isfinite()].any(), f"{name} keeps what is to be dropped"
        large = ~dropped & (wanted.double().abs() > 8 * smallest)
        assert bool((actual[large] != 0).all()), f"{name} drops what is to be kept"


def _assert_close(actual: Tensor, expected: Tensor, what: str, *, rtol: float = 0, atol: float = 0) -> None:
    torch.testing.assert_close(
        actual, expected, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text: f"{what}: {text} Found {actual}"
    )


def _entries(gradient: Tensor | None, scale: float) -> Entries | None:
    if gradient is None:
        return None
    return Entries(tuple(gradient.shape), (gradient.double() / scale).flatten().tolist())


def _tensor(entries: Entries, scale: float, dtype: torch.dtype) -> Tensor:
    return (torch.tensor(entries.values, dtype=torch.float64) * scale).view(entries.shape).to(dtype)


def _required(model: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in model.parameters()]


def _count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def _check_statistics(actual: dict[str, Tensor], expected: Ranges) -> None:
    assert actual.keys() == expected.keys(), f"statistics {sorted(actual.keys() ^ expected.keys())}"
    for name, value in actual.items():
        low, high = expected[name]
        number = float(value)
        assert value.shape == (), name
        if isnan(low):
            assert isnan(number), f"statistic {name} is {number}, should be undefined"
        else:
            assert low <= number <= high, f"statistic {name} is {number}, should be in [{low}, {high}]"
        if name.rpartition("/")[2] in {"kept", "clipped"}:
            assert 0 <= number <= 1, f"statistic {name} is {number}"
