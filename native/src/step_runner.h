// One thread's walk through a program. Every thread has its own StepRunner and runs every operation; inside an
// operation they split rows, panels, heads or experts and meet at barriers. Operations live in ops_*.cpp.
#pragma once

#include <algorithm>

#include "glm_crush/executor.h"

namespace glm {

inline constexpr size_t kCountersPerOp = 3;

// Heads of one kv head that share a tile: at most kMaxTileRows, so that one token's heads fit.
template <typename Visit>
void for_each_head_block(int num_heads, int num_kv_heads, Visit visit) {
  const int group = num_heads / num_kv_heads;
  const int blocks = (group + kMaxTileRows - 1) / kMaxTileRows;
  const int per_block = (group + blocks - 1) / blocks;
  for (int kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
    for (int h = 0; h < group; h += per_block) visit(kv_head, kv_head * group + h, std::min(per_block, group - h));
  }
}

struct StepRunner {
  Executor& executor;
  const Batch& batch;
  float* logits;
  std::span<const SampleRow> sample_rows;
  std::span<SampledToken> sampled;
  int thread;

  const KernelTable& kernels = executor.kernels_;
  Executor::ThreadScratch& scratch = executor.scratch_[static_cast<size_t>(thread)];
  const int threads = executor.pool_.num_threads();
  const int tokens = static_cast<int>(batch.token_ids.size());
  size_t op_index = 0;

  void run();

 private:
  struct Range { int begin, end; };

  void barrier() { executor.pool_.barrier().wait(); }
  // This thread's even share of [0, count).
  Range share(int count) const {
    return {static_cast<int>(static_cast<long>(count) * thread / threads), static_cast<int>(static_cast<long>(count) * (thread + 1) / threads)};
  }
  // The next `size` items of [0, count) nobody has taken; empty when all are gone.
  Range claim(size_t counter, int count, int size) {
    const int begin = executor.counters_[op_index * kCountersPerOp + counter].next.fetch_add(size, std::memory_order_relaxed);
    return {std::min(begin, count), std::min(begin + size, count)};
  }
  size_t stride(const View& view) const { return static_cast<size_t>(executor.program_.buffers[static_cast<size_t>(view.buffer)]); }
  float* row(const View& view, int token) const {
    return executor.buffers_[static_cast<size_t>(view.buffer)].data() + static_cast<size_t>(token) * stride(view) + view.offset;
  }
  const float* normalised(const float* x, const Norm& norm, int n);
  static Rows with_columns(Rows rows, int cols);
  // Calls matmul over all panels of `weight`, split between the threads: evenly for one token (each thread streams its
  // own part of the weights), by claiming for many.
  void matmul(MatmulArgs args, const Matrix& weight, int num_tokens, size_t counter);

  void execute(const EmbedOp& op);
  void execute(const RmsNormOp& op);
  void execute(const AddNormOp& op);
  void execute(const LinearOp& op);
  void execute(const HeadLinearOp& op);
  void execute(const CopyHeadsOp& op);
  void execute(const AttentionOp& op);
  void execute(const MoeOp& op);
  void execute(const LogitsOp& op);

  // ops_attention.cpp
  void fill_rope_tables();
  void rotate_and_store(const AttentionOp& op, const TilePlan& plan);
  void attend_whole_tiles(const AttentionOp& op, const TilePlan& plan);
  void attend_chunks(const AttentionOp& op, const TilePlan& plan);
  void attend(const AttentionOp& op, const Tile& tile, int chunk, float* m, float* l, float* o);
  void write_out(const AttentionOp& op, const Tile& tile, int row, float l, const float* o);

  // ops_moe.cpp
  void route(const MoeOp& op);
  void choose_experts(const MoeOp& op, int token);
  void sort_by_expert(const MoeOp& op);
  void run_gate_up(const MoeOp& op, const Rows& rows);
  void run_down(const MoeOp& op);
};

}  // namespace glm
