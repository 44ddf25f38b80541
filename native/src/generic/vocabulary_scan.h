// Passes of the sampler over a whole vocabulary. NaN compares false everywhere below, which is how a NaN logit
// is never chosen and weighs nothing.
#pragma once

#include <algorithm>
#include <limits>

#include "vector.h"

namespace glm {
namespace {

// Calls body with each kLanes of one block of logits; a short last block is padded with -infinity.
template <class Body>
GLM_INLINE void for_block(const float* x, int size, int begin, const Body& body) {
  const float* block = x + begin;
  float padded[kVocabularyBlock];
  if (size - begin < kVocabularyBlock) [[unlikely]] {
    std::fill(std::copy(block, x + size, padded), padded + kVocabularyBlock, -std::numeric_limits<float>::infinity());
    block = padded;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kVocabularyBlock; i += kLanes) body(load<Floats>(block + i));
}

inline float block_maxima(const float* x, int size, float* maxima) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int begin = 0; begin < size; begin += kVocabularyBlock) {
    Floats max = splat(-std::numeric_limits<float>::infinity());
    for_block(x, size, begin, [&](Floats logits) { max = maximum(logits, max); });
    const float block_max = largest_lane(max);
    maxima[begin / kVocabularyBlock] = block_max;
    largest = block_max > largest ? block_max : largest;
  }
  return largest;
}

// Lanes of float32 take up to 512 tokens before they go to the double sum. A token below exp(-87), or NaN, adds
// 2e-38, which vanishes beside the 1 of the largest; a block of such tokens is skipped.
inline double exp_sum(const float* x, int size, float max, float inverse_temperature, const float* maxima) {
  constexpr int kRun = 16 * kVocabularyBlock;
  double total = 0.0;
  for (int run = 0; run < size; run += kRun) {
    Floats sums = Floats{};
    for (int begin = run; begin < std::min(size, run + kRun); begin += kVocabularyBlock) {
      if (!((maxima[begin / kVocabularyBlock] - max) * inverse_temperature >= kLowestExponent)) continue;
      for_block(x, size, begin, [&](Floats logits) { sums += exponential((logits - max) * inverse_temperature); });
    }
    for (int i = 0; i < kLanes; ++i) total += sums[i];
  }
  return total;
}

}  // namespace
}  // namespace glm
