"""Tiny models of real architectures: built from a configuration, with random weights that are the same every time."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    Wav2Vec2ForSequenceClassification,
    WhisperForConditionalGeneration,
)

VOCABULARY = 50
TOKENS: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
TEXT: dict[str, Any] = {**SIZE, **TOKENS, "max_position_embeddings": 40}
IMAGE: dict[str, Any] = {**SIZE, "image_size": 16, "patch_size": 8}
GPT: dict[str, Any] = {**TOKENS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 40}
SEQUENCE_TO_SEQUENCE: dict[str, Any] = {
    **TOKENS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}


def build(make: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    """Build a model from its configuration, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(config)


def compiled(model: nn.Module) -> nn.Module:
    """Wrap a model as for compilation, which happens only when it is called."""
    return cast("nn.Module", torch.compile(model, backend="eager"))  # the default backend warns when it is imported


def _classifier(kind: str, **config: Any) -> nn.Module:
    return build(AutoModelForSequenceClassification.from_config, AutoConfig.for_model(kind, **config))


def _language_model(kind: str, **config: Any) -> nn.Module:
    return build(AutoModelForCausalLM.from_config, AutoConfig.for_model(kind, **config))


def _image_classifier(kind: str, **config: Any) -> nn.Module:
    return build(AutoModelForImageClassification.from_config, AutoConfig.for_model(kind, **config))


# ---------------------------------------------------------------- encoders
def tiny_bert(**changes: Any) -> nn.Module:
    return _classifier("bert", **{**TEXT, **changes})


def tiny_roberta(**changes: Any) -> nn.Module:
    return _classifier("roberta", **{**TEXT, **changes})


def tiny_xlm_roberta(**changes: Any) -> nn.Module:
    return _classifier("xlm-roberta", **{**TEXT, **changes})


def tiny_electra(**changes: Any) -> nn.Module:
    return _classifier("electra", **{**TEXT, "embedding_size": 16, **changes})


def tiny_albert(**changes: Any) -> nn.Module:
    return _classifier("albert", **{**TEXT, "embedding_size": 16, **changes})


def tiny_deberta(**changes: Any) -> nn.Module:
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    return _classifier("deberta", **{**TEXT, **relative, **changes})


def tiny_deberta_v2(**changes: Any) -> nn.Module:
    relative = {"relative_attention": True, "norm_rel_ebd": "layer_norm", "position_buckets": 8}
    return _classifier("deberta-v2", **{**TEXT, **relative, **changes})


def tiny_distilbert(**changes: Any) -> nn.Module:
    return _classifier("distilbert", **{**TOKENS, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, **changes})


def tiny_xlnet(**changes: Any) -> nn.Module:
    return _classifier("xlnet", **{**TOKENS, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48, **changes})


def tiny_modernbert(**changes: Any) -> nn.Module:
    return _classifier("modernbert", **{**TEXT, "cls_token_id": 1, "sep_token_id": 2, **changes})


# ---------------------------------------------------------------- decoders
def tiny_gpt2(**changes: Any) -> nn.Module:
    return _language_model("gpt2", **{**GPT, **changes})


def tiny_gpt2_classifier(**changes: Any) -> nn.Module:
    return _classifier("gpt2", **{**GPT, **changes})


def tiny_gpt_bigcode(**changes: Any) -> nn.Module:
    return _language_model("gpt_bigcode", **{**GPT, **changes})


def tiny_codegen(**changes: Any) -> nn.Module:
    return _language_model("codegen", **{**GPT, "rotary_dim": 4, **changes})


def tiny_gpt_neox(**changes: Any) -> nn.Module:
    return _language_model("gpt_neox", **{**TEXT, **changes})


def tiny_llama(**changes: Any) -> nn.Module:
    return _language_model("llama", **{**TEXT, "num_key_value_heads": 2, **changes})


def tiny_mixtral(**changes: Any) -> nn.Module:
    return _language_model("mixtral", **{**TEXT, "num_key_value_heads": 2, "num_local_experts": 2, **changes})


def tiny_phi3(**changes: Any) -> nn.Module:
    return _language_model("phi3", **{**TEXT, "num_key_value_heads": 2, **changes})


def tiny_persimmon(**changes: Any) -> nn.Module:
    return _language_model("persimmon", **{**TEXT, **changes})


def tiny_falcon(**changes: Any) -> nn.Module:
    return _language_model("falcon", **{**TEXT, **changes})


def tiny_bloom(**changes: Any) -> nn.Module:
    return _language_model("bloom", **{**TOKENS, "hidden_size": 32, "n_layer": 3, "n_head": 4, **changes})


def tiny_mpt(**changes: Any) -> nn.Module:
    return _language_model("mpt", **{**TOKENS, "d_model": 32, "n_layers": 3, "n_heads": 4, **changes})


def tiny_opt(**changes: Any) -> nn.Module:
    return _language_model("opt", **{**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 16, **changes})


# ---------------------------------------------------------------- encoder and decoder
def tiny_t5(**changes: Any) -> nn.Module:
    size = {"d_model": 32, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4, "d_ff": 48, "d_kv": 8}
    config = AutoConfig.for_model("t5", **{**TOKENS, **size, **changes})
    return build(AutoModelForSeq2SeqLM.from_config, config)


def tiny_bart(**changes: Any) -> nn.Module:
    return _classifier("bart", **{**SEQUENCE_TO_SEQUENCE, "max_position_embeddings": 40, **changes})


def tiny_whisper(**changes: Any) -> nn.Module:
    lengths = {"max_source_positions": 20, "max_target_positions": 20, "num_mel_bins": 8, "decoder_start_token_id": 1}
    config = AutoConfig.for_model("whisper", **{**SEQUENCE_TO_SEQUENCE, **lengths, **changes})
    return build(WhisperForConditionalGeneration, config)


# ---------------------------------------------------------------- images and sound
def tiny_vit(**changes: Any) -> nn.Module:
    return _image_classifier("vit", **{**IMAGE, **changes})


def tiny_dinov2(**changes: Any) -> nn.Module:
    return _image_classifier("dinov2", **{**IMAGE, **changes})


def tiny_beit(**changes: Any) -> nn.Module:
    return _image_classifier("beit", **{**IMAGE, **changes})


def tiny_clip(**changes: Any) -> nn.Module:
    return build(CLIPModel, CLIPConfig(text_config=TEXT, vision_config=IMAGE, projection_dim=16, **changes))


def tiny_wav2vec2(**changes: Any) -> nn.Module:
    convolutions = {"conv_dim": [16, 16], "conv_kernel": [3, 3], "conv_stride": [2, 2], "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = AutoConfig.for_model("wav2vec2", **{**SIZE, **TOKENS, **convolutions, **positions, **changes})
    return build(Wav2Vec2ForSequenceClassification, config)


TINY: dict[str, Callable[..., nn.Module]] = {
    name.removeprefix("tiny_"): make for name, make in sorted(globals().items()) if name.startswith("tiny_")
}
