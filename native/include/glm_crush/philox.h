// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A number depends on (seed, counter) alone, never on what was drawn before, so
// a token is the same alone, in a batch and after a preemption.
#pragma once

#include <array>
#include <cstdint>

namespace glm {

using PhiloxBlock = std::array<uint32_t, 4>;

/// The ten-round block function.
inline PhiloxBlock philox4x32(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

/// Uniform number in the open interval (0, 1), from 52 random bits. `stream` separates independent
/// uses of one (seed, counter), e.g. the acceptance tests of speculation from the draw itself.
inline double philox_uniform(uint64_t seed, uint64_t counter, uint32_t stream = 0) {
  const PhiloxBlock block = philox4x32({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), stream, 0},
                                       static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const uint64_t bits = (uint64_t{block[1]} << 32) | block[0];
  return (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
}

}  // namespace glm
