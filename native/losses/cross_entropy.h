// Cross-entropy, forward: one pass over the logits gives every statistic of a row.
#pragma once

#include <atomic>

#include "cross_entropy_terms.h"

namespace xent::XENT_ISA {

struct CrossEntropyPass {
  const CrossEntropyProblem& problem;
  const CrossEntropyRows& rows;
  std::atomic<int64_t>& bad_row;
};

template <class T>
void put_ignored(const CrossEntropyRows& out, int64_t row) {
  put(out.loss, row, T(0));
  put(out.entropy, row, T(0));
  put(out.z_loss, row, T(0));
  put(out.weight, row, T(0));
  put(out.mass, row, T(0));
  put(out.lse, row, T(0));
  put(out.exact_lse, row, 0.0);
  put(out.lse_low, row, 0.0);
  put(out.prediction, row, int64_t{-1});
}

// a + b - sum, exactly (Knuth's two-sum).
inline double rounding_of_sum(double a, double b, double sum) {
  const double b_part = sum - a;
  return (a - (sum - b_part)) + (b - b_part);
}

template <class T>
void put_row(const CrossEntropyPass& pass, const Terms<T>& terms, int64_t row, const RowState<T>& state, int64_t y) {
  const CrossEntropyRows& out = pass.rows;
  const CrossEntropyTerms& given = pass.problem.terms;
  const double row_weight = get_or<T>(given.row_weight, row, T(1));
  const double top = state.top;
  const double log_sum = state.top == -T(INFINITY) ? NAN : std::log(state.sum);  // a row of -inf has no softmax
  const double lse = top + log_sum;
  // ln s - (z - m) keeps the digits that lse - z loses when the logits share an offset.
  const auto distance = [&](double mass) {  // sum t (lse - z)
    return mass * (log_sum + (top - static_cast<double>(state.anchor))) - state.weighted;
  };
  double weight = row_weight, ce;
  if (terms.probabilities) {
    ce = distance(state.mass);
  } else {
    const double class_weight = terms.weight_of(y);
    weight *= class_weight;
    ce = class_weight * (log_sum - (static_cast<double>(state.target_logit) - top));
    if (terms.smoothing != 0.0) {
      const double kept = terms.smoothing < 1.0 ? (1.0 - terms.smoothing) * ce : 0.0;  // not 0 times infinity
      ce = kept + terms.uniform * distance(given.class_weight_sum);
    }
  }
  const double z_part = terms.z_loss != 0.0 ? weight * terms.z_loss * lse * lse : 0.0;
  put(out.loss, row, static_cast<T>(row_weight * ce + z_part));
  put(out.entropy, row, static_cast<T>(log_sum - state.spread / state.sum));
  put(out.z_loss, row, static_cast<T>(z_part));
  put(out.weight, row, static_cast<T>(weight));
  put(out.mass, row, static_cast<T>(state.mass));
  if (out.lse.data != nullptr) put(out.lse, row, static_cast<T>(log_sum_exp_of(state)));
  put(out.exact_lse, row, lse);
  put(out.lse_low, row, rounding_of_sum(top, log_sum, lse));
  put(out.prediction, row, state.argmax);
}

// Whether put_plain_row suffices: no term but the cross-entropy itself, no output but those of training.
template <class T>
inline bool is_plain(const CrossEntropyPass& pass, const Terms<T>& terms) {
  const CrossEntropyRows& out = pass.rows;
  return terms.sums() == Sums::none && terms.z_loss == 0.0 && terms.class_weight == nullptr &&
         pass.problem.terms.row_weight.data == nullptr && out.lse.data == nullptr && out.entropy.data == nullptr &&
         out.z_loss.data == nullptr && out.mass.data == nullptr && out.prediction.data == nullptr;
}

// put_row where `is_plain`: half of what a row of ten classes costs is here.
template <class T>
inline void put_plain_row(const CrossEntropyRows& out, int64_t row, T top, double log_of_sum, T target_logit) {
  const double high = top, log_sum = top == -T(INFINITY) ? NAN : log_of_sum, lse = high + log_sum;
  put(out.loss, row, static_cast<T>(log_sum - (static_cast<double>(target_logit) - high)));
  put(out.weight, row, T(1));
  put(out.exact_lse, row, lse);
  put(out.lse_low, row, rounding_of_sum(high, log_sum, lse));
}

inline void note_bad_row(std::atomic<int64_t>& bad_row, int64_t row) {
  int64_t seen = bad_row.load();
  while ((seen < 0 || row < seen) && !bad_row.compare_exchange_weak(seen, row)) {
  }
}

// One block of one row: fold, remember the target's logit, look for the maximum.
template <class L, class In>
inline void take_block(FoldBlock<L, In> fold, RowState<typename L::T>& state, const In* z, const typename L::T* t,
                       int64_t n, int64_t first, int64_t y, bool argmax, const In* ahead) {
  const auto top_before = state.top;
  fold(state, z, t, n, ahead);
  if (y >= first && y < first + n) state.target_logit = static_cast<typename L::T>(widen(z[y - first]));
  if (argmax) find_argmax(state, top_before, z, n, first);
}

// Rows read in place.
template <class L, class In>
void cross_entropy_direct(const CrossEntropyPass& pass, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const CrossEntropyProblem& p = pass.problem;
  const Terms<T> terms(p);
  const auto fold = fold_for<L, In>(terms.sums(), pass.rows.entropy.data != nullptr);
  const bool argmax = pass.rows.prediction.data != nullptr;
  alignas(64) T shares[block_numbers];
  for (int64_t row = first_row; row < last_row; ++row) {
    const Target target = target_of(p, row);
    if (target.bad) note_bad_row(pass.bad_row, row);
    if (target.ignored) {
      put_ignored<T>(pass.rows, row);
      continue;
    }
    RowState<T> state;
    const In* x = at<In>(p.logits, row, 0);
    for (int64_t c = 0; c < terms.classes; c += block_numbers) {
      const int64_t n = smaller(block_numbers, terms.classes - c);
      const T* t = terms.class_weight != nullptr ? terms.class_weight + c : nullptr;
      if (terms.probabilities) {
        read_shares<L>(p, terms, row, 1, c, n, shares, n);
        t = shares;
      }
      take_block<L, In>(fold, state, x + c, t, n, c, target.index, argmax, n == block_numbers ? x + c + n : nullptr);
    }
    put_row(pass, terms, row, state, target.index);
  }
}

// Rows brought into blocks: strided classes, or logits that are mapped first.
template <class L>
void cross_entropy_blocks(const CrossEntropyPass& pass, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const CrossEntropyProblem& p = pass.problem;
  const Terms<T> terms(p);
  const auto fold = fold_for<L, T>(terms.sums(), pass.rows.entropy.data != nullptr);
  const bool argmax = pass.rows.prediction.data != nullptr;
  const Cut cut = cut_of(p.logits, tiled(p));
  alignas(64) T z[block_numbers], shares[block_numbers];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = run_at(p.logits, p.probabilities, row, smaller(cut.run, last_row - row));
    RowState<T> states[tile_rows];
    for (int64_t c = 0; c < terms.classes; c += cut.width) {
      const int64_t n = smaller(cut.width, terms.classes - c);
      read_logits<L>(p.logits, p.terms.map, row, run, c, n, z, cut.width);
      if (terms.probabilities) read_shares<L>(p, terms, row, run, c, n, shares, cut.width);
      for (int64_t r = 0; r < run; ++r) {
        const T* t = terms.probabilities ? shares + r * cut.width
                     : terms.class_weight != nullptr ? terms.class_weight + c : nullptr;
        take_block<L, T>(fold, states[r], z + r * cut.width, t, n, c, target_of(p, row + r).index, argmax, nullptr);
      }
    }
    for (int64_t r = 0; r < run; ++r) {
      const Target target = target_of(p, row + r);
      if (target.bad) note_bad_row(pass.bad_row, row + r);
      if (target.ignored) put_ignored<T>(pass.rows, row + r);
      else put_row(pass, terms, row + r, states[r], target.index);
    }
  }
}

template <class L, class In>
void cross_entropy_task(const void* context, int64_t first, int64_t last) {
  const auto& pass = *static_cast<const CrossEntropyPass*>(context);
  const CrossEntropyProblem& p = pass.problem;
  if (tiled(p) || !identity(p.terms.map)) cross_entropy_blocks<L>(pass, first, last);
  else cross_entropy_direct<L, In>(pass, first, last);
}

template <class In>
RowTask cross_entropy_task_for() { return cross_entropy_task<Lanes<Statistic<In>>, In>; }

inline int64_t cross_entropy(const CrossEntropyProblem& p, const CrossEntropyRows& rows, int threads) {
  std::atomic<int64_t> bad_row{-1};
  const CrossEntropyPass pass{p, rows, bad_row};
  const RowTask task = by_dtype(p.logits.dtype, [](auto in) { return cross_entropy_task_for<decltype(in)>(); });
  thread_rows(p.logits.rows, cut_of(p.logits, tiled(p)).chunk, threads, task, &pass);
  return bad_row.load();
}

}  // namespace xent::XENT_ISA
