// The int8 cache: how keys and values are written, and attention that reads them in float arithmetic.
//
// Each group of 64 dimensions of one token and head has a scale of its own. A whole group of a key is first multiplied
// by a Hadamard matrix, and the query with it: their product stays, and a few dimensions far above the rest, as rotary
// keys have them, no longer decide the scale (Ashkboos et al. 2024, QuaRot).
#pragma once

#include "attention.h"

namespace glm {
namespace {

constexpr float kSmallestCached = 1e-30f;  // a group below this counts as zero: 1 / scale must stay finite

inline float scale_of(uint16_t bits) { return bf16_to_float(bits); }

// Scale of a group whose largest magnitude has these bits: max / 127 rounded up to bfloat16, so that codes stay within
// [-127, 127]. NaN and infinity give NaN, which reaches the result.
inline uint16_t cache_scale(uint32_t largest_bits) {
  if (largest_bits >= 0x7f800000u) return 0x7fc0u;
  const float largest = std::bit_cast<float>(largest_bits);
  if (largest < kSmallestCached) return 0;
  return static_cast<uint16_t>((std::bit_cast<uint32_t>(largest / 127.0f) + 0xffffu) >> 16);
}

// 1 / scale; 0 for a scale of 0 or NaN, whose codes are 0.
inline float inverse_scale(uint16_t bits) { return bits == 0 || bits == 0x7fc0u ? 0.0f : 1.0f / scale_of(bits); }

// Multiplies kCacheGroup numbers by a Hadamard matrix of ones and minus ones: the product of two such vectors grows by
// kCacheGroup, which store_query takes out again.
inline void hadamard(float* x) {
  for (int half = 1; half < kCacheGroup; half *= 2)
    for (int begin = 0; begin < kCacheGroup; begin += 2 * half)
      for (int i = begin; i < begin + half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
}

// Codes of n <= kCacheGroup numbers, and their scale.
inline uint16_t cache_codes(const float* x, int n, int8_t* codes) {
  uint32_t largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  const uint16_t scale = cache_scale(largest);
  const float inverse = inverse_scale(scale);
  for (int i = 0; i < n; ++i)  // adding 1.5 * 2^23 leaves the rounded integer in the low bits
    codes[i] = inverse == 0.0f ? int8_t{0} : static_cast<int8_t>(std::bit_cast<uint32_t>(x[i] * inverse + 12582912.0f));
  return scale;
}

inline void store_kv_int8(const CacheShape& shape, const CacheBlock& block, int slot, const float* key, const float* value, int value_dim) {
  uint16_t* scales = reinterpret_cast<uint16_t*>(block.scales) + slot;
  float group[kCacheGroup];
  int8_t codes[kCacheGroup];
  for (int d = 0; d < shape.key_dim; d += kCacheGroup, scales += kBlockTokens) {
    const int count = std::min(kCacheGroup, shape.key_dim - d);
    std::copy(key + d, key + d + count, group);
    if (count == kCacheGroup) hadamard(group);
    *scales = cache_codes(group, count, codes);
    for (int i = 0; i < count; ++i) block.keys[((d + i) / 4 * kBlockTokens + slot) * 4 + i % 4] = static_cast<uint8_t>(codes[i] + 128);
  }
  for (int d = 0; d < shape.value_dim; d += kCacheGroup, scales += kBlockTokens) {
    const int count = std::min(kCacheGroup, shape.value_dim - d);
    for (int i = 0; i < count; ++i) group[i] = d + i < value_dim ? value[d + i] : 0.0f;
    *scales = cache_codes(group, count, codes);
    for (int i = 0; i < count; ++i) block.values[(slot / 4 * shape.value_dim + d + i) * 4 + slot % 4] = static_cast<uint8_t>(codes[i]);
  }
}

// Queries stay floats here.
inline void store_query_int8(const float* q, int n, int key_dim, float scale, void* out) {
  auto* to = static_cast<float*>(out);
  store_query_as<CacheType::f32>(q, n, key_dim, scale, to);
  for (int d = 0; d + kCacheGroup <= key_dim; d += kCacheGroup) {
    hadamard(to + d);
    for (int i = d; i < d + kCacheGroup; ++i) to[i] *= 1.0f / kCacheGroup;
  }
}

// The scales of 16 tokens as floats.
GLM_INLINE void load_scales(const uint8_t* from, Floats (&scales)[kPieces]) {
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
#pragma GCC unroll 4
  for (int p = 0; p < kPieces; ++p) scales[p] = as_floats(__builtin_convertvector(load<Halves>(from + p * kLanes * 2), Ints) << 16);
}

// Scores of the rows [first, first + NumRows) with all keys of the chunk, unmasked.
template <int NumRows>
void score_rows_int8(const Chunk& chunk, int first) {
  const CacheShape& shape = chunk.shape;
  const size_t row_bytes = shape.query_bytes();
  const auto* queries = static_cast<const uint8_t*>(chunk.args.queries) + static_cast<size_t>(first) * row_bytes;
  for (int offset = 0; offset < chunk.num_keys; offset += kBlockTokens) {
    const CacheBlock block = chunk.block(offset);
    const uint8_t* keys = block.keys;
    const uint8_t* group_scales = block.scales;
    Floats total[NumRows][kPieces] = {};
    for (int d = 0; d < shape.key_dim; group_scales += kBlockTokens * 2) {
      const int end = std::min(d + kCacheGroup, shape.key_dim);
      Floats acc[NumRows][kPieces] = {};
      for (; d < end; d += 4, keys += 64) {
        Ints loaded[kPieces];
#pragma GCC unroll 4
        for (int p = 0; p < kPieces; ++p) loaded[p] = load<Ints>(keys + p * kLanes * 4) ^ static_cast<int32_t>(0x80808080);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          Floats key[kPieces];
#pragma GCC unroll 4
          for (int p = 0; p < kPieces; ++p) key[p] = to_floats((loaded[p] << (24 - 8 * i)) >> 24);
#pragma GCC unroll 4
          for (int row = 0; row < NumRows; ++row) {
            const float query = reinterpret_cast<const float*>(queries + static_cast<size_t>(row) * row_bytes)[d + i];
#pragma GCC unroll 4
            for (int p = 0; p < kPieces; ++p) acc[row][p] = multiply_add(key[p], splat(query), acc[row][p]);
          }
        }
      }
      Floats scales[kPieces];
      load_scales(group_scales, scales);
      for (int row = 0; row < NumRows; ++row)
        for (int p = 0; p < kPieces; ++p) total[row][p] = multiply_add(acc[row][p], scales[p], total[row][p]);
    }
    for (int row = 0; row < NumRows; ++row)
      for (int p = 0; p < kPieces; ++p) store(chunk.scores(first + row) + offset + p * kLanes, total[row][p]);
  }
}

// Scales of one group of values for every key of the chunk, 0 for the tokens beyond it, which nothing has written.
inline void value_scales(const Chunk& chunk, int group, float* scales) {
  const CacheShape& shape = chunk.shape;
  const size_t at = static_cast<size_t>(shape.key_groups() + group) * kBlockTokens * 2;
  for (int offset = 0; offset < chunk.num_keys; offset += kBlockTokens) {
    Floats wide[kPieces];
    load_scales(chunk.block(offset).scales + at, wide);
    for (int p = 0; p < kPieces; ++p) store(scales + offset + p * kLanes, wide[p]);
  }
  std::fill(scales + chunk.num_keys, scales + (chunk.num_keys + kBlockTokens - 1) / kBlockTokens * kBlockTokens, 0.0f);
}

// o = sum p v of the rows [first, first + NumRows) in the dimensions [begin, end) of one group.
template <int NumRows>
void mix_rows_int8(const Chunk& chunk, int first, int begin, int end, const float* scales) {
  const int padded = (chunk.num_keys + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
  const size_t line = static_cast<size_t>(chunk.shape.value_dim) * 4;
  float weights[NumRows][kChunkKeys];
  for (int row = 0; row < NumRows; ++row)
    for (int i = 0; i < padded; i += kLanes) store(weights[row] + i, load<Floats>(chunk.scores(first + row) + i) * load<Floats>(scales + i));
  for (int d = begin; d < end; d += kPanelRows) {
    Floats acc[NumRows][kPieces] = {};
    for (int offset = 0; offset < padded; offset += kBlockTokens) {
      const uint8_t* values = chunk.block(offset).values + static_cast<size_t>(d) * 4;
      const int stop = std::min(offset + kBlockTokens, chunk.num_keys);
      for (int token = offset; token < stop; token += 4, values += line) {
        Ints loaded[kPieces];
#pragma GCC unroll 4
        for (int p = 0; p < kPieces; ++p) loaded[p] = load<Ints>(values + p * kLanes * 4);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          Floats value[kPieces];
#pragma GCC unroll 4
          for (int p = 0; p < kPieces; ++p) value[p] = to_floats((loaded[p] << (24 - 8 * i)) >> 24);
#pragma GCC unroll 4
          for (int row = 0; row < NumRows; ++row)
#pragma GCC unroll 4
            for (int p = 0; p < kPieces; ++p) acc[row][p] = multiply_add(value[p], splat(weights[row][token + i]), acc[row][p]);
        }
      }
    }
    for (int row = 0; row < NumRows; ++row)
      for (int p = 0; p < kPieces; ++p) store(chunk.output(first + row) + d + p * kLanes, acc[row][p]);
  }
}

inline void attend_int8(const AttentionArgs& args) {
  const Chunk chunk(args);
  for_tiles<kTile>(args.num_rows, [&]<int NumRows>(int first) { score_rows_int8<NumRows>(chunk, first); });
  for (int row = 0; row < args.num_rows; ++row) softmax_row(chunk, row);
  float scales[kChunkKeys];
  for (int group = 0; group < chunk.shape.value_groups(); ++group) {
    const int begin = group * kCacheGroup, end = std::min(begin + kCacheGroup, chunk.shape.value_dim);
    value_scales(chunk, group, scales);
    for_tiles<kTile>(args.num_rows, [&]<int NumRows>(int first) { mix_rows_int8<NumRows>(chunk, first, begin, end, scales); });
  }
}

inline void store_kv(const CacheShape& shape, const CacheBlock& block, int slot, const float* key, const float* value, int value_dim) {
  switch (shape.type) {
    case CacheType::bf16: return store_kv_as<CacheType::bf16>(shape, block, slot, key, value, value_dim);
    case CacheType::f32: return store_kv_as<CacheType::f32>(shape, block, slot, key, value, value_dim);
    case CacheType::int8: return store_kv_int8(shape, block, slot, key, value, value_dim);
  }
}

inline void store_query(CacheType type, const float* q, int n, int key_dim, float scale, void* out) {
  switch (type) {
    case CacheType::bf16: return store_query_as<CacheType::bf16>(q, n, key_dim, scale, out);
    case CacheType::f32: return store_query_as<CacheType::f32>(q, n, key_dim, scale, out);
    case CacheType::int8: return store_query_int8(q, n, key_dim, scale, out);
  }
}

inline void attention_chunk(const AttentionArgs& args) {
  switch (args.shape->type) {
    case CacheType::bf16: return attend<CacheType::bf16>(args);
    case CacheType::f32: return attend<CacheType::f32>(args);
    case CacheType::int8: return attend_int8(args);
  }
}

}  // namespace
}  // namespace glm
