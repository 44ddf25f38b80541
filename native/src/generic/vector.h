// A vector of kLanes floats or int32 and the few operations the kernels are written in, so that one source
// serves every variant: the portable one (four lanes: SSE2, NEON or plain scalar code, as the compiler sees
// fit), AVX2 with and without VNNI (eight lanes) and AVX-512 (sixteen). The flags of the including folder decide.
//
// Everything is in an unnamed namespace: each variant has its own copy, compiled with its own flags, and the
// linker never merges two of them.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "glm_crush/kernels.h"

#define GLM_INLINE inline __attribute__((always_inline))

namespace glm {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kPieces = kPanelRows / kLanes;  // vectors that hold one value for each row of a panel
constexpr int kTile = kLanes == 16 ? 8 : kLanes == 8 ? 4 : 2;  // tokens or query rows that share what is loaded

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef int16_t Shorts __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Ushorts __attribute__((vector_size(kLanes * 4)));

template <class Vector>
GLM_INLINE Vector load(const void* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}
template <class Vector>
GLM_INLINE void store(void* to, Vector vector) {
  std::memcpy(to, &vector, sizeof vector);
}
GLM_INLINE Floats splat(float value) { return value - Floats{}; }
GLM_INLINE Ints splat(int32_t value) { return value - Ints{}; }
// The same 4 bytes in every lane.
GLM_INLINE Ints splat_4_bytes(const void* from) {
  int32_t value;
  std::memcpy(&value, from, 4);
  return splat(value);
}
GLM_INLINE Floats as_floats(Ints bits) { return reinterpret_cast<Floats>(bits); }
GLM_INLINE Ints as_ints(Floats value) { return reinterpret_cast<Ints>(value); }
GLM_INLINE Floats to_floats(Ints value) { return __builtin_convertvector(value, Floats); }

GLM_INLINE Floats maximum(Floats a, Floats b) { return a > b ? a : b; }
GLM_INLINE Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
GLM_INLINE Floats absolute(Floats a) { return as_floats(as_ints(a) & 0x7fffffff); }

// a * b + c with one rounding, as the numerics contract of the integer formats wants it.
GLM_INLINE Floats fused_multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__) && defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  Floats result;
  for (int i = 0; i < kLanes; ++i) result[i] = std::fma(a[i], b[i], c[i]);
  return result;
#endif
}

// a * b + c, fused where the CPU can.
GLM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__) && defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// kLanes float16 numbers (finite).
GLM_INLINE Floats load_half(const void* from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(from)));
#elif defined(__AVX2__) && defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(from)));
#else
  uint16_t half[kLanes];
  std::memcpy(half, from, sizeof half);
  Ints bits;
  for (int i = 0; i < kLanes; ++i) bits[i] = half[i];
  // Exponent and mantissa moved into place; the factor 2^112 corrects the bias and makes denormals normal.
  return as_floats(as_ints(as_floats((bits & 0x7fff) << 13) * 0x1p112f) | ((bits & 0x8000) << 16));
#endif
}

// The even and the odd one of each pair of bfloat16 in a lane.
GLM_INLINE Floats even_bf16(Ints pairs) { return as_floats(pairs << 16); }
GLM_INLINE Floats odd_bf16(Ints pairs) { return as_floats(pairs & static_cast<int32_t>(0xffff0000)); }

inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
// To nearest, ties to even; NaN stays NaN.
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// exp(x), relative error 2e-7, for x clamped to [-87, 88] (Cephes expf).
GLM_INLINE Floats exponential(Floats x) {
  x = minimum(maximum(x, splat(-87.0f)), splat(88.0f));
  const Floats shifted = x * 1.44269504088896341f + 12582912.0f;  // rounds to an integer in the low bits
  const Floats n = shifted - 12582912.0f;
  const Floats r = x - n * 0.693359375f - n * -2.12194440e-4f;
  Floats p = splat(1.9875691500e-4f);
  p = multiply_add(p, r, splat(1.3981999507e-3f));
  p = multiply_add(p, r, splat(8.3334519073e-3f));
  p = multiply_add(p, r, splat(4.1665795894e-2f));
  p = multiply_add(p, r, splat(1.6666665459e-1f));
  p = multiply_add(p, r, splat(5.0000001201e-1f));
  p = multiply_add(p, r * r, r) + 1.0f;
  return as_floats(as_ints(p) + (as_ints(shifted) << 23));
}

// 2^x for x <= 0, relative error 2e-7; 0 below -126, for -infinity and for NaN.
GLM_INLINE Floats exp2_nonpositive(Floats x) {
  const Floats z = maximum(x, splat(-126.0f));
  const Floats shifted = z + 12582912.0f;
  const Floats r = z - (shifted - 12582912.0f);
  Floats p = splat(1.535336188319500e-4f);  // Cephes exp2f
  p = multiply_add(p, r, splat(1.339887440266574e-3f));
  p = multiply_add(p, r, splat(9.618437357674640e-3f));
  p = multiply_add(p, r, splat(5.550332471162809e-2f));
  p = multiply_add(p, r, splat(2.402264791363012e-1f));
  p = multiply_add(p, r, splat(6.931472028550421e-1f));
  p = multiply_add(p, r, splat(1.0f));
  return as_floats((as_ints(p) + (as_ints(shifted) << 23)) & (x >= splat(-126.0f)));
}

// The largest lane; no lane is NaN.
GLM_INLINE float largest_lane(Floats values) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(values);
#elif defined(__AVX2__)
  __m128 max = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
  max = _mm_max_ps(max, _mm_movehl_ps(max, max));
  return _mm_cvtss_f32(_mm_max_ss(max, _mm_movehdup_ps(max)));
#else
  float max = values[0];
  for (int i = 1; i < kLanes; ++i) max = values[i] > max ? values[i] : max;
  return max;
#endif
}

// Lanes added as a tree: i + i+half, then half of that.
inline float add_lanes(const float* lanes, int count) {
  float sum[kPanelRows];
  std::memcpy(sum, lanes, static_cast<size_t>(count) * sizeof(float));
  for (int half = count / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  return sum[0];
}

// The same for what lies in vectors, sixteen lanes in all: the tree is that of add_lanes, in registers where it can be.
inline float add_pieces(const Floats (&pieces)[kPieces]) {
#if defined(__AVX__)
#if defined(__AVX512F__)
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(pieces[0]), 1));
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(pieces[0]), high);
#else
  const __m256 eight = pieces[0] + pieces[1];
#endif
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float lanes[kPanelRows];
  std::memcpy(lanes, pieces, sizeof lanes);
  return add_lanes(lanes, kPanelRows);
#endif
}

// Calls body<size>(begin) for runs of Tile items and then for what is left, each size compiled on its own.
template <int Tile, class Body>
GLM_INLINE void for_tiles(int count, const Body& body, int begin = 0) {
  for (; count - begin >= Tile; begin += Tile) body.template operator()<Tile>(begin);
  if constexpr (Tile > 1) for_tiles<Tile - 1>(count, body, begin);
}

}  // namespace
}  // namespace glm
