// A pair of panels (2 x 16 rows) against up to six tokens, where the panels are in the cache already.
//
// Lines of codes are unpacked one after the other; four columns of a token are broadcast once and meet both panels. With
// a sum and an accumulator for each panel and token, and what a line needs, that is 32 registers. The numbers are those
// of IntegerTile, in the same order.
#pragma once

#include "weight_group.h"

namespace glm {
namespace {

constexpr int kPairTokens = 6;

template <Format F, int Tokens>
class PairTile {
 public:
  PairTile(const MatmulArgs& args, int begin) : a_(args.a), ahead_(args.ahead), groups_(args.cols / kGroup) {
    for (int t = 0; t < Tokens; ++t) {
      const auto row = static_cast<size_t>(args.in_rows ? args.in_rows[begin + t] : begin + t);
      q_[t] = args.a.q + row * args.a.stride;
      group_[t] = row * args.a.group_stride;
    }
  }

  // y[t] = sums of two panels, scales of rows and groups applied, the tokens' own scale not yet.
  GLM_INLINE void pair(const uint8_t* panels, size_t panel_size, float (*y)[2 * kPanelRows]) const {
    const uint8_t* block = panels + (F == Format::q8 ? 64 : 0);
    Accumulators acc;
#pragma GCC unroll 2
    for (int p = 0; p < 2; ++p)
#pragma GCC unroll 6
      for (int t = 0; t < Tokens; ++t) acc.of[p][t] = _mm512_setzero_ps();
    for (int g = 0; g < groups_; ++g) {
      const int half = g & 1;
      Sums sums;
#pragma GCC unroll 6
      for (int t = 0; t < Tokens; ++t)
#pragma GCC unroll 2
        for (int p = 0; p < 2; ++p) sums.of[p][t] = broadcast(a_.init + group_[t] + g);
      dot_group(block + header_bytes(F) + half * 64 * kLines, panel_size, g, sums);
      fold(block + 32 * half, panel_size, g, sums, acc);
      if (ahead_) ahead_->fetch();
      if (half) block += header_bytes(F) + 2 * 64 * kLines;
    }
#pragma GCC unroll 2
    for (int p = 0; p < 2; ++p)
#pragma GCC unroll 6
      for (int t = 0; t < Tokens; ++t) _mm512_storeu_ps(y[t] + p * kPanelRows, acc.of[p][t]);
  }

 private:
  static constexpr int kLines = has_nibbles(F) ? 4 : 8;  // of a group

  // One register for each panel and token.
  struct Sums { __m512i of[2][Tokens]; };
  struct Accumulators { __m512 of[2][Tokens]; };

  // sums += code * q over group g.
  GLM_INLINE void dot_group(const uint8_t* lines, size_t panel_size, int g, Sums& sums) const {
    const __m512i nibble = _mm512_set1_epi8(15);
#pragma GCC unroll 8
    for (int j = 0; j < kLines; ++j) {
      __m512i codes[2], upper[2];
#pragma GCC unroll 2
      for (int p = 0; p < 2; ++p) {
        codes[p] = _mm512_loadu_si512(lines + static_cast<size_t>(p) * panel_size + 64 * j);
        if constexpr (has_nibbles(F)) {
          upper[p] = _mm512_and_si512(_mm512_srli_epi16(codes[p], 4), nibble);
          codes[p] = _mm512_and_si512(codes[p], nibble);
        }
      }
      dot_line(codes, g * kGroup + 4 * j, sums);
      if constexpr (has_nibbles(F)) dot_line(upper, g * kGroup + 16 + 4 * j, sums);
    }
  }
  GLM_INLINE void dot_line(const __m512i (&codes)[2], int column, Sums& sums) const {
#pragma GCC unroll 6
    for (int t = 0; t < Tokens; ++t) {
      const __m512i values = broadcast(q_[t] + column);
#pragma GCC unroll 2
      for (int p = 0; p < 2; ++p) sums.of[p][t] = _mm512_dpbusd_epi32(sums.of[p][t], codes[p], values);
    }
  }

  // acc += sums * (scale of row and group) * (power of two of token and group), and q4a's minima.
  GLM_INLINE void fold(const uint8_t* scales, size_t panel_size, int g, Sums& sums, Accumulators& acc) const {
    __m512i scale[2];
#pragma GCC unroll 2
    for (int p = 0; p < 2; ++p) {
      if constexpr (F != Format::q8) scale[p] = scale_without_bias(scales + static_cast<size_t>(p) * panel_size, sums.of[p], 0);
    }
#pragma GCC unroll 6
    for (int t = 0; t < Tokens; ++t) {
      const __m512i factor = broadcast(a_.factor + group_[t] + g);
#pragma GCC unroll 2
      for (int p = 0; p < 2; ++p) {
        const __m512i scaled = F == Format::q8 ? factor : _mm512_add_epi32(scale[p], factor);
        acc.of[p][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums.of[p][t]), _mm512_castsi512_ps(scaled), acc.of[p][t]);
      }
    }
    if constexpr (F == Format::q4a) {
#pragma GCC unroll 2
      for (int p = 0; p < 2; ++p) {
        const __m512 minimum = load_half(scales + static_cast<size_t>(p) * panel_size + 64);
#pragma GCC unroll 6
        for (int t = 0; t < Tokens; ++t) acc.of[p][t] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(a_.sum[group_[t] + static_cast<size_t>(g)]), acc.of[p][t]);
      }
    }
  }

  const Rows a_;
  FetchAhead* const ahead_;
  const int groups_;
  const int8_t* q_[Tokens];  // each token's values
  size_t group_[Tokens];     // where its groups begin
};

}  // namespace
}  // namespace glm
