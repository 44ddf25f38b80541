// The kernel table: every operation that has one version per instruction set.
//
// Numerics contract, the same for every variant. What one token row gets never depends on the number of
// rows, on tiling, on threads or on which rows share the call (batched = alone, bit for bit):
//   * integer formats: activations are block floating point: per row a scale `s`, per group of 32 columns a
//     power of two `f_g` (2^0 .. 2^15) and int8 values q; x ~ s * f_g * q. Per output row r and group g
//       i_g   = sum_k w_int[r,k] * q[k] - zero * sum_k q[k]           exact in int32
//       q4, q8g:  acc = fma(float(i_g), ws[r,g] * f_g, acc)           g ascending; ws * f_g is exact
//       q4a:      additionally, after it, acc = fma(min[r,g], sum_g, acc)   sum_g = f_g * sum_k q[k]
//       q8:       acc = fma(float(i_g), f_g, acc)
//     and y = acc * s (q8: y = acc * (s * ws[r])). zero is 8 for q4, 0 for q4a, 128 for q8g and q8.
//   * bf16 and f32: one accumulator per output row, k ascending (bf16: pairs of k per step).
//   * then y += bias[r], and the epilogue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace glm {

enum class Format : int { q4 = 0, q4a, q8g, q8, bf16, f32 };
inline constexpr int kNumFormats = 6;
inline constexpr int kPanelRows = 16;
inline constexpr int kGroup = 32;       // columns that share a weight scale and an activation exponent
inline constexpr int kBlockColumns = 64;  // columns are padded to a multiple of this

// Bytes of one 16-row panel of `cols` (padded) columns.
constexpr size_t panel_bytes(Format format, int cols) {
  const size_t blocks = static_cast<size_t>(cols) / kBlockColumns;
  switch (format) {
    case Format::q4: return blocks * 576;
    case Format::q4a: return blocks * 640;
    case Format::q8g: return blocks * 1088;
    case Format::q8: return 64 + blocks * 1024;
    case Format::bf16: return blocks * 2048;
    case Format::f32: return static_cast<size_t>(cols) * 64;  // whole blocks in weights; adapters have fewer columns
  }
  return 0;
}

// Activations of many tokens, prepared for one weight format. Row t starts at t * stride elements
// (stride: padded columns), its groups at t * group_stride. Only the fields of the format are set.
struct Rows {
  int8_t* q = nullptr;       // integer formats: values, zero in the padding
  float* scale = nullptr;    // [rows], s
  int32_t* init = nullptr;   // per group: -zero * sum_k q[k], where the int32 accumulator starts
  float* factor = nullptr;   // per group: f_g
  float* sum = nullptr;      // per group: f_g * sum_k q[k] (q4a only)
  uint16_t* bf16 = nullptr;  // bf16 format
  float* f32 = nullptr;      // f32 format
  size_t stride = 0;
  size_t group_stride = 0;
};

// What a thread reads after its matrix products, fetched into its cache meanwhile: a product whose weights are in the
// cache leaves the memory idle. Changes no result; a kernel that does not call it is only slower.
struct FetchAhead {
  struct Range { size_t offset, bytes; };  // whole cache lines

  const uint8_t* base = nullptr;
  std::span<const Range> left;
  int lines_per_call = 0;  // a call comes with each group of columns of a tile
  const uint8_t* next = nullptr;  // of the range at hand
  const uint8_t* end = nullptr;

  void fetch() {
    for (int i = 0; i < lines_per_call; ++i, next += 64) {
      if (next == end) {
        if (left.empty()) return;
        next = base + left.front().offset;
        end = next + left.front().bytes;
        left = left.subspan(1);
      }
      __builtin_prefetch(next, 0, 2);
    }
  }
};

enum class Epilogue : int { store = 0, add, silu_gate, gelu_gate, gelu, tanh };

// y[out_rows[t], r] (epilogue)= row_weight[t] * (a[in_rows[t]] . w[r]) + bias[r]
// for tokens t in [0, num_tokens) and the rows of panels [panel_begin, panel_end), always whole pairs of panels.
// gelu (exact) and tanh: out = f(y). Gated epilogues: panel 2i is gate rows, 2i+1 up rows; output column 16i+j gets act(gate) * up.
struct MatmulArgs {
  const uint8_t* panels = nullptr;  // panel 0 of this matrix
  int cols = 0;                     // padded
  int out_columns = 0;              // logical output width: columns at or beyond it are not written
  int panel_begin = 0;
  int panel_end = 0;
  Rows a;
  int num_tokens = 0;
  const int32_t* in_rows = nullptr;   // null: identity
  const int32_t* out_rows = nullptr;  // null: identity
  const float* row_weight = nullptr;  // null: 1; multiplies y before it is added (epilogue add only)
  float* out = nullptr;
  size_t out_stride = 0;
  const float* bias = nullptr;  // [out_columns] or null; not with gated epilogues
  Epilogue epilogue = Epilogue::store;
  // LoRA: row addend_rows[t] (-1: nothing) of addends is added to the sums of token t, 16 a panel, before all of the above.
  const float* addends = nullptr;  // null: nothing to any token
  size_t addend_stride = 0;
  const int32_t* addend_rows = nullptr;
  FetchAhead* ahead = nullptr;  // null: nothing
};

// Keys are taken in fixed chunks at multiples of this position; each gives a partial (max, sum, output), and
// partials merge in ascending order, so a row's result does not depend on how the work was split.
inline constexpr int kChunkKeys = 256;
inline constexpr int kMaxTileRows = 32;

// Paged key/value cache of one layer. A block holds 16 tokens; per block and kv head there are:
//   bf16: keys [key_dim/2][16 tokens][2] then values [8 token pairs][value_dim][2]
//   f32:  keys [key_dim][16 tokens]      then values [16 tokens][value_dim]
//   int8: keys [key_dim/4][16 tokens][4] as code + 128, values [4 token quads][value_dim][4], then bfloat16 scales
//         [key groups][16 tokens] and [value groups][16 tokens]; x ~ scale * code, one scale per token and group of
//         kCacheGroup dimensions; whole groups of keys are rotated by a Hadamard matrix
// key_dim is padded to a multiple of 4, value_dim to a multiple of 16, scales to 64 bytes.
// Blocks lie in spans of as many as a chunk of keys has: [span][kv head], there the keys (and scales) of all blocks, then
// their values. Where a sequence has consecutive blocks, a thread reads one stream, which the processor fetches ahead
// at twice the speed of many small pieces. Spans of all layers lie side by side: a page that is touched for the first time
// is cleared then, 2 MB, and one for each layer at once would hold up a step by 150 ms.
inline constexpr int kBlockTokens = 16;
inline constexpr int kSpanBlocks = kChunkKeys / kBlockTokens;
inline constexpr int kCacheGroup = 64;
enum class CacheType : int { bf16 = 0, f32, int8 };
struct CacheBlock {  // one block of one kv head
  uint8_t* keys;
  uint8_t* values;
  uint8_t* scales;
};
struct CacheShape {
  CacheType type;
  int num_kv_heads;
  int key_dim;    // as stored: multiple of 4
  int value_dim;  // as stored: multiple of 16
  size_t span_stride = span_bytes();  // from a span of the layer to its next: other layers' may lie between them
  size_t element_bytes() const { return type == CacheType::int8 ? 1 : type == CacheType::bf16 ? 2 : 4; }
  size_t key_bytes() const { return static_cast<size_t>(key_dim) * kBlockTokens * element_bytes(); }
  size_t value_bytes() const { return static_cast<size_t>(value_dim) * kBlockTokens * element_bytes(); }
  int key_groups() const { return (key_dim + kCacheGroup - 1) / kCacheGroup; }      // int8
  int value_groups() const { return (value_dim + kCacheGroup - 1) / kCacheGroup; }  // int8
  size_t scale_bytes() const {
    return type == CacheType::int8 ? (static_cast<size_t>(key_groups() + value_groups()) * kBlockTokens * 2 + 63) / 64 * 64 : 0;
  }
  // A prepared query: bf16 or float like the cache; for int8 what the variant makes of it, floats or codes with scales.
  size_t query_bytes() const { return static_cast<size_t>(key_dim) * (type == CacheType::bf16 ? 2 : 4); }
  size_t head_bytes() const { return kSpanBlocks * (key_bytes() + value_bytes() + scale_bytes()); }  // in a span
  size_t span_bytes() const { return head_bytes() * static_cast<size_t>(num_kv_heads); }
  static size_t spans(int num_blocks) { return static_cast<size_t>((num_blocks + kSpanBlocks - 1) / kSpanBlocks); }
  // Inlined everywhere: a copy compiled for one processor must not be linked into what runs on all.
  [[gnu::always_inline]] CacheBlock block(uint8_t* layer, int kv_head, int index) const {
    const auto in_span = static_cast<size_t>(index % kSpanBlocks);
    uint8_t* head = layer + static_cast<size_t>(index / kSpanBlocks) * span_stride + static_cast<size_t>(kv_head) * head_bytes();
    uint8_t* keys = head + in_span * (key_bytes() + scale_bytes());
    uint8_t* values = head + kSpanBlocks * (key_bytes() + scale_bytes()) + in_span * value_bytes();
    return {keys, values, keys + key_bytes()};
  }
};

// The sampler skims a vocabulary in blocks of this many tokens; a token whose exponent is below the limit weighs 0.
inline constexpr int kVocabularyBlock = 32;
inline constexpr float kLowestExponent = -87.0f;

// One chunk of keys for up to kMaxTileRows query rows of one kv head.
//   score = q . k (the caller folds scale * log2(e) into q), masked to first_key <= key < last_key per row;
//   m = max score, p = 2^(score - m), l = sum p, o = sum p v. A row without keys gets m = -inf, l = 0, o = 0.
struct AttentionArgs {
  const CacheShape* shape = nullptr;
  uint8_t* layer = nullptr;              // first span of this layer; only read
  const int32_t* blocks = nullptr;       // block ids of the sequence, indexed by position / 16
  int kv_head = 0;
  int chunk_begin = 0;                   // absolute position, multiple of kChunkKeys
  int chunk_end = 0;                     // at most chunk_begin + kChunkKeys; keys in [chunk_begin, chunk_end) are looked at
  int num_rows = 0;
  const void* queries = nullptr;         // [num_rows], each query_bytes() long, written by store_query
  const int32_t* first_key = nullptr;    // [num_rows] absolute
  const int32_t* last_key = nullptr;     // [num_rows] absolute, exclusive
  float* m = nullptr;                    // [num_rows]
  float* l = nullptr;                    // [num_rows]
  float* o = nullptr;                    // [num_rows][value_dim]
  float* scores = nullptr;               // scratch [kMaxTileRows][kChunkKeys], 64-byte aligned
  const int32_t* next_blocks = nullptr;  // of the chunk that this thread looks at next, whose keys may be fetched; null: none
  int num_next_blocks = 0;
  int next_kv_head = 0;
};

struct KernelTable {
  const char* name;

  void (*matmul[kNumFormats])(const MatmulArgs&);

  // Write row `row` of `rows` from n floats for a weight format (zero padding up to rows.stride).
  void (*prepare_row[kNumFormats])(const float* x, int n, const Rows& rows, int row);

  // out[0..n) = row `row` of the packed matrix * scale.
  void (*lookup_row[kNumFormats])(const uint8_t* panels, int cols, int row, int n, float scale, float* out);

  // out = x / sqrt(mean(x^2) + eps) * weight; out may be x. Sixteen partial sums, then a fixed tree.
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);

  // out = (x - mean) / sqrt(variance + eps) * weight + bias; out may be x. Sums as in rms_norm.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int n, float* out);

  // Rotate `rotary_dim` values in place; cos, sin [rotary_dim / 2].
  void (*rope)(float* x, const float* cos, const float* sin, int rotary_dim, bool interleaved);

  // Write one token (slot = position % 16) of one kv head into its block.
  void (*store_kv)(const CacheShape&, const CacheBlock&, int slot, const float* key, const float* value, int value_dim);

  // q[0..key_dim) (times scale) as attention_chunk wants it; n values given, the rest zero.
  void (*store_query)(CacheType, const float* q, int n, int key_dim, float scale, void* out);

  void (*attention_chunk)(const AttentionArgs&);

  // out[i][r] = x[i] . w[r] (router scores among them), float32, sixteen partial sums then a fixed tree.
  void (*dot_rows)(const float* const* x, int num_x, const float* w, int num_rows, int n, float* const* out);

  // Largest logit of each block of kVocabularyBlock tokens into `maxima`; returns the largest of all. NaN counts
  // as -infinity.
  float (*block_maxima)(const float* logits, int size, float* maxima);

  // Sum of exp((logit - max) * inverse_temperature), float32 exp, double sum; `maxima` as above.
  double (*exp_sum)(const float* logits, int size, float max, float inverse_temperature, const float* maxima);
};

// Tables of the instruction sets this build contains; null when the CPU cannot run it.
const KernelTable* generic_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx2_vnni_kernels();
const KernelTable* avx512_vnni_kernels();

// The best table for this CPU, or the one named ("generic", "avx2", "avx2_vnni", "avx512_vnni").
// Throws std::invalid_argument when the name is unknown or the CPU lacks the instructions.
const KernelTable& select_kernels(const char* name_or_null);

}  // namespace glm
