// Embedding, norms, projections and logits.
#include <cmath>
#include <cstring>

#include "step_runner.h"

namespace glm {

void StepRunner::run() {
  fill_rope_tables();
  for (const Op& op : executor.program_.ops) {
    std::visit([&](const auto& typed) { execute(typed); }, op);
    barrier();
    ++op_index;
  }
  if (sample_rows.empty()) return;
  const int vocab = executor.program_.vocab_size;
  for (Range r = claim(0, static_cast<int>(sample_rows.size()), 1); r.begin < r.end; r = claim(0, static_cast<int>(sample_rows.size()), 1)) {
    const size_t i = static_cast<size_t>(r.begin);
    sample_row(logits + i * static_cast<size_t>(vocab), vocab, sample_rows[i], scratch.sampler, sampled[i]);
  }
}

const float* StepRunner::normalised(const float* x, const Norm& norm, int n) {
  if (!norm.weight) return x;
  kernels.rms_norm(x, norm.weight, norm.eps, n, scratch.row.data());
  return scratch.row.data();
}

Rows StepRunner::with_columns(Rows rows, int cols) {
  rows.stride = static_cast<size_t>(cols);
  rows.group_stride = static_cast<size_t>(cols / kGroup);
  return rows;
}

void StepRunner::matmul(MatmulArgs args, const Matrix& weight, int num_tokens, size_t counter) {
  args.cols = weight.cols;
  args.num_tokens = num_tokens;
  args.scratch = scratch.matmul.data();
  const auto kernel = kernels.matmul[static_cast<int>(weight.format)];
  const int pairs = weight.panels / 2;
  if (num_tokens == 1) {
    const Range mine = share(pairs);
    args.panel_begin = 2 * mine.begin;
    args.panel_end = 2 * mine.end;
    if (mine.begin < mine.end) kernel(args);
    return;
  }
  const int size = std::max(1, pairs / (8 * threads));
  for (Range r = claim(counter, pairs, size); r.begin < r.end; r = claim(counter, pairs, size)) {
    args.panel_begin = 2 * r.begin;
    args.panel_end = 2 * r.end;
    kernel(args);
  }
}

void StepRunner::execute(const EmbedOp& op) {
  const auto lookup = kernels.lookup_row[static_cast<int>(op.table.format)];
  const Range mine = share(tokens);
  for (int t = mine.begin; t < mine.end; ++t) {
    lookup(op.table.data, op.table.cols, batch.token_ids[static_cast<size_t>(t)], op.out.width, op.scale, row(op.out, t));
  }
}

void StepRunner::execute(const RmsNormOp& op) {
  const Range mine = share(tokens);
  for (int t = mine.begin; t < mine.end; ++t) {
    kernels.rms_norm(row(op.input, t), op.norm.weight, op.norm.eps, op.input.width, row(op.out, t));
  }
}

void StepRunner::execute(const AddNormOp& op) {
  const Range mine = share(tokens);
  for (int t = mine.begin; t < mine.end; ++t) {
    const float* x = normalised(row(op.input, t), op.norm, op.input.width);
    float* out = row(op.out, t);
    for (int i = 0; i < op.input.width; ++i) out[i] += x[i];
  }
}

void StepRunner::execute(const LinearOp& op) {
  const auto prepare = kernels.prepare_row[static_cast<int>(op.weight.format)];
  MatmulArgs args;
  if (tokens == 1) {
    // Cheaper than a barrier: every thread prepares its own copy of the row.
    args.a = with_columns(scratch.rows, op.weight.cols);
    prepare(normalised(row(op.input, 0), op.norm, op.input.width), op.input.width, args.a, 0);
  } else {
    args.a = with_columns(executor.shared_rows_, op.weight.cols);
    const Range mine = share(tokens);
    for (int t = mine.begin; t < mine.end; ++t) {
      prepare(normalised(row(op.input, t), op.norm, op.input.width), op.input.width, args.a, t);
    }
    barrier();
  }
  args.panels = op.weight.data;
  args.out = row(op.out, 0);
  args.out_stride = stride(op.out);
  args.out_columns = op.out.width;
  args.bias = op.bias;
  args.epilogue = op.epilogue;
  matmul(args, op.weight, tokens, 0);
}

void StepRunner::execute(const HeadLinearOp& op) {
  // Prepared rows are head-major: row h * tokens + t.
  const auto prepare = kernels.prepare_row[static_cast<int>(op.weight.format)];
  Rows rows = with_columns(executor.shared_rows_, op.weight.cols);
  const Range mine = share(op.num_heads * tokens);
  for (int i = mine.begin; i < mine.end; ++i) {
    prepare(row(op.input, i % tokens) + (i / tokens) * op.input_stride, op.weight.in_columns, rows, i);
  }
  barrier();
  const auto kernel = kernels.matmul[static_cast<int>(op.weight.format)];
  for (Range r = claim(0, op.num_heads, 1); r.begin < r.end; r = claim(0, op.num_heads, 1)) {
    const int head = r.begin;
    const size_t first = static_cast<size_t>(head) * static_cast<size_t>(tokens);
    MatmulArgs args;
    args.a = rows;
    args.a.f32 += first * rows.stride;
    args.a.bf16 += first * rows.stride;
    args.a.q += first * rows.stride;
    args.a.scale += first;
    args.a.init += first * rows.group_stride;
    args.a.factor += first * rows.group_stride;
    args.a.sum += first * rows.group_stride;
    args.panels = op.weight.data + static_cast<size_t>(head) * op.weight.expert_stride;
    args.cols = op.weight.cols;
    args.panel_end = op.weight.panels;
    args.num_tokens = tokens;
    args.out = row(op.out, 0) + head * op.out_stride;
    args.out_stride = stride(op.out);
    args.out_columns = op.weight.rows;
    args.scratch = scratch.matmul.data();
    kernel(args);
  }
}

void StepRunner::execute(const CopyHeadsOp& op) {
  const Range mine = share(tokens);
  for (int t = mine.begin; t < mine.end; ++t) {
    for (int h = 0; h < op.num_heads; ++h) {
      std::memcpy(row(op.out, t) + h * op.out_stride, row(op.input, t) + h * op.input_stride, static_cast<size_t>(op.width) * sizeof(float));
    }
  }
}

void StepRunner::execute(const LogitsOp& op) {
  const int rows = static_cast<int>(batch.logit_rows.size());
  if (rows == 0) return;
  const auto prepare = kernels.prepare_row[static_cast<int>(op.weight.format)];
  MatmulArgs args;
  args.a = with_columns(rows == 1 ? scratch.rows : executor.shared_rows_, op.weight.cols);
  const Range mine = rows == 1 ? Range{0, 1} : share(rows);
  for (int r = mine.begin; r < mine.end; ++r) {
    prepare(normalised(row(op.input, batch.logit_rows[static_cast<size_t>(r)]), op.norm, op.input.width), op.input.width, args.a, r);
  }
  if (rows > 1) barrier();
  args.panels = op.weight.data;
  args.out = logits;
  args.out_stride = static_cast<size_t>(op.vocab_size);
  args.out_columns = op.vocab_size;
  matmul(args, op.weight, rows, 0);
  if (op.scale == 1.0f && op.softcap == 0.0f) return;
  barrier();
  const Range capped = share(rows * op.vocab_size);
  for (int i = capped.begin; i < capped.end; ++i) {
    float y = logits[i] * op.scale;
    if (op.softcap != 0.0f) y = op.softcap * std::tanh(y / op.softcap);
    logits[i] = y;
  }
}

}  // namespace glm
