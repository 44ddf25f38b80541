// Drawing a token without sorting the vocabulary.
//
// One pass finds the largest logit of every block of 32 tokens. The k-th largest of these block
// maxima is a lower bound of the k-th largest logit, so the likeliest tokens are gathered from the
// few blocks above a bound and only they are sorted. Candidates come in bands, each a few times
// larger than the one before, until the mass, the rank or the weight a filter asks for is reached;
// in practice the first band is almost always enough.
#include "glm_crush/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "glm_crush/philox.h"

namespace glm {
namespace {

constexpr int kBlock = kVocabularyBlock;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowestTemperature = 1e-30f;
constexpr int kFirstBand = 32;
constexpr int kBandGrowth = 8;
constexpr size_t kRadixSortFrom = 1024;

// A candidate as one integer: sorting ascending gives descending logits, ties by ascending id.
uint64_t make_key(float logit, int id) {
  const uint32_t bits = std::bit_cast<uint32_t>(logit + 0.0f);  // -0 becomes +0: equal logits are ties
  const uint32_t ascending = bits ^ ((bits >> 31) ? 0xffffffffu : 0x80000000u);
  return (uint64_t{~ascending} << 32) | static_cast<uint32_t>(id);
}

int key_id(uint64_t key) { return static_cast<int>(key & 0xffffffffu); }

float key_logit(uint64_t key) {
  const uint32_t ascending = ~static_cast<uint32_t>(key >> 32);
  return std::bit_cast<float>(ascending ^ ((ascending >> 31) ? 0x80000000u : 0xffffffffu));
}

// Stable byte sort of the logit half; ids are ascending on entry, so ties stay in id order.
void radix_sort(std::vector<uint64_t>& keys, size_t first, std::vector<uint64_t>& other) {
  constexpr int kBits = 11, kBuckets = 1 << kBits;
  const size_t count = keys.size() - first;
  other.resize(count);
  uint64_t* from = keys.data() + first;
  uint64_t* to = other.data();
  for (int shift = 32; shift < 64; shift += kBits) {
    uint32_t start[kBuckets + 1] = {};
    for (size_t i = 0; i < count; ++i) ++start[((from[i] >> shift) & (kBuckets - 1)) + 1];
    std::partial_sum(start, start + kBuckets + 1, start);
    for (size_t i = 0; i < count; ++i) to[start[(from[i] >> shift) & (kBuckets - 1)]++] = from[i];
    std::swap(from, to);
  }
  if (from != keys.data() + first) std::copy(from, from + count, to);
}

int first_index_of(const float* x, int size, float value, const std::vector<float>& block_max) {
  const auto block = std::find(block_max.begin(), block_max.end(), value) - block_max.begin();
  return static_cast<int>(std::find(x + block * kBlock, x + size, value) - x);
}

// The tokens of one row from the likeliest down with their weights exp((logit - max) / temperature),
// found band by band as they are asked for.
class Candidates {
 public:
  // `scratch.block_max` holds the block maxima of `logits`. No more than `limit` tokens are offered.
  Candidates(const float* logits, int size, float max, float inverse_temperature, size_t limit, SamplerScratch& scratch)
      : logits_(logits), size_(size), max_(max), inverse_temperature_(inverse_temperature), limit_(limit), scratch_(scratch) {
    scratch_.keys.clear();
    scratch_.weights.clear();
  }

  // True if there is a candidate of this rank whose weight did not vanish.
  bool has(size_t rank) {
    if (rank >= limit_) return false;
    while (rank >= drawable_ && drawable_ == scratch_.keys.size() && !exhausted_) grow(kFirstBand);
    return rank < drawable_;
  }

  // Hint that `count` candidates will be needed: they then come in one band.
  void reserve(size_t count) { grow(static_cast<int>(std::min<size_t>(count, size_))); }

  double weight(size_t rank) const { return scratch_.weights[rank]; }
  int id(size_t rank) const { return key_id(scratch_.keys[rank]); }
  float logit(size_t rank) const { return key_logit(scratch_.keys[rank]); }

 private:
  void grow(int at_least) {
    const size_t first = scratch_.keys.size();
    const float lower = lower_bound_of_rank(next_rank(at_least));
    exhausted_ = lower == -kInfinity;
    gather(lower);
    upper_ = lower;
    if (scratch_.keys.size() - first >= kRadixSortFrom)
      radix_sort(scratch_.keys, first, scratch_.sorting);
    else
      std::sort(scratch_.keys.begin() + static_cast<std::ptrdiff_t>(first), scratch_.keys.end());
    for (size_t rank = first; rank < scratch_.keys.size(); ++rank) {
      const float exponent = (logit(rank) - max_) * inverse_temperature_;
      scratch_.weights.push_back(exponent >= kLowestExponent ? std::exp(static_cast<double>(exponent)) : 0.0);
      if (exponent >= kLowestExponent) drawable_ = rank + 1;
    }
  }

  // Rank the next band reaches at least. The block maxima can tell up to their number; three quarters of
  // that is the last band before all that is left.
  int next_rank(int at_least) {
    const int last_band = static_cast<int>(scratch_.block_max.size() * 3 / 4);
    const int rank = std::max(at_least, rank_ * kBandGrowth);
    return rank_ = rank <= last_band || rank_ >= last_band || at_least > last_band ? rank : last_band;
  }

  // A logit that at least `rank` logits reach; -infinity where the block maxima cannot tell.
  float lower_bound_of_rank(int rank) {
    auto& selection = scratch_.selection;
    if (static_cast<size_t>(rank) > scratch_.block_max.size()) return -kInfinity;
    selection = scratch_.block_max;
    std::nth_element(selection.begin(), selection.begin() + rank - 1, selection.end(), std::greater<float>());
    return selection[rank - 1];
  }

  // Adds the tokens with lower <= logit < upper_ in id order.
  void gather(float lower) {
    for (size_t block = 0; block < scratch_.block_max.size(); ++block) {
      if (!(scratch_.block_max[block] >= lower)) continue;
      const int begin = static_cast<int>(block) * kBlock;
      for (int id = begin; id < std::min(size_, begin + kBlock); ++id)
        if (logits_[id] >= lower && logits_[id] < upper_ && logits_[id] > -kInfinity)
          scratch_.keys.push_back(make_key(logits_[id], id));
    }
  }

  const float* logits_;
  int size_;
  float max_, inverse_temperature_;
  size_t limit_;
  SamplerScratch& scratch_;
  float upper_ = kInfinity;  // tokens below this are still to come
  size_t drawable_ = 0;      // candidates whose weight did not vanish
  int rank_ = 0;             // rank the bands so far reach
  bool exhausted_ = false;
};

// Penalties, bias and mask on a copy; the row itself when there are none.
const float* adjust(const float* logits, int size, const SampleRow& row, SamplerScratch& scratch) {
  if (row.num_history == 0 && row.num_bias == 0 && row.allowed_mask == nullptr) return logits;
  scratch.adjusted.assign(logits, logits + size);
  float* x = scratch.adjusted.data();
  for (int i = 0; i < row.num_history; ++i) {
    float& logit = x[row.history_ids[i]];
    logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    const auto count = static_cast<float>(row.history_counts[i]);
    if (count > 0.0f) logit -= row.presence_penalty + row.frequency_penalty * count;
  }
  for (int i = 0; i < row.num_bias; ++i) x[row.bias_ids[i]] += row.bias_values[i];
  for (int begin = 0; row.allowed_mask != nullptr && begin < size; begin += 32) {
    const uint32_t allowed = row.allowed_mask[begin / 32];
    if (allowed == 0xffffffffu) continue;
    if (allowed == 0) std::fill(x + begin, x + std::min(size, begin + 32), -kInfinity);
    for (int i = 0; allowed != 0 && i < std::min(32, size - begin); ++i)
      if (!((allowed >> i) & 1u)) x[begin + i] = -kInfinity;
  }
  return x;
}

// Locally typical sampling (Meister et al. 2022): of the first `count` candidates keep those whose
// surprise is nearest to the entropy, up to a mass of `typical_p`; the others get weight 0.
void keep_typical(size_t count, double typical_p, SamplerScratch& scratch) {
  auto& weights = scratch.weights;
  const double total = std::accumulate(weights.begin(), weights.begin() + static_cast<std::ptrdiff_t>(count), 0.0);
  scratch.distances.resize(count);
  scratch.order.resize(count);
  double entropy = 0.0;
  for (size_t i = 0; i < count; ++i) {
    scratch.distances[i] = -std::log(weights[i] / total);
    entropy += weights[i] / total * scratch.distances[i];
  }
  for (double& distance : scratch.distances) distance = std::fabs(distance - entropy);
  std::iota(scratch.order.begin(), scratch.order.end(), 0);
  std::stable_sort(scratch.order.begin(), scratch.order.end(),
                   [&](int32_t a, int32_t b) { return scratch.distances[a] < scratch.distances[b]; });
  double before = 0.0;
  for (const int32_t rank : scratch.order) {
    const double mass = weights[rank] / total;
    if (before >= typical_p) weights[rank] = 0.0;
    before += mass;
  }
}

// First candidate of rank < count at which the running sum of the weights reaches `target`.
int walk(Candidates& candidates, size_t count, double target) {
  double sum = 0.0;
  int last = -1;
  for (size_t rank = 0; rank < count && candidates.has(rank); ++rank) {
    if (candidates.weight(rank) == 0.0) continue;
    last = candidates.id(rank);
    sum += candidates.weight(rank);
    if (sum >= target) break;
  }
  return last;  // also when the total was rounded up and the sum never gets there
}

int draw(const KernelTable& kernels, const float* x, int size, float max, const SampleRow& row, SamplerScratch& scratch) {
  const float inverse_temperature = 1.0f / std::max(row.temperature, kLowestTemperature);
  size_t count = row.top_k > 0 ? static_cast<size_t>(row.top_k) : static_cast<size_t>(size);
  const bool whole_vocabulary = count >= static_cast<size_t>(size);
  Candidates candidates(x, size, max, inverse_temperature, count, scratch);
  const auto total_of_first = [&](size_t end) {
    double sum = 0.0;
    for (size_t rank = 0; rank < end && candidates.has(rank); ++rank) sum += candidates.weight(rank);
    return sum;
  };
  if (!whole_vocabulary) candidates.reserve(count);

  const double u = philox_uniform(row.seed, row.counter);
  const bool filtered = row.top_p < 1.0f || row.min_p > 0.0f || row.typical_p < 1.0f;
  if (row.top_p < 1.0f || !filtered) {
    const double total =
        whole_vocabulary ? kernels.exp_sum(x, size, max, inverse_temperature, scratch.block_max.data()) : total_of_first(count);
    if (!filtered) return walk(candidates, count, u * total);
    size_t kept = 0;
    for (double before = 0.0; kept < count && candidates.has(kept) && before < row.top_p * total; ++kept)
      before += candidates.weight(kept);
    count = kept;
  }
  if (row.min_p > 0.0f) {
    const double least = std::min(row.min_p, 1.0f);
    size_t kept = 0;
    while (kept < count && candidates.has(kept) && candidates.weight(kept) >= least) ++kept;
    count = kept;
  }
  if (row.typical_p < 1.0f) {
    if (count == static_cast<size_t>(size)) candidates.reserve(count);
    size_t kept = 0;
    while (kept < count && candidates.has(kept)) ++kept;
    keep_typical(count = kept, row.typical_p, scratch);
  }
  return walk(candidates, count, u * total_of_first(count));
}

void report_logprobs(const KernelTable& kernels, const float* logits, int size, float max, const SampleRow& row, SamplerScratch& scratch,
                     SampledToken& out) {
  const double log_sum = max + std::log(kernels.exp_sum(logits, size, max, 1.0f, scratch.block_max.data()));
  out.logprob = static_cast<float>(logits[out.token_id] - log_sum);
  if (row.num_logprobs == 0) return;
  const auto wanted = static_cast<size_t>(row.num_logprobs);
  Candidates candidates(logits, size, max, 1.0f, wanted, scratch);
  candidates.reserve(wanted);
  for (size_t rank = 0; rank < std::min(wanted, scratch.keys.size()); ++rank) {
    out.top_ids[rank] = candidates.id(rank);
    out.top_logprobs[rank] = static_cast<float>(candidates.logit(rank) - log_sum);
  }
}

}  // namespace

void sample_row(const KernelTable& kernels, const float* logits, int vocab_size, const SampleRow& row, SamplerScratch& scratch,
                SampledToken& out) {
  out.token_id = -1;
  out.logprob = std::numeric_limits<float>::quiet_NaN();
  for (int i = 0; i < row.num_logprobs; ++i) {
    out.top_ids[i] = -1;
    out.top_logprobs[i] = -kInfinity;
  }
  const float* x = adjust(logits, vocab_size, row, scratch);
  scratch.block_max.resize(static_cast<size_t>((vocab_size + kBlock - 1) / kBlock));
  float max = kernels.block_maxima(x, vocab_size, scratch.block_max.data());
  if (max == -kInfinity) return;
  if (row.temperature == 0.0f || max == kInfinity)
    out.token_id = first_index_of(x, vocab_size, max, scratch.block_max);
  else
    out.token_id = draw(kernels, x, vocab_size, max, row, scratch);
  if (row.num_logprobs < 0) return;
  if (x != logits) max = kernels.block_maxima(logits, vocab_size, scratch.block_max.data());
  report_logprobs(kernels, logits, vocab_size, max, row, scratch, out);
}

}  // namespace glm
