// Paged attention over one chunk of keys, and the writing of cache and queries: bf16 and f32; attention_int8.h has int8.
//
// Scores are made for 16 tokens of a cache block at once (keys lie dimension by dimension), values are added
// for 16 dimensions at once, both for up to kTile query rows that share what is loaded. Every row adds in the
// same order whichever rows share its tile: dimensions ascending, then tokens ascending.
#pragma once

#include <algorithm>
#include <limits>

#include "vector.h"

namespace glm {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

template <CacheType T>
struct Element;
template <>
struct Element<CacheType::bf16> {
  using type = uint16_t;
  static type from(float value) { return float_to_bf16(value); }
};
template <>
struct Element<CacheType::f32> {
  using type = float;
  static type from(float value) { return value; }
};

template <CacheType T>
void store_kv_as(const CacheShape& shape, const CacheBlock& block, int slot, const float* key, const float* value, int value_dim) {
  using Number = typename Element<T>::type;
  constexpr int kPer = T == CacheType::bf16 ? 2 : 1;  // dimensions, or tokens, that lie side by side
  auto* keys = reinterpret_cast<Number*>(block.keys);
  auto* values = reinterpret_cast<Number*>(block.values);
  for (int d = 0; d < shape.key_dim; ++d)
    keys[(d / kPer * kBlockTokens + slot) * kPer + d % kPer] = Element<T>::from(key[d]);
  for (int d = 0; d < shape.value_dim; ++d)
    values[(slot / kPer * shape.value_dim + d) * kPer + slot % kPer] = Element<T>::from(d < value_dim ? value[d] : 0.0f);
}

template <CacheType T>
void store_query_as(const float* q, int n, int key_dim, float scale, void* out) {
  auto* to = static_cast<typename Element<T>::type*>(out);
  for (int d = 0; d < key_dim; ++d) to[d] = Element<T>::from(d < n ? q[d] * scale : 0.0f);
}

// What every step of a chunk needs.
struct Chunk {
  const AttentionArgs& args;
  const CacheShape& shape;
  int num_keys;

  explicit Chunk(const AttentionArgs& a) : args(a), shape(*a.shape), num_keys(a.chunk_end - a.chunk_begin) {}
  // The block that holds key `offset` of the chunk.
  CacheBlock block(int offset) const { return shape.block(args.layer, args.kv_head, args.blocks[(args.chunk_begin + offset) / kBlockTokens]); }
  float* scores(int row) const { return args.scores + row * kChunkKeys; }
  float* output(int row) const { return args.o + static_cast<size_t>(row) * static_cast<size_t>(shape.value_dim); }
};

template <CacheType T, int Tokens>
GLM_INLINE void multiply_pair(Floats (&acc)[Tokens][kPieces], const Ints (&loaded)[kPieces], int row, Ints factor) {
#pragma GCC unroll 4
  for (int p = 0; p < kPieces; ++p) {
    if constexpr (T == CacheType::bf16) {
      acc[row][p] = multiply_add(even_bf16(loaded[p]), even_bf16(factor), acc[row][p]);
      acc[row][p] = multiply_add(odd_bf16(loaded[p]), odd_bf16(factor), acc[row][p]);
    } else {
      acc[row][p] = multiply_add(as_floats(loaded[p]), as_floats(factor), acc[row][p]);
    }
  }
}

// Scores of the rows [first, first + NumRows) with all keys of the chunk, unmasked.
template <CacheType T, int NumRows>
void score_rows(const Chunk& chunk, int first) {
  constexpr int kStep = T == CacheType::bf16 ? 2 : 1;
  const size_t row_bytes = static_cast<size_t>(chunk.shape.key_dim) * chunk.shape.element_bytes();
  const auto* queries = static_cast<const uint8_t*>(chunk.args.queries) + static_cast<size_t>(first) * row_bytes;
  for (int offset = 0; offset < chunk.num_keys; offset += kBlockTokens) {
    const uint8_t* keys = chunk.block(offset).keys;
    Floats acc[NumRows][kPieces] = {};
    for (int d = 0; d < chunk.shape.key_dim; d += kStep, keys += 64) {
      Ints loaded[kPieces];
#pragma GCC unroll 4
      for (int p = 0; p < kPieces; ++p) loaded[p] = load<Ints>(keys + p * kLanes * 4);
#pragma GCC unroll 4
      for (int row = 0; row < NumRows; ++row)
        multiply_pair<T>(acc, loaded, row, splat_4_bytes(queries + static_cast<size_t>(row) * row_bytes + static_cast<size_t>(d) * (4 / kStep)));
    }
    for (int row = 0; row < NumRows; ++row)
      for (int p = 0; p < kPieces; ++p) store(chunk.scores(first + row) + offset + p * kLanes, acc[row][p]);
  }
}

// Masks the scores of one row, turns them into 2^(score - max), and gives max and sum.
inline void softmax_row(const Chunk& chunk, int row) {
  float* scores = chunk.scores(row);
  const int padded = (chunk.num_keys + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
  const int begin = std::clamp(chunk.args.first_key[row] - chunk.args.chunk_begin, 0, chunk.num_keys);
  const int end = std::clamp(chunk.args.last_key[row] - chunk.args.chunk_begin, begin, chunk.num_keys);
  std::fill(scores, scores + begin, kMinusInfinity);
  std::fill(scores + end, scores + padded, kMinusInfinity);
  Floats max = splat(kMinusInfinity);
  for (int i = 0; i < padded; i += kLanes) max = maximum(load<Floats>(scores + i), max);
  const float m = largest_lane(max);
  chunk.args.m[row] = m;
  Floats sums[kPieces] = {};
  for (int i = 0; i < padded; i += kPanelRows)
    for (int p = 0; p < kPieces; ++p) {
      const Floats probability = exp2_nonpositive(load<Floats>(scores + i + p * kLanes) - m);
      store(scores + i + p * kLanes, probability);
      sums[p] += probability;
    }
  float lanes[kPanelRows];
  std::memcpy(lanes, sums, sizeof lanes);
  chunk.args.l[row] = add_lanes(lanes, kPanelRows);
}

// o = sum p v for the rows [first, first + NumRows), 16 dimensions at a time.
template <CacheType T, int NumRows>
void mix_rows(const Chunk& chunk, int first) {
  for (int d = 0; d < chunk.shape.value_dim; d += kPanelRows) {
    Floats acc[NumRows][kPieces] = {};
    const auto add_tokens = [&]<bool Pair>(const uint8_t* values, int offset) __attribute__((always_inline)) {
      Ints loaded[kPieces];
#pragma GCC unroll 4
      for (int p = 0; p < kPieces; ++p) loaded[p] = load<Ints>(values + p * kLanes * 4);
#pragma GCC unroll 4
      for (int row = 0; row < NumRows; ++row) {
        const float* probability = chunk.scores(first + row) + offset;
#pragma GCC unroll 4
        for (int p = 0; p < kPieces; ++p) {
          const Floats even = T == CacheType::bf16 ? even_bf16(loaded[p]) : as_floats(loaded[p]);
          acc[row][p] = multiply_add(even, splat(probability[0]), acc[row][p]);
          if constexpr (Pair) acc[row][p] = multiply_add(odd_bf16(loaded[p]), splat(probability[1]), acc[row][p]);
        }
      }
    };
    constexpr int kStep = T == CacheType::bf16 ? 2 : 1;
    const size_t line = static_cast<size_t>(chunk.shape.value_dim) * 4;
    for (int offset = 0; offset < chunk.num_keys; offset += kBlockTokens) {
      const uint8_t* values = chunk.block(offset).values + static_cast<size_t>(d) * 4;
      const int count = std::min(kBlockTokens, chunk.num_keys - offset);
      int token = 0;
      for (; token + kStep <= count; token += kStep, values += line)
        add_tokens.template operator()<kStep == 2>(values, offset + token);
      if (token < count) add_tokens.template operator()<false>(values, offset + token);  // its neighbour is not a key yet
    }
    for (int row = 0; row < NumRows; ++row)
      for (int p = 0; p < kPieces; ++p) store(chunk.output(first + row) + d + p * kLanes, acc[row][p]);
  }
}

template <CacheType T>
void attend(const AttentionArgs& args) {
  const Chunk chunk(args);
  for_tiles<kTile>(args.num_rows, [&]<int NumRows>(int first) { score_rows<T, NumRows>(chunk, first); });
  for (int row = 0; row < args.num_rows; ++row) softmax_row(chunk, row);
  for_tiles<kTile>(args.num_rows, [&]<int NumRows>(int first) { mix_rows<T, NumRows>(chunk, first); });
}

}  // namespace
}  // namespace glm
