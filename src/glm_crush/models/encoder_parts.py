"""The two pieces that every encoder is made of: a product with a bias, and a layer norm in place.

Above: `encoder`, `heads`. Below: `builder`.
"""

from __future__ import annotations

from glm_crush.kernels.program import LayerNorm, Linear, View
from glm_crush.models.builder import ProgramBuilder
from glm_crush.weights.plan import Source

__all__ = ["emit_biased", "emit_layer_norm"]


def emit_biased(
    builder: ProgramBuilder, name: str, view: View, out: View, *, activation: str = "none", accumulate: bool = False
) -> None:
    """Appends `out (+)= activation(view @ weight.T + bias)` for the checkpoint's linear `name`."""
    weight = builder.linear(f"{name}.weight", (Source(f"{name}.weight"),), out.width, view.width)
    bias = builder.vector(f"{name}.bias", (Source(f"{name}.bias"),), (out.width,))
    builder.add(Linear(view, weight, out, bias=bias, activation=activation, accumulate=accumulate))


def emit_layer_norm(builder: ProgramBuilder, name: str, eps: float, view: View | None = None) -> None:
    """Appends the layer norm that the checkpoint calls `name`, in place; old files say gamma and beta."""
    view = builder.residual if view is None else view
    weight, bias = (
        builder.vector(f"{name}.{part}", (Source(f"{name}.{part}", fallback=f"{name}.{old}"),), (view.width,))
        for part, old in (("weight", "gamma"), ("bias", "beta"))
    )
    builder.add(LayerNorm(view, weight, bias, eps, view))
