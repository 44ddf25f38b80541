// Operations on one row of floats: preparing activations, reading a packed row back, norm, dot products, rotation.
#pragma once

#include <algorithm>

#include "vector.h"

namespace glm {
namespace {

constexpr int kLargestExponent = 15;  // activation factors are 2^0 .. 2^15
constexpr float kSmallestMaximum = 1e-30f;  // a row below this counts as zero: 127 / max must stay finite

inline float group_maximum(const float* x) {
  Floats max = Floats{};
  for (int i = 0; i < kGroup; i += kLanes) max = maximum(absolute(load<Floats>(x + i)), max);
  return largest_lane(max);
}

// The smallest e in [0, 15] with group_max <= row_max * 2^(e - 15).
inline int group_exponent(float group_max, float row_max) {
  int group_power = 0, row_power = 0;
  const float group_mantissa = std::frexp(group_max, &group_power), row_mantissa = std::frexp(row_max, &row_power);
  if (group_max == 0.0f) return 0;
  return std::clamp(kLargestExponent + group_power - row_power + (group_mantissa > row_mantissa ? 1 : 0), 0, kLargestExponent);
}

// q = x * inverse rounded to nearest even, and its sum.
inline int quantize_group(const float* x, float inverse, int8_t* q) {
  Ints sum = Ints{};
  int32_t rounded[kGroup];
  for (int i = 0; i < kGroup; i += kLanes) {
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits; NaN and infinity give some byte, no trap.
    const Ints value = as_ints(load<Floats>(x + i) * inverse + 12582912.0f) - 0x4b400000;
    store(rounded + i, value);
    sum += value;
  }
  for (int i = 0; i < kGroup; ++i) q[i] = static_cast<int8_t>(rounded[i]);
  int32_t total = 0;
  for (int i = 0; i < kLanes; ++i) total += sum[i];
  return total;
}

// Block floating point: scale = max / (127 * 2^15), group factor 2^e, so that a group far below the row's
// largest value keeps its precision.
template <Format F>
void prepare_integer_row(const float* x, int n, const Rows& rows, int row) {
  constexpr int kZero = F == Format::q4 ? 8 : F == Format::q4a ? 0 : 128;
  const auto index = static_cast<size_t>(row);
  const int num_groups = static_cast<int>(rows.stride) / kGroup;
  int8_t* q = rows.q + index * rows.stride;
  float* factor = rows.factor + index * rows.group_stride;
  int32_t* init = rows.init + index * rows.group_stride;
  float tail[kGroup] = {};
  std::memcpy(tail, x + n / kGroup * kGroup, static_cast<size_t>(n % kGroup) * sizeof(float));
  const auto group_values = [&](int group) { return (group + 1) * kGroup <= n ? x + group * kGroup : tail; };
  const int used_groups = (n + kGroup - 1) / kGroup;

  float row_max = 0.0f;
  for (int group = 0; group < used_groups; ++group)
    row_max = std::max(row_max, factor[group] = group_maximum(group_values(group)));  // kept until the next loop
  const bool is_zero = row_max < kSmallestMaximum;
  rows.scale[row] = is_zero ? 0.0f : row_max / 127.0f * 0x1p-15f;
  const float inverse = is_zero ? 0.0f : 127.0f / row_max;
  for (int group = 0; group < num_groups; ++group) {
    const bool used = group < used_groups && !is_zero;
    const int exponent = used ? group_exponent(factor[group], row_max) : 0;
    int sum = 0;
    if (used)
      sum = quantize_group(group_values(group), inverse * std::ldexp(1.0f, kLargestExponent - exponent), q + group * kGroup);
    else
      std::memset(q + group * kGroup, 0, kGroup);
    factor[group] = std::ldexp(1.0f, exponent);
    init[group] = -kZero * sum;
    if (rows.sum) rows.sum[index * rows.group_stride + static_cast<size_t>(group)] = factor[group] * static_cast<float>(sum);
  }
}

inline void prepare_bf16_row(const float* x, int n, const Rows& rows, int row) {
  uint16_t* out = rows.bf16 + static_cast<size_t>(row) * rows.stride;
  for (int i = 0; i < n; ++i) out[i] = float_to_bf16(x[i]);
  std::fill(out + n, out + rows.stride, uint16_t{0});
}

inline void prepare_f32_row(const float* x, int n, const Rows& rows, int row) {
  float* out = rows.f32 + static_cast<size_t>(row) * rows.stride;
  std::memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
  std::fill(out + n, out + rows.stride, 0.0f);
}

inline float read_half(const uint8_t* from) {
  uint16_t halves[kLanes] = {};
  std::memcpy(halves, from, 2);
  return load_half(halves)[0];
}

// The packed value of one row and column.
template <Format F>
inline float packed_value(const uint8_t* panel, int r, int column) {
  if constexpr (F == Format::f32) return load<float>(panel + column * 64 + r * 4);
  if constexpr (F == Format::bf16) return bf16_to_float(load<uint16_t>(panel + column / 2 * 64 + r * 4 + column % 2 * 2));
  const int group = column / kGroup % 2, k = column % kGroup;
  if constexpr (F == Format::q8) {
    const uint8_t* lines = panel + 64 + column / kBlockColumns * 1024 + group * 512;
    return load<float>(panel + r * 4) * static_cast<float>(lines[k / 4 * 64 + r * 4 + k % 4] - 128);
  }
  if constexpr (F == Format::q8g) {
    const uint8_t* block = panel + column / kBlockColumns * 1088;
    return read_half(block + group * 32 + r * 2) * static_cast<float>(block[64 + group * 512 + k / 4 * 64 + r * 4 + k % 4] - 128);
  }
  const int header = F == Format::q4a ? 128 : 64;
  const uint8_t* block = panel + column / kBlockColumns * (header + 512);
  const int byte = block[header + group * 256 + k % 16 / 4 * 64 + r * 4 + k % 4];
  const int code = k < 16 ? byte & 15 : byte >> 4;
  const float scale = read_half(block + group * 32 + r * 2);
  if constexpr (F == Format::q4a) return scale * static_cast<float>(code) + read_half(block + 64 + group * 32 + r * 2);
  return scale * static_cast<float>(code - 8);
}

template <Format F>
void lookup_row(const uint8_t* panels, int cols, int row, int n, float scale, float* out) {
  const uint8_t* panel = panels + static_cast<size_t>(row / kPanelRows) * panel_bytes(F, cols);
  for (int column = 0; column < n; ++column) out[column] = packed_value<F>(panel, row % kPanelRows, column) * scale;
}

// What is left of a dot product where n is no multiple of sixteen.
inline float dot_end(const float* a, const float* b, int i, int n, const Floats (&partial)[kPieces]) {
  float sums[kPanelRows];
  std::memcpy(sums, partial, sizeof sums);
  for (int lane = 0; i < n; ++i, ++lane) sums[lane] += a[i] * b[i];
  return add_lanes(sums, kPanelRows);
}

// out[x][y] = sum of a[x][i] * b[y][i]: sixteen partial sums by i % 16, then a fixed tree. Many at a time, since each
// addition waits for the one before it, and what is loaded serves all.
template <int A, int B>
GLM_INLINE void dot_tile(const float* const (&a)[A], const float* const (&b)[B], int n, float (&out)[A][B]) {
  Floats partial[A][B][kPieces] = {};
  int i = 0;
  for (; i + kPanelRows <= n; i += kPanelRows) {
#pragma GCC unroll 4
    for (int p = 0; p < kPieces; ++p) {
      Floats second[B];
#pragma GCC unroll 4
      for (int y = 0; y < B; ++y) second[y] = load<Floats>(b[y] + i + p * kLanes);
#pragma GCC unroll 4
      for (int x = 0; x < A; ++x) {
        const Floats first = load<Floats>(a[x] + i + p * kLanes);
#pragma GCC unroll 4
        for (int y = 0; y < B; ++y) partial[x][y][p] += first * second[y];
      }
    }
  }
#pragma GCC unroll 4
  for (int x = 0; x < A; ++x)
#pragma GCC unroll 4
    for (int y = 0; y < B; ++y) out[x][y] = i == n ? add_pieces(partial[x][y]) : dot_end(a[x], b[y], i, n, partial[x][y]);
}

inline float dot(const float* a, const float* b, int n) {
  float out[1][1];
  dot_tile<1, 1>({a}, {b}, n, out);
  return out[0][0];
}

// Zhang & Sennrich 2019.
inline void rms_norm(const float* x, const float* weight, float eps, int n, float* out) {
  const float inverse = 1.0f / std::sqrt(dot(x, x, n) / static_cast<float>(n) + eps);
#pragma GCC ivdep  // `out` may be `x`
  for (int i = 0; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

inline void dot_rows(const float* const* x, int num_x, const float* w, int num_rows, int n, float* const* out) {
  constexpr int kTokens = kLanes == 16 ? 4 : kLanes == 8 ? 2 : 1, kRows = kLanes == 16 ? 4 : 2;  // as registers allow
  for_tiles<kRows>(num_rows, [&]<int Rows>(int first_row) {
    const float* rows[Rows];
    for (int r = 0; r < Rows; ++r) rows[r] = w + static_cast<size_t>(first_row + r) * static_cast<size_t>(n);
    for_tiles<kTokens>(num_x, [&]<int Tokens>(int first) {
      const float* tokens[Tokens];
      for (int t = 0; t < Tokens; ++t) tokens[t] = x[first + t];
      float sums[Tokens][Rows];
      dot_tile<Tokens, Rows>(tokens, rows, n, sums);
      for (int t = 0; t < Tokens; ++t) std::copy_n(sums[t], Rows, out[first + t] + first_row);
    });
  });
}

inline void rope(float* x, const float* cos, const float* sin, int rotary_dim, bool interleaved) {
  const int half = rotary_dim / 2, step = interleaved ? 2 : 1, distance = interleaved ? 1 : half;
  for (int i = 0; i < half; ++i) {
    const float a = x[i * step], b = x[i * step + distance];
    x[i * step] = a * cos[i] - b * sin[i];
    x[i * step + distance] = b * cos[i] + a * sin[i];
  }
}

}  // namespace
}  // namespace glm
