// Draws one token from one row of logits. The NumPy twin is `reference_sample` in
// src/glm_crush/kernels/sampling.py; the meaning and order of the filters is that of
// `SamplingParams`: penalties, bias, mask, temperature, top_k, top_p, min_p, typical_p.
#pragma once

#include <cstdint>
#include <vector>

#include "glm_crush/kernels.h"

namespace glm {

/// How to draw from one row. Ids must lie in [0, vocab_size): the Python door checks them
/// (`SampleBatch.check`), this code does not.
struct SampleRow {
  float temperature = 1.0f;  // 0 = greedy
  int32_t top_k = 0;         // 0 = all
  float top_p = 1.0f;
  float min_p = 0.0f;
  float typical_p = 1.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  uint64_t counter = 0;       // index of the token in its reply
  int32_t num_logprobs = -1;  // alternatives to report; 0 = the chosen token's alone, -1 = nothing
  const int32_t* history_ids = nullptr;     // [num_history] distinct tokens of prompt and reply
  const int32_t* history_counts = nullptr;  // [num_history] occurrences in the reply
  int32_t num_history = 0;
  const int32_t* bias_ids = nullptr;   // [num_bias]
  const float* bias_values = nullptr;  // [num_bias]
  int32_t num_bias = 0;
  const uint32_t* allowed_mask = nullptr;  // [ceil(vocab_size / 32)], bit id % 32 of word id / 32, or null
};

/// What was drawn. `top_ids` and `top_logprobs` are the caller's arrays, at least `num_logprobs`
/// long (null if that is <= 0); every entry up to there is written, padded with -1 and -infinity.
struct SampledToken {
  int32_t token_id = -1;  // -1: no token can be drawn (all masked out, or every logit NaN or -infinity)
  float logprob = 0.0f;   // log-softmax of the unmodified logits; NaN unless num_logprobs >= 0
  int32_t* top_ids = nullptr;
  float* top_logprobs = nullptr;
};

/// Work space, one per thread; grows to the largest vocabulary seen and is reused.
struct SamplerScratch {
  std::vector<float> adjusted;    // logits after penalties, bias and mask
  std::vector<float> block_max;   // largest logit of each run of 32 tokens
  std::vector<float> selection;   // copy of block_max for a partial selection
  std::vector<uint64_t> keys;     // candidates, likeliest first
  std::vector<uint64_t> sorting;  // the other half of a radix sort
  std::vector<double> weights;    // exp((logit - max) / temperature) per candidate
  std::vector<double> distances;  // typical_p: | surprise - entropy | per candidate
  std::vector<int32_t> order;     // typical_p: candidates by distance
};

/// Draws a token from `logits` [vocab_size], which is not modified. Deterministic: the result
/// depends on `logits` and `row` alone.
void sample_row(const KernelTable& kernels, const float* logits, int vocab_size, const SampleRow& row, SamplerScratch& scratch,
                SampledToken& out);

}  // namespace glm
