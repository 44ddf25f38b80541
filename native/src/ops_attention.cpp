// Rotary tables, cache writes and paged attention.
#include <cmath>
#include <limits>

#include "step_runner.h"

namespace glm {
namespace {

// Compiled for several vector widths and chosen at load; element by element, so that all give the same numbers.
#if defined(GLM_HAVE_X86) && !defined(__SANITIZE_ADDRESS__)
#define GLM_EVERY_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define GLM_EVERY_WIDTH
#endif

constexpr float kLog2e = 1.4426950408889634f;

// Fold one partial into a running one; both hold (m, l, o) of the same row. Order of calls is fixed by the caller.
GLM_EVERY_WIDTH void merge(float& m, float& l, float* o, float next_m, float next_l, const float* next_o, int n) {
  if (next_m == -std::numeric_limits<float>::infinity()) return;
  const float top = std::max(m, next_m);
  const float keep = std::exp2(m - top), take = std::exp2(next_m - top);
  m = top;
  l = l * keep + next_l * take;
  for (int i = 0; i < n; ++i) o[i] = o[i] * keep + next_o[i] * take;
}

}  // namespace

void StepRunner::fill_rope_tables(int begin, int end) {
  for (size_t r = 0; r < executor.program_.ropes.size(); ++r) {
    const Rope& rope = executor.program_.ropes[r];
    auto& table = executor.rope_tables_[r];
    const size_t half = rope.inv_freq.size();
    for (int t = begin; t < end; ++t) {
      const float position = static_cast<float>(batch.positions[static_cast<size_t>(t)]);
      for (size_t i = 0; i < half; ++i) {
        const float angle = position * rope.inv_freq[i];
        table.cos[static_cast<size_t>(t) * half + i] = std::cos(angle) * rope.attention_factor;
        table.sin[static_cast<size_t>(t) * half + i] = std::sin(angle) * rope.attention_factor;
      }
    }
  }
}

void StepRunner::execute(const AttentionOp& op) {
  const TilePlan* plan = nullptr;
  for (const TilePlan& p : *step.tile_plans) {
    if (p.num_heads == op.num_heads && p.num_kv_heads == op.num_kv_heads && p.causal == op.causal) plan = &p;
  }
  share_out(tokens * op.num_kv_heads, kEvenParts, [&](int begin, int end) { rotate_and_store(op, begin, end); });
  if (plan->items.empty()) attend_whole_tiles(op, *plan);
  else attend_chunks(op, *plan);
  ++attention_index;
  look_ahead();
}

// The keys and values that this thread's tiles of the next attention read, for the products before it.
void StepRunner::look_ahead() {
  // One tile that fetches has to fetch all, as fast as memory yields while it computes; more than one may take their time.
  constexpr int kOneFetches = 18, kAllLines = 6, kSomeLines = 3;
  ahead = {};
  if (!step.ranges_ahead || attention_index >= executor.attention_caches_.size()) return;
  ahead.base = executor.caches_[static_cast<size_t>(executor.attention_caches_[attention_index])];
  ahead.left = (*step.ranges_ahead)[static_cast<size_t>(thread)];
  ahead.lines_per_call = tokens <= kOneFetches ? kAllLines : kSomeLines;
}

// Items are (kv head, token): norm, rotate and cache the key, cache the value, prepare the queries that read them.
void StepRunner::rotate_and_store(const AttentionOp& op, int begin, int end) {
  const CacheShape& shape = executor.cache_shapes_[static_cast<size_t>(op.cache)];
  const Rope* rope = op.rope >= 0 ? &executor.program_.ropes[static_cast<size_t>(op.rope)] : nullptr;
  const size_t half = rope ? rope->inv_freq.size() : 0;
  int32_t* first_key = executor.key_limits_.data();
  int32_t* last_key = first_key + static_cast<size_t>(tokens) * static_cast<size_t>(op.num_heads);

  // In place: each head is read once, by what follows here.
  const auto turn = [&](float* x, const Norm& norm, int t) -> const float* {
    if (norm.weight) kernels.rms_norm(x, norm.weight, norm.eps, op.key_dim, x);
    if (rope) {
      const auto& table = executor.rope_tables_[static_cast<size_t>(op.rope)];
      const size_t at = static_cast<size_t>(t) * half;
      kernels.rope(x + op.rope_offset, table.cos.data() + at, table.sin.data() + at, static_cast<int>(2 * half), rope->interleaved);
    }
    return x;
  };

  for_each_head_block(op.num_heads, op.num_kv_heads, [&](int kv_head, int first_head, int num_heads) {
    const bool first_block = first_head == kv_head * (op.num_heads / op.num_kv_heads);
    const int first_item = kv_head * tokens;
    for (int t = std::max(0, begin - first_item); t < std::min(tokens, end - first_item); ++t) {
      const int position = batch.positions[static_cast<size_t>(t)];
      if (first_block) {
        const size_t sequence = static_cast<size_t>(executor.sequence_of_token_[static_cast<size_t>(t)]);
        const int block = batch.block_tables[sequence * static_cast<size_t>(batch.max_blocks) + static_cast<size_t>(position / kBlockTokens)];
        const CacheBlock target = shape.block(executor.caches_[static_cast<size_t>(op.cache)], kv_head, block);
        const float* key = turn(row(op.key, t) + kv_head * op.key_dim, op.key_norm, t);
        if (shape.key_dim != op.key_dim) {
          float* padded = scratch.row.data();
          std::copy(key, key + op.key_dim, padded);
          std::fill(padded + op.key_dim, padded + shape.key_dim, 0.0f);
          key = padded;
        }
        kernels.store_kv(shape, target, position % kBlockTokens, key, row(op.value, t) + kv_head * op.value_dim, op.value_dim);
      }
      for (int h = first_head; h < first_head + num_heads; ++h) {
        const size_t at = static_cast<size_t>(first_head) * static_cast<size_t>(tokens) + static_cast<size_t>(t * num_heads + h - first_head);
        const float* query = turn(row(op.query, t) + h * op.key_dim, op.query_norm, t);
        kernels.store_query(shape.type, query, op.key_dim, shape.key_dim, op.scale * kLog2e,
                            executor.queries_.data() + at * shape.query_bytes());
        first_key[at] = op.window > 0 ? std::max(0, position + 1 - op.window) : 0;
        last_key[at] = op.causal ? position + 1 : batch.context_lens[static_cast<size_t>(executor.sequence_of_token_[static_cast<size_t>(t)])];
      }
    }
  });
}

// The partial results of one chunk for all rows of a tile: m, l [rows], o [rows][stored value_dim].
void StepRunner::attend(const AttentionOp& op, const Tile& tile, int chunk, const Tile* next, int next_chunk, float* m, float* l, float* o) {
  const CacheShape& shape = executor.cache_shapes_[static_cast<size_t>(op.cache)];
  const size_t all_rows = static_cast<size_t>(tokens) * static_cast<size_t>(op.num_heads);
  AttentionArgs args;
  args.shape = &shape;
  args.layer = executor.caches_[static_cast<size_t>(op.cache)];
  args.blocks = batch.block_tables.data() + static_cast<size_t>(tile.sequence) * static_cast<size_t>(batch.max_blocks);
  args.kv_head = tile.kv_head;
  args.chunk_begin = chunk * kChunkKeys;
  args.num_rows = tile.num_tokens * tile.num_heads;
  args.first_key = executor.key_limits_.data() + tile.first_row;
  args.last_key = args.first_key + all_rows;
  args.chunk_end = std::min(args.chunk_begin + kChunkKeys, args.last_key[args.num_rows - 1]);
  args.queries = executor.queries_.data() + static_cast<size_t>(tile.first_row) * shape.query_bytes();
  args.m = m;
  args.l = l;
  args.o = o;
  args.scores = scratch.scores.data();
  if (next) {
    const int first = next_chunk * kSpanBlocks, blocks = blocks_of(batch.context_lens[static_cast<size_t>(next->sequence)]);
    args.next_blocks = batch.block_tables.data() + static_cast<size_t>(next->sequence) * static_cast<size_t>(batch.max_blocks) + first;
    args.num_next_blocks = std::min(kSpanBlocks, blocks - first);
    args.next_kv_head = next->kv_head;
  }
  if (args.first_key[0] >= args.chunk_end) {  // wholly outside the window
    std::fill(m, m + args.num_rows, -std::numeric_limits<float>::infinity());
    return;
  }
  kernels.attention_chunk(args);
}

void StepRunner::write_out(const AttentionOp& op, const Tile& tile, int r, float l, const float* o) {
  const int token = tile.first_token + r / tile.num_heads, head = tile.first_head + r % tile.num_heads;
  float* out = row(op.out, token) + head * op.value_dim;
  const float inverse = 1.0f / l;
  for (int i = 0; i < op.value_dim; ++i) out[i] = o[i] * inverse;
}

// Enough tiles for all threads: each walks its chunks in order and keeps a running result.
void StepRunner::attend_whole_tiles(const AttentionOp& op, const TilePlan& plan) {
  const int value_dim = executor.cache_shapes_[static_cast<size_t>(op.cache)].value_dim;
  const int count = static_cast<int>(plan.tiles.size());
  share_out(count, Phase::kChunksPerThread, [&](int begin, int end) {
    // The part that this thread takes next is mostly the one behind this.
    for (int i = begin; i < end; ++i) attend_tile(op, plan.tiles[static_cast<size_t>(i)], i + 1 < count ? &plan.tiles[static_cast<size_t>(i + 1)] : nullptr, value_dim);
  });
}

void StepRunner::attend_tile(const AttentionOp& op, const Tile& tile, const Tile* next, int value_dim) {
  float* m = scratch.partial.data();
  float* l = m + kMaxTileRows;
  float* next_m = l + kMaxTileRows;
  float* next_l = next_m + kMaxTileRows;
  float* o = next_l + kMaxTileRows;
  float* next_o = o + static_cast<size_t>(kMaxTileRows) * static_cast<size_t>(value_dim);
  const int rows = tile.num_tokens * tile.num_heads;
  const auto run = [&](int c, float* to_m, float* to_l, float* to_o) {
    const bool last = c + 1 == tile.chunk_end;
    attend(op, tile, c, last ? next : &tile, last ? 0 : c + 1, to_m, to_l, to_o);
  };
  run(0, m, l, o);
  for (int c = 1; c < tile.chunk_end; ++c) {
    run(c, next_m, next_l, next_o);
    for (int i = 0; i < rows; ++i) {
      float* acc = o + static_cast<size_t>(i) * static_cast<size_t>(value_dim);
      const float* next = next_o + static_cast<size_t>(i) * static_cast<size_t>(value_dim);
      if (m[i] != -std::numeric_limits<float>::infinity()) {
        merge(m[i], l[i], acc, next_m[i], next_l[i], next, value_dim);
        continue;
      }
      m[i] = next_m[i];
      l[i] = next_l[i];
      if (std::isfinite(next_m[i])) std::copy(next, next + value_dim, acc);
    }
  }
  for (int i = 0; i < rows; ++i) write_out(op, tile, i, l[i], o + static_cast<size_t>(i) * static_cast<size_t>(value_dim));
}

// Few tiles, long contexts: chunks run in parallel, then rows merge them in ascending order.
void StepRunner::attend_chunks(const AttentionOp& op, const TilePlan& plan) {
  const size_t value_dim = static_cast<size_t>(executor.cache_shapes_[static_cast<size_t>(op.cache)].value_dim);
  // Looked up within chunks: when a late thread comes by, the next step may be making room for more.
  const auto all_m = [&] { return executor.partials_.data(); };
  const auto all_l = [&] { return all_m() + plan.num_partials; };
  const auto all_o = [&] { return all_l() + plan.num_partials; };
  share_out(static_cast<int>(plan.items.size()), Phase::kChunksPerThread, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) {
      const auto [index, chunk] = plan.items[static_cast<size_t>(i)];
      const Tile& tile = plan.tiles[static_cast<size_t>(index)];
      const size_t at = static_cast<size_t>(tile.first_partial + chunk * tile.num_tokens * tile.num_heads);
      attend(op, tile, chunk, nullptr, 0, all_m() + at, all_l() + at, all_o() + at * value_dim);
    }
  });
  share_out(static_cast<int>(plan.tiles.size()), 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) merge_chunks(op, plan.tiles[static_cast<size_t>(i)], all_m(), all_l(), all_o(), value_dim);
  });
}

// The rows of a tile over all its chunks, ascending; the first one with keys is where a row's result gathers.
void StepRunner::merge_chunks(const AttentionOp& op, const Tile& tile, float* all_m, float* all_l, float* all_o, size_t value_dim) {
  const int rows = tile.num_tokens * tile.num_heads;
  for (int i = 0; i < rows; ++i) {
    float* m = nullptr;
    float* l = nullptr;
    float* o = nullptr;
    for (int c = 0; c < tile.chunk_end; ++c) {
      const size_t at = static_cast<size_t>(tile.first_partial + c * rows + i);
      if (!m || *m == -std::numeric_limits<float>::infinity()) {
        m = all_m + at;
        l = all_l + at;
        o = all_o + at * value_dim;
      } else {
        merge(*m, *l, o, all_m[at], all_l[at], all_o + at * value_dim, static_cast<int>(value_dim));
      }
    }
    write_out(op, tile, i, *l, o);
  }
}

}  // namespace glm
