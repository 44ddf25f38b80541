// Attention over a bfloat16 cache with vdpbf16ps: two dimensions (scores) or two tokens (values) per instruction.
//
// The cache is laid out for it: keys [dimension pair][16 tokens][2] give sixteen scores per register, values
// [token pair][dimension][2] sixteen output dimensions. Masking and softmax are the shared ones; probabilities are
// rounded to bfloat16 for the second product. Each row adds dimensions, then tokens, in ascending order.
#pragma once

#include <immintrin.h>

#include "../generic/attention.h"
#include "exponential.h"

namespace glm {
namespace {

GLM_INLINE __m512bh broadcast_pair(const void* pair) {
  int32_t bits;
  std::memcpy(&bits, pair, 4);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(bits));
}
GLM_INLINE __m512bh load_pairs(const uint8_t* from) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from)); }

// Scores of rows [first, first + NumRows). Block after block: several at a time would keep more sums running, but their
// lines would come in an order that the processor does not fetch ahead.
template <int NumRows>
void score_rows_bf16(const Chunk& chunk, int first) {
  const int key_dim = chunk.shape.key_dim;
  const auto* queries = static_cast<const uint16_t*>(chunk.args.queries) + static_cast<size_t>(first) * static_cast<size_t>(key_dim);
  for (int offset = 0; offset < chunk.num_keys; offset += kBlockTokens) {
    const uint8_t* keys = chunk.block(offset).keys;
    __m512 acc[NumRows];
#pragma GCC unroll 12
    for (int row = 0; row < NumRows; ++row) acc[row] = _mm512_setzero_ps();
    for (int pair = 0; pair < key_dim / 2; ++pair) {
      const __m512bh loaded = load_pairs(keys + pair * 64);
#pragma GCC unroll 12
      for (int row = 0; row < NumRows; ++row) acc[row] = _mm512_dpbf16_ps(acc[row], loaded, broadcast_pair(queries + row * key_dim + 2 * pair));
    }
#pragma GCC unroll 12
    for (int row = 0; row < NumRows; ++row) _mm512_storeu_ps(chunk.scores(first + row) + offset, acc[row]);
  }
}

// 2^x for x <= 0, relative error 2e-7; 0 for -infinity.
GLM_INLINE __m512 exp2_wide(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-160.0f));
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm512_scalef_ps(exp2_fraction(_mm512_sub_ps(x, n)), n);
}

// Masks the scores of one row and turns them into 2^(score - max), floats in place or rounded to bfloat16 [keys] over the
// first half of the floats; gives max and sum.
template <CacheType T>
void softmax_row_wide(const Chunk& chunk, int row) {
  float* scores = chunk.scores(row);
  [[maybe_unused]] auto* rounded = reinterpret_cast<uint16_t*>(scores);
  const int padded = (chunk.num_keys + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
  const int begin = std::clamp(chunk.args.first_key[row] - chunk.args.chunk_begin, 0, chunk.num_keys);
  const int end = std::clamp(chunk.args.last_key[row] - chunk.args.chunk_begin, begin, chunk.num_keys);
  std::fill(scores, scores + begin, kMinusInfinity);
  std::fill(scores + end, scores + padded, kMinusInfinity);
  __m512 max = _mm512_set1_ps(kMinusInfinity);
  for (int i = begin / kBlockTokens * kBlockTokens; i < end; i += kBlockTokens) max = _mm512_max_ps(max, _mm512_loadu_ps(scores + i));
  const float m = _mm512_reduce_max_ps(max);
  chunk.args.m[row] = m;
  // Without any key every score is -infinity: subtract nothing, so that each probability is 0 and not NaN.
  const __m512 base = _mm512_set1_ps(m == kMinusInfinity ? 0.0f : m);
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < padded; i += kBlockTokens) {
    const __m512 probability = exp2_wide(_mm512_sub_ps(_mm512_loadu_ps(scores + i), base));
    sum = _mm512_add_ps(sum, probability);
    if constexpr (T == CacheType::f32) _mm512_storeu_ps(scores + i, probability);
    else _mm256_storeu_si256(reinterpret_cast<__m256i*>(rounded + i), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(probability)));
  }
  chunk.args.l[row] = _mm512_reduce_add_ps(sum);
}

// o = sum p v of NumRows rows and NumLines * 16 dimensions from d.
template <int NumRows, int NumLines>
GLM_INLINE void mix_lines(const Chunk& chunk, int first, int d) {
  const size_t line = static_cast<size_t>(chunk.shape.value_dim) * 4;
  __m512 acc[NumRows][NumLines];
#pragma GCC unroll 6
  for (int row = 0; row < NumRows; ++row)
#pragma GCC unroll 4
    for (int i = 0; i < NumLines; ++i) acc[row][i] = _mm512_setzero_ps();
  for (int offset = 0; offset < chunk.num_keys; offset += kBlockTokens) {
    const uint8_t* values = chunk.block(offset).values + static_cast<size_t>(d) * 4;
    const int pairs = (std::min(kBlockTokens, chunk.num_keys - offset) + 1) / 2;
    for (int pair = 0; pair < pairs; ++pair, values += line) {
      // The last pair may have only one key: what lies in the other half is not a value yet.
      const __mmask32 present = offset + 2 * pair + 1 < chunk.num_keys ? 0xffffffffu : 0x55555555u;
      __m512bh loaded[NumLines];
#pragma GCC unroll 4
      for (int i = 0; i < NumLines; ++i) loaded[i] = reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(present, values + 64 * i));
#pragma GCC unroll 6
      for (int row = 0; row < NumRows; ++row) {
        const auto* rounded = reinterpret_cast<const uint16_t*>(chunk.scores(first + row));
        const __m512bh probability = broadcast_pair(rounded + offset + 2 * pair);
#pragma GCC unroll 4
        for (int i = 0; i < NumLines; ++i) acc[row][i] = _mm512_dpbf16_ps(acc[row][i], loaded[i], probability);
      }
    }
  }
#pragma GCC unroll 6
  for (int row = 0; row < NumRows; ++row)
#pragma GCC unroll 4
    for (int i = 0; i < NumLines; ++i) _mm512_storeu_ps(chunk.output(first + row) + d + 16 * i, acc[row][i]);
}

template <int NumRows>
void mix_rows_bf16(const Chunk& chunk, int first) {
  int d = 0;
  for (; d + 64 <= chunk.shape.value_dim; d += 64) mix_lines<NumRows, 4>(chunk, first, d);
  for (; d < chunk.shape.value_dim; d += 16) mix_lines<NumRows, 1>(chunk, first, d);
}

inline void attend_bf16(const AttentionArgs& args) {
  const Chunk chunk(args);
  for_tiles<12>(args.num_rows, [&]<int NumRows>(int first) { score_rows_bf16<NumRows>(chunk, first); });
  for (int row = 0; row < args.num_rows; ++row) softmax_row_wide<CacheType::bf16>(chunk, row);
  for_tiles<6>(args.num_rows, [&]<int NumRows>(int first) { mix_rows_bf16<NumRows>(chunk, first); });
}

inline void store_kv_bf16(const CacheShape& shape, const CacheBlock& block, int slot, const float* key, const float* value, int value_dim) {
  for (int d = 0; d < shape.key_dim; d += 16) {
    const int count = std::min(16, shape.key_dim - d);
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), key + d));
    alignas(32) uint32_t pairs[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(pairs), reinterpret_cast<__m256i>(rounded));
    auto* out = reinterpret_cast<uint32_t*>(block.keys) + d / 2 * kBlockTokens + slot;
    for (int i = 0; i < count / 2; ++i) out[i * kBlockTokens] = pairs[i];
  }
  uint8_t* values = block.values + static_cast<size_t>(slot / 2) * static_cast<size_t>(shape.value_dim) * 4;
  const bool odd = slot % 2 != 0;
  for (int d = 0; d < shape.value_dim; d += 16) {
    const unsigned count = static_cast<unsigned>(std::clamp(value_dim - d, 0, 16));
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), value + d));
    __m512i wide = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(rounded));
    if (odd) wide = _mm512_slli_epi32(wide, 16);
    _mm512_mask_storeu_epi16(values + d * 4, odd ? 0xaaaaaaaau : 0x55555555u, wide);
  }
}

inline void store_query_bf16(const float* q, int n, int key_dim, float scale, void* out) {
  for (int d = 0; d < key_dim; d += 16) {
    const auto have = static_cast<__mmask16>((1u << std::clamp(n - d, 0, 16)) - 1u);
    const auto want = static_cast<__mmask16>((1u << std::min(key_dim - d, 16)) - 1u);
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(have, q + d), _mm512_set1_ps(scale));
    _mm256_mask_storeu_epi16(static_cast<uint16_t*>(out) + d, want, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(scaled)));
  }
}

}  // namespace
}  // namespace glm
