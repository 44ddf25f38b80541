// What happens to the 32 sums of one token and one pair of panels: weight, bias, activation, store or add.
#pragma once

#include <algorithm>

#include "activation.h"

namespace glm {
namespace {

GLM_INLINE Floats silu(Floats gate) { return gate / (1.0f + exponential(-gate)); }

// The tanh approximation of GELU, written as g * sigmoid(2u) = 0.5 g (1 + tanh(u)).
GLM_INLINE Floats gelu(Floats gate) {
  const Floats twice_u = 1.5957691216057308f * (gate + 0.044715f * gate * gate * gate);
  return gate / (1.0f + exponential(-twice_u));
}

// Adds `count` (at most 32) values to `out`, or stores them.
inline void write_columns(const float* y, int count, bool add, float* out) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Floats value = load<Floats>(y + i);
    store(out + i, add ? load<Floats>(out + i) + value : value);
  }
  for (; i < count; ++i) out[i] = add ? out[i] + y[i] : y[i];
}

// `y` holds the 32 sums of pair `pair` for token `token`, activation scale included; it is overwritten.
inline void finish(const MatmulArgs& args, int pair, int token, float* y) {
  if (args.addends && args.addend_rows[token] >= 0) {
    const float* addend = args.addends + static_cast<size_t>(args.addend_rows[token]) * args.addend_stride + pair * 2 * kPanelRows;
    for (int i = 0; i < 2 * kPanelRows; i += kLanes) store(y + i, load<Floats>(y + i) + load<Floats>(addend + i));
  }
  float* out = args.out + static_cast<size_t>(args.out_rows ? args.out_rows[token] : token) * args.out_stride;
  if (args.epilogue == Epilogue::silu_gate || args.epilogue == Epilogue::gelu_gate) {
    const bool is_silu = args.epilogue == Epilogue::silu_gate;
    for (int i = 0; i < kPanelRows; i += kLanes) {
      const Floats gate = load<Floats>(y + i), up = load<Floats>(y + kPanelRows + i);
      store(y + i, (is_silu ? silu(gate) : gelu(gate)) * up);
    }
    const int column = pair * kPanelRows;
    write_columns(y, std::min(kPanelRows, args.out_columns - column), false, out + column);
    return;
  }
  const int column = pair * 2 * kPanelRows, count = std::min(2 * kPanelRows, args.out_columns - column);
  if (args.row_weight)
    for (int i = 0; i < 2 * kPanelRows; ++i) y[i] *= args.row_weight[token];
  if (args.bias)
    for (int i = 0; i < count; ++i) y[i] += args.bias[column + i];
  if (args.epilogue == Epilogue::gelu || args.epilogue == Epilogue::tanh) {
    const bool is_gelu = args.epilogue == Epilogue::gelu;
    for (int i = 0; i < 2 * kPanelRows; i += kLanes) store(y + i, is_gelu ? exact_gelu(load<Floats>(y + i)) : hyperbolic_tangent(load<Floats>(y + i)));
  }
  write_columns(y, count, args.epilogue == Epilogue::add, out + column);
}

}  // namespace
}  // namespace glm
