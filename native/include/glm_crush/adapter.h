// LoRA adapters beside the weights: rows of a step that use one get scale * B (A x) added to a Linear's sums.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "glm_crush/memory.h"

namespace glm {

inline constexpr int kRankMultiple = 8;  // ranks are padded with zeros: the float kernels take as many lines at a time

// What an adapter adds to one Linear.
struct AdapterLinear {
  int rank = 0;            // padded; 0: nothing
  AlignedBuffer<float> a;  // [rank, columns of the input]
  AlignedBuffer<float> b;  // panels as in the weight, [panels][rank][16], the scale multiplied in
};

struct Adapter {
  std::vector<AdapterLinear> linears;  // one for each operation of the program
};

// Memory for the rows of a step.
struct AdapterScratch {
  size_t hidden_stride = 0, delta_stride = 0;
  AlignedBuffer<float> hidden;  // [max_tokens, hidden_stride], A x
  AlignedBuffer<float> deltas;  // [max_tokens, delta_stride], scale * B (A x)
};

// Rows [first, first + count) of an AdapterRows share an adapter.
struct AdapterRun { const Adapter* adapter; int first, count; };

// The rows of a step that use adapters, those of one adapter together.
struct AdapterRows {
  std::vector<int32_t> tokens;                    // which row of the step each is
  std::vector<AdapterRun> runs;
  std::vector<std::vector<int32_t>> row_of_token;  // for each operation: [rows of the step], -1: nothing is added; empty: to none
};

// Made before a step begins and kept by every thread that walks it, however late.
struct AdapterPlan {
  AdapterRows all, kept;  // of all rows, and once only those with logits are left
  std::vector<std::shared_ptr<const Adapter>> adapters;
  std::shared_ptr<AdapterScratch> scratch;
};

}  // namespace glm
