// Matrix products with AVX-512: one panel (16 rows, one per lane) against up to kTileTokens tokens.
//
// A group of 32 columns is unpacked into eight registers; then token after token adds its eight dot-product
// instructions and folds the exact integer sum into its float accumulator. Activations stay row-major (any rows: experts
// pick theirs by index), and every number of tokens gives a row the same result. Tokens beyond the first tile go
// through pair_tile.h, which is faster, but not where weights come from memory.
#pragma once

#include "epilogue.h"
#include "pair_tile.h"
#include "weight_group.h"

namespace glm {
namespace {

constexpr int kInterleave = 4;   // tokens whose chains of dot products alternate
constexpr int kTileTokens = 12;  // accumulators; with eight weight registers and what a group needs, 32 in all

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
    constexpr char kZeroPoint = F == Format::q4 ? 8 : F == Format::q4a ? 0 : static_cast<char>(128);
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
      if constexpr (F != Format::q8) scale_bits = scale_without_bias(block + 32 * half, weights, kZeroPoint);
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

template <Format F>
GLM_INLINE void finish_pair(const MatmulArgs& args, int pair, const uint8_t* panels, size_t panel_size, int begin, int tokens, const float (*y)[2 * kPanelRows]) {
  const auto row_scale = [&](size_t p) { return F == Format::q8 ? _mm512_loadu_ps(panels + p * panel_size) : _mm512_set1_ps(1.0f); };
  finish_tokens<is_integer(F)>(args, pair, begin, tokens, row_scale(0), row_scale(1), y);
}

// Pairs [first, last) of panels for tokens [begin, begin + Tokens), a panel at a time: memory is fast in its own order.
template <Format F, int Tokens>
void multiply_panels(const MatmulArgs& args, int first, int last, int begin) {
  const size_t bytes = panel_bytes(F, args.cols);
  const std::conditional_t<is_integer(F), IntegerTile<F, Tokens>, FloatTile<F, Tokens>> tile(args, begin);
  alignas(64) float y[Tokens][2 * kPanelRows];
  for (int pair = first; pair < last; ++pair) {
    const uint8_t* panels = args.panels + static_cast<size_t>(pair) * 2 * bytes;
    tile.panel(args, panels, y);
    tile.panel(args, panels + bytes, reinterpret_cast<float(*)[2 * kPanelRows]>(y[0] + kPanelRows));
    finish_pair<F>(args, pair, panels, bytes, begin, Tokens, y);
  }
}

// The same, both panels of a pair at once.
template <Format F, int Tokens>
void multiply_pairs(const MatmulArgs& args, int first, int last, int begin) {
  const size_t bytes = panel_bytes(F, args.cols);
  const PairTile<F, Tokens> tile(args, begin);
  alignas(64) float y[Tokens][2 * kPanelRows];
  for (int pair = first; pair < last; ++pair) {
    const uint8_t* panels = args.panels + static_cast<size_t>(pair) * 2 * bytes;
    tile.pair(panels, bytes, y);
    finish_pair<F>(args, pair, panels, bytes, begin, Tokens, y);
  }
}

using Multiply = void (*)(const MatmulArgs&, int first, int last, int begin);

template <Format F, size_t... I>
constexpr auto panel_tiles(std::index_sequence<I...>) {
  return std::array<Multiply, sizeof...(I)>{multiply_panels<F, static_cast<int>(I) + 1>...};
}

template <Format F, size_t... I>
constexpr auto pair_tiles(std::index_sequence<I...>) {
  if constexpr (is_integer(F)) return std::array<Multiply, sizeof...(I)>{multiply_pairs<F, static_cast<int>(I) + 1>...};
  else return std::array<Multiply, sizeof...(I)>{multiply_panels<F, static_cast<int>(I) + 1>...};
}

// A tile's activations stay in the first-level cache while it walks a block of panels, which stays in the second-level
// cache for the next tile. The first tile brings the panels in. Tokens are split evenly (13 = 8 + 5, not 12 + 1), so that
// no tile runs nearly empty.
template <Format F>
void matmul(const MatmulArgs& args) {
  constexpr int kLaterTokens = is_integer(F) ? kPairTokens : kTileTokens, kFirstShares = kTileTokens / kLaterTokens, kPairsPerBlock = 8;
  static constexpr auto kFirst = panel_tiles<F>(std::make_index_sequence<kTileTokens>{});
  static constexpr auto kLater = pair_tiles<F>(std::make_index_sequence<kLaterTokens>{});
  const int shares = std::max(kFirstShares, (args.num_tokens + kLaterTokens - 1) / kLaterTokens), end_pair = args.panel_end / 2;
  const auto tokens_before = [&](int share) { return args.num_tokens * share / shares; };
  for (int block = args.panel_begin / 2; block < end_pair; block += kPairsPerBlock) {
    const int block_end = std::min(block + kPairsPerBlock, end_pair), first = tokens_before(kFirstShares);
    kFirst[static_cast<size_t>(first - 1)](args, block, block_end, 0);
    for (int share = kFirstShares; share < shares; ++share) {
      const int begin = tokens_before(share);
      kLater[static_cast<size_t>(tokens_before(share + 1) - begin - 1)](args, block, block_end, begin);
    }
  }
}

}  // namespace
}  // namespace glm
