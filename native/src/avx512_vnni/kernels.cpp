// AVX-512 with VNNI and BF16 (Zen 4 and later, Cooper Lake and later).
#include <array>
#include <type_traits>
#include <utility>

#include "../generic/layer_norm.h"
#include "../generic/vocabulary_scan.h"
#include "attention_int8.h"
#include "matmul.h"
#include "prepare.h"

namespace glm {

const KernelTable* avx512_vnni_kernels() {
  static constexpr KernelTable table = {
      .name = "avx512_vnni",
      .matmul = {matmul<Format::q4>, matmul<Format::q4a>, matmul<Format::q8g>, matmul<Format::q8>, matmul<Format::bf16>, matmul<Format::f32>},
      .prepare_row = {prepare_integer_row_wide<Format::q4>, prepare_integer_row_wide<Format::q4a>, prepare_integer_row_wide<Format::q8g>,
                      prepare_integer_row_wide<Format::q8>, prepare_bf16_row_wide, prepare_f32_row},
      .lookup_row = {lookup_row<Format::q4>, lookup_row<Format::q4a>, lookup_row<Format::q8g>, lookup_row<Format::q8>,
                     lookup_row<Format::bf16>, lookup_row<Format::f32>},
      .rms_norm = rms_norm,
      .layer_norm = layer_norm,
      .rope = rope,
      .store_kv = store_kv_wide,
      .store_query = store_query_wide,
      .attention_chunk = attention_chunk_wide,
      .dot_rows = dot_rows,
      .block_maxima = block_maxima,
      .exp_sum = exp_sum,
  };
  const bool runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") &&
                    __builtin_cpu_supports("avx512vbmi");
  return runs ? &table : nullptr;
}

}  // namespace glm
