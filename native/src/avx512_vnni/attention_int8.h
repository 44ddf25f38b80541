// Attention over an int8 cache with vpdpbusd: four dimensions (scores) or four tokens (values) per instruction.
//
// Scores: unsigned keys times signed queries, int8 with one scale per group of 64 dimensions; the keys' offset of 128 is
// taken out by where the sum starts. Values: signed values times unsigned 16-bit weights, high and low byte apart. A
// weight is probability times the token's scale, so that one exact integer sum runs over all tokens of a chunk.
#pragma once

#include <immintrin.h>

#include "../generic/attention_int8.h"
#include "attention_bf16.h"

namespace glm {
namespace {

GLM_INLINE __m512i broadcast_quad(const void* quad) {
  int32_t bits;
  std::memcpy(&bits, quad, 4);
  return _mm512_set1_epi32(bits);
}

// A prepared query: scale [groups], start of the integer sum [groups], codes [key_dim].
struct QueryCodes {
  float* scale;
  int32_t* start;
  int8_t* codes;
  QueryCodes(void* row, int groups)
      : scale(static_cast<float*>(row)), start(static_cast<int32_t*>(row) + groups), codes(static_cast<int8_t*>(row) + 8 * groups) {}
};

// Dimensions [d, d + kCacheGroup) of n; what is not there is zero.
GLM_INLINE void load_group(const float* x, int d, int n, __m512 (&group)[4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int count = std::clamp(n - d - 16 * i, 0, 16);
    group[i] = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), x + d + 16 * i);
  }
}

// a + b where the sign is plus, b - a's place where it is minus: one stage within registers.
template <int Half>
GLM_INLINE __m512 butterfly(__m512 x) {
  constexpr unsigned kMinus = Half == 1 ? 0xaaaau : Half == 2 ? 0xccccu : Half == 4 ? 0xf0f0u : 0xff00u;
  __m512 other;
  if constexpr (Half == 1) other = _mm512_permute_ps(x, 0xb1);
  else if constexpr (Half == 2) other = _mm512_permute_ps(x, 0x4e);
  else other = _mm512_shuffle_f32x4(x, x, Half == 4 ? 0xb1 : 0x4e);
  return _mm512_add_ps(other, _mm512_mask_sub_ps(x, kMinus, _mm512_setzero_ps(), x));
}

GLM_INLINE void hadamard_wide(__m512 (&x)[4]) {
#pragma GCC unroll 4
  for (auto& part : x) part = butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(part))));
  const __m512 a = _mm512_add_ps(x[0], x[1]), b = _mm512_sub_ps(x[0], x[1]), c = _mm512_add_ps(x[2], x[3]), d = _mm512_sub_ps(x[2], x[3]);
  x[0] = _mm512_add_ps(a, c);
  x[1] = _mm512_add_ps(b, d);
  x[2] = _mm512_sub_ps(a, c);
  x[3] = _mm512_sub_ps(b, d);
}

// Bits of the largest magnitude; those of NaN and infinity are above all others.
GLM_INLINE uint32_t largest_bits(const __m512 (&x)[4]) {
  __m512i largest = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (const auto& part : x) largest = _mm512_max_epu32(largest, _mm512_castps_si512(_mm512_abs_ps(part)));
  return static_cast<uint32_t>(_mm512_reduce_max_epu32(largest));
}

GLM_INLINE __m512i round_to_codes(__m512 x, float inverse) { return _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse))); }

inline void store_kv_int8_wide(const CacheShape& shape, const CacheBlock& block, int slot, const float* key, const float* value, int value_dim) {
  uint16_t* scales = reinterpret_cast<uint16_t*>(block.scales) + slot;
  __m512 group[4];
  for (int d = 0; d < shape.key_dim; d += kCacheGroup, scales += kBlockTokens) {
    load_group(key, d, shape.key_dim, group);
    if (d + kCacheGroup <= shape.key_dim) hadamard_wide(group);
    *scales = cache_scale(largest_bits(group));
    const float inverse = inverse_scale(*scales);
    alignas(16) uint32_t quads[4];
    auto* out = reinterpret_cast<uint32_t*>(block.keys) + d / 4 * kBlockTokens + slot;
    for (int i = 0; i < 4; ++i) {
      const __m512i codes = inverse == 0.0f ? _mm512_setzero_si512() : round_to_codes(group[i], inverse);
      _mm_store_si128(reinterpret_cast<__m128i*>(quads), _mm_xor_si128(_mm512_cvtepi32_epi8(codes), _mm_set1_epi8(-128)));
      const int count = std::min(4, (shape.key_dim - d - 16 * i) / 4);
      for (int j = 0; j < count; ++j) out[(4 * i + j) * kBlockTokens] = quads[j];
    }
  }
  uint8_t* values = block.values + static_cast<size_t>(slot / 4) * static_cast<size_t>(shape.value_dim) * 4;
  const __mmask64 lane = 0x1111111111111111ull << (slot % 4);
  for (int d = 0; d < shape.value_dim; d += kCacheGroup, scales += kBlockTokens) {
    load_group(value, d, value_dim, group);
    *scales = cache_scale(largest_bits(group));
    const float inverse = inverse_scale(*scales);
    for (int i = 0; i < 4 && d + 16 * i < shape.value_dim; ++i) {
      const __m512i codes = inverse == 0.0f ? _mm512_setzero_si512() : round_to_codes(group[i], inverse);
      _mm512_mask_storeu_epi8(values + (d + 16 * i) * 4, lane, _mm512_sllv_epi32(codes, _mm512_set1_epi32(8 * (slot % 4))));
    }
  }
}

inline void store_query_int8_wide(const float* q, int n, int key_dim, float scale, void* out) {
  const QueryCodes row(out, (key_dim + kCacheGroup - 1) / kCacheGroup);
  __m512 group[4];
  for (int d = 0, g = 0; d < key_dim; d += kCacheGroup, ++g) {
    load_group(q, d, n, group);
    float factor = scale;
    if (d + kCacheGroup <= key_dim) {
      hadamard_wide(group);
      factor *= 1.0f / kCacheGroup;
    }
    const uint32_t bits = largest_bits(group);
    const float largest = std::bit_cast<float>(bits);
    const bool is_zero = largest < kSmallestCached;
    row.scale[g] = is_zero ? 0.0f : largest / 127.0f * factor;  // NaN and infinity make the scale NaN or infinite
    const float inverse = is_zero || bits >= 0x7f800000u ? 0.0f : 127.0f / largest;
    __m512i total = _mm512_setzero_si512();
    for (int i = 0; i < 4 && d + 16 * i < key_dim; ++i) {
      const __m512i codes = inverse == 0.0f ? _mm512_setzero_si512() : round_to_codes(group[i], inverse);
      const int count = std::min(16, key_dim - d - 16 * i);
      _mm_mask_storeu_epi8(row.codes + d + 16 * i, static_cast<__mmask16>((1u << count) - 1u), _mm512_cvtepi32_epi8(codes));
      total = _mm512_add_epi32(total, codes);
    }
    row.start[g] = -128 * _mm512_reduce_add_epi32(total);
  }
}

GLM_INLINE void fetch_lines(const uint8_t* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 3);
}

// Scores of rows [first, first + NumRows), block after block as with bfloat16. Few rows have sums for every second or
// fourth quad of dimensions, to cover the latency of the dot product; integers add up to the same in any order.
template <int NumRows>
void score_rows_int8_wide(const Chunk& chunk, int first) {
  constexpr int kSums = NumRows <= 3 ? 4 : NumRows <= 6 ? 2 : 1;
  const CacheShape& shape = chunk.shape;
  const int groups = shape.key_groups();
  const size_t row_bytes = shape.query_bytes();
  auto* queries = static_cast<uint8_t*>(const_cast<void*>(chunk.args.queries)) + static_cast<size_t>(first) * row_bytes;
  for (int offset = 0; offset < chunk.num_keys; offset += kBlockTokens) {
    const CacheBlock block = chunk.block(offset);
    if (first == 0) fetch_lines(block.values, shape.value_bytes());
    for (int g = 0; g < groups; ++g) {
      __m512i acc[NumRows][kSums];
#pragma GCC unroll 12
      for (int row = 0; row < NumRows; ++row) {
        acc[row][0] = _mm512_set1_epi32(QueryCodes(queries + row * row_bytes, groups).start[g]);
#pragma GCC unroll 4
        for (int i = 1; i < kSums; ++i) acc[row][i] = _mm512_setzero_si512();
      }
      const auto add_quad = [&](int quad, int i) __attribute__((always_inline)) {
        const __m512i loaded = _mm512_loadu_si512(block.keys + quad * 64);
#pragma GCC unroll 12
        for (int row = 0; row < NumRows; ++row)
          acc[row][i] = _mm512_dpbusd_epi32(acc[row][i], loaded, broadcast_quad(queries + row * row_bytes + 8 * groups + 4 * quad));
      };
      const int end = std::min((g + 1) * kCacheGroup, shape.key_dim) / 4;
      int quad = g * kCacheGroup / 4;
      for (; quad + kSums <= end; quad += kSums)
#pragma GCC unroll 4
        for (int i = 0; i < kSums; ++i) add_quad(quad + i, i);
      for (; quad < end; ++quad) add_quad(quad, 0);
      Floats scales[kPieces];
      load_scales(block.scales + static_cast<size_t>(g) * kBlockTokens * 2, scales);
#pragma GCC unroll 12
      for (int row = 0; row < NumRows; ++row) {
#pragma GCC unroll 4
        for (int i = 1; i < kSums; ++i) acc[row][0] = _mm512_add_epi32(acc[row][0], acc[row][i]);
        const __m512 unit = _mm512_set1_ps(QueryCodes(queries + row * row_bytes, groups).scale[g]);
        float* to = chunk.scores(first + row) + offset;
        const __m512 before = g == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(to);
        _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[row][0]), unit), scales[0], before));
      }
    }
  }
}

// Keys of the chunk that comes next, a block for each block of values.
GLM_INLINE void fetch_next_keys(const AttentionArgs& args, int index) {
  if (index >= args.num_next_blocks) return;
  const CacheShape& shape = *args.shape;
  fetch_lines(shape.block(args.layer, args.next_kv_head, args.next_blocks[index]).keys, shape.key_bytes() + shape.scale_bytes());
}

// Probabilities of a row times the tokens' scales as 16-bit integers; gives their unit. Four tokens take 16 bytes: four high
// bytes, four low bytes, eight unused.
GLM_INLINE float round_weights(const Chunk& chunk, int row, const float* scales, uint8_t* bytes) {
  const float* probabilities = chunk.scores(row);
  const int padded = (chunk.num_keys + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
  const auto weight = [&](int i) { return _mm512_mul_ps(_mm512_loadu_ps(probabilities + i), _mm512_load_ps(scales + i)); };
  __m512i largest = _mm512_setzero_si512();  // as bits: no weight is negative, NaN is above all
  for (int i = 0; i < padded; i += kBlockTokens) largest = _mm512_max_epu32(largest, _mm512_castps_si512(weight(i)));
  const float max = std::bit_cast<float>(_mm512_reduce_max_epu32(largest) & 0x7fffffffu);
  const __m512i high_then_low = _mm512_broadcast_i32x4(_mm_setr_epi8(1, 5, 9, 13, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m512 inverse = _mm512_set1_ps(max < kSmallestCached ? 0.0f : 65535.0f / max);
  for (int i = 0; i < padded; i += kBlockTokens) {
    const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(weight(i), inverse));
    _mm512_store_si512(bytes + 4 * i, _mm512_shuffle_epi8(rounded, high_then_low));
  }
  return max / 65535.0f;
}

// o = sum w v of NumRows rows and NumLines * 16 dimensions from d. 256 tokens of 65535 * 127 at most fit an int32.
template <int NumRows, int NumLines>
GLM_INLINE void mix_lines_int8(const Chunk& chunk, int first, int d, const uint8_t (&bytes)[NumRows][4 * kChunkKeys], const float (&units)[NumRows]) {
  const size_t line = static_cast<size_t>(chunk.shape.value_dim) * 4;
  __m512i high[NumRows][NumLines], low[NumRows][NumLines];
#pragma GCC unroll 6
  for (int row = 0; row < NumRows; ++row)
#pragma GCC unroll 4
    for (int i = 0; i < NumLines; ++i) high[row][i] = low[row][i] = _mm512_setzero_si512();
  for (int offset = 0; offset < chunk.num_keys; offset += kBlockTokens) {
    const uint8_t* values = chunk.block(offset).values + static_cast<size_t>(d) * 4;
    if (first == 0 && d == 0) fetch_next_keys(chunk.args, offset / kBlockTokens);
    const int stop = std::min(offset + kBlockTokens, chunk.num_keys);
    for (int token = offset; token < stop; token += 4, values += line) {
      __m512i loaded[NumLines];
#pragma GCC unroll 4
      for (int i = 0; i < NumLines; ++i) loaded[i] = _mm512_loadu_si512(values + 64 * i);
#pragma GCC unroll 6
      for (int row = 0; row < NumRows; ++row) {
        const __m512i high_weights = broadcast_quad(bytes[row] + 4 * token), low_weights = broadcast_quad(bytes[row] + 4 * token + 4);
#pragma GCC unroll 4
        for (int i = 0; i < NumLines; ++i) {
          high[row][i] = _mm512_dpbusd_epi32(high[row][i], high_weights, loaded[i]);
          low[row][i] = _mm512_dpbusd_epi32(low[row][i], low_weights, loaded[i]);
        }
      }
    }
  }
#pragma GCC unroll 6
  for (int row = 0; row < NumRows; ++row)
#pragma GCC unroll 4
    for (int i = 0; i < NumLines; ++i) {
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high[row][i], 8), low[row][i]));
      _mm512_storeu_ps(chunk.output(first + row) + d + 16 * i, _mm512_mul_ps(sum, _mm512_set1_ps(units[row])));
    }
}

template <int NumRows>
void mix_rows_int8_wide(const Chunk& chunk, int first, int begin, int end, const float* scales) {
  alignas(64) uint8_t bytes[NumRows][4 * kChunkKeys];
  float units[NumRows];
  for (int row = 0; row < NumRows; ++row) units[row] = round_weights(chunk, first + row, scales, bytes[row]);
  int d = begin;
  for (; d + 64 <= end; d += 64) mix_lines_int8<NumRows, 4>(chunk, first, d, bytes, units);
  for (; d < end; d += 16) mix_lines_int8<NumRows, 1>(chunk, first, d, bytes, units);
}

inline void attend_int8_wide(const AttentionArgs& args) {
  const Chunk chunk(args);
  for_tiles<12>(args.num_rows, [&]<int NumRows>(int first) { score_rows_int8_wide<NumRows>(chunk, first); });
  for (int row = 0; row < args.num_rows; ++row) softmax_row_wide<CacheType::f32>(chunk, row);
  alignas(64) float scales[kChunkKeys];
  for (int group = 0; group < chunk.shape.value_groups(); ++group) {
    const int begin = group * kCacheGroup, end = std::min(begin + kCacheGroup, chunk.shape.value_dim);
    value_scales(chunk, group, scales);
    for_tiles<3>(args.num_rows, [&]<int NumRows>(int first) { mix_rows_int8_wide<NumRows>(chunk, first, begin, end, scales); });
  }
}

inline void attention_chunk_wide(const AttentionArgs& args) {
  switch (args.shape->type) {
    case CacheType::bf16: return attend_bf16(args);
    case CacheType::f32: return attend<CacheType::f32>(args);
    case CacheType::int8: return attend_int8_wide(args);
  }
}

inline void store_kv_wide(const CacheShape& shape, const CacheBlock& block, int slot, const float* key, const float* value, int value_dim) {
  switch (shape.type) {
    case CacheType::bf16: return store_kv_bf16(shape, block, slot, key, value, value_dim);
    case CacheType::f32: return store_kv_as<CacheType::f32>(shape, block, slot, key, value, value_dim);
    case CacheType::int8: return store_kv_int8_wide(shape, block, slot, key, value, value_dim);
  }
}

inline void store_query_wide(CacheType type, const float* q, int n, int key_dim, float scale, void* out) {
  switch (type) {
    case CacheType::bf16: return store_query_bf16(q, n, key_dim, scale, out);
    case CacheType::f32: return store_query_as<CacheType::f32>(q, n, key_dim, scale, out);
    case CacheType::int8: return store_query_int8_wide(q, n, key_dim, scale, out);
  }
}

}  // namespace
}  // namespace glm
