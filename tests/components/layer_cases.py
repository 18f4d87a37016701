"""Models, and which layer each of their parameters lies in."""

from collections.abc import Callable

from torch import nn

from tests import tiny

# Model -> (its stacks, bottom first, and how many blocks each has; what lies outside them, by hand).
# Every parameter of a model is in one of its stacks or matched by one of the globs.
Expected = tuple[dict[str, int], dict[str, str]]
EMBEDDINGS = "embeddings"
MODELS: dict[str, tuple[Callable[[], nn.Module], Expected]] = {
    "bert": (
        tiny.tiny_bert,
        ({"bert.encoder.layer": 3}, {"bert.embeddings.*": EMBEDDINGS, "bert.pooler.*": "head", "classifier.*": "head"}),
    ),
    "roberta": (
        tiny.tiny_roberta,
        ({"roberta.encoder.layer": 3}, {"roberta.embeddings.*": EMBEDDINGS, "classifier.*": "head"}),
    ),
    "xlm-roberta, classifier registered first": (
        tiny.tiny_xlm_roberta,
        ({"roberta.encoder.layer": 3}, {"roberta.embeddings.*": EMBEDDINGS, "classifier.*": "head"}),
    ),
    "electra": (
        tiny.tiny_electra,
        (
            {"electra.encoder.layer": 3},
            {"electra.embeddings.*": EMBEDDINGS, "electra.embeddings_project.*": EMBEDDINGS, "classifier.*": "head"},
        ),
    ),
    "albert, one shared block": (
        tiny.tiny_albert,
        (
            {"albert.encoder.albert_layer_groups": 1},
            {
                "albert.embeddings.*": EMBEDDINGS,
                "albert.encoder.embedding_hidden_mapping_in.*": EMBEDDINGS,
                "albert.pooler.*": "head",
                "classifier.*": "head",
            },
        ),
    ),
    "deberta, relative positions registered last": (
        tiny.tiny_deberta,
        (
            {"deberta.encoder.layer": 3},
            {
                "deberta.embeddings.*": EMBEDDINGS,
                "deberta.encoder.rel_embeddings.weight": EMBEDDINGS,
                "pooler.*": "head",
                "classifier.*": "head",
            },
        ),
    ),
    "deberta-v2 with a convolution": (
        lambda: tiny.tiny_deberta_v2(conv_kernel_size=3),
        (
            {"deberta.encoder.layer": 3},
            {
                "deberta.embeddings.*": EMBEDDINGS,
                "deberta.encoder.rel_embeddings.weight": EMBEDDINGS,
                "deberta.encoder.LayerNorm.*": "block 2",
                "deberta.encoder.conv.*": "block 2",
                "pooler.*": "head",
                "classifier.*": "head",
            },
        ),
    ),
    "distilbert": (
        tiny.tiny_distilbert,
        (
            {"distilbert.transformer.layer": 3},
            {"distilbert.embeddings.*": EMBEDDINGS, "pre_classifier.*": "head", "classifier.*": "head"},
        ),
    ),
    "xlnet": (
        tiny.tiny_xlnet,
        (
            {"transformer.layer": 3},
            {
                "transformer.mask_emb": EMBEDDINGS,
                "transformer.word_embedding.weight": EMBEDDINGS,
                "sequence_summary.*": "head",
                "logits_proj.*": "head",
            },
        ),
    ),
    "modernbert": (
        tiny.tiny_modernbert,
        (
            {"model.layers": 3},
            {
                "model.embeddings.*": EMBEDDINGS,
                "model.final_norm.weight": "block 2",
                "head.*": "head",
                "classifier.*": "head",
            },
        ),
    ),
    "gpt2, tied": (
        tiny.tiny_gpt2,
        (
            {"transformer.h": 3},
            {
                "transformer.wte.weight": EMBEDDINGS,
                "transformer.wpe.weight": EMBEDDINGS,
                "transformer.ln_f.*": "block 2",
                "lm_head.weight": "head",
            },
        ),
    ),
    "gpt2 for classification": (
        tiny.tiny_gpt2_classifier,
        (
            {"transformer.h": 3},
            {
                "transformer.wte.weight": EMBEDDINGS,
                "transformer.wpe.weight": EMBEDDINGS,
                "transformer.ln_f.*": "block 2",
                "score.weight": "head",
            },
        ),
    ),
    "gpt_neox": (
        tiny.tiny_gpt_neox,
        (
            {"gpt_neox.layers": 3},
            {
                "gpt_neox.embed_in.weight": EMBEDDINGS,
                "gpt_neox.final_layer_norm.*": "block 2",
                "lm_head.weight": "head",
            },
        ),
    ),
    "llama": (
        tiny.tiny_llama,
        (
            {"model.layers": 3},
            {"model.embed_tokens.weight": EMBEDDINGS, "model.norm.weight": "block 2", "lm_head.weight": "head"},
        ),
    ),
    "mixtral, lists of experts inside its blocks": (
        tiny.tiny_mixtral,
        (
            {"model.layers": 3},
            {"model.embed_tokens.weight": EMBEDDINGS, "model.norm.weight": "block 2", "lm_head.weight": "head"},
        ),
    ),
    "phi3": (
        tiny.tiny_phi3,
        (
            {"model.layers": 3},
            {"model.embed_tokens.weight": EMBEDDINGS, "model.norm.weight": "block 2", "lm_head.weight": "head"},
        ),
    ),
    "falcon": (
        tiny.tiny_falcon,
        (
            {"transformer.h": 3},
            {
                "transformer.word_embeddings.weight": EMBEDDINGS,
                "transformer.ln_f.*": "block 2",
                "lm_head.weight": "head",
            },
        ),
    ),
    "bloom": (
        tiny.tiny_bloom,
        (
            {"transformer.h": 3},
            {
                "transformer.word_embeddings.weight": EMBEDDINGS,
                "transformer.word_embeddings_layernorm.*": EMBEDDINGS,
                "transformer.ln_f.*": "block 2",
                "lm_head.weight": "head",
            },
        ),
    ),
    "opt, output projection and final norm registered before the blocks": (
        tiny.tiny_opt,
        (
            {"model.decoder.layers": 3},
            {
                "model.decoder.embed_*": EMBEDDINGS,
                "model.decoder.project_in.weight": EMBEDDINGS,
                "model.decoder.project_out.weight": "block 2",
                "model.decoder.final_layer_norm.*": "block 2",
                "lm_head.weight": "head",
            },
        ),
    ),
    "t5": (
        tiny.tiny_t5,
        (
            {"encoder.block": 2, "decoder.block": 3},
            {
                "shared.weight": EMBEDDINGS,
                "encoder.embed_tokens.weight": EMBEDDINGS,
                "decoder.embed_tokens.weight": EMBEDDINGS,
                "encoder.final_layer_norm.weight": "block 1",
                "decoder.final_layer_norm.weight": "block 4",
                "lm_head.weight": "head",
            },
        ),
    ),
    "bart for classification": (
        tiny.tiny_bart,
        (
            {"model.encoder.layers": 2, "model.decoder.layers": 3},
            {
                "model.shared.weight": EMBEDDINGS,
                "model.*coder.embed_*": EMBEDDINGS,
                "model.*coder.layernorm_embedding.*": EMBEDDINGS,
                "classification_head.*": "head",
            },
        ),
    ),
    "whisper": (
        tiny.tiny_whisper,
        (
            {"model.encoder.layers": 2, "model.decoder.layers": 3},
            {
                "model.encoder.conv*": EMBEDDINGS,
                "model.*coder.embed_*": EMBEDDINGS,
                "model.encoder.layer_norm.*": "block 1",
                "model.decoder.layer_norm.*": "block 4",
                "proj_out.weight": "head",
            },
        ),
    ),
    "vit": (
        tiny.tiny_vit,
        ({"vit.layers": 3}, {"vit.embeddings.*": EMBEDDINGS, "vit.layernorm.*": "block 2", "classifier.*": "head"}),
    ),
    "dinov2": (
        tiny.tiny_dinov2,
        (
            {"dinov2.encoder.layer": 3},
            {"dinov2.embeddings.*": EMBEDDINGS, "dinov2.layernorm.*": "block 2", "classifier.*": "head"},
        ),
    ),
    "beit, final norm in its pooler": (
        tiny.tiny_beit,
        (
            {"beit.layers": 3},
            {"beit.embeddings.*": EMBEDDINGS, "beit.pooler.layernorm.*": "block 2", "classifier.*": "head"},
        ),
    ),
    "clip, two towers": (
        tiny.tiny_clip,
        (
            {"text_model.encoder.layers": 3, "vision_model.encoder.layers": 3},
            {
                "text_model.embeddings.*": EMBEDDINGS,
                "text_model.final_layer_norm.*": "block 2",
                "vision_model.embeddings.*": EMBEDDINGS,
                "vision_model.pre_layrnorm.*": EMBEDDINGS,
                "vision_model.post_layernorm.*": "block 5",
                "*_projection.weight": "head",
                "logit_scale": "head",
            },
        ),
    ),
    "wav2vec2, norm before its blocks": (
        tiny.tiny_wav2vec2,
        (
            {"wav2vec2.encoder.layers": 3},
            {
                "wav2vec2.masked_spec_embed": EMBEDDINGS,
                "wav2vec2.feature_*": EMBEDDINGS,
                "wav2vec2.encoder.pos_conv_embed.*": EMBEDDINGS,
                "wav2vec2.encoder.layer_norm.*": EMBEDDINGS,
                "projector.*": "head",
                "classifier.*": "head",
            },
        ),
    ),
    "wav2vec2, norm behind its blocks": (
        lambda: tiny.tiny_wav2vec2(do_stable_layer_norm=True),
        (
            {"wav2vec2.encoder.layers": 3},
            {
                "wav2vec2.masked_spec_embed": EMBEDDINGS,
                "wav2vec2.feature_*": EMBEDDINGS,
                "wav2vec2.encoder.pos_conv_embed.*": EMBEDDINGS,
                "wav2vec2.encoder.layer_norm.*": "block 2",
                "projector.*": "head",
                "classifier.*": "head",
            },
        ),
    ),
}
