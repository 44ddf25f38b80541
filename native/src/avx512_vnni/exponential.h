// The polynomial behind every exponential of this variant.
#pragma once

#include <immintrin.h>

#include "../generic/vector.h"

namespace glm {
namespace {

// 2^r for r in [-0.5, 0.5], relative error 2e-7 (Cephes exp2f).
GLM_INLINE __m512 exp2_fraction(__m512 r) {
  __m512 p = _mm512_set1_ps(1.535336188319500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.339887440266574e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.618437357674640e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.550332471162809e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.402264791363012e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931472028550421e-1f));
  return _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
}

}  // namespace
}  // namespace glm
