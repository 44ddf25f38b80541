// The integer dot product of one group of 32 columns: kLanes rows, 4 columns at a time.
//
// GroupSum<bits> adds up sum_k code[row, k] * q[k] - zero * sum_k q[k] exactly in int32. Every CPU has its own
// cheapest way; all give the same number. `codes` are unsigned bytes (4-bit codes already split to 0..15).
#pragma once

#include "vector.h"

namespace glm {
namespace {

// Ends an addition here. Without it the compiler regroups the integer sums of a whole group, which is exact but
// makes it keep every product and spill them all.
template <class Vector>
GLM_INLINE void finish_addition(Vector& sum) {
#if defined(__SSE2__)
  asm("" : "+x"(sum));
#else
  static_cast<void>(sum);
#endif
}

#if defined(__AVXVNNI__)

// vpdpbusd: four unsigned times signed products added to an int32 lane.
template <int Bits>
struct GroupSum {
  Ints sum;
  GLM_INLINE void start(const int32_t* init) { sum = splat(*init); }
  GLM_INLINE void add(Ints codes, Ints q) {
    sum = reinterpret_cast<Ints>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(sum), reinterpret_cast<__m256i>(codes),
                                                         reinterpret_cast<__m256i>(q)));
  }
  GLM_INLINE Ints result(const int32_t*) const { return sum; }
};

#elif defined(__AVX2__)

template <int Bits>
struct GroupSum;

// vpmaddubsw: 8 products of 15 * 127 * 2 at most stay below 2^15, so a group needs no int32 until its end.
template <>
struct GroupSum<4> {
  Shorts sum;
  GLM_INLINE void start(const int32_t*) { sum = Shorts{}; }
  GLM_INLINE void add(Ints codes, Ints q) {
    sum += reinterpret_cast<Shorts>(_mm256_maddubs_epi16(reinterpret_cast<__m256i>(codes), reinterpret_cast<__m256i>(q)));
    finish_addition(sum);
  }
  GLM_INLINE Ints result(const int32_t* init) const {
    return reinterpret_cast<Ints>(_mm256_madd_epi16(reinterpret_cast<__m256i>(sum), _mm256_set1_epi16(1))) + splat(*init);
  }
};

// |w| * (q with the sign of w): two products of 128 * 127 at most stay below 2^15 (u8 codes would saturate).
// The signed weight has its zero point removed already.
template <>
struct GroupSum<8> {
  Ints sum;
  GLM_INLINE void start(const int32_t*) { sum = Ints{}; }
  GLM_INLINE void add(Ints codes, Ints q) {
    const auto weight = reinterpret_cast<__m256i>(codes ^ static_cast<int32_t>(0x80808080));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(reinterpret_cast<__m256i>(q), weight));
    sum += reinterpret_cast<Ints>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    finish_addition(sum);
  }
  GLM_INLINE Ints result(const int32_t*) const { return sum; }
};

#else

// Codes and values as int16: bytes 0 and 2 of a lane, then bytes 1 and 3.
GLM_INLINE Shorts even_bytes(Ints codes) { return reinterpret_cast<Shorts>(codes & 0x00ff00ff); }
GLM_INLINE Shorts odd_bytes(Ints codes) { return reinterpret_cast<Shorts>(reinterpret_cast<Ushorts>(codes) >> 8); }
GLM_INLINE Shorts even_signed(Ints q) { return (reinterpret_cast<Shorts>(q) << 8) >> 8; }
GLM_INLINE Shorts odd_signed(Ints q) { return reinterpret_cast<Shorts>(q) >> 8; }

// a[2i] * b[2i] + a[2i + 1] * b[2i + 1], where each product fits 16 bits.
GLM_INLINE Ints multiply_pairs(Shorts a, Shorts b) {
#if defined(__SSE2__)
  return reinterpret_cast<Ints>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  const Ints product = reinterpret_cast<Ints>(a * b);
  return ((product << 16) >> 16) + (product >> 16);
#endif
}

template <int Bits>
struct GroupSum;

// 16 products of 15 * 127 at most stay below 2^15, so a group needs no int32 until its end.
template <>
struct GroupSum<4> {
  Shorts sum;
  GLM_INLINE void start(const int32_t*) { sum = Shorts{}; }
  GLM_INLINE void add(Ints codes, Ints q) {
    sum += even_bytes(codes) * even_signed(q) + odd_bytes(codes) * odd_signed(q);
    finish_addition(sum);
  }
  GLM_INLINE Ints result(const int32_t* init) const {
    const Ints pairs = reinterpret_cast<Ints>(sum);
    return ((pairs << 16) >> 16) + (pairs >> 16) + splat(*init);
  }
};

template <>
struct GroupSum<8> {
  Ints sum;
  GLM_INLINE void start(const int32_t* init) { sum = splat(*init); }
  GLM_INLINE void add(Ints codes, Ints q) {
    sum += multiply_pairs(even_bytes(codes), even_signed(q)) + multiply_pairs(odd_bytes(codes), odd_signed(q));
    finish_addition(sum);
  }
  GLM_INLINE Ints result(const int32_t*) const { return sum; }
};

#endif

}  // namespace
}  // namespace glm
