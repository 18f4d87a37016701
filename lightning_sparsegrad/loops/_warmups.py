"""Messages about clips whose warm-up is as long as the run."""

from collections.abc import Callable

from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.transforms import AdaptiveNormClip


def report_long_warmups(
    engine: GradientEngine, *, count: Callable[[], int | None], report: Callable[[str], None]
) -> None:
    """Report clips that warm up in all steps of a run.

    Args:
        engine: The engine of the run, at its start.
        count: Returns the optimizer steps of the run, `None` without an end; called only if a clip has a warm-up, since
            counting may set up the data.
        report: Called with each message.
    """
    for member in engine.transform.flattened():
        if isinstance(member, AdaptiveNormClip) and member.warmup_steps:
            steps = count()
            if steps is not None and steps <= member.warmup_steps:
                report(
                    f"`{member!r}` is warming up in all {steps} steps of this run. "
                    f"Found `warmup_steps = {member.warmup_steps}`."
                )
