// Activations to block floating point with AVX-512: the same numbers as the shared prepare_integer_row, sixteen
// lanes at a time. A step of one token prepares four rows a layer on every thread, so this is on the hot path.
#pragma once

#include <immintrin.h>

#include "../generic/rows.h"

namespace glm {
namespace {

// Half a group: sixteen values from `at`, zero from n on.
GLM_INLINE __m512 load_values(const float* x, int at, int n) {
  if (at + 16 <= n) [[likely]] return _mm512_loadu_ps(x + at);
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << std::max(0, n - at)) - 1u), x + at);
}

constexpr int kGroupsAtOnce = 4;  // folded together; the last time there may be two, for groups come in pairs

GLM_INLINE __mmask8 used_groups(int first, int num_groups) { return num_groups - first >= kGroupsAtOnce ? 15 : 3; }

// The largest of each vector's lanes, one after the other.
GLM_INLINE __m128 maxima_of(const __m512 (&v)[kGroupsAtOnce]) {
  __m256 eight[kGroupsAtOnce];
#pragma GCC unroll 4
  for (int i = 0; i < kGroupsAtOnce; ++i) {
    eight[i] = _mm256_max_ps(_mm512_castps512_ps256(v[i]), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v[i]), 1)));
  }
  const __m256 ab = _mm256_max_ps(_mm256_unpacklo_ps(eight[0], eight[1]), _mm256_unpackhi_ps(eight[0], eight[1]));
  const __m256 cd = _mm256_max_ps(_mm256_unpacklo_ps(eight[2], eight[3]), _mm256_unpackhi_ps(eight[2], eight[3]));
  const __m256 abcd = _mm256_max_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  return _mm_max_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

// The sum of each vector's 32 bytes, one after the other.
GLM_INLINE __m128i sums_of(const __m256i (&v)[kGroupsAtOnce]) {
  const __m256i ones = _mm256_set1_epi8(1);
  __m256i eight[kGroupsAtOnce];
#pragma GCC unroll 4
  for (int i = 0; i < kGroupsAtOnce; ++i) eight[i] = _mm256_dpbusd_epi32(_mm256_setzero_si256(), ones, v[i]);
  const __m256i four = _mm256_hadd_epi32(_mm256_hadd_epi32(eight[0], eight[1]), _mm256_hadd_epi32(eight[2], eight[3]));
  return _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
}

// Largest magnitude of each group into `maxima`, and of the row as the result.
inline float group_maxima(const float* x, int n, int num_groups, float* maxima) {
  __m512 row = _mm512_setzero_ps();
  for (int first = 0; first < num_groups; first += kGroupsAtOnce) {
    __m512 both[kGroupsAtOnce];
#pragma GCC unroll 4
    for (int i = 0; i < kGroupsAtOnce; ++i) {
      const int at = (first + i) * kGroup;
      both[i] = _mm512_max_ps(_mm512_abs_ps(load_values(x, at, n)), _mm512_abs_ps(load_values(x, at + 16, n)));
      row = _mm512_max_ps(row, both[i]);
    }
    _mm_mask_storeu_ps(maxima + first, used_groups(first, num_groups), maxima_of(both));
  }
  return _mm512_reduce_max_ps(row);
}

// factor[g] = 2^e with the smallest e in [0, 15] such that maxima[g] <= row_max * 2^(e - 15), from the bits of the two
// numbers; multiplier[g] = inverse * 2^(15 - e). `factor` holds the maxima on entry.
inline void group_factors(float row_max, float inverse, int num_groups, float* factor, float* multiplier) {
  const __m512i row = _mm512_castps_si512(_mm512_set1_ps(row_max));
  const __m512i mantissa = _mm512_set1_epi32(0x7fffff), fifteen = _mm512_set1_epi32(15), bias = _mm512_set1_epi32(127);
  for (int g = 0; g < num_groups; g += 16) {
    const __mmask16 used = static_cast<__mmask16>(num_groups - g >= 16 ? 0xffffu : (1u << (num_groups - g)) - 1u);
    const __m512i max = _mm512_castps_si512(_mm512_maskz_loadu_ps(used, factor + g));
    __m512i e = _mm512_add_epi32(fifteen, _mm512_sub_epi32(_mm512_srli_epi32(max, 23), _mm512_srli_epi32(row, 23)));
    const __mmask16 above = _mm512_cmpgt_epi32_mask(_mm512_and_si512(max, mantissa), _mm512_and_si512(row, mantissa));
    e = _mm512_mask_add_epi32(e, above, e, _mm512_set1_epi32(1));
    e = _mm512_min_epi32(_mm512_max_epi32(e, _mm512_setzero_si512()), fifteen);
    const __m512i power = _mm512_slli_epi32(_mm512_add_epi32(e, bias), 23);
    const __m512i inverse_power = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(fifteen, e), bias), 23);
    _mm512_mask_storeu_ps(factor + g, used, _mm512_castsi512_ps(power));
    _mm512_mask_storeu_ps(multiplier + g, used, _mm512_mul_ps(_mm512_set1_ps(inverse), _mm512_castsi512_ps(inverse_power)));
  }
}

template <Format F>
void prepare_integer_row_wide(const float* x, int n, const Rows& rows, int row) {
  constexpr int kZero = F == Format::q4 ? 8 : F == Format::q4a ? 0 : 128;
  const auto index = static_cast<size_t>(row);
  const int num_groups = static_cast<int>(rows.stride) / kGroup;
  int8_t* q = rows.q + index * rows.stride;
  float* factor = rows.factor + index * rows.group_stride;
  float* sum = rows.sum + index * rows.group_stride;  // holds the multipliers until a group's sum replaces them
  int32_t* init = rows.init + index * rows.group_stride;
  const float row_max = group_maxima(x, n, num_groups, factor);
  const bool is_zero = row_max < kSmallestMaximum;
  rows.scale[row] = is_zero ? 0.0f : row_max / 127.0f * 0x1p-15f;
  group_factors(is_zero ? 1.0f : row_max, is_zero ? 0.0f : 127.0f / row_max, num_groups, factor, sum);
  for (int first = 0; first < num_groups; first += kGroupsAtOnce) {
    __m256i codes[kGroupsAtOnce];
#pragma GCC unroll 4
    for (int i = 0; i < kGroupsAtOnce; ++i) {
      const int at = (first + i) * kGroup;
      if (i >= 2 && first + i >= num_groups) {
        codes[i] = _mm256_setzero_si256();
        continue;
      }
      const __m512 multiplier = _mm512_set1_ps(sum[first + i]);
      const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(load_values(x, at, n), multiplier));
      const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(load_values(x, at + 16, n), multiplier));
      codes[i] = _mm256_set_m128i(_mm512_cvtepi32_epi8(high), _mm512_cvtepi32_epi8(low));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + at), codes[i]);
    }
    const __mmask8 used = used_groups(first, num_groups);
    const __m128i totals = sums_of(codes);
    _mm_mask_storeu_epi32(init + first, used, _mm_mullo_epi32(totals, _mm_set1_epi32(-kZero)));
    const __m128 factors = _mm_maskz_loadu_ps(used, factor + first);
    _mm_mask_storeu_ps(sum + first, used, _mm_mul_ps(factors, _mm_cvtepi32_ps(totals)));
  }
}

inline void prepare_bf16_row_wide(const float* x, int n, const Rows& rows, int row) {
  uint16_t* out = rows.bf16 + static_cast<size_t>(row) * rows.stride;
  for (int i = 0; i < static_cast<int>(rows.stride); i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(load_values(x, i, n))));
  }
}

}  // namespace
}  // namespace glm
