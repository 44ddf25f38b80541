// Sampling at the Python boundary: reads a SampleBatch, for the executor and for drawing from given logits.
#include "bindings.h"

#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "glm_crush/sampler.h"

namespace nb = nanobind;
using namespace glm;

namespace {

template <typename T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Table = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using OutVector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using OutTable = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Rows of ids in one array: row r owns [start[r], start[r + 1]).
void check_ids(const char* name, const int32_t* start, size_t rows, const int32_t* ids, size_t size, int vocab) {
  for (size_t r = 0; r < rows; ++r) {
    if (start[r] < 0 || start[r + 1] < start[r] || static_cast<size_t>(start[r + 1]) > size) {
      throw std::invalid_argument(std::string(name) + "_start does not ascend within " + std::to_string(size) + " ids");
    }
  }
  for (size_t i = 0; i < size; ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) throw std::invalid_argument(std::string(name) + "_ids holds " + std::to_string(ids[i]) + "; the vocabulary has " + std::to_string(vocab));
  }
}

}  // namespace

// Sampling rows over the arrays of a SampleBatch; sizes and ids checked, since the sampler trusts them.
std::vector<SampleRow> read_sample_rows(nb::handle b, std::vector<nb::object>& keep, int vocab) {
  const size_t count = nb::len(nb::object(b.attr("temperature")));
  size_t last_size = 0;
  const auto array = [&]<typename T>(const char* name, T) -> const T* {
    nb::object value = b.attr(name);
    keep.push_back(value);
    auto data = nb::cast<Vector<T>>(value);
    last_size = data.size();
    const std::string_view field = name;
    const bool flat = field.ends_with("_ids") || field.ends_with("_counts") || field.ends_with("_values");
    const size_t expected = field.ends_with("_start") ? count + 1 : count;
    if (!flat && last_size != expected) {
      throw std::invalid_argument(std::string(name) + " has " + std::to_string(last_size) + " entries; the batch has " + std::to_string(expected));
    }
    return data.data();
  };
  const auto* temperature = array("temperature", 0.0f);
  const auto* top_k = array("top_k", int32_t{});
  const auto *top_p = array("top_p", 0.0f), *min_p = array("min_p", 0.0f), *typical_p = array("typical_p", 0.0f);
  const auto* repetition = array("repetition_penalty", 0.0f);
  const auto *presence = array("presence_penalty", 0.0f), *frequency = array("frequency_penalty", 0.0f);
  const auto *seed = array("seed", uint64_t{}), *counter = array("counter", uint64_t{});
  const auto* num_logprobs = array("num_logprobs", int32_t{});
  const auto *history_start = array("history_start", int32_t{}), *history_ids = array("history_ids", int32_t{});
  const size_t history_size = last_size;
  check_ids("history", history_start, count, history_ids, history_size, vocab);
  const auto* history_counts = array("history_counts", int32_t{});
  if (last_size != history_size) throw std::invalid_argument("history_counts and history_ids differ in length");
  const auto *bias_start = array("bias_start", int32_t{}), *bias_ids = array("bias_ids", int32_t{});
  const size_t bias_size = last_size;
  check_ids("bias", bias_start, count, bias_ids, bias_size, vocab);
  const auto* bias_values = array("bias_values", 0.0f);
  if (last_size != bias_size) throw std::invalid_argument("bias_values and bias_ids differ in length");
  const uint32_t* mask = nullptr;
  size_t mask_words = 0;
  if (nb::object m = b.attr("allowed_mask"); !m.is_none()) {
    auto table = nb::cast<Table<uint32_t>>(m);
    keep.push_back(m);
    mask = table.data();
    mask_words = table.shape(1);
    if (table.shape(0) != count || mask_words != (static_cast<size_t>(vocab) + 31) / 32) throw std::invalid_argument("allowed_mask must be [rows, ceil(vocab / 32)]");
  }
  std::vector<SampleRow> rows(count);
  for (size_t r = 0; r < rows.size(); ++r) {
    const int history = history_start[r], bias = bias_start[r];
    rows[r] = {temperature[r], top_k[r], top_p[r], min_p[r], typical_p[r], repetition[r], presence[r], frequency[r], seed[r], counter[r], num_logprobs[r],
               history_ids + history, history_counts + history, history_start[r + 1] - history,
               bias_ids + bias, bias_values + bias, bias_start[r + 1] - bias, mask ? mask + r * mask_words : nullptr};
  }
  return rows;
}

namespace {

// Draws from logits [R, vocab]; token_ids, logprobs [R] and top_* [R, K] are written.
void sample(Table<float> logits, nb::handle batch, OutVector<int32_t> token_ids, OutVector<float> logprobs, OutTable<int32_t> top_ids, OutTable<float> top_logprobs) {
  std::vector<nb::object> keep;
  const size_t vocab = logits.shape(1);
  const std::vector<SampleRow> rows = read_sample_rows(batch, keep, static_cast<int>(vocab));
  if (rows.size() != logits.shape(0)) {
    throw std::invalid_argument("logits has " + std::to_string(logits.shape(0)) + " rows; the batch has " + std::to_string(rows.size()));
  }
  const KernelTable& kernels = select_kernels(nullptr);
  nb::gil_scoped_release release;
  SamplerScratch scratch;
  for (size_t r = 0; r < rows.size(); ++r) {
    SampledToken token;
    token.top_ids = top_ids.data() + r * top_ids.shape(1);
    token.top_logprobs = top_logprobs.data() + r * top_logprobs.shape(1);
    sample_row(kernels, logits.data() + r * vocab, static_cast<int>(vocab), rows[r], scratch, token);
    token_ids.data()[r] = token.token_id;
    logprobs.data()[r] = token.logprob;
  }
}

}  // namespace

void bind_sampling(nb::module_& m) {
  m.def("sample", &sample, nb::arg("logits"), nb::arg("batch"), nb::arg("token_ids"), nb::arg("logprobs"), nb::arg("top_ids"), nb::arg("top_logprobs"));
}
