"""States of clips that learn: a resume, other components, another strategy."""

from copy import deepcopy

import pytest
import torch

from lightning_sparsegrad import AdaGC, AutoClip, ConfigurationError, SpikeSkip, ZClip
from tests.cases import cases
from tests.transforms.learners import CLIPS, Clip
from tests.transforms.norms import NAMES, Training, assert_same_state, nasty, ordinary
from tests.transforms.small import on_one_thread

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)
each_clip = cases("clip", CLIPS, ids=str)


@each_clip
def test_a_resumed_run_equals_one_that_never_stopped(clip: Clip):
    whole, first = Training(clip.make("tensor")), Training(clip.make("tensor"))
    for norms in nasty(60, seed=9):
        whole.window(norms)
        first.window(norms)
    resumed = Training(clip.make("tensor"))
    resumed.engine.load_state_dict(deepcopy(first.engine.state_dict()))
    for norms in nasty(30, seed=10, share=0.0):
        assert resumed.window(norms) == whole.window(norms)
    assert_same_state(resumed.state(), whole.state())


@each_clip
def test_a_state_aligns_by_the_names_of_components(clip: Clip):
    trained = Training(clip.make("tensor"))
    trained.windows([{NAMES[0]: 1.0, NAMES[1]: 2.0, NAMES[2]: 3.0}] * 20)
    state = trained.state()
    order = [2, 0, 1]
    rows = state["components"]
    shuffled = {name: value[order] if isinstance(value, torch.Tensor) else value for name, value in state.items()} | {
        "components": [rows[index] for index in order]
    }
    resumed = Training(clip.make("tensor"))
    resumed.strategy.load_state_dict(shuffled)
    norms = {NAMES[0]: 9.0, NAMES[1]: 9.0, NAMES[2]: 9.0}
    assert resumed.window(norms) == trained.window(norms)


@each_clip
def test_components_that_are_new_or_gone_are_counted_in_one_warning(clip: Clip):
    trained = Training(clip.make("tensor"))
    trained.windows([{NAMES[0]: 1.0, NAMES[1]: 2.0, NAMES[2]: 3.0}] * 20)
    state = trained.state()
    state["components"] = [NAMES[0], NAMES[1], "gone.bias"]
    resumed, fresh = Training(clip.make("tensor")), Training(clip.make("tensor"))
    message = "1 of 3 start as if it had learnt nothing, 1 of those in the state are dropped"
    with pytest.warns(UserWarning, match=message) as caught:
        resumed.strategy.load_state_dict(state)
    assert len(caught) == 1
    norms = dict.fromkeys(NAMES, 9.0)
    thresholds, kept, new = resumed.window(norms), trained.window(norms), fresh.window(norms)
    assert thresholds == {**kept, NAMES[2]: new[NAMES[2]]}
    assert resumed.state()["count"].tolist() == [21, 21, 1]


@cases("missing", ["history", "count"])
def test_a_state_that_lacks_something_is_refused(missing: str):
    trained, other = Training(AutoClip()), Training(AutoClip())
    state = {name: value for name, value in trained.state().items() if name != missing}
    message = f"^Parameter `state` should hold a tensor `{missing}` of shape .*$"
    with pytest.raises(ConfigurationError, match=message):
        other.strategy.load_state_dict(state)


@cases("kind", [AutoClip, SpikeSkip], ids=lambda kind: kind.__name__)
@cases("changed", [{"count": torch.zeros(())}, {"count": torch.zeros(2)}, {"history": torch.zeros(3)}], ids=str)
def test_a_state_of_other_shapes_is_refused_in_one_line(kind: type, changed: dict[str, torch.Tensor]):
    trained, other = Training(kind()), Training(kind())
    with pytest.raises(ConfigurationError, match=r"^Parameter `state` should hold a tensor `.*` of shape") as refused:
        other.strategy.load_state_dict({**trained.state(), **changed})
    assert "\n" not in str(refused.value)


@cases(("saved", "resumed"), [(AutoClip, ZClip), (ZClip, AdaGC), (AdaGC, AutoClip), (AutoClip, SpikeSkip)], ids=str)
def test_the_state_of_another_strategy_is_left_with_one_warning(saved: type, resumed: type):
    trained, other, fresh = Training(saved()), Training(resumed()), Training(resumed())
    trained.windows(ordinary(40, seed=3))
    with pytest.warns(UserWarning, match="Found the state of another strategy") as caught:
        other.strategy.load_state_dict(trained.state())
    assert len(caught) == 1
    assert other.window(5.0) == fresh.window(5.0)
