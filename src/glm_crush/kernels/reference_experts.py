"""Mixture of experts of the reference executor: routing and the weighted sum of experts. NumPy, float32.

Above: `reference`. Below: `reference_math`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glm_crush.kernels.program import MixtureOfExperts
from glm_crush.kernels.reference_math import Float32, WeightSource, gated_activation, linear

__all__ = ["mixture_of_experts", "route"]


def route(op: MixtureOfExperts, logits: Float32, bias: Float32 | None) -> tuple[npt.NDArray[np.int64], Float32]:
    """Chooses experts (DeepSeek-V3, equations 12 to 16, without auxiliary loss).

    Args:
        op: the operation, for its routing settings.
        logits: float32 `[num_tokens, num_experts]`.
        bias: float32 `[num_experts]`, added for the choice only, or None.

    Returns:
        int64 `[num_tokens, top_k]` experts in ascending order, and their float32 weights.
    """
    if op.scoring == "softmax":
        scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
    else:
        assert op.scoring == "sigmoid", op.scoring
        scores = 1 / (1 + np.exp(-logits))
    choice = scores if bias is None else scores + bias
    if op.topk_group < op.n_group:
        choice = _keep_best_groups(op, choice)
    # A stable sort of the negated scores gives ties to the lower index.
    chosen = np.sort(np.argsort(-choice, axis=-1, kind="stable")[:, : op.top_k], axis=-1)
    weights = np.take_along_axis(scores, chosen, axis=-1)
    if op.normalize:
        weights = weights / (weights.sum(axis=-1, keepdims=True) + np.float32(1e-20))
    return chosen, (weights * np.float32(op.scale)).astype(np.float32)


def _keep_best_groups(op: MixtureOfExperts, choice: Float32) -> Float32:
    groups = choice.reshape(len(choice), op.n_group, -1)
    group_scores = np.sort(groups, axis=-1)[..., -2:].sum(axis=-1)
    best = np.argsort(-group_scores, axis=-1, kind="stable")[:, : op.topk_group]
    kept = np.zeros(group_scores.shape, bool)
    np.put_along_axis(kept, best, True, axis=-1)
    masked: Float32 = np.where(kept[..., None], groups, np.float32(-np.inf)).reshape(choice.shape)
    return masked


def mixture_of_experts(
    op: MixtureOfExperts, normed: Float32, weights: WeightSource, *, quantize_activations: bool
) -> Float32:
    """The weighted sum of each token's experts, float32 `[num_tokens, hidden_size]`.

    Args:
        op: the operation.
        normed: float32 `[num_tokens, hidden_size]`, its normalised input.
        weights: router, bias and experts.
        quantize_activations: round inputs as the kernels do; the router always reads float32.
    """
    bias = None if op.router_bias is None else weights.vector(op.router_bias)
    router = weights.vector(op.router).reshape(op.num_experts, -1)
    chosen, factors = route(op, normed @ router.T, bias)
    gate_up, down = weights.linear(op.gate_up), weights.linear(op.down)
    total = np.zeros_like(normed)
    for expert in range(op.num_experts):
        tokens, slot = np.nonzero(chosen == expert)
        if not len(tokens):
            continue
        product = linear(normed[tokens], gate_up, expert, quantize_activations=quantize_activations)
        hidden = gated_activation(product, op.intermediate_size, op.activation)
        output = linear(hidden, down, expert, quantize_activations=quantize_activations)
        total[tokens] += factors[tokens, slot, None] * output[:, : total.shape[1]]
    return total
