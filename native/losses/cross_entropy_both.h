// Cross-entropy of narrow rows, forward and backward in one pass, where the gradient of each row's loss is known before:
// that of a sum or mean is one number. A strip of rows is transposed once, and its gradient is made while it lies in L1;
// the arithmetic is that of the two passes, to the last bit.
#pragma once

#include "cross_entropy_narrow.h"

namespace xent::XENT_ISA {

struct BothPasses {
  const CrossEntropyPass& forward;
  const CrossEntropyGradientPass& backward;
};

template <class L, class In>
void both_narrow(const void* context, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const auto& both = *static_cast<const BothPasses*>(context);
  const CrossEntropyProblem& p = both.forward.problem;
  const Terms<T> terms(p);
  const int64_t most = narrow_strip(terms.classes), row_stride = innermost_stride(p.logits);
  alignas(64) T block[block_numbers];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = smaller(smaller(most, last_row - row), rows_left_in_run(p.logits, row));
    run = smaller(run, rows_left_in_run(both.backward.gradient, row));
    transpose_in<L>(at<In>(p.logits, row, 0), row_stride, run, terms.classes, block, most);
    put_narrow_strip<L, In>(both.forward, terms, row, run, block, most);
    put_narrow_gradient<L, In>(both.backward, terms, row, run, block, most);
  }
}

// Whether the two passes are one; with weights, the denominator of a mean would not be known before.
inline bool is_one_pass(const CrossEntropyProblem& p) {
  return p.target.data != nullptr && identity(p.terms.map) && p.terms.class_weight == nullptr &&
         p.terms.row_weight.data == nullptr && narrow_rows(p.logits, lanes_of(p.logits.dtype), narrow_backward);
}

// How many rows count, and the first one whose target is out of range, or -1.
inline CountedRows counted_rows(const CrossEntropyProblem& p) {
  int64_t ignored = 0, outside = 0;
  const auto look = [&](int64_t y) {
    ignored += y == p.terms.ignore_index;
    outside += static_cast<uint64_t>(y) >= static_cast<uint64_t>(p.logits.classes) && y != p.terms.ignore_index;
  };
  const auto* adjacent = static_cast<const int64_t*>(p.target.data);
  if (p.target.stride == 1)
    for (int64_t row = 0; row < p.logits.rows; ++row) look(adjacent[row]);
  else
    for (int64_t row = 0; row < p.logits.rows; ++row) look(get<int64_t>(p.target, row));
  int64_t bad_row = -1;
  for (int64_t row = 0; outside > 0 && bad_row < 0; ++row)
    if (target_of(p, row).bad) bad_row = row;
  return {p.logits.rows - ignored, bad_row};
}

inline void cross_entropy_both(const CrossEntropyProblem& p, const CrossEntropyRows& rows,
                               const CrossEntropyUpstream& upstream, const RowView& gradient, int threads) {
  if (!is_one_pass(p) || !without_statistics(rows) || upstream.entropy.data != nullptr ||
      !narrow_rows(gradient, lanes_of(gradient.dtype), narrow_backward)) {
    cross_entropy_any(p, rows, threads);
    return cross_entropy_gradient_any(p, upstream, gradient, false, threads);
  }
  std::atomic<int64_t> bad_row{-1};
  const CrossEntropyPass forward{p, rows, bad_row};
  const CrossEntropyGradientPass backward{p, upstream, gradient, false};
  const BothPasses both{forward, backward};
  const RowTask task = by_dtype(p.logits.dtype, [](auto in) -> RowTask {
    return both_narrow<Lanes<Statistic<decltype(in)>>, decltype(in)>;
  });
  thread_rows(p.logits.rows, strip_chunk(p.logits, threads), threads, task, &both);
}

}  // namespace xent::XENT_ISA
