// Matrix products with AVX-512: one panel (16 rows, one per lane) against up to kTileTokens tokens.
//
// A group of 32 columns is unpacked into eight registers; then token after token adds its eight dot-product
// instructions and folds the exact integer sum into its float accumulator. Weights are unpacked once per tile,
// activations stay row-major (any rows: experts pick theirs by index), and one body serves every number of
// tokens, so that a row's result is the same in all of them.
#pragma once

#include <immintrin.h>

#include "epilogue.h"

namespace glm {
namespace {

constexpr int kInterleave = 4;   // tokens whose chains of dot products alternate
constexpr int kTileTokens = 12;  // accumulators; with eight weight registers and what a group needs, 32 in all

constexpr bool is_integer(Format format) { return format != Format::bf16 && format != Format::f32; }
constexpr bool has_nibbles(Format format) { return format == Format::q4 || format == Format::q4a; }
constexpr int header_bytes(Format format) { return format == Format::q8 ? 0 : format == Format::q4a ? 128 : 64; }

GLM_INLINE __m512i broadcast(const void* four_bytes) {
  int32_t value;
  std::memcpy(&value, four_bytes, 4);
  return _mm512_set1_epi32(value);
}

// The unsigned codes of one group: register j holds columns 4j .. 4j+3 of each row.
template <Format F>
GLM_INLINE void unpack_group(const uint8_t* lines, __m512i (&weights)[8]) {
  if constexpr (has_nibbles(F)) {
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512i line = _mm512_loadu_si512(lines + 64 * j);
      weights[j] = _mm512_and_si512(line, low);
      weights[j + 4] = _mm512_and_si512(_mm512_srli_epi16(line, 4), low);
    }
  } else {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) weights[j] = _mm512_loadu_si512(lines + 64 * j);
  }
}

// Scales of one group, ready to be multiplied by a power of two with an integer addition: scale * 2^e has the bits
// of scale plus those of 2^e minus those of 1. That keeps the multiplier ports for the dot products. A zero has no
// exponent to add to: rows with a zero scale get codes equal to the zero point instead, so that their sum is 0.
template <Format F>
GLM_INLINE __m512i scale_without_bias(const uint8_t* halves, __m512i (&weights)[8]) {
  constexpr char kZeroPoint = F == Format::q4 ? 8 : F == Format::q4a ? 0 : static_cast<char>(128);
  const __m512 scale = load_half(halves);
  const __mmask16 zeros = _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_EQ_OQ);
  if (zeros) [[unlikely]] {
    for (auto& codes : weights) codes = _mm512_mask_mov_epi32(codes, zeros, _mm512_set1_epi8(kZeroPoint));
  }
  return _mm512_sub_epi32(_mm512_castps_si512(scale), _mm512_set1_epi32(0x3f800000));
}

// sum over the group of code * q for the next `Count` tokens, from their `init`. Their chains alternate, since one
// alone would wait on itself; a single token gets two.
template <int Count>
GLM_INLINE void dot_group(const __m512i (&weights)[8], const int8_t* const (&q)[Count], const int32_t* const (&init)[Count], __m512i (&sums)[Count]) {
  if constexpr (Count == 1) {
    __m512i even = broadcast(init[0]), odd = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int j = 0; j < 8; j += 2) {
      even = _mm512_dpbusd_epi32(even, weights[j], broadcast(q[0] + 4 * j));
      odd = _mm512_dpbusd_epi32(odd, weights[j + 1], broadcast(q[0] + 4 * j + 4));
    }
    sums[0] = _mm512_add_epi32(even, odd);
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) sums[i] = broadcast(init[i]);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j)
#pragma GCC unroll 4
      for (int i = 0; i < Count; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], weights[j], broadcast(q[i] + 4 * j));
  }
}

template <Format F, int Tokens>
struct IntegerTile {
  size_t q[Tokens], group[Tokens];  // offsets of each token's values and groups

  IntegerTile(const MatmulArgs& args, int begin) {
    for (int t = 0; t < Tokens; ++t) {
      const auto row = static_cast<size_t>(args.in_rows ? args.in_rows[begin + t] : begin + t);
      q[t] = row * args.a.stride;
      group[t] = row * args.a.group_stride;
    }
  }

  // y[t][0..16) = sums of one panel, scales of rows and groups applied, the tokens' own scale not yet.
  GLM_INLINE void panel(const MatmulArgs& args, const uint8_t* panel, float (*y)[2 * kPanelRows]) const {
    constexpr int kLineBytes = has_nibbles(F) ? 256 : 512;
    const Rows& a = args.a;
    const uint8_t* block = panel + (F == Format::q8 ? 64 : 0);
    __m512 acc[Tokens];
#pragma GCC unroll 12
    for (int t = 0; t < Tokens; ++t) acc[t] = _mm512_setzero_ps();
    const int groups = args.cols / kGroup;
    for (int g = 0; g < groups; ++g) {
      const int half = g & 1;
      const uint8_t* lines = block + header_bytes(F) + half * kLineBytes;
      __m512i weights[8];
      unpack_group<F>(lines, weights);
      __m512i scale_bits = _mm512_setzero_si512();
      if constexpr (F != Format::q8) scale_bits = scale_without_bias<F>(block + 32 * half, weights);
      __m512 minimum = _mm512_setzero_ps();
      if constexpr (F == Format::q4a) minimum = load_half(block + 64 + 32 * half);
      _mm_prefetch(reinterpret_cast<const char*>(lines) + kPrefetch, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(lines) + kPrefetch + 64, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(lines) + kPrefetch + 128, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(lines) + kPrefetch + 192, _MM_HINT_T0);
      add_tokens<0>(a, g, weights, scale_bits, minimum, acc);
      if (half) block += header_bytes(F) + 2 * kLineBytes;
    }
    for (int t = 0; t < Tokens; ++t) _mm512_storeu_ps(y[t], acc[t]);
  }

 private:
  static constexpr int kPrefetch = 2048;

  // Folds group g of the tokens from First on into their accumulators, kInterleave of them at a time.
  template <int First>
  GLM_INLINE void add_tokens(const Rows& a, int g, const __m512i (&weights)[8], __m512i scale_bits, __m512 minimum, __m512 (&acc)[Tokens]) const {
    constexpr int kCount = std::min(kInterleave, Tokens - First);
    const int8_t* values[kCount];
    const int32_t* init[kCount];
    __m512i sums[kCount];
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      values[i] = a.q + q[First + i] + g * kGroup;
      init[i] = a.init + group[First + i] + g;
    }
    dot_group<kCount>(weights, values, init, sums);
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      const size_t at = group[First + i] + static_cast<size_t>(g);
      const __m512i factor = broadcast(a.factor + at);
      const __m512i scale = F == Format::q8 ? factor : _mm512_add_epi32(scale_bits, factor);
      __m512& sum = acc[First + i];
      sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i]), _mm512_castsi512_ps(scale), sum);
      if constexpr (F == Format::q4a) sum = _mm512_fmadd_ps(minimum, _mm512_set1_ps(a.sum[at]), sum);
    }
    if constexpr (First + kCount < Tokens) add_tokens<First + kCount>(a, g, weights, scale_bits, minimum, acc);
  }
};

// bf16 and f32: one accumulator per row, columns ascending (bf16: a pair at a time).
template <Format F, int Tokens>
struct FloatTile {
  const uint8_t* x[Tokens];

  FloatTile(const MatmulArgs& args, int begin) {
    for (int t = 0; t < Tokens; ++t) {
      const auto row = static_cast<size_t>(args.in_rows ? args.in_rows[begin + t] : begin + t) * args.a.stride;
      x[t] = F == Format::bf16 ? reinterpret_cast<const uint8_t*>(args.a.bf16 + row) : reinterpret_cast<const uint8_t*>(args.a.f32 + row);
    }
  }

  GLM_INLINE void panel(const MatmulArgs& args, const uint8_t* panel, float (*y)[2 * kPanelRows]) const {
    constexpr int kLines = 8;
    __m512 acc[Tokens];
#pragma GCC unroll 12
    for (int t = 0; t < Tokens; ++t) acc[t] = _mm512_setzero_ps();
    const int lines = F == Format::bf16 ? args.cols / 2 : args.cols;
    for (int first = 0; first < lines; first += kLines) {
      __m512 weights[kLines];
#pragma GCC unroll 8
      for (int j = 0; j < kLines; ++j) {
        weights[j] = _mm512_loadu_ps(panel + static_cast<size_t>(first + j) * 64);
        _mm_prefetch(reinterpret_cast<const char*>(panel) + static_cast<size_t>(first + j) * 64 + 4096, _MM_HINT_T0);
      }
#pragma GCC unroll 12
      for (int t = 0; t < Tokens; ++t) {
#pragma GCC unroll 8
        for (int j = 0; j < kLines; ++j) {
          const __m512i value = broadcast(x[t] + (first + j) * 4);
          if constexpr (F == Format::bf16) acc[t] = _mm512_dpbf16_ps(acc[t], reinterpret_cast<__m512bh>(weights[j]), reinterpret_cast<__m512bh>(value));
          else acc[t] = _mm512_fmadd_ps(weights[j], _mm512_castsi512_ps(value), acc[t]);
        }
      }
    }
    for (int t = 0; t < Tokens; ++t) _mm512_storeu_ps(y[t], acc[t]);
  }
};

template <Format F, int Tokens>
using TileOf = std::conditional_t<is_integer(F), IntegerTile<F, Tokens>, FloatTile<F, Tokens>>;

// All panels of the call for tokens [begin, begin + Tokens) of one pair.
template <Format F, int Tokens>
void multiply_pair(const MatmulArgs& args, int pair, int begin) {
  const size_t bytes = panel_bytes(F, args.cols);
  const uint8_t* panels = args.panels + static_cast<size_t>(pair) * 2 * bytes;
  const TileOf<F, Tokens> tile(args, begin);
  alignas(64) float y[Tokens][2 * kPanelRows];
  tile.panel(args, panels, y);
  tile.panel(args, panels + bytes, reinterpret_cast<float(*)[2 * kPanelRows]>(y[0] + kPanelRows));
  const auto row_scale = [&](int p) { return F == Format::q8 ? _mm512_loadu_ps(panels + p * bytes) : _mm512_set1_ps(1.0f); };
  finish_tokens<is_integer(F)>(args, pair, begin, Tokens, row_scale(0), row_scale(1), y);
}

template <Format F, size_t... I>
constexpr auto tile_table(std::index_sequence<I...>) {
  return std::array<void (*)(const MatmulArgs&, int, int), sizeof...(I)>{multiply_pair<F, static_cast<int>(I) + 1>...};
}

// Tokens are split evenly (13 = 7 + 6, not 12 + 1), so that no tile runs nearly empty. A tile's activations stay in
// the first-level cache while it walks a block of panels, which stays in the second-level cache for the next tile.
template <Format F>
void matmul(const MatmulArgs& args) {
  static constexpr auto kTiles = tile_table<F>(std::make_index_sequence<kTileTokens>{});
  constexpr int kPairsPerBlock = 8;
  const int tiles = (args.num_tokens + kTileTokens - 1) / kTileTokens;
  const int end_pair = args.panel_end / 2;
  for (int block = args.panel_begin / 2; block < end_pair; block += kPairsPerBlock) {
    for (int i = 0; i < tiles; ++i) {
      const int begin = args.num_tokens * i / tiles, end = args.num_tokens * (i + 1) / tiles;
      for (int pair = block; pair < std::min(block + kPairsPerBlock, end_pair); ++pair) kTiles[static_cast<size_t>(end - begin - 1)](args, pair, begin);
    }
  }
}

}  // namespace
}  // namespace glm
