// LoRA adapters: loading, which rows of a step use which, and the two small products.
//
// A row's delta is computed by kernels whose result for a row does not depend on others (dot_rows, the f32 product), and
// added to the sums of the base weight before bias and activation: weights are read once for all rows of a step, and rows
// without an adapter see no other arithmetic than in a step without adapters.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "step_runner.h"

namespace glm {
namespace {

int padded_rank(int rank) { return (rank + kRankMultiple - 1) / kRankMultiple * kRankMultiple; }

// `adapters[i]` is that of row i of the step, or null.
AdapterRows group_rows(const std::vector<const Adapter*>& adapters, const std::vector<std::shared_ptr<const Adapter>>& distinct, size_t num_ops) {
  AdapterRows rows;
  for (const auto& adapter : distinct) {
    const int first = static_cast<int>(rows.tokens.size());
    for (size_t t = 0; t < adapters.size(); ++t) {
      if (adapters[t] == adapter.get()) rows.tokens.push_back(static_cast<int32_t>(t));
    }
    const int count = static_cast<int>(rows.tokens.size()) - first;
    if (count > 0) rows.runs.push_back({adapter.get(), first, count});
  }
  rows.row_of_token.resize(num_ops);
  for (size_t op = 0; op < num_ops; ++op) {
    auto& row_of_token = rows.row_of_token[op];
    for (const AdapterRun& run : rows.runs) {
      if (run.adapter->linears[op].rank == 0) continue;
      row_of_token.resize(adapters.size(), -1);
      for (int i = run.first; i < run.first + run.count; ++i) row_of_token[static_cast<size_t>(rows.tokens[static_cast<size_t>(i)])] = i;
    }
  }
  return rows;
}

}  // namespace

void Executor::load_adapter(int slot, std::span<const AdapterPart> parts) {
  if (slot < 0) throw std::invalid_argument("adapter slot is " + std::to_string(slot) + "; slots begin at 0");
  auto adapter = std::make_shared<Adapter>();
  adapter->linears.resize(program_.ops.size());
  size_t hidden_stride = adapter_scratch_ ? adapter_scratch_->hidden_stride : 0, delta_stride = 0;
  for (const Op& op : program_.ops) {
    if (const auto* linear = std::get_if<LinearOp>(&op)) delta_stride = std::max(delta_stride, static_cast<size_t>(linear->weight.panels) * kPanelRows);
  }
  for (const AdapterPart& part : parts) {
    const auto* linear = part.op < program_.ops.size() ? std::get_if<LinearOp>(&program_.ops[part.op]) : nullptr;
    if (!linear) throw std::invalid_argument("operation " + std::to_string(part.op) + " is no Linear; an adapter cannot change it");
    const Matrix& weight = linear->weight;
    if (part.rank < 1 || part.columns != weight.in_columns || part.rows != weight.rows) {
      throw std::invalid_argument("an adapter's part of rank " + std::to_string(part.rank) + " is for [" + std::to_string(part.rows) + ", " +
                                  std::to_string(part.columns) + "]; operation " + std::to_string(part.op) + " has [" + std::to_string(weight.rows) + ", " +
                                  std::to_string(weight.in_columns) + "]");
    }
    AdapterLinear& to = adapter->linears[part.op];
    to.rank = padded_rank(part.rank);
    const auto rank = static_cast<size_t>(part.rank), columns = static_cast<size_t>(part.columns), padded = static_cast<size_t>(to.rank);
    to.a = AlignedBuffer<float>(padded * columns);  // zeroed
    std::copy_n(part.a, rank * columns, to.a.data());
    to.b = AlignedBuffer<float>(static_cast<size_t>(weight.panels) * padded * kPanelRows);
    for (size_t row = 0; row < static_cast<size_t>(part.rows); ++row) {
      for (size_t k = 0; k < rank; ++k) to.b[(row / kPanelRows * padded + k) * kPanelRows + row % kPanelRows] = part.b[row * rank + k];
    }
    hidden_stride = std::max(hidden_stride, padded);
  }
  if (!adapter_scratch_ || adapter_scratch_->hidden_stride < hidden_stride) {
    const auto tokens = static_cast<size_t>(options_.max_tokens);
    adapter_scratch_ = std::make_shared<AdapterScratch>(
        AdapterScratch{hidden_stride, delta_stride, AlignedBuffer<float>(tokens * hidden_stride), AlignedBuffer<float>(tokens * delta_stride)});
  }
  const auto index = static_cast<size_t>(slot);
  if (adapters_.size() <= index) adapters_.resize(index + 1);
  adapters_[index] = std::move(adapter);
}

void Executor::unload_adapter(int slot) {
  if (slot < 0 || static_cast<size_t>(slot) >= adapters_.size() || !adapters_[static_cast<size_t>(slot)]) {
    throw std::invalid_argument("there is no adapter in slot " + std::to_string(slot));
  }
  adapters_[static_cast<size_t>(slot)] = nullptr;
}

void Executor::check_adapters(const Batch& batch) const {
  if (batch.adapter_ids.empty()) return;
  if (batch.adapter_ids.size() != batch.context_lens.size()) throw std::invalid_argument("adapter_ids has not one entry per sequence");
  for (const int32_t id : batch.adapter_ids) {
    if (id < -1 || (id >= 0 && (static_cast<size_t>(id) >= adapters_.size() || !adapters_[static_cast<size_t>(id)]))) {
      throw std::invalid_argument("adapter_ids names slot " + std::to_string(id) + ", where no adapter is loaded");
    }
  }
}

std::shared_ptr<const AdapterPlan> Executor::plan_adapters(const Batch& batch, bool keeps_logit_rows) const {
  const auto& ids = batch.adapter_ids;
  if (std::none_of(ids.begin(), ids.end(), [](int32_t id) { return id >= 0; })) return nullptr;
  auto plan = std::make_shared<AdapterPlan>();
  plan->scratch = adapter_scratch_;
  std::vector<const Adapter*> of_token(batch.token_ids.size(), nullptr);
  for (size_t s = 0; s < ids.size(); ++s) {
    if (ids[s] < 0) continue;
    const auto& adapter = adapters_[static_cast<size_t>(ids[s])];
    if (std::find(plan->adapters.begin(), plan->adapters.end(), adapter) == plan->adapters.end()) plan->adapters.push_back(adapter);
    std::fill(of_token.begin() + batch.query_start[s], of_token.begin() + batch.query_start[s + 1], adapter.get());
  }
  plan->all = group_rows(of_token, plan->adapters, program_.ops.size());
  if (keeps_logit_rows) {
    std::vector<const Adapter*> of_row;
    for (const int32_t token : batch.logit_rows) of_row.push_back(of_token[static_cast<size_t>(token)]);
    plan->kept = group_rows(of_row, plan->adapters, program_.ops.size());
  }
  return plan;
}

// Null where no row of this operation has anything added. Reads the plan only: a late thread must find what others found.
const AdapterRows* StepRunner::adapted_rows() const {
  if (!step.adapters) return nullptr;
  const AdapterRows& rows = only_logit_rows ? step.adapters->kept : step.adapters->all;
  return rows.row_of_token[op_index].empty() ? nullptr : &rows;
}

void StepRunner::adapter_down(const LinearOp& op, const AdapterRows& rows) {
  const AdapterScratch& memory = *step.adapters->scratch;
  const int count = static_cast<int>(rows.tokens.size());
  const int parts = count >= 2 * threads ? 1 : kRankMultiple;  // few rows: threads share out the ranks of a row
  share_out(count * parts, kEvenParts, [&](int begin, int end) {
    for (const AdapterRun& run : rows.runs) {
      const AdapterLinear& linear = run.adapter->linears[op_index];
      if (linear.rank == 0) continue;
      for (int i = std::max(begin, run.first * parts); i < std::min(end, (run.first + run.count) * parts);) {
        const int r = i / parts, stop = std::min(end, (r + 1) * parts);
        const int first = linear.rank * (i % parts) / parts, last = linear.rank * (stop - r * parts) / parts;
        const float* x = normalised(row(op.input, rows.tokens[static_cast<size_t>(r)]), op.norm, op.input.width);
        float* hidden = memory.hidden.data() + static_cast<size_t>(r) * memory.hidden_stride + first;
        kernels.dot_rows(&x, 1, linear.a.data() + static_cast<size_t>(first) * static_cast<size_t>(op.input.width), last - first, op.input.width, &hidden);
        i = stop;
      }
    }
  });
}

void StepRunner::adapter_up(const AdapterRows& rows, int panel_begin, int panel_end) {
  const AdapterScratch& memory = *step.adapters->scratch;
  for (const AdapterRun& run : rows.runs) {
    const AdapterLinear& linear = run.adapter->linears[op_index];
    if (linear.rank == 0) continue;
    MatmulArgs args;
    args.panels = reinterpret_cast<const uint8_t*>(linear.b.data());
    args.cols = linear.rank;
    args.panel_begin = panel_begin;
    args.panel_end = panel_end;
    args.num_tokens = run.count;
    args.a.f32 = memory.hidden.data() + static_cast<size_t>(run.first) * memory.hidden_stride;
    args.a.stride = memory.hidden_stride;
    args.out = memory.deltas.data() + static_cast<size_t>(run.first) * memory.delta_stride;
    args.out_stride = memory.delta_stride;
    args.out_columns = static_cast<int>(memory.delta_stride);
    kernels.matmul[static_cast<int>(Format::f32)](args);
  }
}

}  // namespace glm
