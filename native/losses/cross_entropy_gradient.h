// Cross-entropy, backward: a second pass from the saved log-sum-exp, with p_c = e^(z_c - lse).
//
//   dL/dz_c = p_c (g r (a + ..) + 2 g weight zeta lse + g_lse - g_entropy H) - g r t_c - g_entropy p_c ln p_c
//   a = sum_c t_c,   and dL/dx = dL/dz scale (1 - (z / softcap)^2)
#pragma once

#include <type_traits>

#include "cross_entropy_terms.h"

namespace xent::XENT_ISA {

struct CrossEntropyGradientPass {
  const CrossEntropyProblem& problem;
  const CrossEntropyUpstream& upstream;
  const RowView& gradient;
  bool streaming;
};

// dL/dz_c = (p_c * probability - share * t_c - flat - log_probability * p_c ln p_c) * chain
template <class T>
struct RowFactors {
  double probability = 0, share = 0, flat = 0, log_probability = 0, target = 0;
  T lse_high = 0, lse_low = 0;  // z - high is exact near the maximum, so that the offset of the logits costs no digits
  T scale = 1, inverse_cap = 0;
};

template <class L, Sums sums, bool entropy, bool chained>
struct GradientLanes {
  using T = typename L::T;
  using reg = typename L::reg;
  explicit GradientLanes(const RowFactors<T>& f)
      : probability(L::set(static_cast<T>(f.probability))), share(L::set(static_cast<T>(f.share))),
        flat(L::set(static_cast<T>(f.flat))), log_probability(L::set(static_cast<T>(f.log_probability))),
        high(L::set(f.lse_high)), low(L::set(f.lse_low)), scale(L::set(f.scale)), inverse_cap(L::set(f.inverse_cap)) {}

  inline reg operator()(reg z, reg t) const {
    const reg log_p = L::sub(L::sub(z, high), low);
    return finished(z, t, log_p, exp_of_difference<L>(log_p));
  }

  template <int count>
  inline void of_several(const reg (&z)[count], const reg (&t)[count], reg (&g)[count]) const {
    reg log_p[count], p[count];
    for (int j = 0; j < count; ++j) log_p[j] = L::sub(L::sub(z[j], high), low);
    exp_of_differences<L>(log_p, p);
    for (int j = 0; j < count; ++j) g[j] = finished(z[j], t[j], log_p[j], p[j]);
  }

  inline reg finished(reg z, reg t, reg log_p, reg p) const {
    reg g;
    if constexpr (sums == Sums::plain) g = L::sub(L::mul(p, probability), flat);
    else if constexpr (sums == Sums::weighted) g = L::fnma(t, share, L::mul(p, probability));
    else g = L::mul(p, probability);
    if constexpr (entropy) g = L::sub(g, L::zero_where_zero(p, L::mul(log_probability, L::mul(p, log_p))));
    if constexpr (chained) {
      const reg bend = L::zero_where_zero(inverse_cap, L::mul(z, inverse_cap));  // no cap: not 0 times infinity
      g = L::mul(g, L::mul(scale, L::fnma(bend, bend, L::set(1))));
    }
    return g;
  }

  reg probability, share, flat, log_probability, high, low, scale, inverse_cap;
};

template <class L, class In, class Out, Sums sums, bool entropy, bool chained, bool streaming>
void gradient_block(const RowFactors<typename L::T>& factors, const In* z, const typename L::T* t, Out* g, int64_t n) {
  constexpr int w = L::width;
  const GradientLanes<L, sums, entropy, chained> lanes(factors);
  const auto part = [&](int64_t i, int left) {
    const auto share = sums == Sums::weighted ? L::load_part(t + i, left, 0) : L::set(0);
    L::store_part(g + i, lanes(L::load_part(z + i, left, 0), share), left);
  };
  const auto whole = [&](int64_t i) {
    const auto v = lanes(L::load(z + i), sums == Sums::weighted ? L::load(t + i) : L::set(0));
    if constexpr (streaming) L::stream(g + i, v);
    else L::store(g + i, v);
  };
  constexpr bool any_order = sums != Sums::weighted && std::is_same_v<In, Out>;
  int64_t i = 0;
  if constexpr (streaming) {  // up to the first aligned store
    constexpr int64_t bytes = (any_order && paired<L, Out> ? 2 : 1) * w * static_cast<int64_t>(sizeof(Out));
    const int64_t head = smaller(n, (bytes - static_cast<int64_t>(reinterpret_cast<uintptr_t>(g) % bytes)) % bytes /
                                        static_cast<int64_t>(sizeof(Out)));
    for (int left = 0; i < head; i += left) {
      left = static_cast<int>(smaller(head - i, w));
      part(i, left);
    }
  }
  constexpr int step = L::together > 2 ? L::together : 2;
  for (; i + step * w <= n; i += step * w) {
    typename L::reg at[step], share[step], v[step];
    for (int j = 0; j < step; j += 2) {
      const Pair<L> two = any_order ? load_pair<L>(z + i + j * w)
                                    : Pair<L>{L::load(z + i + j * w), L::load(z + i + (j + 1) * w)};
      at[j] = two.first, at[j + 1] = two.second;
    }
    for (int j = 0; j < step; ++j) share[j] = sums == Sums::weighted ? L::load(t + i + j * w) : L::set(0);
    lanes.of_several(at, share, v);
    for (int j = 0; j < step; j += 2) {
      if constexpr (any_order) store_pair<L, streaming>(g + i + j * w, {v[j], v[j + 1]});
      else if constexpr (streaming) L::stream(g + i + j * w, v[j]), L::stream(g + i + (j + 1) * w, v[j + 1]);
      else L::store(g + i + j * w, v[j]), L::store(g + i + (j + 1) * w, v[j + 1]);
    }
  }
  for (; i + w <= n; i += w) whole(i);
  if (i < n) part(i, static_cast<int>(n - i));
}

template <class L, class In, class Out>
using GradientBlock = void (*)(const RowFactors<typename L::T>&, const In*, const typename L::T*, Out*, int64_t);

template <class L, class In, Sums sums>
inline GradientBlock<L, In, In> direct_gradient(bool streaming) {
  return streaming ? gradient_block<L, In, In, sums, false, false, true>
                   : gradient_block<L, In, In, sums, false, false, false>;
}

template <class L, class In>
inline GradientBlock<L, In, In> direct_gradient_for(Sums sums, bool streaming) {
  switch (sums) {
    case Sums::none: return direct_gradient<L, In, Sums::none>(streaming);
    case Sums::plain: return direct_gradient<L, In, Sums::plain>(streaming);
    default: return direct_gradient<L, In, Sums::weighted>(streaming);
  }
}

template <class L, Sums sums>
inline GradientBlock<L, typename L::T, typename L::T> blocked_gradient(bool entropy, bool chained) {
  using T = typename L::T;
  if (entropy)
    return chained ? gradient_block<L, T, T, sums, true, true, false> : gradient_block<L, T, T, sums, true, false, false>;
  return chained ? gradient_block<L, T, T, sums, false, true, false> : gradient_block<L, T, T, sums, false, false, false>;
}

template <class L>
inline GradientBlock<L, typename L::T, typename L::T> blocked_gradient_for(Sums sums, bool entropy, bool chained) {
  switch (sums) {
    case Sums::none: return blocked_gradient<L, Sums::none>(entropy, chained);
    case Sums::plain: return blocked_gradient<L, Sums::plain>(entropy, chained);
    default: return blocked_gradient<L, Sums::weighted>(entropy, chained);
  }
}

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
      block(factors, x + c, t, g + c, n);
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
