// Activations of single columns: the exact GELU and tanh.
#pragma once

#include "vector.h"

namespace glm {
namespace {

// erfc(z) = t (a1 + a2 t + .. + a5 t^4) exp(-z^2), t = 1 / (1 + slope z), z >= 0: absolute error 1.5e-7
// (Abramowitz and Stegun 1964, 7.1.26).
constexpr float kErfcSlope = 0.3275911f;
constexpr float kErfcTerms[] = {0.254829592f, -0.284496736f, 1.421413741f, -1.453152027f, 1.061405429f};

// x Phi(x) = max(x, 0) - |x| erfc(|x| / sqrt 2) / 2: small terms are taken from large ones, never the other way.
GLM_INLINE Floats exact_gelu(Floats x) {
  const Floats magnitude = absolute(x), z = magnitude * 0.7071067811865476f;
  const Floats t = 1.0f / (z * kErfcSlope + 1.0f);
  Floats p = splat(kErfcTerms[4]);
  for (int i = 3; i >= 0; --i) p = multiply_add(p, t, splat(kErfcTerms[i]));
  return maximum(x, Floats{}) - magnitude * 0.5f * (p * t * exponential(-z * z));
}

// 1 - 2 / (1 + exp 2x), the sign put back at the end.
GLM_INLINE Floats hyperbolic_tangent(Floats x) {
  const Floats value = 1.0f - 2.0f / (1.0f + exponential(absolute(x) * 2.0f));
  return as_floats(as_ints(value) | (as_ints(x) & static_cast<int32_t>(0x80000000)));
}

}  // namespace
}  // namespace glm
