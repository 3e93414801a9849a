// The gradient of a block of one row's classes, from the row's factors; see cross_entropy_gradient.h for the equation.
#pragma once

#include <type_traits>

#include "cross_entropy_terms.h"

namespace xent::XENT_ISA {

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

}  // namespace xent::XENT_ISA
