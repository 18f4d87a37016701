"""Laws that hold on every device: each a function of it that raises an `AssertionError` with figures."""

from benchmarks.gpu.laws import clips, frozen, loops, masks, precision, shards, trainers, waiting
from benchmarks.gpu.laws._law import Law, UnsupportedError

__all__ = ["LAWS", "Law", "UnsupportedError"]

LAWS: dict[str, Law] = {
    "masks have the bits of the CPU's": masks.check_every_granularity,
    "the mask over lists has the bits of the CPU's": masks.check_lists,
    "factors and norms are those of float64": clips.check_factors,
    "what watches for waiting sees it": waiting.check_watch,
    "the host does not wait for the device": waiting.check_no_waiting,
    "the compiled mask has the bits of the eager one": masks.check_compiled,
    "factors over lists multiply as torch does": masks.check_scaled_lists,
    "masks of any size and layout have the bits of the CPU's": masks.check_layouts,
    "every strategy leaves the gradients that it leaves on the CPU": clips.check_every_strategy,
    "thresholds are in true units under a scale": precision.check_true_units,
    "an overflow changes nothing": precision.check_overflow,
    "fp16 trains through overflows": precision.check_float16,
    "frozen weights keep their bits": frozen.check_frozen,
    "skipping work changes nothing": frozen.check_skipping,
    "a resumed run has the weights of one that never stopped": frozen.check_resume,
    "bf16 trains": precision.check_bfloat16,
    "Lightning's Trainer trains by both doors": loops.check_lightning,
    "Fabric gives the weights of the plain loop": loops.check_fabric,
    "FSDP2 gives the weights of the plain loop": shards.check_shards,
    "Accelerate gives the weights of the plain loop": loops.check_accelerate,
    "the Trainer of transformers trains": trainers.check_transformers,
    "limits leave every bit": clips.check_limits,
    "an overflow stays visible under a mask": masks.check_overflow,
    "clips meet torch's own": clips.check_torch_norm,
    "policies and the meter read what they say": waiting.check_policies,
    "a window in a captured graph is refused": waiting.check_capture,
    "norms have the same bits each time": clips.check_same_bits_twice,
    "the described memory is what the optimizer holds": frozen.check_description,
    "masks leave the random state alone": masks.check_random_state,
    "entries beyond 2^32 have the mask of the CPU": masks.check_beyond_words,
}
