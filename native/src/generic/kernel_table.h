// Fills a kernel table from the shared sources as the including folder's flags compile them.
#pragma once

#include "attention_int8.h"
#include "layer_norm.h"
#include "matmul.h"
#include "rows.h"
#include "vocabulary_scan.h"

namespace glm {
namespace {

constexpr KernelTable make_kernel_table(const char* name) {
  return {
      .name = name,
      .matmul = {integer_matmul<Format::q4>, integer_matmul<Format::q4a>, integer_matmul<Format::q8g>, integer_matmul<Format::q8>,
                 float_matmul<Format::bf16>, float_matmul<Format::f32>},
      .prepare_row = {prepare_integer_row<Format::q4>, prepare_integer_row<Format::q4a>, prepare_integer_row<Format::q8g>,
                      prepare_integer_row<Format::q8>, prepare_bf16_row, prepare_f32_row},
      .lookup_row = {lookup_row<Format::q4>, lookup_row<Format::q4a>, lookup_row<Format::q8g>, lookup_row<Format::q8>,
                     lookup_row<Format::bf16>, lookup_row<Format::f32>},
      .rms_norm = rms_norm,
      .layer_norm = layer_norm,
      .rope = rope,
      .store_kv = store_kv,
      .store_query = store_query,
      .attention_chunk = attention_chunk,
      .dot_rows = dot_rows,
      .block_maxima = block_maxima,
      .exp_sum = exp_sum,
  };
}

}  // namespace
}  // namespace glm
