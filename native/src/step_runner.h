// One thread's walk through a program. Every thread has its own StepRunner and goes through every operation; the work
// of an operation is one or more phases whose chunks the threads share out (thread_pool.h). Operations live in ops_*.cpp.
#pragma once

#include <algorithm>

#include "glm_crush/executor.h"

namespace glm {

inline constexpr size_t kPhasesPerOp = 6;  // at most

// Cache blocks that so many tokens take.
constexpr int blocks_of(int tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

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

class StepRunner {
 public:
  StepRunner(Executor& owner, const Step& now, int index) : executor(owner), step(now), thread(index) {}
  void run();

 private:
  Executor& executor;
  const Step& step;
  const int thread;

  const Batch& batch = step.batch;
  const KernelTable& kernels = executor.kernels_;
  Executor::ThreadScratch& scratch = executor.scratch_[static_cast<size_t>(thread)];
  const int threads = executor.options_.num_threads;
  int tokens = static_cast<int>(step.batch.token_ids.size());  // rows of the buffers in use
  bool only_logit_rows = false;                                // those rows are the wanted ones, in order
  size_t op_index = 0;
  size_t phase_index = 0;  // of the operation
  FetchAhead ahead;             // keys and values of the next attention
  size_t attention_index = 0;   // of it

  // Calls body(begin, end) for parts of [0, count) until all are done, by whichever threads come. A part is work for a
  // few microseconds at least, `parts` of them for each thread: few for streams of weights, many where costs differ.
  template <typename Body>
  void share_out(int count, int parts, Body&& body) {
    Phase& phase = executor.phases_[op_index * kPhasesPerOp + phase_index++];
    const int per_thread = std::max(1, std::min({parts, Phase::kChunksPerThread, (count + threads - 1) / threads}));
    const int chunks = per_thread * threads;
    for (int i = 0; i < threads && !phase.is_done(step.number, chunks); ++i) {
      const int owner = (thread + i) % threads;
      for (int j = 0; j < per_thread; ++j) {
        const int chunk = i == 0 ? j : per_thread - 1 - j;  // its owner starts at the front: help from the back
        if (!phase.take(step.number, owner, chunk)) continue;
        const long index = static_cast<long>(owner) * per_thread + chunk;
        const int begin = static_cast<int>(count * index / chunks), end = static_cast<int>(count * (index + 1) / chunks);
        if (begin < end) body(begin, end);
        phase.complete(step.number);
      }
    }
    phase.await(step.number, chunks);
  }
  static constexpr int kStreamParts = 2;
  static constexpr int kEvenParts = 4;
  static constexpr int kManyParts = 8;

  size_t stride(const View& view) const { return static_cast<size_t>(executor.program_.buffers[static_cast<size_t>(view.buffer)]); }
  float* row(const View& view, int token) const {
    return executor.buffers_[static_cast<size_t>(view.buffer)].data() + static_cast<size_t>(token) * stride(view) + view.offset;
  }
  void keep_logit_rows();
  const float* normalised(const float* x, const Norm& norm, int n);
  static Rows with_columns(Rows rows, int cols);
  // A product with all panels of `weight`. `prepare_row(rows, r)` fills prepared row r; when there is only one, each thread
  // that takes part prepares it for itself, which is cheaper than a phase of its own.
  // `before(panel_begin, panel_end)` is called by whoever computes these panels, just before.
  template <typename PrepareRow, typename Before>
  void matmul(MatmulArgs args, const Matrix& weight, int num_rows, PrepareRow&& prepare_row, Before&& before);

  void execute(const EmbedOp& op);
  void execute(const RmsNormOp& op);
  void execute(const AddNormOp& op);
  void execute(const LinearOp& op);
  void execute(const HeadLinearOp& op);
  void execute(const CopyHeadsOp& op);
  void execute(const AttentionOp& op);
  void execute(const MoeOp& op);
  void execute(const LogitsOp& op);

  // adapters.cpp
  const AdapterRows* adapted_rows() const;
  void adapter_down(const LinearOp& op, const AdapterRows& rows);
  void adapter_up(const AdapterRows& rows, int panel_begin, int panel_end);

  // ops_encoder.cpp
  void execute(const EmbedPositionsOp& op);
  void execute(const LayerNormOp& op);
  void execute(const PoolOp& op);
  void execute(const OutputOp& op);

  // ops_attention.cpp
  void fill_rope_tables(int begin, int end);
  void look_ahead();
  void rotate_and_store(const AttentionOp& op, int begin, int end);
  void attend_tile(const AttentionOp& op, const Tile& tile, const Tile* next, int value_dim);
  void merge_chunks(const AttentionOp& op, const Tile& tile, float* all_m, float* all_l, float* all_o, size_t value_dim);
  void attend_whole_tiles(const AttentionOp& op, const TilePlan& plan);
  void attend_chunks(const AttentionOp& op, const TilePlan& plan);
  void attend(const AttentionOp& op, const Tile& tile, int chunk, const Tile* next, int next_chunk, float* m, float* l, float* o);
  void write_out(const AttentionOp& op, const Tile& tile, int row, float l, const float* o);

  // ops_moe.cpp
  void route(const MoeOp& op);
  void score_tokens(const MoeOp& op, const Rows& rows, int begin, int end);
  void choose_experts(const MoeOp& op, int token);
  void sort_by_expert(const MoeOp& op);
  void run_gate_up(const MoeOp& op);
  void run_down(const MoeOp& op);
};

}  // namespace glm
