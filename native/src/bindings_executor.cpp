// The executor at the Python boundary: reads the Program dataclasses once, checks every array, releases the GIL.
#include "bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <string_view>

#include "glm_crush/executor.h"

namespace nb = nanobind;
using namespace glm;

namespace {

template <typename T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Table = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

int integer(nb::handle object, const char* name) { return nb::cast<int>(object.attr(name)); }
float number(nb::handle object, const char* name) { return nb::cast<float>(object.attr(name)); }

CacheType cache_type(const std::string& name) {
  if (name == "bf16") return CacheType::bf16;
  if (name == "f32") return CacheType::f32;
  if (name == "int8") return CacheType::int8;
  throw std::invalid_argument("kv_dtype is '" + name + "'; give bf16, int8 or f32");
}

// Turns the Program dataclasses into operations; keeps the Python arrays that own the weights alive.
class ProgramReader {
 public:
  ProgramReader(nb::handle packed, nb::list& owners) : packed_(packed), owners_(owners) {}

  Program read(nb::handle source) {
    Program program;
    program.vocab_size = integer(source, "vocab_size");
    program.output_size = integer(source, "output_size");
    program.max_position = integer(source, "max_position");
    program.keeps_hidden = nb::cast<bool>(source.attr("keeps_hidden"));
    nb::object hidden_input = source.attr("hidden_input");
    program.hidden_input = hidden_input.is_none() ? -1 : nb::cast<int>(hidden_input);
    for (nb::handle width : source.attr("buffers")) program.buffers.push_back(nb::cast<int>(width));
    for (nb::handle r : source.attr("ropes")) {
      program.ropes.push_back({nb::cast<std::vector<float>>(nb::list(r.attr("inv_freq"))), nb::cast<bool>(r.attr("interleaved")), number(r, "attention_factor")});
    }
    for (nb::handle c : source.attr("caches")) {
      program.caches.push_back({integer(c, "num_kv_heads"), integer(c, "key_dim"), integer(c, "value_dim")});
    }
    for (nb::handle op : source.attr("ops")) program.ops.push_back(read_op(op, program));
    return program;
  }

 private:
  static View view(nb::handle owner, const char* name) {
    nb::object v = owner.attr(name);
    return {integer(v, "buffer"), integer(v, "offset"), integer(v, "width")};
  }

  const float* vector(const std::string& name, size_t size) {
    nb::object array = packed_.attr("vector")(name);
    auto data = nb::cast<nb::ndarray<const float, nb::c_contig, nb::device::cpu>>(array);
    if (data.size() != size) {
      throw std::invalid_argument("vector '" + name + "' has " + std::to_string(data.size()) + " values; the program needs " + std::to_string(size));
    }
    owners_.append(array);
    return data.data();
  }

  const float* optional_vector(nb::handle owner, const char* field, size_t size) {
    nb::object name = owner.attr(field);
    return name.is_none() ? nullptr : vector(nb::cast<std::string>(name), size);
  }

  const float* required_vector(nb::handle owner, const char* field, size_t size) {
    return vector(nb::cast<std::string>(owner.attr(field)), size);
  }

  Norm norm(nb::handle owner, const char* field, int width) {
    nb::object source = owner.attr(field);
    if (source.is_none()) return {};
    return {vector(nb::cast<std::string>(source.attr("weight")), static_cast<size_t>(width)), number(source, "eps")};
  }

  Matrix matrix(nb::handle owner, const char* field, int rows, int cols, int experts = 1) {
    const std::string name = nb::cast<std::string>(owner.attr(field));
    nb::object tensor = packed_.attr("tensor")(name);
    auto data = nb::cast<Vector<uint8_t>>(tensor.attr("data"));
    Matrix m;
    m.format = format(nb::cast<std::string>(tensor.attr("format")), name);
    m.rows = integer(tensor, "rows");
    m.in_columns = integer(tensor, "cols");
    m.experts = integer(tensor, "experts");
    if (m.rows != rows || m.in_columns != cols || m.experts != experts) {
      const auto shape = [](int e, int r, int c) { return "[" + std::to_string(e) + ", " + std::to_string(r) + ", " + std::to_string(c) + "]"; };
      throw std::invalid_argument("weight '" + name + "' is " + shape(m.experts, m.rows, m.in_columns) + "; the program needs " + shape(experts, rows, cols));
    }
    m.cols = (m.in_columns + kBlockColumns - 1) / kBlockColumns * kBlockColumns;
    m.panels = (m.rows + 2 * kPanelRows - 1) / (2 * kPanelRows) * 2;
    m.panel_stride = panel_bytes(m.format, m.cols);
    m.expert_stride = m.panel_stride * static_cast<size_t>(m.panels);
    m.data = data.data();
    const size_t bytes = m.expert_stride * static_cast<size_t>(m.experts);
    if (data.size() != bytes || reinterpret_cast<uintptr_t>(m.data) % 64 != 0) {
      throw std::invalid_argument("weight '" + name + "' has " + std::to_string(data.size()) + " bytes; its layout needs " + std::to_string(bytes) + ", 64-byte aligned");
    }
    owners_.append(tensor);
    return m;
  }

  static Format format(const std::string& name, const std::string& tensor) {
    static constexpr const char* kNames[] = {"q4", "q4a", "q8g", "q8", "bf16", "f32"};
    for (int i = 0; i < kNumFormats; ++i) {
      if (name == kNames[i]) return static_cast<Format>(i);
    }
    throw std::invalid_argument("weight '" + tensor + "' has unknown format '" + name + "'");
  }

  static Epilogue activation(nb::handle op) {
    const std::string name = nb::cast<std::string>(op.attr("activation"));
    if (name == "silu_gate") return Epilogue::silu_gate;
    if (name == "gelu_gate") return Epilogue::gelu_gate;
    if (name == "gelu") return Epilogue::gelu;
    if (name == "tanh") return Epilogue::tanh;
    if (name == "none") return Epilogue::store;
    throw std::invalid_argument("activation '" + name + "' is unknown; known: none, silu_gate, gelu_gate, gelu, tanh");
  }

  static int gated_rows(int intermediate) { return 2 * ((intermediate + kPanelRows - 1) / kPanelRows) * kPanelRows; }

  Op read_op(nb::handle op, const Program& program) {
    const std::string kind = nb::cast<std::string>(op.type().attr("__name__"));
    if (kind == "Embed") {
      const View out = view(op, "out");
      return EmbedOp{matrix(op, "table", program.vocab_size, out.width), out, number(op, "scale"), nb::cast<bool>(op.attr("zero_first"))};
    }
    if (kind == "RmsNorm") {
      const View input = view(op, "input");
      return RmsNormOp{input, norm(op, "norm", input.width), view(op, "out")};
    }
    if (kind == "AddNorm") {
      const View input = view(op, "input");
      return AddNormOp{input, norm(op, "norm", input.width), view(op, "out")};
    }
    if (kind == "Linear") return read_linear(op);
    if (kind == "HeadLinear") return read_head_linear(op);
    if (kind == "CopyHeads") {
      return CopyHeadsOp{view(op, "input"), view(op, "out"), integer(op, "num_heads"), integer(op, "input_stride"), integer(op, "out_stride"), integer(op, "width")};
    }
    if (kind == "Attention") return read_attention(op, program);
    if (kind == "MixtureOfExperts") return read_moe(op);
    if (kind == "Logits") {
      const View input = view(op, "input");
      nb::object softcap = op.attr("softcap");
      const int vocab = integer(op, "vocab_size");
      return LogitsOp{input, norm(op, "norm", input.width), matrix(op, "weight", vocab, input.width), vocab, number(op, "scale"),
                      softcap.is_none() ? 0.0f : nb::cast<float>(softcap), optional_vector(op, "bias", static_cast<size_t>(vocab))};
    }
    if (kind == "EmbedPositions") return read_embed_positions(op);
    if (kind == "LayerNorm") {
      const View input = view(op, "input");
      const auto width = static_cast<size_t>(input.width);
      return LayerNormOp{input, required_vector(op, "weight", width), required_vector(op, "bias", width), number(op, "eps"), view(op, "out")};
    }
    if (kind == "Pool") return PoolOp{view(op, "input"), view(op, "out")};
    if (kind == "Output") return OutputOp{view(op, "input"), nb::cast<bool>(op.attr("normalize"))};
    throw std::invalid_argument("operation '" + kind + "' is unknown to this executor");
  }

  Op read_embed_positions(nb::handle op) {
    EmbedPositionsOp e{view(op, "out"), nullptr, integer(op, "num_positions"), integer(op, "offset"), nullptr, integer(op, "num_types")};
    const auto width = static_cast<size_t>(e.out.width);
    e.positions = required_vector(op, "positions", static_cast<size_t>(e.num_positions) * width);
    e.types = optional_vector(op, "types", static_cast<size_t>(e.num_types) * width);
    return e;
  }

  Op read_linear(nb::handle op) {
    const View input = view(op, "input"), out = view(op, "out");
    Epilogue epilogue = activation(op);
    const bool gated = epilogue == Epilogue::silu_gate || epilogue == Epilogue::gelu_gate;
    if (nb::cast<bool>(op.attr("accumulate"))) {
      if (epilogue != Epilogue::store) throw std::invalid_argument("a Linear with an activation cannot accumulate");
      epilogue = Epilogue::add;
    }
    const int rows = gated ? gated_rows(out.width) : out.width;
    return LinearOp{input, norm(op, "norm", input.width), matrix(op, "weight", rows, input.width),
                    optional_vector(op, "bias", static_cast<size_t>(out.width)), out, epilogue};
  }

  Op read_head_linear(nb::handle op) {
    const int heads = integer(op, "num_heads");
    nb::object tensor = packed_.attr("tensor")(op.attr("weight"));
    return HeadLinearOp{view(op, "input"), matrix(op, "weight", integer(tensor, "rows"), integer(tensor, "cols"), heads), view(op, "out"), heads,
                        integer(op, "input_stride"), integer(op, "out_stride")};
  }

  Op read_attention(nb::handle op, const Program& program) {
    AttentionOp a{};
    a.query = view(op, "query");
    a.key = view(op, "key");
    a.value = view(op, "value");
    a.out = view(op, "out");
    a.cache = integer(op, "cache");
    const CacheLayer& cache = program.caches.at(static_cast<size_t>(a.cache));
    a.num_heads = integer(op, "num_heads");
    a.num_kv_heads = cache.num_kv_heads;
    a.key_dim = cache.key_dim;
    a.value_dim = cache.value_dim;
    if (a.num_heads % a.num_kv_heads != 0 || a.query.width != a.num_heads * a.key_dim || a.out.width != a.num_heads * a.value_dim) {
      throw std::invalid_argument("attention heads and widths disagree with cache " + std::to_string(a.cache));
    }
    a.scale = number(op, "scale");
    nb::object rope = op.attr("rope");
    a.rope = rope.is_none() ? -1 : nb::cast<int>(rope);
    a.rope_offset = integer(op, "rope_offset");
    a.query_norm = norm(op, "query_norm", a.key_dim);
    a.key_norm = norm(op, "key_norm", a.key_dim);
    nb::object window = op.attr("window");
    a.window = window.is_none() ? 0 : nb::cast<int>(window);
    a.causal = nb::cast<bool>(op.attr("causal"));
    return a;
  }

  Op read_moe(nb::handle op) {
    MoeOp m{};
    m.input = view(op, "input");
    m.out = view(op, "out");
    m.norm = norm(op, "norm", m.input.width);
    m.num_experts = integer(op, "num_experts");
    m.top_k = integer(op, "top_k");
    m.intermediate_size = integer(op, "intermediate_size");
    m.router = vector(nb::cast<std::string>(op.attr("router")), static_cast<size_t>(m.num_experts) * static_cast<size_t>(m.input.width));
    m.router_bias = optional_vector(op, "router_bias", static_cast<size_t>(m.num_experts));
    m.gate_up = matrix(op, "gate_up", gated_rows(m.intermediate_size), m.input.width, m.num_experts);
    m.down = matrix(op, "down", m.out.width, m.intermediate_size, m.num_experts);
    m.sigmoid = nb::cast<std::string>(op.attr("scoring")) == "sigmoid";
    m.normalize = nb::cast<bool>(op.attr("normalize"));
    m.scale = number(op, "scale");
    m.n_group = integer(op, "n_group");
    m.topk_group = integer(op, "topk_group");
    m.activation = activation(op);
    return m;
  }

  nb::handle packed_;
  nb::list& owners_;
};

class PyExecutor {
 public:
  PyExecutor(nb::handle program, nb::handle packed, int num_threads, int num_blocks, int max_tokens, const std::string& kv_dtype, std::optional<std::string> kernels,
             uint32_t last_step) {
    ExecutorOptions options;
    options.num_threads = num_threads;
    options.max_tokens = max_tokens;
    options.num_blocks = num_blocks;
    options.cache_type = cache_type(kv_dtype);
    options.last_step = last_step;
    options.kernels = &select_kernels(kernels ? kernels->c_str() : nullptr);
    executor_ = std::make_unique<Executor>(ProgramReader(packed, owners_).read(program), options);
  }

  // logits [R, vocab] is written; sample_batch may be None, else token_ids, logprobs [R] and top_* [R, K] are written.
  void forward(nb::handle batch, Logits logits, nb::handle sample_batch, std::optional<nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig>> token_ids,
               std::optional<nb::ndarray<float, nb::ndim<1>, nb::c_contig>> logprobs, std::optional<nb::ndarray<int32_t, nb::ndim<2>, nb::c_contig>> top_ids,
               std::optional<nb::ndarray<float, nb::ndim<2>, nb::c_contig>> top_logprobs) {
    std::vector<nb::object> keep;
    const Batch b = read_batch(batch, keep);
    check_logits(logits, b);
    std::vector<SampleRow> rows;
    std::vector<SampledToken> sampled;
    if (!sample_batch.is_none()) {
      rows = read_sample_rows(sample_batch, keep, executor_->program().vocab_size);
      sampled.resize(rows.size());
      for (size_t r = 0; r < rows.size(); ++r) {
        if (rows[r].num_logprobs > static_cast<int>(top_ids->shape(1))) throw std::invalid_argument("top_ids is narrower than num_logprobs");
        sampled[r].top_ids = top_ids->data() + r * top_ids->shape(1);
        sampled[r].top_logprobs = top_logprobs->data() + r * top_logprobs->shape(1);
      }
    }
    {
      nb::gil_scoped_release release;
      executor_->forward(b, logits.data(), rows, sampled);
    }
    for (size_t r = 0; r < sampled.size(); ++r) {
      token_ids->data()[r] = sampled[r].token_id;
      logprobs->data()[r] = sampled[r].logprob;
    }
  }

  // drawn [num_steps, S] is written; logits [S, vocab] is work space.
  void decode(nb::handle batch, Logits logits, nb::handle sample_batch, nb::ndarray<int32_t, nb::ndim<2>, nb::c_contig> drawn) {
    std::vector<nb::object> keep;
    const Batch b = read_batch(batch, keep);
    check_logits(logits, b);
    std::vector<SampleRow> rows = read_sample_rows(sample_batch, keep, executor_->program().vocab_size);
    nb::gil_scoped_release release;
    executor_->decode(b, static_cast<int>(drawn.shape(0)), logits.data(), rows, {drawn.data(), drawn.size()});
  }

  void copy_blocks(Vector<int32_t> sources, Vector<int32_t> targets) {
    nb::gil_scoped_release release;
    executor_->copy_blocks({sources.data(), sources.size()}, {targets.data(), targets.size()});
  }

  // data: [blocks, block_bytes], written by the first and read by the second.
  void read_blocks(Vector<int32_t> blocks, Bytes data) { over_blocks(blocks, data, [&](auto ids) { executor_->read_blocks(ids, data.data()); }); }
  void write_blocks(Vector<int32_t> blocks, Table<uint8_t> data) { over_blocks(blocks, data, [&](auto ids) { executor_->write_blocks(ids, data.data()); }); }

  // parts: (operation, a [rank, columns], b [rows, rank]), float32; copied.
  void load_adapter(int slot, nb::list parts) {
    std::vector<AdapterPart> read;
    std::vector<Table<float>> keep;
    for (nb::handle part : parts) {
      const auto a = keep.emplace_back(nb::cast<Table<float>>(part[1])), b = keep.emplace_back(nb::cast<Table<float>>(part[2]));
      if (a.shape(0) != b.shape(1)) throw std::invalid_argument("an adapter's matrices differ in rank");
      read.push_back({nb::cast<size_t>(part[0]), static_cast<int>(a.shape(0)), static_cast<int>(b.shape(0)), static_cast<int>(a.shape(1)), a.data(), b.data()});
    }
    nb::gil_scoped_release release;
    executor_->load_adapter(slot, read);
  }

  void unload_adapter(int slot) { executor_->unload_adapter(slot); }

  void read_hidden(Logits out) const { executor_->read_hidden(out.shape(0), out.shape(1), out.data()); }
  void write_hidden(Table<float> values) { executor_->write_hidden(values.shape(0), values.shape(1), values.data()); }

  const Executor& get() const { return *executor_; }

 private:
  // The arrays of a ForwardBatch, which `keep` holds alive.
  static Batch read_batch(nb::handle batch, std::vector<nb::object>& keep) {
    const auto span = [&](const char* name) {
      nb::object array = batch.attr(name);
      keep.push_back(array);
      auto data = nb::cast<Vector<int32_t>>(array);
      return std::span<const int32_t>(data.data(), data.size());
    };
    Batch b;
    b.token_ids = span("token_ids");
    b.positions = span("positions");
    b.query_start = span("query_start");
    b.context_lens = span("context_lens");
    b.logit_rows = span("logit_rows");
    if (!nb::object(batch.attr("token_types")).is_none()) b.token_types = span("token_types");
    if (!nb::object(batch.attr("adapter_ids")).is_none()) b.adapter_ids = span("adapter_ids");
    nb::object tables = batch.attr("block_tables");
    keep.push_back(tables);
    auto table = nb::cast<Table<int32_t>>(tables);
    b.block_tables = {table.data(), table.size()};
    b.max_blocks = static_cast<int>(table.shape(1));
    return b;
  }

  void check_logits(const Logits& logits, const Batch& b) const {
    if (logits.shape(0) < b.logit_rows.size() || logits.shape(1) != static_cast<size_t>(executor_->program().output_size)) {
      throw std::invalid_argument("logits must be [" + std::to_string(b.logit_rows.size()) + ", " + std::to_string(executor_->program().output_size) + "]");
    }
  }

  void over_blocks(const Vector<int32_t>& blocks, const auto& data, auto visit) const {
    if (data.shape(0) != blocks.size() || data.shape(1) != executor_->block_bytes()) throw std::invalid_argument("data must be [blocks, block_bytes]");
    nb::gil_scoped_release release;
    visit(std::span<const int32_t>(blocks.data(), blocks.size()));
  }

  nb::list owners_;
  std::unique_ptr<Executor> executor_;
};

}  // namespace

void bind_executor(nb::module_& m) {
  nb::class_<PyExecutor>(m, "Executor")
      .def(nb::init<nb::handle, nb::handle, int, int, int, const std::string&, std::optional<std::string>, uint32_t>(), nb::arg("program"), nb::arg("packed"), nb::kw_only(),
           nb::arg("num_threads"), nb::arg("num_blocks"), nb::arg("max_tokens"), nb::arg("kv_dtype"), nb::arg("kernels").none(), nb::arg("last_step") = 0)
      .def("forward", &PyExecutor::forward, nb::arg("batch"), nb::arg("logits"), nb::arg("sample_batch").none(), nb::arg("token_ids").none(), nb::arg("logprobs").none(),
           nb::arg("top_ids").none(), nb::arg("top_logprobs").none())
      .def("decode", &PyExecutor::decode, nb::arg("batch"), nb::arg("logits"), nb::arg("sample_batch"), nb::arg("drawn"))
      .def("read_hidden", &PyExecutor::read_hidden, nb::arg("out"))
      .def("write_hidden", &PyExecutor::write_hidden, nb::arg("values"))
      .def("load_adapter", &PyExecutor::load_adapter, nb::arg("slot"), nb::arg("parts"))
      .def("unload_adapter", &PyExecutor::unload_adapter, nb::arg("slot"))
      .def("copy_blocks", &PyExecutor::copy_blocks, nb::arg("sources"), nb::arg("targets"))
      .def("read_blocks", &PyExecutor::read_blocks, nb::arg("blocks"), nb::arg("data"))
      .def("write_blocks", &PyExecutor::write_blocks, nb::arg("blocks"), nb::arg("data"))
      .def_prop_ro("block_bytes", [](const PyExecutor& e) { return e.get().block_bytes(); })
      .def_prop_ro("kernels", [](const PyExecutor& e) { return e.get().kernels_name(); })
      .def_prop_ro("num_threads", [](const PyExecutor& e) { return e.get().num_threads(); })
      .def_prop_ro("cache_bytes", [](const PyExecutor& e) { return e.get().cache_bytes(); })
      .def_prop_ro("scratch_bytes", [](const PyExecutor& e) { return e.get().scratch_bytes(); });
}
