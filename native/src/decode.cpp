// Several decode steps in one call: what a step costs in Python and at the boundary is paid once.
#include <stdexcept>
#include <string>
#include <vector>

#include "glm_crush/executor.h"

namespace glm {

void Executor::decode(const Batch& first, int num_steps, float* logits, std::span<SampleRow> rows, std::span<int32_t> drawn) {
  const size_t count = first.context_lens.size();
  bool one_each = first.token_ids.size() == count && first.positions.size() == count && first.logit_rows.size() == count && rows.size() == count;
  for (size_t s = 0; one_each && s < count; ++s) {
    one_each = first.logit_rows[s] == static_cast<int32_t>(s) && rows[s].num_history == 0 && rows[s].num_logprobs < 0;
  }
  if (!one_each) throw std::invalid_argument("decode takes one token and one logit row per sequence, without penalties and logprobs");
  if (num_steps < 1 || drawn.size() != static_cast<size_t>(num_steps) * count) {
    throw std::invalid_argument("num_steps is " + std::to_string(num_steps) + " and there is room for " + std::to_string(drawn.size()) + " tokens of " +
                                std::to_string(count) + " sequences");
  }
  std::vector<int32_t> token_ids(first.token_ids.begin(), first.token_ids.end());
  std::vector<int32_t> positions(first.positions.begin(), first.positions.end());
  std::vector<int32_t> context_lens(first.context_lens.begin(), first.context_lens.end());
  std::vector<SampledToken> sampled(count);
  Batch batch = first;
  batch.token_ids = token_ids;
  batch.positions = positions;
  batch.context_lens = context_lens;
  for (size_t step = 0; step < static_cast<size_t>(num_steps); ++step) {
    forward(batch, logits, rows, sampled);
    for (size_t s = 0; s < count; ++s) {
      const bool ended = step > 0 && drawn[(step - 1) * count + s] < 0;
      const int32_t token = ended ? -1 : sampled[s].token_id;
      drawn[step * count + s] = token;
      // A sequence that could draw nothing repeats its last token: the others go on, and nobody reads what it draws.
      if (token >= 0) token_ids[s] = token;
      ++positions[s];
      ++context_lens[s];
      ++rows[s].counter;
    }
  }
}

}  // namespace glm
