#include "glm_crush/executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#include "step_runner.h"

namespace glm {
namespace {

// Largest needs of any operation, so that every scratch array is allocated once.
struct Needs {
  int columns = 64;        // padded columns of any prepared row or normalised input
  int heads = 1;           // rows per token that a HeadLinear prepares
  int query_elements = 0;  // per token
  int query_rows = 0;      // per token
  int value_dim = 16;
  int experts = 0, top_k = 0, moe_intermediate = 0, moe_columns = 0;
};

void add_matrix(Needs& needs, const Matrix& matrix) { needs.columns = std::max(needs.columns, matrix.cols); }

Needs find_needs(const Program& program) {
  Needs needs;
  for (int width : program.buffers) needs.columns = std::max(needs.columns, round_up(width, kBlockColumns));
  for (const Op& op : program.ops) {
    if (auto* linear = std::get_if<LinearOp>(&op)) add_matrix(needs, linear->weight);
    if (auto* logits = std::get_if<LogitsOp>(&op)) add_matrix(needs, logits->weight);
    if (auto* heads = std::get_if<HeadLinearOp>(&op)) {
      needs.columns = std::max(needs.columns, heads->weight.cols * heads->num_heads);
      needs.heads = std::max(needs.heads, heads->num_heads);
    }
    if (auto* attention = std::get_if<AttentionOp>(&op)) {
      needs.query_elements = std::max(needs.query_elements, attention->num_heads * round_up(attention->key_dim, 4));
      needs.query_rows = std::max(needs.query_rows, attention->num_heads);
      needs.value_dim = std::max(needs.value_dim, round_up(attention->value_dim, 16));
    }
    if (auto* moe = std::get_if<MoeOp>(&op)) {
      add_matrix(needs, moe->gate_up);
      add_matrix(needs, moe->down);
      needs.experts = std::max(needs.experts, moe->num_experts);
      needs.top_k = std::max(needs.top_k, moe->top_k);
      needs.moe_intermediate = std::max(needs.moe_intermediate, moe->intermediate_size);
      needs.moe_columns = std::max(needs.moe_columns, moe->down.cols);
    }
  }
  return needs;
}

constexpr uint32_t kStepsBetweenRenewals = 1u << 20;

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

// Memory for `rows` prepared rows of `columns` padded columns, `scales` of them with a scale.
Rows carve_rows(std::vector<AlignedBuffer<uint8_t>>& storage, size_t rows, size_t columns, size_t scales) {
  auto carve = [&](size_t bytes) { return storage.emplace_back(bytes).data(); };
  Rows out;
  out.f32 = reinterpret_cast<float*>(carve(rows * columns * 4));
  // One format is in use at a time: int8 and bf16 rows share the float rows' memory.
  out.bf16 = reinterpret_cast<uint16_t*>(out.f32);
  out.q = reinterpret_cast<int8_t*>(out.f32);
  const size_t groups = rows * columns / kGroup;
  out.scale = reinterpret_cast<float*>(carve(scales * 4));
  out.init = reinterpret_cast<int32_t*>(carve(groups * 4));
  out.factor = reinterpret_cast<float*>(carve(groups * 4));
  out.sum = reinterpret_cast<float*>(carve(groups * 4));
  return out;
}

}  // namespace

Executor::Executor(Program program, const ExecutorOptions& options)
    : program_(std::move(program)),
      options_(options),
      kernels_(*options.kernels),
      pool_(options.num_threads, [this](int thread, uint32_t number) { walk(thread, number); }) {
  step_.number = options_.last_step;
  const Needs needs = find_needs(program_);
  const size_t tokens = static_cast<size_t>(options_.max_tokens);
  widest_ = needs.columns;
  for (size_t i = 0; i < program_.ops.size(); ++i) {
    if (std::holds_alternative<AttentionOp>(program_.ops[i])) last_attention_ = i;
    if (std::holds_alternative<PoolOp>(program_.ops[i])) pools_ = whole_sequences_ = true;
    if (const auto* attention = std::get_if<AttentionOp>(&program_.ops[i]); attention && !attention->causal) whole_sequences_ = true;
    if (const auto* embed = std::get_if<EmbedPositionsOp>(&program_.ops[i])) {
      num_positions_ = embed->num_positions - embed->offset;
      num_types_ = embed->num_types;
    }
  }
  for (int width : program_.buffers) buffers_.emplace_back(tokens * static_cast<size_t>(width));
  for (const CacheLayer& layer : program_.caches) {
    cache_shapes_.push_back({options_.cache_type, layer.num_kv_heads, round_up(layer.key_dim, 4), round_up(layer.value_dim, 16)});
  }
  lay_out_cache();
  attention_caches_ = caches_of_like_attention();
  for (const Rope& rope : program_.ropes) {
    rope_tables_.push_back({std::vector<float>(tokens * rope.inv_freq.size()), std::vector<float>(tokens * rope.inv_freq.size())});
  }
  shared_rows_ = carve_rows(row_storage_, tokens, static_cast<size_t>(widest_), tokens * static_cast<size_t>(needs.heads));
  for (int i = 0; i < options_.num_threads; ++i) {
    ThreadScratch scratch;
    scratch.row = AlignedBuffer<float>(static_cast<size_t>(widest_));
    scratch.scores = AlignedBuffer<float>(kMaxTileRows * kChunkKeys);
    scratch.partial = AlignedBuffer<float>(static_cast<size_t>(kMaxTileRows) * static_cast<size_t>(needs.value_dim + 4) * 2);
    scratch.rows = carve_rows(row_storage_, 1, static_cast<size_t>(widest_), 1);
    scratch.normalised = AlignedBuffer<float>(kScoredTokens * static_cast<size_t>(widest_));
    scratch_.push_back(std::move(scratch));
  }
  for (size_t i = 0; i < (program_.ops.size() + 2) * kPhasesPerOp; ++i) phases_.emplace_back(options_.num_threads);
  queries_ = AlignedBuffer<uint8_t>(tokens * static_cast<size_t>(needs.query_elements) * 4);
  key_limits_ = AlignedBuffer<int32_t>(2 * tokens * static_cast<size_t>(needs.query_rows));
  sequence_of_token_.resize(tokens);
  if (needs.experts > 0) {
    const size_t slots = tokens * static_cast<size_t>(needs.top_k);
    router_scores_.resize(tokens * static_cast<size_t>(needs.experts));
    expert_ids_.resize(slots);
    expert_weights_.resize(slots);
    expert_start_.resize(static_cast<size_t>(needs.experts) + 1);
    expert_work_.resize(static_cast<size_t>(needs.experts) + 1);
    slot_token_.resize(slots);
    slot_index_.resize(slots);
    slot_weight_.resize(slots);
    moe_hidden_.resize(slots * static_cast<size_t>(needs.moe_intermediate));
    moe_rows_ = carve_rows(row_storage_, slots, static_cast<size_t>(needs.moe_columns), slots);
  }
}

void Executor::lay_out_cache() {
  if (cache_shapes_.empty()) return;
  size_t stride = 0;
  for (const CacheShape& shape : cache_shapes_) stride += shape.span_bytes();
  cache_ = HugeBuffer(CacheShape::spans(options_.num_blocks) * stride);
  size_t offset = 0;
  for (CacheShape& shape : cache_shapes_) {
    caches_.push_back(cache_.data() + offset);
    offset += shape.span_bytes();
    shape.span_stride = stride;
  }
}

std::vector<int> Executor::caches_of_like_attention() const {
  std::vector<int> caches;
  const AttentionOp* first = nullptr;
  for (const Op& op : program_.ops) {
    const auto* attention = std::get_if<AttentionOp>(&op);
    if (!attention) continue;
    if (!first) first = attention;
    const CacheShape &shape = cache_shapes_[static_cast<size_t>(attention->cache)], &like = cache_shapes_[static_cast<size_t>(first->cache)];
    const bool same = attention->num_heads == first->num_heads && attention->num_kv_heads == first->num_kv_heads && attention->causal == first->causal &&
                      shape.key_bytes() == like.key_bytes() && shape.value_bytes() == like.value_bytes();
    if (!same) return {};
    caches.push_back(attention->cache);
  }
  return caches;
}

size_t Executor::cache_bytes() const { return cache_.bytes(); }

size_t Executor::scratch_bytes() const {
  size_t total = queries_.size() + partials_.size() * 4 + moe_hidden_.size() * 4;
  for (const auto& buffer : buffers_) total += buffer.size() * sizeof(float);
  for (const auto& storage : row_storage_) total += storage.size();
  return total;
}

void Executor::check(const Batch& b, size_t num_rows) const {
  const auto tokens = b.token_ids.size();
  const auto sequences = b.context_lens.size();
  auto number = [](auto value) { return std::to_string(value); };
  if (tokens == 0 || tokens > static_cast<size_t>(options_.max_tokens)) {
    refuse("token_ids holds " + number(tokens) + " tokens; a step takes 1 to " + number(options_.max_tokens));
  }
  if (b.positions.size() != tokens) refuse("positions has " + number(b.positions.size()) + " entries, token_ids " + number(tokens));
  if (b.query_start.size() != sequences + 1) {
    refuse("query_start has " + number(b.query_start.size()) + " entries; context_lens asks for " + number(sequences + 1));
  }
  if (b.block_tables.size() != sequences * static_cast<size_t>(b.max_blocks)) refuse("block_tables has not one row per sequence");
  if (b.query_start[0] != 0 || b.query_start[sequences] != static_cast<int32_t>(tokens)) {
    refuse("query_start must run from 0 to " + number(tokens));
  }
  for (size_t t = 0; t < tokens; ++t) {
    if (b.token_ids[t] < 0 || b.token_ids[t] >= program_.vocab_size) {
      refuse("token_ids[" + number(t) + "] is " + number(b.token_ids[t]) + "; the vocabulary has " + number(program_.vocab_size));
    }
  }
  for (size_t s = 0; s < sequences; ++s) {
    const int begin = b.query_start[s], end = b.query_start[s + 1];
    if (begin >= end) refuse("sequence " + number(s) + " has no tokens in this step");
    if (static_cast<size_t>(end) > tokens) refuse("query_start[" + number(s + 1) + "] is " + number(end) + "; the step has " + number(tokens) + " tokens");
    const int context = b.context_lens[s];
    if (context < end - begin || context > program_.max_position) {
      refuse("context_lens[" + number(s) + "] is " + number(context) + "; it must hold the step's " + number(end - begin) +
             " tokens and stay within " + number(program_.max_position));
    }
    for (int t = begin; t < end; ++t) {
      if (b.positions[t] != context - (end - t)) refuse("positions[" + number(t) + "] does not follow from context_lens");
    }
    const int blocks = blocks_of(context);
    if (blocks > b.max_blocks) refuse("block_tables has " + number(b.max_blocks) + " columns; " + number(blocks) + " are needed");
    for (int i = 0; i < blocks; ++i) {
      const int block = b.block_tables[s * static_cast<size_t>(b.max_blocks) + static_cast<size_t>(i)];
      if (block < 0 || block >= options_.num_blocks) {
        refuse("block_tables[" + number(s) + ", " + number(i) + "] is " + number(block) + "; the cache has " + number(options_.num_blocks));
      }
    }
  }
  check_encoder(b);
  check_adapters(b);
  for (int row : b.logit_rows) {
    if (row < 0 || row >= static_cast<int>(tokens)) refuse("logit_rows names row " + number(row) + " of " + number(tokens));
  }
  if (num_rows != 0 && num_rows != b.logit_rows.size()) refuse("sampling rows and logit_rows differ in number");
}

void Executor::forward(const Batch& batch, float* logits, std::span<const SampleRow> rows, std::span<SampledToken> sampled) {
  check(batch, rows.size());
  const auto& wanted = batch.logit_rows;
  const bool ascending = std::is_sorted(wanted.begin(), wanted.end(), std::less_equal<>());
  const bool keeps = !pools_ && ascending && wanted.size() < batch.token_ids.size();
  auto tile_plans = plan_attention(batch);
  auto ranges_ahead = attention_caches_.empty() ? nullptr : find_ranges_ahead(batch, tile_plans->front());
  Step step{step_.number + 1, batch, logits, rows, sampled, keeps, std::move(tile_plans), plan_adapters(batch, keeps), std::move(ranges_ahead)};
  {
    const std::lock_guard lock(step_mutex_);
    step_ = step;
  }
  if (step.number % kStepsBetweenRenewals == 0) {
    for (Phase& phase : phases_) phase.renew(step.number - 1);
  }
  pool_.run(step.number);
}

void Executor::read_hidden(size_t rows, size_t width, float* out) const {
  if (!program_.keeps_hidden) refuse("this program does not keep its hidden states");
  check_hidden(rows, width, 0);
  std::copy_n(buffers_[0].data(), rows * width, out);
}

void Executor::write_hidden(size_t rows, size_t width, const float* values) {
  if (program_.hidden_input < 0) refuse("this program takes no hidden states");
  check_hidden(rows, width, program_.hidden_input);
  std::copy_n(values, rows * width, buffers_[static_cast<size_t>(program_.hidden_input)].data());
}

void Executor::check_hidden(size_t rows, size_t width, int buffer) const {
  const auto wanted = static_cast<size_t>(program_.buffers.at(static_cast<size_t>(buffer)));
  if (width != wanted || rows > static_cast<size_t>(options_.max_tokens)) {
    refuse("hidden states are [" + std::to_string(rows) + ", " + std::to_string(width) + "]; a step takes up to " + std::to_string(options_.max_tokens) +
           " rows of " + std::to_string(wanted));
  }
}

void Executor::copy_blocks(std::span<const int32_t> sources, std::span<const int32_t> targets) {
  if (sources.size() != targets.size()) refuse("sources and targets differ in number");
  check_blocks(sources);
  check_blocks(targets);
  for (size_t layer = 0; layer < caches_.size(); ++layer) {
    const CacheShape& shape = cache_shapes_[layer];
    for (size_t i = 0; i < sources.size(); ++i) {
      for (int head = 0; head < shape.num_kv_heads; ++head) {
        const CacheBlock from = shape.block(caches_[layer], head, sources[i]), to = shape.block(caches_[layer], head, targets[i]);
        std::memmove(to.keys, from.keys, shape.key_bytes());
        std::memmove(to.values, from.values, shape.value_bytes());
        std::memmove(to.scales, from.scales, shape.scale_bytes());
      }
    }
  }
}

void Executor::check_blocks(std::span<const int32_t> blocks) const {
  for (const int block : blocks) {
    if (block < 0 || block >= options_.num_blocks) {
      refuse("block " + std::to_string(block) + " cannot be copied; the cache has " + std::to_string(options_.num_blocks));
    }
  }
}

size_t Executor::block_bytes() const {
  size_t bytes = 0;
  for (const CacheShape& shape : cache_shapes_) {
    bytes += static_cast<size_t>(shape.num_kv_heads) * (shape.key_bytes() + shape.value_bytes() + shape.scale_bytes());
  }
  return bytes;
}

// Calls visit(part, bytes) for the parts of each block in the order of its plain bytes.
template <typename Visit>
void Executor::each_part(std::span<const int32_t> blocks, Visit visit) {
  check_blocks(blocks);
  for (const int32_t index : blocks) {
    for (size_t layer = 0; layer < caches_.size(); ++layer) {
      const CacheShape& shape = cache_shapes_[layer];
      for (int head = 0; head < shape.num_kv_heads; ++head) {
        const CacheBlock block = shape.block(caches_[layer], head, index);
        visit(block.keys, shape.key_bytes());
        visit(block.values, shape.value_bytes());
        visit(block.scales, shape.scale_bytes());
      }
    }
  }
}

void Executor::read_blocks(std::span<const int32_t> blocks, uint8_t* out) {
  each_part(blocks, [&out](const uint8_t* part, size_t bytes) {
    std::memcpy(out, part, bytes);
    out += bytes;
  });
}

void Executor::write_blocks(std::span<const int32_t> blocks, const uint8_t* data) {
  each_part(blocks, [&data](uint8_t* part, size_t bytes) {
    std::memcpy(part, data, bytes);
    data += bytes;
  });
}

void Executor::walk(int thread, uint32_t number) {
  Step step;
  {
    const std::lock_guard lock(step_mutex_);
    step = step_;
  }
  if (step.number == number) StepRunner(*this, step, thread).run();  // else this step is over
}

}  // namespace glm
