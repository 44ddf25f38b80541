// Layer normalisation of one row: mean, then the variance around it, then scale and shift (Ba et al. 2016).
#pragma once

#include "rows.h"

namespace glm {
namespace {

// sum of f(x[i]): sixteen partial sums by i % 16, then a fixed tree.
template <class F>
GLM_INLINE float sum_of(const float* x, int n, const F& f) {
  Floats partial[kPieces] = {};
  int i = 0;
  for (; i + kPanelRows <= n; i += kPanelRows)
    for (int p = 0; p < kPieces; ++p) partial[p] += f(load<Floats>(x + i + p * kLanes));
  float sums[kPanelRows];
  std::memcpy(sums, partial, sizeof sums);
  for (int lane = 0; i < n; ++i, ++lane) sums[lane] += f(splat(x[i]))[0];
  return add_lanes(sums, kPanelRows);
}

inline void layer_norm(const float* x, const float* weight, const float* bias, float eps, int n, float* out) {
  const float mean = sum_of(x, n, [](Floats v) { return v; }) / static_cast<float>(n);
  const float variance = sum_of(x, n, [mean](Floats v) { return (v - mean) * (v - mean); }) / static_cast<float>(n);
  const float inverse = 1.0f / std::sqrt(variance + eps);
  for (int i = 0; i < n; ++i) out[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
}

}  // namespace
}  // namespace glm
