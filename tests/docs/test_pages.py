"""The pages that a build of the site generates, as text: neither Sphinx nor a build is needed for them."""

import subprocess
import sys
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lightning_sparsegrad
from docs import _api_pages, _evidence, _overlays, _repository_pages, _spikes, _strategy_pages
from docs._docstrings import Docstring
from docs.draw import OVERVIEW, PICTURES
from tests.cases import cases
from tests.strategies import OVERLAYS, ROOT, STRATEGIES, overlay_name, spec_in

PAGES = {
    **dict(_api_pages.pages()),
    **dict(_strategy_pages.pages()),
    **dict(_repository_pages.pages()),
}


@cases("strategy", STRATEGIES)
def test_a_strategy_has_a_page_with_all_that_is_known_about_it(strategy: type) -> None:
    page = PAGES[f"strategies/{overlay_name(strategy)}.rst"]
    docstring = Docstring.of(strategy)
    assert docstring.text in page
    for section in ("Note", "References", "Example"):
        assert docstring.sections.get(section, "") in page
    assert f".. autoclass:: lightning_sparsegrad.{strategy.__name__}\n" in page
    assert f"../../tests/transforms/golden/{overlay_name(strategy)}.py" in page


def test_every_overlay_is_on_the_page_of_its_strategy_with_its_advice() -> None:
    for name, file in OVERLAYS.items():
        strategy = next(kind for kind in STRATEGIES if kind.__name__ == spec_in(name)["class_path"])
        page = PAGES[f"strategies/{overlay_name(strategy)}.rst"]
        assert f".. literalinclude:: ../../{file.relative_to(ROOT)}\n" in page
        assert f"\n``{name}``\n   " in page


@cases("overlay", list(OVERLAYS))
def test_an_overlay_says_what_it_is_and_when_to_use_it(overlay: str) -> None:
    read = _overlays.Overlay.read(OVERLAYS[overlay])
    assert read.idea.endswith(".")
    assert read.advice.endswith(".")


def test_an_overlay_without_advice_and_numbers_says_so(tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text("# A strategy: it does something.\nmodel:\n  # not this\n")
    overlay = _overlays.Overlay.read(file)
    assert (overlay.idea, overlay.advice) == ("A strategy: it does something.", "No study has run it.")
    file.write_text("# A strategy: it does\n# something. 0.1: the custom.\nmodel:\n")
    overlay = _overlays.Overlay.read(file)
    assert (overlay.idea, overlay.advice) == ("A strategy: it does something.", "0.1: the custom.")
    assert "there are no numbers" in "".join(_evidence.table([overlay]))


def test_every_result_of_a_study_is_of_an_overlay() -> None:
    results = _evidence.results()
    assert {result.overlay for result in results} <= set(OVERLAYS)
    failed = {(result.study, *result.cells[:3]) for result in results}
    assert ("stability_words", "CGNC 0.01", "lr=0.00085", "4 of 20") in failed
    assert len(failed) == sum(
        len(file.read_text().splitlines()) - 1 for file in _evidence.RESULTS.glob("*/arms.csv") if file.exists()
    )


def test_a_page_without_a_picture_says_how_to_draw_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_strategy_pages, "PICTURES", tmp_path)
    page = dict(_strategy_pages.pages())["strategies/grad_drop.rst"]
    assert "``python -m docs.draw grad_drop`` draws it" in page
    assert ".. figure::" not in page


def test_a_strategy_that_learns_has_a_picture_of_its_threshold() -> None:
    assert {"auto_clip", "spike_skip"} <= set(_overlays.learning())
    for strategy in STRATEGIES:
        page, learns = PAGES[f"strategies/{overlay_name(strategy)}.rst"], getattr(strategy, "learns", False)
        assert ("_spikes.png\n" in page) == learns


@pytest.mark.parametrize("shared", [True, False])
def test_a_panel_shows_all_gradients_or_one_component(shared: bool) -> None:
    names, steps = [f"block {depth}.weight" for depth in range(6)], range(_spikes.STEPS)
    bounds = dict.fromkeys(names, 1.0) if shared else dict(zip(names, range(1, 7), strict=True))
    rows = [
        {
            "step": step,
            "component": name,
            "vector": False,
            "norm_before": 3.0,
            "threshold": bounds[name] if step else inf,
        }
        for step in steps
        for name in names
    ]
    history = pd.DataFrame(rows).assign(norm_after=lambda table: table["threshold"].clip(upper=3.0))
    history.loc[history["step"] == 119, "norm_after"] = 0.0
    panels = _spikes.draw_spikes(history).axes
    assert [panel.get_title() for panel in panels] == (
        ["all gradients"] if shared else [names[i] for i in (0, 2, 3, 5)]
    )
    lines = {str(line.get_label()): np.asarray(line.get_ydata(), dtype=float) for line in panels[0].get_lines()}
    assert lines["norm before"][0] == pytest.approx(3.0 * 6**0.5 if shared else 3.0)
    assert np.isnan(lines["threshold"][0])
    assert lines["threshold"][1] == 1.0
    assert np.isnan(lines["norm after"][119])
    (left_out,) = (points for points in panels[0].collections if points.get_label() == "window left out")
    assert np.asarray(left_out.get_offsets()) == pytest.approx(np.array([[119.0, lines["norm before"][0]]]))


def test_a_picture_is_small_and_of_an_overlay() -> None:
    pictures = {file.stem: file.stat().st_size for file in PICTURES.glob("*.png")}
    of_spikes = {f"{overlay}{_overlays.SPIKES}" for overlay in _overlays.learning()}
    assert pictures.keys() - OVERLAYS.keys() == {"overview", *of_spikes}
    assert max(pictures.values()) < 60_000
    assert set(OVERVIEW) <= pictures.keys()


def test_a_page_shows_what_a_private_base_defines_and_names_a_public_one() -> None:
    assert "FabricAdapter\n   :inherited-members: ABC\n" in PAGES["api/loops.rst"]
    assert "GradientTransformCallback\n   :show-inheritance:\n" in PAGES["api/callbacks.rst"]


def test_everything_exported_is_on_a_page_of_the_api() -> None:
    api = "".join(text for name, text in PAGES.items() if name.startswith("api/"))
    strategies = {strategy.__name__ for strategy in STRATEGIES}
    for name in lightning_sparsegrad.__all__:
        assert (f"* :doc:`{name} " if name in strategies else f":: lightning_sparsegrad.{name}\n") in api


def test_links_between_files_of_the_repository_become_links_between_pages() -> None:
    overview = PAGES["studies/index.md"]
    assert "](stability_words.md)" in overview
    assert "](../../benchmarks/studies/results/stability_words/distributions.png)" in overview
    assert "configs/studies/transfer.yaml)" not in overview


def test_strategies_and_overlays_are_linked_to_their_pages() -> None:
    text = "\n| `GradDrop` | x |\nTake `gradient/cgnc`, not [`gradient/cgnc`](here); `GradDrop` stays."
    assert _strategy_pages.with_links(text, "s/") == (
        "\n| [`GradDrop`](s/grad_drop.rst) | x |\n"
        "Take [`gradient/cgnc`](s/component_norm_clip.rst), not [`gradient/cgnc`](here); `GradDrop` stays."
    )


@pytest.mark.long
def test_the_pages_need_no_sphinx() -> None:
    code = "import sys; sys.modules['sphinx'] = None; from docs import _api_pages, _repository_pages, _strategy_pages"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
