// One group of 32 columns of a panel of integer weights: where its codes and scales lie, and how they are unpacked.
#pragma once

#include <immintrin.h>

#include "../generic/vector.h"

namespace glm {
namespace {

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
// exponent to add to: rows with a zero scale get `neutral` bytes in all registers (codes: the zero point; sums: 0).
template <size_t Count>
GLM_INLINE __m512i scale_without_bias(const uint8_t* halves, __m512i (&registers)[Count], char neutral) {
  const __m512 scale = load_half(halves);
  const __mmask16 zeros = _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_EQ_OQ);
  if (zeros) [[unlikely]] {
    for (auto& each : registers) each = _mm512_mask_mov_epi32(each, zeros, _mm512_set1_epi8(neutral));
  }
  return _mm512_sub_epi32(_mm512_castps_si512(scale), _mm512_set1_epi32(0x3f800000));
}

}  // namespace
}  // namespace glm
