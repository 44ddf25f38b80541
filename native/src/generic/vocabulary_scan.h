// Passes of the sampler over a whole vocabulary, written so that a compiler vectorises them.
//
// Compiled without fast-math: NaN compares false everywhere below, which is how a NaN logit is never
// chosen.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

namespace glm {

constexpr int kBlock = 32;  // tokens that share one entry of `block_max`
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowestExponent = -87.0f;  // exp of anything below counts as 0

// Largest value of each block and of all; NaN counts as -infinity. Eight lanes so that it vectorises.
inline float block_maxima(const float* x, int size, std::vector<float>& block_max) {
  const int num_blocks = (size + kBlock - 1) / kBlock;
  block_max.resize(num_blocks);
  float best = -kInfinity;
  for (int b = 0; b < num_blocks; ++b) {
    const float* block = x + b * kBlock;
    const int count = std::min(kBlock, size - b * kBlock);
    float lane[8] = {-kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity};
    int i = 0;
    for (; i + 8 <= count; i += 8)
      for (int j = 0; j < 8; ++j) lane[j] = block[i + j] > lane[j] ? block[i + j] : lane[j];
    for (; i < count; ++i) lane[0] = block[i] > lane[0] ? block[i] : lane[0];
    for (int step = 4; step > 0; step /= 2)
      for (int j = 0; j < step; ++j) lane[j] = lane[j + step] > lane[j] ? lane[j + step] : lane[j];
    block_max[b] = lane[0];
    best = lane[0] > best ? lane[0] : best;
  }
  return best;
}

inline int first_index_of(const float* x, int size, float value, const std::vector<float>& block_max) {
  const auto block = std::find(block_max.begin(), block_max.end(), value) - block_max.begin();
  return static_cast<int>(std::find(x + block * kBlock, x + size, value) - x);
}

// exp(z) in float32 for kLowestExponent <= z <= 0 (Cephes expf, relative error 1e-7).
inline float exp_nonpositive(float z) {
  const float shifted = z * 1.44269504088896341f + 12582912.0f;  // rounds to an integer in the low bits
  const float n = shifted - 12582912.0f;
  const float r = z - n * 0.693359375f - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
}

// Sum over the vocabulary of exp((x - max) * inverse_temperature); blocks that add nothing are skipped.
// Single tokens below kLowestExponent (and NaN) add exp(kLowestExponent) = 2e-38, which vanishes in a double
// sum that holds a 1; clamping in a loop of its own keeps both loops free of branches.
inline double exp_sum(const float* x, int size, float max, float inverse_temperature, const std::vector<float>& block_max) {
  double lane[8] = {};
  for (int begin = 0; begin < size; begin += kBlock) {
    if (!((block_max[begin / kBlock] - max) * inverse_temperature >= kLowestExponent)) continue;
    const float* logits = x + begin;
    float padded[kBlock];
    if (size - begin < kBlock) {
      std::fill(std::copy(logits, x + size, padded), padded + kBlock, -kInfinity);
      logits = padded;
    }
    float exponent[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      const float scaled = (logits[i] - max) * inverse_temperature;
      exponent[i] = scaled > kLowestExponent ? scaled : kLowestExponent;
    }
    float weight[kBlock];
    for (int i = 0; i < kBlock; ++i) weight[i] = exp_nonpositive(exponent[i]);
    for (int i = 0; i < 16; ++i) weight[i] += weight[i + 16];
    for (int i = 0; i < 8; ++i) weight[i] += weight[i + 8];
    for (int i = 0; i < 8; ++i) lane[i] += weight[i];
  }
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

}  // namespace glm
