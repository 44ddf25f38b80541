// Runs a program over one batch: one call is one engine step, all threads walk the list of operations together.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "glm_crush/adapter.h"
#include "glm_crush/memory.h"
#include "glm_crush/program.h"
#include "glm_crush/sampler.h"
#include "glm_crush/thread_pool.h"

namespace glm {

// Plain arrays of one step; the Python twin is kernels.program.ForwardBatch. Checked by Executor::forward.
struct Batch {
  std::span<const int32_t> token_ids, positions;      // [T]
  std::span<const int32_t> query_start;               // [S + 1]
  std::span<const int32_t> context_lens;              // [S]
  std::span<const int32_t> block_tables;              // [S * max_blocks]
  int max_blocks = 0;
  std::span<const int32_t> logit_rows;                // [R]
  std::span<const int32_t> token_types;               // [T] or empty
  std::span<const int32_t> adapter_ids;               // [S] slots, -1: none; or empty: none at all
};

struct ExecutorOptions {
  int num_threads = 1;
  int max_tokens = 512;   // longest batch
  int num_blocks = 1;     // cache blocks of 16 tokens
  CacheType cache_type = CacheType::bf16;
  const KernelTable* kernels = nullptr;
  uint32_t last_step = 0;  // number of the step before the first: tests begin where numbers wrap
};

// An adapter's share in one Linear. a: [rank, columns], b: [rows, rank] in the order of the packed rows, scale multiplied in.
struct AdapterPart {
  size_t op;
  int rank, rows, columns;
  const float* a;
  const float* b;
};

// Some query rows of one sequence and one kv head that attend together.
struct Tile {
  int sequence, kv_head, first_head, num_heads;  // heads [first_head, first_head + num_heads)
  int first_token, num_tokens;                   // tokens of the batch
  int first_row;                                 // where its query rows begin in the query buffer
  int chunk_begin, chunk_end;                    // chunks of kChunkKeys keys that it looks at (without a window)
  int first_partial;                             // where its (chunk, row) partials begin when chunks run in parallel
};

struct TilePlan {
  int num_heads = 0, num_kv_heads = 0;
  bool causal = true;
  std::vector<Tile> tiles;
  std::vector<std::pair<int, int>> items;  // (tile, chunk) when split over chunks, else empty
  int num_partials = 0;                    // rows of partial results
};

// Keys and values that each thread's tiles of attention read, in every layer, from the layer's first byte.
using RangesAhead = std::vector<std::vector<FetchAhead::Range>>;

// What a step's threads share. Each thread copies it when it starts on the step: one that comes late must not see
// the next step's. It may walk on after the step's end, when the caller's arrays (those of `batch`, the logits) are gone:
// outside the chunks of a phase a thread looks at their sizes only.
struct Step {
  uint32_t number = 0;
  Batch batch;
  float* logits = nullptr;
  std::span<const SampleRow> sample_rows;
  std::span<SampledToken> sampled;
  // Whether the rows after the last attention are the wanted ones alone; a late thread must count phases as the others did.
  bool keeps_logit_rows = false;
  std::shared_ptr<const std::vector<TilePlan>> tile_plans;  // one per distinct (num_heads, num_kv_heads, causal)
  std::shared_ptr<const AdapterPlan> adapters;              // null: no row uses one
  std::shared_ptr<const RangesAhead> ranges_ahead;          // null: nothing is fetched ahead
};

class Executor {
 public:
  Executor(Program program, const ExecutorOptions& options);

  // Runs the batch. logits: [R, vocab], written. rows: R sampling rows or empty; sampled: as many, written.
  // Throws std::invalid_argument naming the array and the value when the batch does not fit.
  void forward(const Batch& batch, float* logits, std::span<const SampleRow> rows, std::span<SampledToken> sampled);

  // Draws `num_steps` tokens for every sequence, each computed from the one before. The batch brings one token and
  // one logit row per sequence, in order, and tables with blocks for all steps. drawn: [num_steps, S], written; -1
  // from where a sequence could draw nothing. rows: their counters are advanced. Throws as forward.
  void decode(const Batch& batch, int num_steps, float* logits, std::span<SampleRow> rows, std::span<int32_t> drawn);

  // Copies whole cache blocks of every layer, in order. Throws std::invalid_argument when a block does not exist.
  void copy_blocks(std::span<const int32_t> sources, std::span<const int32_t> targets);

  // Whole cache blocks of every layer as plain bytes, block_bytes() each: per layer and head keys, values, scales. Another
  // thread may call them beside a step that uses none of these blocks. Throw std::invalid_argument as copy_blocks.
  size_t block_bytes() const;
  void read_blocks(std::span<const int32_t> blocks, uint8_t* out);
  void write_blocks(std::span<const int32_t> blocks, const uint8_t* data);

  // Puts an adapter into a slot, in the place of what was there. The matrices are copied. Throws std::invalid_argument.
  void load_adapter(int slot, std::span<const AdapterPart> parts);
  void unload_adapter(int slot);

  // The residual stream of the last step's first `rows` tokens, for a program that keeps it. out: [rows, hidden], written.
  void read_hidden(size_t rows, size_t width, float* out) const;

  // Fills the program's input buffer for the first `rows` tokens of the next step. values: [rows, hidden].
  void write_hidden(size_t rows, size_t width, const float* values);

  int num_threads() const { return pool_.num_threads(); }
  const char* kernels_name() const { return kernels_.name; }
  size_t cache_bytes() const;
  size_t scratch_bytes() const;  // activation buffers
  const Program& program() const { return program_; }
  int max_tokens() const { return options_.max_tokens; }

 private:
  friend class StepRunner;

  struct RopeTable { std::vector<float> cos, sin; };  // [max_tokens, rotary_dim / 2]
  static constexpr int kScoredTokens = 8;  // whose experts are chosen together
  struct ThreadScratch {
    AlignedBuffer<float> row;        // widest activation row
    AlignedBuffer<float> scores;     // [kMaxTileRows, kChunkKeys]
    AlignedBuffer<float> partial;    // one (m, l, o) chunk of a tile
    Rows rows;                       // one prepared row, private to the thread
    AlignedBuffer<float> normalised; // the row it was made from, or kScoredTokens of them (mixture of experts)
    SamplerScratch sampler;
    std::vector<float> choice;       // router scores with bias
    std::vector<int32_t> order;      // experts by score; later the fill position of each expert
  };

  void check(const Batch& batch, size_t num_rows) const;
  void check_blocks(std::span<const int32_t> blocks) const;
  template <typename Visit> void each_part(std::span<const int32_t> blocks, Visit visit);
  void check_hidden(size_t rows, size_t width, int buffer) const;
  void check_encoder(const Batch& batch) const;
  void check_adapters(const Batch& batch) const;
  std::shared_ptr<const AdapterPlan> plan_adapters(const Batch& batch, bool keeps_logit_rows) const;
  void walk(int thread, uint32_t number);
  void lay_out_cache();
  std::vector<int> caches_of_like_attention() const;
  std::shared_ptr<const std::vector<TilePlan>> plan_attention(const Batch& batch);
  std::shared_ptr<const RangesAhead> find_ranges_ahead(const Batch& batch, const TilePlan& plan) const;
  void plan_tiles(const Batch& batch, TilePlan& plan) const;
  Rows allocate_rows(int num_rows);

  const Program program_;
  const ExecutorOptions options_;
  const KernelTable& kernels_;
  std::vector<AlignedBuffer<float>> buffers_;
  std::vector<CacheShape> cache_shapes_;
  HugeBuffer cache_;                 // spans of all layers
  std::vector<uint8_t*> caches_;     // each layer's first span
  std::vector<RopeTable> rope_tables_;
  std::vector<ThreadScratch> scratch_;
  std::vector<AlignedBuffer<uint8_t>> row_storage_;
  Rows shared_rows_;                     // [max_tokens]
  int widest_ = 0;                       // columns, padded
  size_t last_attention_ = 0;            // index of the last Attention operation
  std::vector<int> attention_caches_;    // of the Attention operations in order; empty where they differ in shape
  bool pools_ = false;                   // the program has a Pool: every token is wanted
  bool whole_sequences_ = false;         // a step computes all tokens of its sequences: pooled, or attention both ways
  int num_positions_ = 0, num_types_ = 0;  // least of any EmbedPositions, offset taken off; 0: there is none
  // attention
  std::vector<int> sequence_of_token_;
  AlignedBuffer<uint8_t> queries_;
  AlignedBuffer<int32_t> key_limits_;    // [2, query rows]
  std::vector<float> partials_;          // split attention: per partial row m, l, o[value_dim]
  // mixture of experts
  std::vector<float> router_scores_;
  std::vector<int32_t> expert_ids_, expert_start_, slot_token_, slot_index_;
  std::vector<int32_t> expert_work_;  // of all experts before one, in tokens: to read its weights counts as some
  std::vector<float> expert_weights_, slot_weight_;
  std::vector<float> moe_hidden_;        // [max_tokens * top_k, intermediate]
  Rows moe_rows_;
  std::vector<std::shared_ptr<const Adapter>> adapters_;  // by slot, null: free
  std::shared_ptr<AdapterScratch> adapter_scratch_;
  std::deque<Phase> phases_;  // kPhasesPerOp for each operation, then those of sampling
  std::mutex step_mutex_;  // guards step_ while a step begins
  Step step_;
  ThreadPool pool_;        // last: its threads use all of the above
};

}  // namespace glm
