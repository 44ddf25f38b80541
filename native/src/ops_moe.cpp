// Mixture of experts: route, sort tokens by expert, gate and up of every touched expert, then down.
// A token adds its experts in ascending expert index, so its sum does not depend on what else is in the batch.
#include <cmath>
#include <limits>
#include <numeric>

#include "step_runner.h"

namespace glm {
namespace {

constexpr int kStreamedTokens = 8;  // of an expert take as long to compute as it takes to read

void softmax(float* x, int n) {
  float top = x[0];
  for (int i = 1; i < n; ++i) top = std::max(top, x[i]);
  float sum = 0.0f;
  for (int i = 0; i < n; ++i) sum += x[i] = std::exp(x[i] - top);
  for (int i = 0; i < n; ++i) x[i] /= sum;
}

// Experts of groups that do not make the cut cannot be chosen, however low the rest score (a correction bias may be
// negative). Older routers masked with 0 instead; transformers and vLLM mask with minus infinity.
void mask_groups(float* choice, const MoeOp& op) {
  const int size = op.num_experts / op.n_group;
  std::vector<std::pair<float, int>> groups;
  for (int g = 0; g < op.n_group; ++g) {
    float best = -std::numeric_limits<float>::infinity(), second = best;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      if (choice[e] > best) {
        second = best;
        best = choice[e];
      } else {
        second = std::max(second, choice[e]);
      }
    }
    groups.emplace_back(size > 1 ? best + second : best, g);
  }
  std::stable_sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  for (int i = op.topk_group; i < op.n_group; ++i) {
    const int g = groups[static_cast<size_t>(i)].second;
    std::fill(choice + g * size, choice + (g + 1) * size, -std::numeric_limits<float>::infinity());
  }
}

}  // namespace

void StepRunner::execute(const MoeOp& op) {
  route(op);
  run_gate_up(op);
  run_down(op);
}

void StepRunner::route(const MoeOp& op) {
  const Rows rows = with_columns(executor.shared_rows_, op.gate_up.cols);
  const auto prepare = kernels.prepare_row[static_cast<int>(op.gate_up.format)];
  const auto scores_of = [&](int token) { return executor.router_scores_.data() + static_cast<size_t>(token) * static_cast<size_t>(op.num_experts); };
  if (tokens == 1) {
    // The router is the work here: split its experts; who takes part normalises for itself.
    bool ready = false;
    share_out(op.num_experts, kStreamParts, [&](int begin, int end) {
      if (!ready) kernels.rms_norm(row(op.input, 0), op.norm.weight, op.norm.eps, op.input.width, scratch.normalised.data());
      ready = true;
      if (begin == 0) prepare(scratch.normalised.data(), op.input.width, rows, 0);
      const float* x = scratch.normalised.data();
      float* scores = scores_of(0) + begin;
      kernels.dot_rows(&x, 1, op.router + static_cast<size_t>(begin) * static_cast<size_t>(op.input.width), end - begin, op.input.width, &scores);
    });
  }
  share_out(tokens, kEvenParts, [&](int begin, int end) {
    if (tokens > 1) score_tokens(op, rows, begin, end);
    for (int t = begin; t < end; ++t) choose_experts(op, t);
  });
  share_out(1, 1, [&](int, int) { sort_by_expert(op); });
}

// A few tokens at a time, since a router's weights are larger than the first cache.
void StepRunner::score_tokens(const MoeOp& op, const Rows& rows, int begin, int end) {
  const auto prepare = kernels.prepare_row[static_cast<int>(op.gate_up.format)];
  const float* x[Executor::kScoredTokens];
  float* scores[Executor::kScoredTokens];
  for (int first = begin; first < end; first += Executor::kScoredTokens) {
    const int count = std::min(end - first, Executor::kScoredTokens);
    for (int i = 0; i < count; ++i) {
      float* normalised = scratch.normalised.data() + static_cast<size_t>(i) * static_cast<size_t>(op.input.width);
      kernels.rms_norm(row(op.input, first + i), op.norm.weight, op.norm.eps, op.input.width, normalised);
      prepare(normalised, op.input.width, rows, first + i);
      x[i] = normalised;
      scores[i] = executor.router_scores_.data() + static_cast<size_t>(first + i) * static_cast<size_t>(op.num_experts);
    }
    kernels.dot_rows(x, count, op.router, op.num_experts, op.input.width, scores);
  }
}

void StepRunner::choose_experts(const MoeOp& op, int token) {
  const int n = op.num_experts;
  float* s = executor.router_scores_.data() + static_cast<size_t>(token) * static_cast<size_t>(n);
  if (op.sigmoid) {
    for (int e = 0; e < n; ++e) s[e] = 1.0f / (1.0f + std::exp(-s[e]));
  } else {
    softmax(s, n);
  }
  auto& choice = scratch.choice;
  choice.assign(s, s + n);
  if (op.router_bias) {
    for (int e = 0; e < n; ++e) choice[static_cast<size_t>(e)] += op.router_bias[e];
  }
  if (op.n_group > 1) mask_groups(choice.data(), op);
  auto& order = scratch.order;
  order.resize(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  const auto better = [&](int a, int b) {
    const float x = choice[static_cast<size_t>(a)], y = choice[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + op.top_k, order.end(), better);
  std::sort(order.begin(), order.begin() + op.top_k);
  float sum = 0.0f;
  for (int i = 0; i < op.top_k; ++i) sum += s[order[static_cast<size_t>(i)]];
  const size_t at = static_cast<size_t>(token) * static_cast<size_t>(op.top_k);
  for (int i = 0; i < op.top_k; ++i) {
    const int expert = order[static_cast<size_t>(i)];
    float weight = s[expert];
    if (op.normalize) weight /= sum + 1e-20f;
    executor.expert_ids_[at + static_cast<size_t>(i)] = expert;
    executor.expert_weights_[at + static_cast<size_t>(i)] = weight * op.scale;
  }
}

// Counting sort of (token, expert) pairs by expert; within an expert, tokens ascend.
void StepRunner::sort_by_expert(const MoeOp& op) {
  auto& start = executor.expert_start_;
  const int slots = tokens * op.top_k;
  std::fill(start.begin(), start.begin() + op.num_experts + 1, 0);
  for (int i = 0; i < slots; ++i) ++start[static_cast<size_t>(executor.expert_ids_[static_cast<size_t>(i)]) + 1];
  auto& work = executor.expert_work_;
  for (size_t e = 0; e < static_cast<size_t>(op.num_experts); ++e) {
    work[e + 1] = work[e] + (start[e + 1] ? start[e + 1] + kStreamedTokens : 0);
    start[e + 1] += start[e];
  }
  auto& next = scratch.order;
  next.assign(start.begin(), start.begin() + op.num_experts);
  for (int i = 0; i < slots; ++i) {
    const int slot = next[static_cast<size_t>(executor.expert_ids_[static_cast<size_t>(i)])]++;
    executor.slot_token_[static_cast<size_t>(slot)] = i / op.top_k;
    executor.slot_index_[static_cast<size_t>(slot)] = slot;
    executor.slot_weight_[static_cast<size_t>(slot)] = executor.expert_weights_[static_cast<size_t>(i)];
  }
}

void StepRunner::run_gate_up(const MoeOp& op) {
  const auto kernel = kernels.matmul[static_cast<int>(op.gate_up.format)];
  const auto& start = executor.expert_start_;
  const int pairs = op.gate_up.panels / 2;
  const auto run = [&](int expert, int first_pair, int last_pair) {
    const int begin = start[static_cast<size_t>(expert)];
    MatmulArgs args;
    args.panels = op.gate_up.data + static_cast<size_t>(expert) * op.gate_up.expert_stride;
    args.cols = op.gate_up.cols;
    args.out_columns = op.intermediate_size;
    args.panel_begin = 2 * first_pair;
    args.panel_end = 2 * last_pair;
    args.a = with_columns(executor.shared_rows_, op.gate_up.cols);
    args.num_tokens = start[static_cast<size_t>(expert) + 1] - begin;
    args.in_rows = executor.slot_token_.data() + begin;
    args.out_rows = executor.slot_index_.data() + begin;
    args.out = executor.moe_hidden_.data();
    args.out_stride = static_cast<size_t>(op.intermediate_size);
    args.epilogue = op.activation;
    kernel(args);
  };
  // The pairs of panels of all experts in a row, each as long as it is work, cut evenly: whoever has a pair's front does
  // it. The number of parts must not depend on what was routed, which a thread that comes late no longer finds.
  const int chosen = tokens == 1 ? op.top_k : op.num_experts;
  share_out(chosen * pairs, tokens == 1 ? kStreamParts : Phase::kChunksPerThread, [&](int begin, int end) {
    const int32_t* work = executor.expert_work_.data();
    const auto position = [&](int part) { return static_cast<long>(part) * work[op.num_experts] / chosen; };
    const int first = static_cast<int>(std::upper_bound(work, work + op.num_experts, position(begin) / pairs) - work) - 1;
    for (int e = first; e < op.num_experts && static_cast<long>(work[e]) * pairs < position(end); ++e) {
      const long each = work[e + 1] - work[e];
      if (each == 0) continue;
      const auto pairs_before = [&](long at) { return static_cast<int>(std::clamp((at - static_cast<long>(work[e]) * pairs + each - 1) / each, 0L, static_cast<long>(pairs))); };
      if (pairs_before(position(begin)) < pairs_before(position(end))) run(e, pairs_before(position(begin)), pairs_before(position(end)));
    }
  });
}

void StepRunner::run_down(const MoeOp& op) {
  const Rows rows = with_columns(executor.moe_rows_, op.down.cols);
  const auto prepare = kernels.prepare_row[static_cast<int>(op.down.format)];
  share_out(tokens * op.top_k, kEvenParts, [&](int begin, int end) {
    for (int slot = begin; slot < end; ++slot) {
      prepare(executor.moe_hidden_.data() + static_cast<size_t>(slot) * static_cast<size_t>(op.intermediate_size), op.intermediate_size, rows, slot);
    }
  });
  const auto kernel = kernels.matmul[static_cast<int>(op.down.format)];
  const auto& start = executor.expert_start_;
  // Where an expert has few tokens its weights come from memory, which is slow in small pieces.
  const bool streams = tokens * op.top_k < kStreamedTokens * op.num_experts;
  share_out(op.down.panels / 2, streams ? kStreamParts : kManyParts, [&](int first_pair, int last_pair) {
    for (int e = 0; e < op.num_experts; ++e) {
      const int begin = start[static_cast<size_t>(e)], count = start[static_cast<size_t>(e) + 1] - begin;
      if (count == 0) continue;
      MatmulArgs args;
      args.panels = op.down.data + static_cast<size_t>(e) * op.down.expert_stride;
      args.cols = op.down.cols;
      args.out_columns = op.out.width;
      args.panel_begin = 2 * first_pair;
      args.panel_end = 2 * last_pair;
      args.a = rows;
      args.num_tokens = count;
      args.in_rows = executor.slot_index_.data() + begin;
      args.out_rows = executor.slot_token_.data() + begin;
      args.row_weight = executor.slot_weight_.data() + begin;
      args.out = row(op.out, 0);
      args.out_stride = stride(op.out);
      args.epilogue = Epilogue::add;
      kernel(args);
    }
  });
}

}  // namespace glm
