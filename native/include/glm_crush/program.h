// A program as the executor runs it: operations over float32 buffers, weights resolved to memory.
// The Python twin with the meaning of every field is src/glm_crush/kernels/program.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "glm_crush/kernels.h"

namespace glm {

struct View {
  int buffer = 0;
  int offset = 0;
  int width = 0;
};

struct Norm {
  const float* weight = nullptr;  // null: no norm
  float eps = 0.0f;
};

// A packed linear weight; `cols` is padded, `in_columns` is not.
struct Matrix {
  Format format = Format::f32;
  int rows = 0;
  int in_columns = 0;
  int cols = 0;
  int panels = 0;  // even
  int experts = 1;
  const uint8_t* data = nullptr;
  size_t panel_stride = 0;
  size_t expert_stride = 0;
};

struct Rope {
  std::vector<float> inv_freq;
  bool interleaved = false;
  float attention_factor = 1.0f;
};

struct EmbedOp { Matrix table; View out; float scale; bool zero_first; };  // zero_first: position 0 gets zeros
struct EmbedPositionsOp { View out; const float* positions; int num_positions, offset; const float* types; int num_types; };  // types null: none
struct LayerNormOp { View input; const float* weight; const float* bias; float eps; View out; };
struct RmsNormOp { View input; Norm norm; View out; };
struct AddNormOp { View input; Norm norm; View out; };
struct LinearOp { View input; Norm norm; Matrix weight; const float* bias; View out; Epilogue epilogue; };
struct HeadLinearOp { View input; Matrix weight; View out; int num_heads, input_stride, out_stride; };
struct CopyHeadsOp { View input, out; int num_heads, input_stride, out_stride, width; };
struct AttentionOp {
  View query, key, value, out;
  int cache, num_heads, num_kv_heads, key_dim, value_dim;
  float scale;
  int rope, rope_offset;  // rope -1: none
  Norm query_norm, key_norm;
  int window;  // 0: none
  bool causal;
};
struct MoeOp {
  View input, out;
  Norm norm;
  const float* router;
  const float* router_bias;
  Matrix gate_up, down;
  int num_experts, top_k, intermediate_size;
  bool sigmoid, normalize;
  float scale;
  int n_group, topk_group;
  Epilogue activation;
};
struct LogitsOp { View input; Norm norm; Matrix weight; int vocab_size; float scale, softcap; const float* bias; };  // softcap 0: none
struct PoolOp { View input, out; };
struct OutputOp { View input; bool normalize; };

using Op = std::variant<EmbedOp, EmbedPositionsOp, LayerNormOp, RmsNormOp, AddNormOp, LinearOp, HeadLinearOp, CopyHeadsOp, AttentionOp, MoeOp, PoolOp, OutputOp,
                        LogitsOp>;

struct CacheLayer {
  int num_kv_heads, key_dim, value_dim;
};

struct Program {
  int vocab_size = 0;
  int output_size = 0;  // columns of what a step returns
  int max_position = 0;
  bool keeps_hidden = false;  // the residual stream of every token outlives the step
  int hidden_input = -1;      // buffer that the caller fills before a step
  std::vector<int> buffers;
  std::vector<Rope> ropes;
  std::vector<CacheLayer> caches;
  std::vector<Op> ops;
};

}  // namespace glm
