"""bert and xlm-roberta (roberta too): encoders for embedding, reranking, classification and masked words.

They differ in where positions begin (row 0; row `pad_token_id + 1`) and in the names around the layers. What
config.json's `architectures` names decides the head; sentence-transformers' files beside it make it an embedding model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from glm_crush.errors import CheckpointError
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import MAX_HEADS, MAX_LAYERS, Family
from glm_crush.models.encoder import WORD_EMBEDDINGS, Encoder, EncoderLayer
from glm_crush.models.heads import Classifier, Embedding, Head, MaskedWord, TokenClassifier

__all__ = ["BERT", "XLM_ROBERTA"]

_IGNORABLE: Mapping[str, str] = {
    "attention_probs_dropout_prob": "training only",
    "hidden_dropout_prob": "training only",
    "classifier_dropout": "training only",
    "output_past": "transformers return value",
    "directionality": "a note of the author",
    "pooler_fc_size": "of the first BERT release, unused",
    "pooler_num_attention_heads": "of the first BERT release, unused",
    "pooler_num_fc_layers": "of the first BERT release, unused",
    "pooler_size_per_head": "of the first BERT release, unused",
    "pooler_type": "of the first BERT release, unused",
    "sentence_transformers": "the activation after a reranker's logit; ours is the logistic function, same order",
    "sbert_ce_default_activation_function": "as sentence_transformers",
}


@dataclass(frozen=True)
class _Names:
    """What the checkpoints call the parts of the heads."""

    pooler: str
    classifier: str
    masked_dense: str
    masked_norm: str
    masked_bias: str


_BERT_NAMES = _Names(
    pooler="model.pooler.dense",
    classifier="classifier",
    masked_dense="cls.predictions.transform.dense",
    masked_norm="cls.predictions.transform.LayerNorm",
    masked_bias="cls.predictions.bias",
)
_ROBERTA_NAMES = _Names(
    pooler="classifier.dense",
    classifier="classifier.out_proj",
    masked_dense="lm_head.dense",
    masked_norm="lm_head.layer_norm",
    masked_bias="lm_head.bias",
)


def _describe_bert(reader: ConfigReader) -> Encoder:
    return _describe(reader, _BERT_NAMES, offset=0)


def _describe_roberta(reader: ConfigReader) -> Encoder:
    return _describe(reader, _ROBERTA_NAMES, offset=reader.integer("pad_token_id", 1, minimum=0) + 1)


def _describe(reader: ConfigReader, names: _Names, *, offset: int) -> Encoder:
    hidden_size = reader.integer("hidden_size")
    heads = reader.integer("num_attention_heads", maximum=MAX_HEADS)
    if hidden_size % heads:
        raise CheckpointError(
            f"{reader.where}: hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}"
        )
    reader.expect("position_embedding_type", "absolute", "absolute")
    reader.expect("hidden_act", "gelu", "gelu")
    reader.expect("tie_word_embeddings", True, True)
    eps = reader.positive("layer_norm_eps", 1e-12)
    vocab_size = reader.integer("vocab_size")
    num_positions = reader.integer("max_position_embeddings")
    if num_positions <= offset:
        raise CheckpointError(
            f"{reader.where}: max_position_embeddings is {num_positions}; positions begin at row {offset}"
        )
    layer = EncoderLayer(heads, reader.integer("intermediate_size"), eps)
    return Encoder(
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        num_positions=num_positions,
        position_offset=offset,
        num_types=reader.integer("type_vocab_size", 2),
        eps=eps,
        layers=(layer,) * reader.integer("num_hidden_layers", maximum=MAX_LAYERS),
        head=_head(reader, names, vocab_size, eps),
    )


def _head(reader: ConfigReader, names: _Names, vocab_size: int, eps: float) -> Head:
    architecture = (reader.texts("architectures") or ("Model",))[0]
    labels = reader.labels("id2label") or tuple(f"LABEL_{i}" for i in range(reader.integer("num_labels", 2)))
    if architecture.endswith("ForSequenceClassification"):
        return Classifier(labels, names.pooler, names.classifier)
    if architecture.endswith("ForTokenClassification"):
        return TokenClassifier(labels)
    if architecture.endswith("ForMaskedLM"):
        return MaskedWord(vocab_size, eps, names.masked_dense, names.masked_norm, names.masked_bias, WORD_EMBEDDINGS)
    return Embedding("mean", normalize=True)


_HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForMaskedLM")
_Describe = Callable[[ConfigReader], Encoder]


def _family(name: str, stem: str, prefix: str, model_types: tuple[str, ...], describe: _Describe) -> Family:
    return Family(
        name,
        describe,
        model_types,
        tuple(f"{each}{head}" for each in stem.split() for head in _HEADS),
        ignorable_keys=_IGNORABLE,
        prefixes=(prefix, ""),
        # A pooler of embedding models, the decoder that is the embedding, BERT's second task in pre-training.
        ignorable_tensors=(
            *(f"{base}{part}" for base in (prefix, "") for part in ("pooler.", "embeddings.position_ids")),
            *("cls.", "lm_head."),
        ),
        embedding=WORD_EMBEDDINGS,
    )


BERT = _family("bert", "Bert", "bert.", ("bert",), _describe_bert)
XLM_ROBERTA = _family("xlm-roberta", "XLMRoberta Roberta", "roberta.", ("xlm-roberta", "roberta"), _describe_roberta)
