// What attention has to do in a step, decided before its threads begin: tiles of queries, and what is fetched ahead of them.
#include <algorithm>

#include "step_runner.h"

namespace glm {

// Tiles for every distinct attention shape of the program, and where their tokens belong.
std::shared_ptr<const std::vector<TilePlan>> Executor::plan_attention(const Batch& batch) {
  for (size_t s = 0; s + 1 < batch.query_start.size(); ++s) {
    for (int t = batch.query_start[s]; t < batch.query_start[s + 1]; ++t) sequence_of_token_[static_cast<size_t>(t)] = static_cast<int>(s);
  }
  auto plans = std::make_shared<std::vector<TilePlan>>();
  for (const Op& op : program_.ops) {
    const auto* attention = std::get_if<AttentionOp>(&op);
    if (!attention) continue;
    const auto matches = [&](const TilePlan& p) { return p.num_heads == attention->num_heads && p.num_kv_heads == attention->num_kv_heads && p.causal == attention->causal; };
    auto plan = std::find_if(plans->begin(), plans->end(), matches);
    if (plan == plans->end()) {
      plan = plans->insert(plan, TilePlan{attention->num_heads, attention->num_kv_heads, attention->causal, {}, {}, 0});
      plan_tiles(batch, *plan);
    }
    const size_t row_floats = static_cast<size_t>(round_up(attention->value_dim, 16) + 2);
    partials_.resize(std::max(partials_.size(), static_cast<size_t>(plan->num_partials) * row_floats));
  }
  return plans;
}

void Executor::plan_tiles(const Batch& batch, TilePlan& plan) const {
  constexpr int kTileRows = 24;  // divisible by the row counts the kernels like best
  const int tokens = static_cast<int>(batch.token_ids.size());
  int total_chunks = 0;
  for (size_t s = 0; s + 1 < batch.query_start.size(); ++s) {
    const int begin = batch.query_start[s], end = batch.query_start[s + 1];
    for_each_head_block(plan.num_heads, plan.num_kv_heads, [&](int kv_head, int first_head, int num_heads) {
      const int step = std::max(1, kTileRows / num_heads);
      for (int t = begin; t < end; t += step) {
        const int count = std::min(step, end - t);
        const int keys = plan.causal ? batch.positions[static_cast<size_t>(t + count - 1)] + 1 : batch.context_lens[s];
        const int chunks = (keys + kChunkKeys - 1) / kChunkKeys;
        plan.tiles.push_back({static_cast<int>(s), kv_head, first_head, num_heads, t, count, first_head * tokens + t * num_heads, 0, chunks, plan.num_partials});
        plan.num_partials += chunks * count * num_heads;
        total_chunks += chunks;
      }
    });
  }
  const int tiles = static_cast<int>(plan.tiles.size());
  const bool split = tiles < 4 * options_.num_threads && total_chunks > tiles;
  if (!split) {
    plan.num_partials = 0;
    return;
  }
  for (int i = 0; i < tiles; ++i) {
    for (int c = 0; c < plan.tiles[static_cast<size_t>(i)].chunk_end; ++c) plan.items.emplace_back(i, c);
  }
  // All heads of a chunk before the next chunk: that is how the cache lies.
  std::stable_sort(plan.items.begin(), plan.items.end(), [&](const auto& a, const auto& b) {
    const int first = plan.tiles[static_cast<size_t>(a.first)].sequence, second = plan.tiles[static_cast<size_t>(b.first)].sequence;
    return first != second ? first < second : a.second < b.second;
  });
}

// The ranges are the same in every layer: those of the first attention stand for all.
std::shared_ptr<const RangesAhead> Executor::find_ranges_ahead(const Batch& batch, const TilePlan& plan) const {
  constexpr size_t kFewestTokens = 13;            // fewer are bound by the weights' way from memory themselves
  constexpr size_t kMostBytes = size_t{6} << 20;  // more would drive each other out of the cache
  if (batch.token_ids.size() < kFewestTokens || !plan.items.empty()) return nullptr;
  const auto cache = static_cast<size_t>(attention_caches_.front());
  const CacheShape& shape = cache_shapes_[cache];
  uint8_t* layer = caches_[cache];
  const auto threads = static_cast<size_t>(options_.num_threads);
  auto all = std::make_shared<RangesAhead>(threads);
  for (size_t thread = 0; thread < threads; ++thread) {
    auto& ranges = (*all)[thread];
    const auto add = [&](const uint8_t* at, size_t bytes) {
      const auto offset = static_cast<size_t>(at - layer);
      if (!ranges.empty() && ranges.back().offset + ranges.back().bytes == offset) ranges.back().bytes += bytes;
      else ranges.push_back({offset, bytes});
    };
    size_t total = 0;
    int sequence = -1, kv_head = -1;
    for (size_t i = plan.tiles.size() * thread / threads; i < plan.tiles.size() * (thread + 1) / threads && total < kMostBytes; ++i) {
      const Tile& tile = plan.tiles[i];
      if (tile.sequence == sequence && tile.kv_head == kv_head) continue;
      sequence = tile.sequence;
      kv_head = tile.kv_head;
      const int32_t* blocks = batch.block_tables.data() + static_cast<size_t>(sequence) * static_cast<size_t>(batch.max_blocks);
      const int num_blocks = blocks_of(batch.context_lens[static_cast<size_t>(sequence)]);
      for (int begin = 0; begin < num_blocks; begin += kSpanBlocks) {  // a chunk's keys, then its values
        const int end = std::min(num_blocks, begin + kSpanBlocks);
        for (int b = begin; b < end; ++b) add(shape.block(layer, kv_head, blocks[b]).keys, shape.key_bytes() + shape.scale_bytes());
        for (int b = begin; b < end; ++b) add(shape.block(layer, kv_head, blocks[b]).values, shape.value_bytes());
      }
      total += static_cast<size_t>(num_blocks) * (shape.key_bytes() + shape.scale_bytes() + shape.value_bytes());
    }
  }
  return all;
}

}  // namespace glm
