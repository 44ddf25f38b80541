// Matrix products for every weight format: tiles of one panel (16 rows) and up to kTile tokens.
//
// A panel is read once per tile, front to back; its nibbles are split in registers and used for all tokens of
// the tile. Each token's sums go through the same operations in the same order whatever the tile, so its
// result does not depend on the other tokens.
#pragma once

#include <algorithm>

#include "epilogue.h"
#include "group_sum.h"

namespace glm {
namespace {

constexpr int bits_of(Format format) { return format == Format::q4 || format == Format::q4a ? 4 : 8; }
constexpr int scale_bytes(Format format) { return format == Format::q8 ? 0 : format == Format::q4a ? 128 : 64; }

// Pointers to the activations of the tokens of a tile, each advanced by the group.
template <int Tokens>
struct TileRows {
  const int8_t* q[Tokens];
  const int32_t* init[Tokens];
  const float* factor[Tokens];
  const float* sum[Tokens];
  float scale[Tokens];

  TileRows(const MatmulArgs& args, int begin) {
    for (int t = 0; t < Tokens; ++t) {
      const auto row = static_cast<size_t>(args.in_rows ? args.in_rows[begin + t] : begin + t);
      q[t] = args.a.q + row * args.a.stride;
      init[t] = args.a.init + row * args.a.group_stride;
      factor[t] = args.a.factor + row * args.a.group_stride;
      sum[t] = args.a.sum ? args.a.sum + row * args.a.group_stride : nullptr;
      scale[t] = args.a.scale[row];
    }
  }
};

// One group of 32 columns at `lines`: integer sums per token and piece.
template <int Bits, int Tokens>
GLM_INLINE void add_group(const uint8_t* lines, const TileRows<Tokens>& rows, int group, GroupSum<Bits> (&sums)[Tokens][kPieces]) {
  const int columns = group * kGroup;
#pragma GCC unroll 8
  for (int line = 0; line < Bits; ++line) {
    Ints packed[kPieces];
#pragma GCC unroll 4
    for (int p = 0; p < kPieces; ++p) packed[p] = load<Ints>(lines + line * 64 + p * kLanes * 4);
    // A line of 4-bit codes holds four columns in its low nibbles and four in its high ones.
#pragma GCC unroll 2
    for (int half = 0; half < 8 / Bits; ++half) {
      Ints codes[kPieces];
#pragma GCC unroll 4
      for (int p = 0; p < kPieces; ++p) codes[p] = Bits == 8 ? packed[p] : (packed[p] >> (4 * half)) & 0x0f0f0f0f;
#pragma GCC unroll 4
      for (int t = 0; t < Tokens; ++t) {
        const Ints q = splat_4_bytes(rows.q[t] + columns + half * kGroup / 2 + line * 4);
#pragma GCC unroll 4
        for (int p = 0; p < kPieces; ++p) sums[t][p].add(codes[p], q);
      }
    }
  }
}

// The sums of one panel for the tokens of the tile, scales applied; token t's 16 go to y + 32 t.
template <Format F, int Tokens>
inline void integer_panel(const uint8_t* panel, int cols, const TileRows<Tokens>& rows, float* y) {
  constexpr int Bits = bits_of(F);
  const uint8_t* block = panel + (F == Format::q8 ? 64 : 0);
  Floats acc[Tokens][kPieces] = {};
  for (int group = 0; group < cols / kGroup; ++group) {
    const uint8_t* scales = block + (group & 1) * 32;
    const uint8_t* lines = block + scale_bytes(F) + (group & 1) * Bits * 64;
    GroupSum<Bits> sums[Tokens][kPieces];
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t)
#pragma GCC unroll 4
      for (int p = 0; p < kPieces; ++p) sums[t][p].start(rows.init[t] + group);
    add_group<Bits>(lines, rows, group, sums);
#pragma GCC unroll 4
    for (int p = 0; p < kPieces; ++p) {
      const Floats scale = F == Format::q8 ? splat(1.0f) : load_half(scales + p * kLanes * 2);
#pragma GCC unroll 4
      for (int t = 0; t < Tokens; ++t) {
        const Floats sum = to_floats(sums[t][p].result(rows.init[t] + group));
        const Floats factor = splat(rows.factor[t][group]);
        acc[t][p] = fused_multiply_add(sum, F == Format::q8 ? factor : scale * factor, acc[t][p]);
        if constexpr (F == Format::q4a)
          acc[t][p] = fused_multiply_add(load_half(scales + 64 + p * kLanes * 2), splat(rows.sum[t][group]), acc[t][p]);
      }
    }
    if (group & 1) block += scale_bytes(F) + 2 * Bits * 64;
  }
  for (int t = 0; t < Tokens; ++t)
    for (int p = 0; p < kPieces; ++p) {
      const Floats scale = F == Format::q8 ? rows.scale[t] * load<Floats>(panel + p * kLanes * 4) : splat(rows.scale[t]);
      store(y + t * 2 * kPanelRows + p * kLanes, acc[t][p] * scale);
    }
}

// Both panels of a pair before any token is finished: gated epilogues need gate and up together.
template <Format F>
void integer_matmul(const MatmulArgs& args) {
  const size_t bytes = panel_bytes(F, args.cols);
  for (int pair = args.panel_begin / 2; pair < args.panel_end / 2; ++pair) {
    const uint8_t* panel = args.panels + static_cast<size_t>(pair) * 2 * bytes;
    for_tiles<kTile>(args.num_tokens, [&]<int Tokens>(int begin) {
      const TileRows<Tokens> rows(args, begin);
      float y[Tokens][2 * kPanelRows];
      integer_panel<F, Tokens>(panel, args.cols, rows, y[0]);
      integer_panel<F, Tokens>(panel + bytes, args.cols, rows, y[0] + kPanelRows);
      for (int t = 0; t < Tokens; ++t) finish(args, pair, begin + t, y[t]);
    });
  }
}

// bf16 and f32: the sums of one panel, columns ascending, one accumulator per row and token. `y` as above.
template <Format F, int Tokens>
inline void float_panel(const uint8_t* panel, int cols, const void* const (&rows)[Tokens], float* y) {
  Floats acc[Tokens][kPieces] = {};
  for (int column = 0; column < cols; column += F == Format::bf16 ? 2 : 1, panel += 64) {
    Ints weights[kPieces];
#pragma GCC unroll 4
    for (int p = 0; p < kPieces; ++p) weights[p] = load<Ints>(panel + p * kLanes * 4);
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
      const Ints x = splat_4_bytes(static_cast<const uint8_t*>(rows[t]) + column * (F == Format::bf16 ? 2 : 4));
#pragma GCC unroll 4
      for (int p = 0; p < kPieces; ++p) {
        if constexpr (F == Format::bf16) {
          acc[t][p] = multiply_add(even_bf16(weights[p]), even_bf16(x), acc[t][p]);
          acc[t][p] = multiply_add(odd_bf16(weights[p]), odd_bf16(x), acc[t][p]);
        } else {
          acc[t][p] = multiply_add(as_floats(weights[p]), as_floats(x), acc[t][p]);
        }
      }
    }
  }
  for (int t = 0; t < Tokens; ++t)
    for (int p = 0; p < kPieces; ++p) store(y + t * 2 * kPanelRows + p * kLanes, acc[t][p]);
}

template <Format F>
void float_matmul(const MatmulArgs& args) {
  const size_t bytes = panel_bytes(F, args.cols);
  for (int pair = args.panel_begin / 2; pair < args.panel_end / 2; ++pair) {
    const uint8_t* panel = args.panels + static_cast<size_t>(pair) * 2 * bytes;
    for_tiles<kTile>(args.num_tokens, [&]<int Tokens>(int begin) {
      const void* rows[Tokens];
      for (int t = 0; t < Tokens; ++t) {
        const auto row = static_cast<size_t>(args.in_rows ? args.in_rows[begin + t] : begin + t) * args.a.stride;
        rows[t] = F == Format::bf16 ? static_cast<const void*>(args.a.bf16 + row) : static_cast<const void*>(args.a.f32 + row);
      }
      float y[Tokens][2 * kPanelRows];
      float_panel<F, Tokens>(panel, args.cols, rows, y[0]);
      float_panel<F, Tokens>(panel + bytes, args.cols, rows, y[0] + kPanelRows);
      for (int t = 0; t < Tokens; ++t) finish(args, pair, begin + t, y[t]);
    });
  }
}

}  // namespace
}  // namespace glm
