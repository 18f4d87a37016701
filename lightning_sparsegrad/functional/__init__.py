"""Stateless kernels on tensors: no step, no model, no configuration. In-place names end in an underscore."""

from lightning_sparsegrad.functional.clipping import (
    clip_components_,
    clip_values_,
    component_norms,
    scale_components_,
    tensor_norms,
)
from lightning_sparsegrad.functional.hashing import derive_key, derive_keys, hash_entries, hash_index, keep_threshold
from lightning_sparsegrad.functional.holding import keep_entries_, keep_rows_, restore_entries_, restore_rows_
from lightning_sparsegrad.functional.masking import count_kept, keep_mask, mask_entries_, mask_rows_
from lightning_sparsegrad.functional.selection import pack_bits, select_largest, unpack_bits
from lightning_sparsegrad.functional.sharding import Shard, group_of, shard_of
from lightning_sparsegrad.functional.unit_clipping import clip_units_

__all__ = [
    "Shard",
    "clip_components_",
    "clip_units_",
    "clip_values_",
    "component_norms",
    "count_kept",
    "derive_key",
    "derive_keys",
    "group_of",
    "hash_entries",
    "hash_index",
    "keep_entries_",
    "keep_mask",
    "keep_rows_",
    "keep_threshold",
    "mask_entries_",
    "mask_rows_",
    "pack_bits",
    "restore_entries_",
    "restore_rows_",
    "scale_components_",
    "select_largest",
    "shard_of",
    "tensor_norms",
    "unpack_bits",
]
