// What encoders and embedding models have beside the operations of decoders: learned positions, layer norms, pooling,
// and hidden states as the result.
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "step_runner.h"

namespace glm {
namespace {

// Compiled for several vector widths and chosen at load; element by element, so that all give the same numbers.
#if defined(GLM_HAVE_X86) && !defined(__SANITIZE_ADDRESS__)
#define GLM_EVERY_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define GLM_EVERY_WIDTH
#endif

GLM_EVERY_WIDTH void add_row(float* out, const float* row, int n) {
  for (int i = 0; i < n; ++i) out[i] += row[i];
}

}  // namespace

void Executor::check_encoder(const Batch& b) const {
  const auto number = [](auto value) { return std::to_string(value); };
  const auto refuse = [](const std::string& message) { throw std::invalid_argument(message); };
  if (!b.token_types.empty() && b.token_types.size() != b.token_ids.size()) {
    refuse("token_types has " + number(b.token_types.size()) + " entries, token_ids " + number(b.token_ids.size()));
  }
  for (size_t t = 0; t < b.token_types.size(); ++t) {
    if (b.token_types[t] < 0 || b.token_types[t] >= std::max(1, num_types_)) {
      refuse("token_types[" + number(t) + "] is " + number(b.token_types[t]) + "; the model has " + number(std::max(1, num_types_)) + " types");
    }
  }
  for (size_t s = 0; s < b.context_lens.size(); ++s) {
    if (num_positions_ > 0 && b.context_lens[s] > num_positions_) {
      refuse("context_lens[" + number(s) + "] is " + number(b.context_lens[s]) + "; the model has " + number(num_positions_) + " positions");
    }
    const bool whole = b.query_start[s + 1] - b.query_start[s] == b.context_lens[s];
    if (whole_sequences_ && !whole) refuse("sequence " + number(s) + " is not whole; this program looks at all of its tokens at once");
  }
  if (pools_ && b.logit_rows.size() != b.context_lens.size()) {
    refuse("logit_rows has " + number(b.logit_rows.size()) + " entries; a pooled result has one for each of " + number(b.context_lens.size()) + " sequences");
  }
}

void StepRunner::execute(const EmbedPositionsOp& op) {
  share_out(tokens, kEvenParts, [&](int begin, int end) {
    const auto width = static_cast<size_t>(op.out.width);
    for (int t = begin; t < end; ++t) {
      const auto at = static_cast<size_t>(t);
      add_row(row(op.out, t), op.positions + static_cast<size_t>(batch.positions[at] + op.offset) * width, op.out.width);
      if (!op.types) continue;
      const auto type = batch.token_types.empty() ? size_t{0} : static_cast<size_t>(batch.token_types[at]);
      add_row(row(op.out, t), op.types + type * width, op.out.width);
    }
  });
}

void StepRunner::execute(const LayerNormOp& op) {
  share_out(tokens, kEvenParts, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) kernels.layer_norm(row(op.input, t), op.weight, op.bias, op.eps, op.input.width, row(op.out, t));
  });
}

void StepRunner::execute(const PoolOp& op) {
  const int sequences = static_cast<int>(batch.context_lens.size());
  share_out(sequences, kManyParts, [&](int begin, int end) {
    for (int s = begin; s < end; ++s) {
      float* out = row(op.out, s);
      std::memset(out, 0, static_cast<size_t>(op.out.width) * sizeof(float));
      const int first = batch.query_start[static_cast<size_t>(s)], last = batch.query_start[static_cast<size_t>(s) + 1];
      for (int t = first; t < last; ++t) add_row(out, row(op.input, t), op.input.width);
      for (int i = 0; i < op.out.width; ++i) out[i] /= static_cast<float>(last - first);
    }
  });
  tokens = sequences;
  only_logit_rows = true;
}

void StepRunner::execute(const OutputOp& op) {
  const auto width = static_cast<size_t>(op.input.width);
  share_out(static_cast<int>(batch.logit_rows.size()), kEvenParts, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      const float* from = row(op.input, only_logit_rows ? r : batch.logit_rows[static_cast<size_t>(r)]);
      float* out = step.logits + static_cast<size_t>(r) * width;
      float square = 0.0f, *squared = &square;
      if (op.normalize) kernels.dot_rows(&from, 1, from, 1, op.input.width, &squared);
      const float length = op.normalize ? std::max(std::sqrt(square), 1e-12f) : 1.0f;
      for (size_t i = 0; i < width; ++i) out[i] = from[i] / length;
    }
  });
}

}  // namespace glm
