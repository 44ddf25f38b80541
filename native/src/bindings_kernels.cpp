// Single kernels at the Python boundary, for the conformance tests (tests/conformance) alone: the engine never
// calls these. Each function runs one operation of the named variant on plain arrays.
#include "bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "glm_crush/kernels.h"
#include "glm_crush/memory.h"

namespace nb = nanobind;
using namespace glm;

namespace {

template <typename T>
using In1 = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using In2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using In3 = nb::ndarray<const T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out1 = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out2 = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

int index_of(const std::string& name, std::initializer_list<const char*> names) {
  int index = 0;
  for (const char* known : names) {
    if (name == known) return index;
    ++index;
  }
  throw std::invalid_argument("'" + name + "' is unknown");
}
int format_index(const std::string& name) { return index_of(name, {"q4", "q4a", "q8g", "q8", "bf16", "f32"}); }
CacheType cache_type(const std::string& name) { return static_cast<CacheType>(index_of(name, {"bf16", "f32", "int8"})); }

template <class Array>
int size(const Array& array, size_t dimension) { return static_cast<int>(array.shape(dimension)); }

template <class Array>
auto* data_or_null(const std::optional<Array>& array) { return array ? array->data() : nullptr; }

// Activations of every format, aligned as the executor's are.
struct PreparedRows {
  AlignedBuffer<int8_t> q;
  AlignedBuffer<float> scale, factor, sum, f32;
  AlignedBuffer<int32_t> init;
  AlignedBuffer<uint16_t> bf16;
  Rows rows;

  PreparedRows(const KernelTable& kernels, int format, const In2<float>& x, int cols) {
    const auto count = x.shape(0), columns = static_cast<size_t>(cols), groups = columns / kGroup;
    q = AlignedBuffer<int8_t>(count * columns);
    scale = AlignedBuffer<float>(count);
    factor = AlignedBuffer<float>(count * groups);
    sum = AlignedBuffer<float>(count * groups);
    init = AlignedBuffer<int32_t>(count * groups);
    bf16 = AlignedBuffer<uint16_t>(count * columns);
    f32 = AlignedBuffer<float>(count * columns);
    rows = {q.data(), scale.data(), init.data(), factor.data(), sum.data(), bf16.data(), f32.data(), columns, groups};
    for (size_t row = 0; row < count; ++row)
      kernels.prepare_row[format](x.data() + row * x.shape(1), size(x, 1), rows, static_cast<int>(row));
  }
};

// The rows as the kernels see them: float32 [T, cols].
void prepared(const std::string& variant, const std::string& format, In2<float> x, Out2<float> out) {
  const KernelTable& kernels = select_kernels(variant.c_str());
  const int index = format_index(format);
  const PreparedRows p(kernels, index, x, size(out, 1));
  const size_t cols = out.shape(1);
  for (size_t i = 0; i < out.shape(0) * cols; ++i) {
    if (format == "bf16") out.data()[i] = std::bit_cast<float>(static_cast<uint32_t>(p.bf16[i]) << 16);
    else if (format == "f32") out.data()[i] = p.f32[i];
    else out.data()[i] = static_cast<float>(p.q[i]) * p.scale[i / cols] * p.factor[i / kGroup];
  }
}

void matmul(const std::string& variant, const std::string& format, In1<uint8_t> panels, In2<float> x, Out2<float> out, int cols, int panel_begin, int panel_end,
            const std::string& epilogue, std::optional<In1<float>> bias, std::optional<In1<int32_t>> in_rows, std::optional<In1<int32_t>> out_rows,
            std::optional<In1<float>> row_weight) {
  const KernelTable& kernels = select_kernels(variant.c_str());
  const int index = format_index(format);
  if (static_cast<size_t>(panel_end) * panel_bytes(static_cast<Format>(index), cols) > panels.size()) throw std::invalid_argument("panels are too short");
  const PreparedRows p(kernels, index, x, cols);
  AlignedBuffer<uint8_t> weight(panels.size());
  std::memcpy(weight.data(), panels.data(), panels.size());
  MatmulArgs args;
  args.panels = weight.data();
  args.cols = cols;
  args.out_columns = size(out, 1);
  args.panel_begin = panel_begin;
  args.panel_end = panel_end;
  args.a = p.rows;
  args.num_tokens = in_rows ? size(*in_rows, 0) : size(x, 0);
  args.in_rows = data_or_null(in_rows);
  args.out_rows = data_or_null(out_rows);
  args.row_weight = data_or_null(row_weight);
  args.out = out.data();
  args.out_stride = out.shape(1);
  args.bias = data_or_null(bias);
  args.epilogue = static_cast<Epilogue>(index_of(epilogue, {"store", "add", "silu_gate", "gelu_gate", "gelu", "tanh"}));
  kernels.matmul[index](args);
}

void lookup_row(const std::string& variant, const std::string& format, In1<uint8_t> panels, int cols, int row, float scale, Out1<float> out) {
  select_kernels(variant.c_str()).lookup_row[format_index(format)](panels.data(), cols, row, size(out, 0), scale, out.data());
}

void rms_norm(const std::string& variant, In1<float> x, In1<float> weight, float eps, Out1<float> out) {
  select_kernels(variant.c_str()).rms_norm(x.data(), weight.data(), eps, size(x, 0), out.data());
}

void layer_norm(const std::string& variant, In1<float> x, In1<float> weight, In1<float> bias, float eps, Out1<float> out) {
  select_kernels(variant.c_str()).layer_norm(x.data(), weight.data(), bias.data(), eps, size(x, 0), out.data());
}

void rope(const std::string& variant, Out1<float> x, In1<float> cos, In1<float> sin, bool interleaved) {
  select_kernels(variant.c_str()).rope(x.data(), cos.data(), sin.data(), 2 * size(cos, 0), interleaved);
}

void dot_rows(const std::string& variant, In2<float> x, In2<float> w, Out2<float> out) {
  std::vector<const float*> from;
  std::vector<float*> to;
  for (size_t i = 0; i < x.shape(0); ++i) {
    from.push_back(x.data() + i * x.shape(1));
    to.push_back(out.data() + i * out.shape(1));
  }
  select_kernels(variant.c_str()).dot_rows(from.data(), size(x, 0), w.data(), size(w, 0), size(x, 1), to.data());
}

// The sampler's passes over a vocabulary: maxima of blocks, and the sum of exp((logit - max) * inverse_temperature).
double vocabulary_sum(const std::string& variant, In1<float> logits, float inverse_temperature, Out1<float> maxima) {
  const KernelTable& kernels = select_kernels(variant.c_str());
  const int count = size(logits, 0);
  if (size(maxima, 0) != (count + kVocabularyBlock - 1) / kVocabularyBlock) throw std::invalid_argument("maxima has the wrong size");
  const float max = kernels.block_maxima(logits.data(), count, maxima.data());
  return kernels.exp_sum(logits.data(), count, max, inverse_temperature, maxima.data());
}

// Writes keys [context, kv_heads, key_dim] and values to a cache whose block of position p is blocks[p / 16],
// then attends from queries [rows, key_dim] of one kv head; m, l [rows] and o [rows, stored value_dim] are written.
void attention(const std::string& variant, const std::string& kv_dtype, In3<float> keys, In3<float> values, In1<int32_t> blocks, int kv_head, In2<float> queries,
               float scale, In1<int32_t> first_key, In1<int32_t> last_key, int chunk_begin, int chunk_end, Out1<float> m, Out1<float> l, Out2<float> o) {
  const KernelTable& kernels = select_kernels(variant.c_str());
  CacheShape shape{cache_type(kv_dtype), size(keys, 1), (size(keys, 2) + 3) / 4 * 4, (size(values, 2) + 15) / 16 * 16};
  if (size(o, 1) != shape.value_dim || size(queries, 0) > kMaxTileRows) throw std::invalid_argument("o or queries have the wrong shape");
  int32_t num_blocks = 0;
  for (size_t i = 0; i < blocks.size(); ++i) num_blocks = std::max(num_blocks, blocks.data()[i] + 1);
  AlignedBuffer<uint8_t> layer(CacheShape::spans(num_blocks) * shape.span_bytes());
  std::memset(layer.data(), 0xff, layer.size());  // NaN wherever nothing was written
  std::vector<float> key(static_cast<size_t>(shape.key_dim));  // zero in the padding
  for (int position = 0; position < size(keys, 0); ++position)
    for (int head = 0; head < shape.num_kv_heads; ++head) {
      const size_t at = static_cast<size_t>(position) * keys.shape(1) + static_cast<size_t>(head);
      const CacheBlock block = shape.block(layer.data(), head, blocks.data()[position / kBlockTokens]);
      std::copy_n(keys.data() + at * keys.shape(2), keys.shape(2), key.data());
      kernels.store_kv(shape, block, position % kBlockTokens, key.data(), values.data() + at * values.shape(2), size(values, 2));
    }
  const size_t row_bytes = shape.query_bytes();
  AlignedBuffer<uint8_t> rows(queries.shape(0) * row_bytes);
  for (size_t row = 0; row < queries.shape(0); ++row)
    kernels.store_query(shape.type, queries.data() + row * queries.shape(1), size(queries, 1), shape.key_dim, scale, rows.data() + row * row_bytes);
  AlignedBuffer<float> scores(static_cast<size_t>(kMaxTileRows) * kChunkKeys);
  AttentionArgs args;
  args.shape = &shape;
  args.layer = layer.data();
  args.blocks = blocks.data();
  args.kv_head = kv_head;
  args.chunk_begin = chunk_begin;
  args.chunk_end = chunk_end;
  args.num_rows = size(queries, 0);
  args.queries = rows.data();
  args.first_key = first_key.data();
  args.last_key = last_key.data();
  args.m = m.data();
  args.l = l.data();
  args.o = o.data();
  args.scores = scores.data();
  kernels.attention_chunk(args);
}

std::vector<std::string> available() {
  std::vector<std::string> names;
  for (const char* name : {"generic", "avx2", "avx2_vnni", "avx512_vnni"}) {
    try {
      names.emplace_back(select_kernels(name).name);
    } catch (const std::invalid_argument&) {
      continue;  // this CPU or build does not have it: that is what is asked
    }
  }
  return names;
}

}  // namespace

void bind_kernels(nb::module_& m) {
  auto kernels = m.def_submodule("kernels", "Single kernels of each variant, for the conformance tests.");
  kernels.def("available", &available);
  kernels.def("prepared", &prepared, nb::arg("variant"), nb::arg("format"), nb::arg("x"), nb::arg("out"));
  kernels.def("matmul", &matmul, nb::arg("variant"), nb::arg("format"), nb::arg("panels"), nb::arg("x"), nb::arg("out"), nb::kw_only(), nb::arg("cols"),
              nb::arg("panel_begin"), nb::arg("panel_end"), nb::arg("epilogue") = "store", nb::arg("bias") = nb::none(), nb::arg("in_rows") = nb::none(),
              nb::arg("out_rows") = nb::none(), nb::arg("row_weight") = nb::none());
  kernels.def("lookup_row", &lookup_row, nb::arg("variant"), nb::arg("format"), nb::arg("panels"), nb::arg("cols"), nb::arg("row"), nb::arg("scale"), nb::arg("out"));
  kernels.def("rms_norm", &rms_norm, nb::arg("variant"), nb::arg("x"), nb::arg("weight"), nb::arg("eps"), nb::arg("out"));
  kernels.def("layer_norm", &layer_norm, nb::arg("variant"), nb::arg("x"), nb::arg("weight"), nb::arg("bias"), nb::arg("eps"), nb::arg("out"));
  kernels.def("rope", &rope, nb::arg("variant"), nb::arg("x"), nb::arg("cos"), nb::arg("sin"), nb::arg("interleaved"));
  kernels.def("dot_rows", &dot_rows, nb::arg("variant"), nb::arg("x"), nb::arg("w"), nb::arg("out"));
  kernels.def("vocabulary_sum", &vocabulary_sum, nb::arg("variant"), nb::arg("logits"), nb::arg("inverse_temperature"), nb::arg("maxima"));
  kernels.def("attention", &attention, nb::arg("variant"), nb::arg("kv_dtype"), nb::arg("keys"), nb::arg("values"), nb::arg("blocks"), nb::kw_only(), nb::arg("kv_head"),
              nb::arg("queries"), nb::arg("scale"), nb::arg("first_key"), nb::arg("last_key"), nb::arg("chunk_begin"), nb::arg("chunk_end"), nb::arg("m"), nb::arg("l"),
              nb::arg("o"));
}
