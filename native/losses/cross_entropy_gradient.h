// Cross-entropy, backward: a second pass from the saved log-sum-exp, with p_c = e^(z_c - lse).
//
//   dL/dz_c = p_c (g r (a + ..) + 2 g weight zeta lse + g_lse - g_entropy H) - g r t_c - g_entropy p_c ln p_c
//   a = sum_c t_c,   and dL/dx = dL/dz scale (1 - (z / softcap)^2)
#pragma once

#include "gradient_block_bf16.h"

namespace xent::XENT_ISA {

struct CrossEntropyGradientPass {
  const CrossEntropyProblem& problem;
  const CrossEntropyUpstream& upstream;
  const RowView& gradient;
  bool streaming;
};

template <class T>
RowFactors<T> factors_of(const CrossEntropyGradientPass& pass, const Terms<T>& terms, int64_t row, int64_t y) {
  const CrossEntropyUpstream& up = pass.upstream;
  const CrossEntropyTerms& given = pass.problem.terms;
  const double lse = get<double>(up.saved_lse, row);
  const double row_weight = get_or<T>(given.row_weight, row, T(1));
  const double class_weight = terms.probabilities ? 1.0 : terms.weight_of(y);
  const double g_entropy = get_or<T>(up.entropy, row, T(0));
  const double g_loss = get_or<T>(up.loss, row, T(0));
  const double g = g_loss * row_weight;
  const double mass = terms.probabilities ? get<T>(up.saved_mass, row)
                                          : (1.0 - terms.smoothing) * class_weight +
                                                (terms.smoothing != 0.0 ? terms.uniform * given.class_weight_sum : 0.0);
  RowFactors<T> f;
  f.probability = g * mass + get_or<T>(up.lse, row, T(0));
  if (terms.z_loss != 0.0) f.probability += 2.0 * g * class_weight * terms.z_loss * lse;
  if (g_entropy != 0.0) f.probability -= g_entropy * get<T>(up.saved_entropy, row);
  f.log_probability = g_entropy;
  f.share = terms.probabilities ? g : g * terms.uniform;
  f.flat = g * terms.uniform;
  f.target = terms.probabilities ? 0.0 : g * (1.0 - terms.smoothing) * class_weight;
  f.lse_high = static_cast<T>(lse);
  f.lse_low = std::isfinite(f.lse_high) ? static_cast<T>(lse - static_cast<double>(f.lse_high) + get_or<double>(up.saved_lse_low, row, 0.0)) : T(0);
  f.scale = static_cast<T>(given.map.scale);
  f.inverse_cap = static_cast<T>(given.map.softcap > 0.0 ? 1.0 / given.map.softcap : 0.0);
  return f;
}

// The target class once more, with its share: on its own, so that the loop over all classes need not look for it and
// the result is rounded once.
template <class L, class In, class Out>
inline void mend_target(GradientBlock<L, typename L::T, typename L::T> block, const RowFactors<typename L::T>& f,
                        const In* z, const typename L::T* t, Out* g, int64_t y) {
  using T = typename L::T;
  const T logit = static_cast<T>(widen(z[y]));
  T value;
  block(f, &logit, t == nullptr ? nullptr : t + y, &value, 1);
  const double bend = f.inverse_cap != 0 ? static_cast<double>(logit) * f.inverse_cap : 0.0;
  const double chain = static_cast<double>(f.scale) * (1.0 - bend * bend);
  narrow(static_cast<T>(static_cast<double>(value) - f.target * chain), g + y);
}

// The same where no chain rule and no entropy enter.
template <class T>
inline T gradient_at_target(const RowFactors<T>& f, const Terms<T>& terms, T logit, int64_t y) {
  const double p = std::exp((logit - f.lse_high) - f.lse_low);
  const double share = terms.smoothing != 0.0 ? f.share * terms.weight_of(y) : 0.0;
  return static_cast<T>(p * f.probability - share - f.target);
}

template <class Out>
inline void clear_line(Out* g, int64_t n) { std::memset(static_cast<void*>(g), 0, static_cast<size_t>(n) * sizeof(Out)); }

template <class L, class In>
void gradient_direct(const CrossEntropyGradientPass& pass, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const CrossEntropyProblem& p = pass.problem;
  const Terms<T> terms(p);
  const auto block = direct_gradient_for<L, In>(terms.sums(), pass.streaming);
  alignas(64) T shares[block_numbers];
  for (int64_t row = first_row; row < last_row; ++row) {
    const Target target = target_of(p, row);
    const In* x = at<In>(p.logits, row, 0);
    In* g = at<In>(pass.gradient, row, 0);
    if (target.ignored) {
      clear_line(g, terms.classes);
      continue;
    }
    const RowFactors<T> factors = factors_of(pass, terms, row, target.index);
    if (hurried_shares<L>(p, factors, row, x, g, pass.streaming)) continue;
    const auto of_row = block_for_row<L, In>(block, factors, terms.sums(), pass.streaming);
    for (int64_t c = 0; c < terms.classes; c += block_numbers) {
      const int64_t n = smaller(block_numbers, terms.classes - c);
      const T* t = terms.class_weight != nullptr ? terms.class_weight + c : nullptr;
      if (terms.probabilities) {
        read_shares<L>(p, terms, row, 1, c, n, shares, n);
        t = shares;
      }
      // In place, the target's logit is gone once its block is written.
      const int64_t y = target.index - c;
      const bool here = y >= 0 && y < n && !terms.probabilities;
      In mended{};
      if (here) narrow(gradient_at_target(factors, terms, static_cast<T>(widen(x[c + y])), target.index), &mended);
      of_row(factors, x + c, t, g + c, n);
      if (here) g[c + y] = mended;
    }
  }
  if (pass.streaming) L::fence();
}

template <class L, class Out>
void gradient_blocks(const CrossEntropyGradientPass& pass, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const CrossEntropyProblem& p = pass.problem;
  const Terms<T> terms(p);
  const bool is_tiled = tiled(p) || strided(pass.gradient);
  const auto block = blocked_gradient_for<L>(terms.sums(), pass.upstream.entropy.data != nullptr,
                                             !identity(p.terms.map));
  const Cut cut = cut_of(p.logits, is_tiled);
  alignas(64) T z[block_numbers], shares[block_numbers], g[block_numbers];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = run_at(p.logits, p.probabilities, row, smaller(cut.run, last_row - row));
    run = smaller(run, rows_left_in_run(pass.gradient, row));
    RowFactors<T> factors[tile_rows];
    Target targets[tile_rows];
    for (int64_t r = 0; r < run; ++r) {
      targets[r] = target_of(p, row + r);
      if (!targets[r].ignored) factors[r] = factors_of(pass, terms, row + r, targets[r].index);
    }
    for (int64_t c = 0; c < terms.classes; c += cut.width) {
      const int64_t n = smaller(cut.width, terms.classes - c);
      read_logits<L>(p.logits, p.terms.map, row, run, c, n, z, cut.width);
      if (terms.probabilities) read_shares<L>(p, terms, row, run, c, n, shares, cut.width);
      for (int64_t r = 0; r < run; ++r) {
        T* out = g + r * cut.width;
        if (targets[r].ignored) {
          clear_line(out, n);
          continue;
        }
        const T* t = terms.probabilities ? shares + r * cut.width
                     : terms.class_weight != nullptr ? terms.class_weight + c : nullptr;
        block(factors[r], z + r * cut.width, t, out, n);
        const int64_t y = targets[r].index - c;
        if (y >= 0 && y < n && !terms.probabilities) mend_target<L>(block, factors[r], z + r * cut.width, t, out, y);
      }
      write_block<L, Out>(pass.gradient, row, run, c, n, g, cut.width, pass.streaming);
    }
  }
  if (pass.streaming) L::fence();
}

template <class L, class In>
void gradient_task(const void* context, int64_t first, int64_t last) {
  const auto& pass = *static_cast<const CrossEntropyGradientPass*>(context);
  const CrossEntropyProblem& p = pass.problem;
  const bool direct = !tiled(p) && !strided(pass.gradient) && identity(p.terms.map) &&
                      pass.upstream.entropy.data == nullptr;
  if (direct) gradient_direct<L, In>(pass, first, last);
  else gradient_blocks<L, In>(pass, first, last);
}

inline void cross_entropy_gradient(const CrossEntropyProblem& p, const CrossEntropyUpstream& upstream,
                                   const RowView& gradient, bool streaming, int threads) {
  const CrossEntropyGradientPass pass{p, upstream, gradient, streaming};
  const RowTask task = by_dtype(p.logits.dtype, [](auto in) -> RowTask {
    return gradient_task<Lanes<Statistic<decltype(in)>>, decltype(in)>;
  });
  thread_rows(p.logits.rows, cut_of(p.logits, tiled(p) || strided(gradient)).chunk, threads, task, &pass);
}

}  // namespace xent::XENT_ISA
