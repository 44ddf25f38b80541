// What happens to the 32 sums of a token and a pair of panels, sixteen lanes at a time: scales, weight, bias,
// activation, store or add. With few columns this is a tenth of a product's time.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "../generic/activation.h"
#include "exponential.h"

namespace glm {
namespace {

// 1 / (1 + 2^x), relative error 3e-7; x is held below 126 so that nothing overflows.
GLM_INLINE __m512 logistic_of_power(__m512 x) {
  x = _mm512_min_ps(x, _mm512_set1_ps(126.0f));
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 power = _mm512_scalef_ps(exp2_fraction(_mm512_sub_ps(x, n)), n);
  const __m512 sum = _mm512_add_ps(power, _mm512_set1_ps(1.0f));
  const __m512 guess = _mm512_rcp14_ps(sum);  // one Newton step takes 14 bits to all 24
  return _mm512_mul_ps(guess, _mm512_fnmadd_ps(sum, guess, _mm512_set1_ps(2.0f)));
}

GLM_INLINE __m512 silu_wide(__m512 gate) {
  return _mm512_mul_ps(gate, logistic_of_power(_mm512_mul_ps(gate, _mm512_set1_ps(-1.4426950408889634f))));
}

// The tanh approximation of GELU: g / (1 + exp(-2u)), u = sqrt(2/pi) (g + 0.044715 g^3).
GLM_INLINE __m512 gelu_wide(__m512 gate) {
  const __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_set1_ps(0.044715f), _mm512_mul_ps(gate, gate)), gate, gate);
  return _mm512_mul_ps(gate, logistic_of_power(_mm512_mul_ps(cubic, _mm512_set1_ps(-2.302208198f))));
}

// The exact GELU; see exact_gelu for the formula.
GLM_INLINE __m512 exact_gelu_wide(__m512 x) {
  const __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.7071067811865476f));
  const __m512 slope = _mm512_fmadd_ps(z, _mm512_set1_ps(kErfcSlope), _mm512_set1_ps(1.0f));
  const __m512 guess = _mm512_rcp14_ps(slope);
  const __m512 t = _mm512_mul_ps(guess, _mm512_fnmadd_ps(slope, guess, _mm512_set1_ps(2.0f)));
  __m512 p = _mm512_set1_ps(kErfcTerms[4]);
#pragma GCC unroll 4
  for (int i = 3; i >= 0; --i) p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(kErfcTerms[i]));
  const __m512 power = _mm512_max_ps(_mm512_mul_ps(_mm512_mul_ps(z, z), _mm512_set1_ps(-1.4426950408889634f)), _mm512_set1_ps(-126.0f));
  const __m512 n = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(p, t), _mm512_scalef_ps(exp2_fraction(_mm512_sub_ps(power, n)), n));
  const __m512 half_magnitude = _mm512_mul_ps(z, _mm512_set1_ps(0.7071067811865476f));
  return _mm512_fnmadd_ps(half_magnitude, tail, _mm512_max_ps(x, _mm512_setzero_ps()));
}

GLM_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>(count >= 16 ? 0xffffu : (1u << std::max(0, count)) - 1u); }

// `y` [tokens][32] holds the sums of tokens [begin, begin + tokens); row scales belong to the two panels.
template <bool HasTokenScale>
GLM_INLINE void finish_tokens(const MatmulArgs& args, int pair, int begin, int tokens, __m512 low_scale, __m512 high_scale, const float (*y)[2 * kPanelRows]) {
  const bool gated = args.epilogue == Epilogue::silu_gate || args.epilogue == Epilogue::gelu_gate;
  const int column = pair * (gated ? 1 : 2) * kPanelRows;
  const __mmask16 low_mask = first_lanes(args.out_columns - column), high_mask = first_lanes(args.out_columns - column - kPanelRows);
  __m512 low_bias = _mm512_setzero_ps(), high_bias = _mm512_setzero_ps();
  if (args.bias) {
    low_bias = _mm512_maskz_loadu_ps(low_mask, args.bias + column);
    high_bias = _mm512_maskz_loadu_ps(high_mask, args.bias + column + kPanelRows);
  }
  for (int t = 0; t < tokens; ++t) {
    const int token = begin + t;
    __m512 low = _mm512_loadu_ps(y[t]), high = _mm512_loadu_ps(y[t] + kPanelRows);
    if constexpr (HasTokenScale) {
      const __m512 scale = _mm512_set1_ps(args.a.scale[args.in_rows ? args.in_rows[token] : token]);
      low = _mm512_mul_ps(low, _mm512_mul_ps(scale, low_scale));
      high = _mm512_mul_ps(high, _mm512_mul_ps(scale, high_scale));
    }
    if (args.addends && args.addend_rows[token] >= 0) {
      const float* addend = args.addends + static_cast<size_t>(args.addend_rows[token]) * args.addend_stride + pair * 2 * kPanelRows;
      low = _mm512_add_ps(low, _mm512_loadu_ps(addend));
      high = _mm512_add_ps(high, _mm512_loadu_ps(addend + kPanelRows));
    }
    float* out = args.out + static_cast<size_t>(args.out_rows ? args.out_rows[token] : token) * args.out_stride + column;
    if (gated) {
      const __m512 act = args.epilogue == Epilogue::silu_gate ? silu_wide(low) : gelu_wide(low);
      _mm512_mask_storeu_ps(out, low_mask, _mm512_mul_ps(act, high));
      continue;
    }
    if (args.row_weight) {
      const __m512 weight = _mm512_set1_ps(args.row_weight[token]);
      low = _mm512_mul_ps(low, weight);
      high = _mm512_mul_ps(high, weight);
    }
    if (args.bias) {
      low = _mm512_add_ps(low, low_bias);
      high = _mm512_add_ps(high, high_bias);
    }
    if (args.epilogue == Epilogue::gelu) {
      low = exact_gelu_wide(low);
      high = exact_gelu_wide(high);
    } else if (args.epilogue == Epilogue::tanh) {
      low = hyperbolic_tangent(low);
      high = hyperbolic_tangent(high);
    }
    if (args.epilogue == Epilogue::add) {
      low = _mm512_add_ps(_mm512_maskz_loadu_ps(low_mask, out), low);
      high = _mm512_add_ps(_mm512_maskz_loadu_ps(high_mask, out + kPanelRows), high);
    }
    _mm512_mask_storeu_ps(out, low_mask, low);
    _mm512_mask_storeu_ps(out + kPanelRows, high_mask, high);
  }
}

}  // namespace
}  // namespace glm
