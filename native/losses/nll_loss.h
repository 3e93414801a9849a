// Negative log likelihood of log-probabilities: loss = -r w_y x_y; the gradient is -r w_y at y and 0 elsewhere.
#pragma once

#include "cross_entropy.h"
#include "cross_entropy_gradient.h"

namespace xent::XENT_ISA {

template <class L, class In>
void nll_loss_task(const void* context, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const auto& pass = *static_cast<const CrossEntropyPass*>(context);
  const CrossEntropyProblem& p = pass.problem;
  const Terms<T> terms(p);
  for (int64_t row = first_row; row < last_row; ++row) {
    const Target target = target_of(p, row);
    if (target.bad) note_bad_row(pass.bad_row, row);
    const double weight = target.ignored ? 0.0
                                         : get_or<T>(p.terms.row_weight, row, T(1)) * terms.weight_of(target.index);
    const double log_p = target.ignored ? 0.0 : static_cast<double>(widen(*at<In>(p.logits, row, target.index)));
    put(pass.rows.loss, row, target.ignored ? T(0) : static_cast<T>(-weight * log_p));
    put(pass.rows.weight, row, static_cast<T>(weight));
  }
}

template <class L, class In>
void nll_loss_gradient_task(const void* context, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const auto& pass = *static_cast<const CrossEntropyGradientPass*>(context);
  const CrossEntropyProblem& p = pass.problem;
  const Terms<T> terms(p);
  const RowView& out = pass.gradient;
  for (int64_t row = first_row; row < last_row; ++row) {
    In* g = at<In>(out, row, 0);
    if (out.class_stride == 1) clear_line(g, out.classes);
    else
      for (int64_t c = 0; c < out.classes; ++c) g[c * out.class_stride] = In{};
    const Target target = target_of(p, row);
    if (target.ignored) continue;
    const double weight = get_or<T>(p.terms.row_weight, row, T(1)) * terms.weight_of(target.index);
    narrow(static_cast<T>(-weight * get<T>(pass.upstream.loss, row)), g + target.index * out.class_stride);
  }
}

inline int64_t nll_loss(const CrossEntropyProblem& p, const CrossEntropyRows& rows, int threads) {
  std::atomic<int64_t> bad_row{-1};
  const CrossEntropyPass pass{p, rows, bad_row};
  const RowTask task = by_dtype(p.logits.dtype, [](auto in) -> RowTask {
    return nll_loss_task<Lanes<Statistic<decltype(in)>>, decltype(in)>;
  });
  thread_rows(p.logits.rows, int64_t{1} << 14, threads, task, &pass);  // one number per row is read
  return bad_row.load();
}

inline void nll_loss_gradient(const CrossEntropyProblem& p, const CrossEntropyUpstream& upstream,
                              const RowView& gradient, int threads) {
  const CrossEntropyGradientPass pass{p, upstream, gradient, false};
  const RowTask task = by_dtype(p.logits.dtype, [](auto in) -> RowTask {
    return nll_loss_gradient_task<Lanes<Statistic<decltype(in)>>, decltype(in)>;
  });
  thread_rows(p.logits.rows, cut_of(p.logits, false).chunk, threads, task, &pass);
}

}  // namespace xent::XENT_ISA
