// Embedding, norms, projections and logits.
#include <cmath>
#include <cstring>

#include "step_runner.h"

namespace glm {

void StepRunner::run() {
  look_ahead();
  for (const Op& op : executor.program_.ops) {
    phase_index = 0;
    std::visit([&](const auto& typed) { execute(typed); }, op);
    if (op_index == executor.last_attention_ && !executor.program_.keeps_hidden) {
      if (batch.logit_rows.empty()) return;  // all that this step leaves behind is in the cache now
      keep_logit_rows();
    }
    ++op_index;
  }
  phase_index = 0;
  const int vocab = executor.program_.vocab_size;
  share_out(static_cast<int>(step.sample_rows.size()), kManyParts, [&](int begin, int end) {
    for (size_t i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      sample_row(kernels, step.logits + i * static_cast<size_t>(vocab), vocab, step.sample_rows[i], scratch.sampler, step.sampled[i]);
    }
  });
}

// After the last attention no row looks at another one: go on with those whose logits are wanted.
void StepRunner::keep_logit_rows() {
  if (!step.keeps_logit_rows) return;
  const auto& wanted = batch.logit_rows;
  share_out(static_cast<int>(executor.buffers_.size()), 1, [&](int begin, int end) {
    for (int b = begin; b < end; ++b) {
      const auto width = static_cast<size_t>(executor.program_.buffers[static_cast<size_t>(b)]);
      float* data = executor.buffers_[static_cast<size_t>(b)].data();
      for (size_t r = 0; r < wanted.size(); ++r) std::memmove(data + r * width, data + static_cast<size_t>(wanted[r]) * width, width * sizeof(float));
    }
  });
  tokens = static_cast<int>(wanted.size());
  only_logit_rows = true;
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

template <typename PrepareRow, typename Before>
void StepRunner::matmul(MatmulArgs args, const Matrix& weight, int num_rows, PrepareRow&& prepare_row, Before&& before) {
  const auto kernel = kernels.matmul[static_cast<int>(weight.format)];
  args.panels = weight.data;
  args.cols = weight.cols;
  args.num_tokens = num_rows;
  args.ahead = ahead.base ? &ahead : nullptr;
  args.a = with_columns(num_rows == 1 ? scratch.rows : executor.shared_rows_, weight.cols);
  if (num_rows > 1) {
    share_out(num_rows, kEvenParts, [&](int begin, int end) {
      for (int r = begin; r < end; ++r) prepare_row(args.a, r);
    });
  }
  bool prepared = num_rows > 1;
  share_out(weight.panels / 2, num_rows == 1 ? kStreamParts : kManyParts, [&](int begin, int end) {
    if (!prepared) prepare_row(args.a, 0);
    prepared = true;
    args.panel_begin = 2 * begin;
    args.panel_end = 2 * end;
    before(args.panel_begin, args.panel_end);
    kernel(args);
  });
}

void StepRunner::execute(const EmbedOp& op) {
  const auto lookup = kernels.lookup_row[static_cast<int>(op.table.format)];
  share_out(tokens, kEvenParts, [&](int begin, int end) {
    fill_rope_tables(begin, end);
    for (int t = begin; t < end; ++t) {
      lookup(op.table.data, op.table.cols, batch.token_ids[static_cast<size_t>(t)], op.out.width, op.scale, row(op.out, t));
      if (op.zero_first && batch.positions[static_cast<size_t>(t)] == 0) std::fill_n(row(op.out, t), op.out.width, 0.0f);
    }
  });
}

void StepRunner::execute(const RmsNormOp& op) {
  share_out(tokens, kEvenParts, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) kernels.rms_norm(row(op.input, t), op.norm.weight, op.norm.eps, op.input.width, row(op.out, t));
  });
}

void StepRunner::execute(const AddNormOp& op) {
  share_out(tokens, kEvenParts, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      const float* x = normalised(row(op.input, t), op.norm, op.input.width);
      float* out = row(op.out, t);
      for (int i = 0; i < op.input.width; ++i) out[i] += x[i];
    }
  });
}

void StepRunner::execute(const LinearOp& op) {
  const auto prepare = kernels.prepare_row[static_cast<int>(op.weight.format)];
  MatmulArgs args;
  args.out = row(op.out, 0);
  args.out_stride = stride(op.out);
  args.out_columns = op.out.width;
  args.bias = op.bias;
  args.epilogue = op.epilogue;
  const AdapterRows* adapted = adapted_rows();
  if (adapted) {
    adapter_down(op, *adapted);
    args.addends = step.adapters->scratch->deltas.data();
    args.addend_stride = step.adapters->scratch->delta_stride;
    args.addend_rows = adapted->row_of_token[op_index].data();
  }
  matmul(args, op.weight, tokens, [&](const Rows& rows, int t) {
    prepare(normalised(row(op.input, t), op.norm, op.input.width), op.input.width, rows, t);
  }, [&](int panel_begin, int panel_end) {
    if (adapted) adapter_up(*adapted, panel_begin, panel_end);
  });
}

void StepRunner::execute(const HeadLinearOp& op) {
  // Prepared rows are head-major: row h * tokens + t.
  const auto prepare = kernels.prepare_row[static_cast<int>(op.weight.format)];
  const Rows rows = with_columns(executor.shared_rows_, op.weight.cols);
  share_out(op.num_heads * tokens, kEvenParts, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) prepare(row(op.input, i % tokens) + (i / tokens) * op.input_stride, op.weight.in_columns, rows, i);
  });
  const auto kernel = kernels.matmul[static_cast<int>(op.weight.format)];
  share_out(op.num_heads, kManyParts, [&](int begin, int end) {
    for (int head = begin; head < end; ++head) {
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
      kernel(args);
    }
  });
}

void StepRunner::execute(const CopyHeadsOp& op) {
  share_out(tokens, kEvenParts, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      for (int h = 0; h < op.num_heads; ++h) {
        std::memcpy(row(op.out, t) + h * op.out_stride, row(op.input, t) + h * op.input_stride, static_cast<size_t>(op.width) * sizeof(float));
      }
    }
  });
}

void StepRunner::execute(const LogitsOp& op) {
  const int rows = static_cast<int>(batch.logit_rows.size());
  if (rows == 0) return;
  const auto prepare = kernels.prepare_row[static_cast<int>(op.weight.format)];
  MatmulArgs args;
  args.out = step.logits;
  args.out_stride = static_cast<size_t>(op.vocab_size);
  args.out_columns = op.vocab_size;
  args.bias = op.bias;
  matmul(args, op.weight, rows, [&](const Rows& prepared, int r) {
    const int token = only_logit_rows ? r : batch.logit_rows[static_cast<size_t>(r)];
    prepare(normalised(row(op.input, token), op.norm, op.input.width), op.input.width, prepared, r);
  }, [](int, int) {});
  if (op.scale == 1.0f && op.softcap == 0.0f) return;
  share_out(rows, kEvenParts, [&](int begin, int end) {
    for (size_t i = static_cast<size_t>(begin) * args.out_stride; i < static_cast<size_t>(end) * args.out_stride; ++i) {
      float y = step.logits[i] * op.scale;
      if (op.softcap != 0.0f) y = op.softcap * std::tanh(y / op.softcap);
      step.logits[i] = y;
    }
  });
}

}  // namespace glm
