// The log-sum-exp state of a row, folded block by block:
//
//   m' = max(m, max z)        s' = e^(m - m') s + sum e^(z - m')        logsumexp = m + ln s
//
// and, in the same pass over the block that the maximum has just brought into L1,
//
//   spread   = sum e^(z - m) (z - m)      entropy = ln s - spread / s
//   weighted = sum t (z - anchor)         t: target mass times class weight; anchor: the maximum of the first block,
//                                         so that a common offset of the logits costs no digits
//   mass     = sum t
#pragma once

#include <cmath>

#include "blocks.h"

namespace xent::XENT_ISA {

// t absent; t = 1; t a class weight, where 0 times infinity is NaN; t of probabilities, where t = 0 adds 0.
enum class Sums { none, plain, weighted, shares };

template <class T>
struct RowState {
  T top = -T(INFINITY);
  T anchor = 0;
  bool has_anchor = false;
  bool found_nan = false;  // the search for the maximum has ended at a NaN
  bool has_nan = false;    // kept only where the maximum is +inf: elsewhere a NaN shows in the sum
  int64_t argmax = 0;
  double sum = 0, spread = 0, weighted = 0, mass = 0;
  T target_logit = 0;
};

template <class L, class In>
inline typename L::T top_of(const In* z, int64_t n) {
  using T = typename L::T;
  constexpr int w = L::width;
  auto a = L::set(-T(INFINITY)), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w) {
    const auto low = load_pair<L>(z + i), high = load_pair<L>(z + i + 2 * w);
    a = L::max(low.first, a);
    b = L::max(low.second, b);
    c = L::max(high.first, c);
    d = L::max(high.second, d);
  }
  for (; i + w <= n; i += w) a = L::max(L::load(z + i), a);
  if (i < n) b = L::max(L::load_part(z + i, static_cast<int>(n - i), -T(INFINITY)), b);
  return L::top(L::max(L::max(a, b), L::max(c, d)));
}

template <class L, Sums sums, bool entropy>
struct Accumulators {
  using T = typename L::T;
  using reg = typename L::reg;
  reg sum = L::set(0), spread = L::set(0), weighted = L::set(0), mass = L::set(0);

  // z, its distance to the top and the exp of that; n < width: only the first n lanes hold classes (z is -inf beyond).
  inline void add(reg z, reg difference, reg e, reg anchor, const T* t, int64_t at, int n) {
    sum = L::add(sum, e);
    if constexpr (entropy) spread = L::add(spread, L::zero_where_zero(e, L::mul(e, difference)));
    if constexpr (sums == Sums::plain) {
      const reg centred = L::sub(z, anchor);
      weighted = L::add(weighted, n < L::width ? L::first(centred, n) : centred);
    }
    if constexpr (sums == Sums::weighted || sums == Sums::shares) {
      const reg share = n < L::width ? L::load_part(t + at, n, 0) : L::load(t + at);
      const reg cost = L::mul(share, L::sub(z, anchor));
      if constexpr (sums == Sums::shares) weighted = L::add(weighted, L::zero_where_zero(share, cost));
      else weighted = L::add(weighted, n < L::width ? L::first(cost, n) : cost);
      mass = L::add(mass, share);
    }
  }
};

template <class In>
inline bool holds_nan(const In* z, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (widen(z[i]) != widen(z[i])) return true;
  return false;
}

// The state under the maximum of the next block.
template <class T>
inline void raise_top(RowState<T>& state, T block_top) {
  if (!state.has_anchor) {
    state.anchor = std::isfinite(block_top) ? block_top : T(0);
    state.has_anchor = true;
  }
  if (!(block_top > state.top)) return;
  if (block_top == T(INFINITY)) state.has_nan = state.sum != state.sum;
  if (state.sum != 0) {
    const double fall = static_cast<double>(state.top) - static_cast<double>(block_top);
    const double factor = std::exp(fall);
    state.spread = factor * (state.spread + fall * state.sum);
    state.sum *= factor;
  }
  state.top = block_top;
}

// Below the piece's length sums stay in lanes, then go to double: a long row loses no digits, one lane or sixteen.
template <class L, class In, Sums sums, bool entropy>
inline void fold_piece(RowState<typename L::T>& state, const In* z_at, const typename L::T* t, int64_t n, const In* ahead) {
  using T = typename L::T;
  constexpr int w = L::width;
  constexpr int step = L::together > 2 ? L::together : 2;
  constexpr bool in_order = sums == Sums::weighted || sums == Sums::shares;
  const auto top = L::set(state.top == -T(INFINITY) ? T(0) : state.top);
  const auto anchor = L::set(state.anchor);
  Accumulators<L, sums, entropy> even, odd;
  int64_t i = 0;
  for (; i + step * w <= n; i += step * w) {
    if (ahead != nullptr)
      for (int64_t byte = 0; byte < step * w * static_cast<int64_t>(sizeof(In)); byte += 64)
        L::prefetch(reinterpret_cast<const char*>(ahead + i) + byte);
    typename L::reg z[step], difference[step], e[step];
    for (int j = 0; j < step; j += 2) {
      const Pair<L> v = in_order ? Pair<L>{L::load(z_at + i + j * w), L::load(z_at + i + (j + 1) * w)}
                                 : load_pair<L>(z_at + i + j * w);
      z[j] = v.first, z[j + 1] = v.second;
    }
    for (int j = 0; j < step; ++j) difference[j] = L::sub(z[j], top);
    exp_of_differences<L>(difference, e);
    for (int j = 0; j < step; j += 2) {
      even.add(z[j], difference[j], e[j], anchor, t, i + j * w, w);
      odd.add(z[j + 1], difference[j + 1], e[j + 1], anchor, t, i + (j + 1) * w, w);
    }
  }
  for (; i < n; i += w) {
    const int left = static_cast<int>(smaller(n - i, w));
    const auto z = L::load_part(z_at + i, left, -T(INFINITY));
    const auto difference = L::sub(z, top);
    odd.add(z, difference, exp_of_difference<L>(difference), anchor, t, i, left);
  }
  state.sum += static_cast<double>(L::sum(L::add(even.sum, odd.sum)));
  if constexpr (entropy) state.spread += static_cast<double>(L::sum(L::add(even.spread, odd.spread)));
  if constexpr (sums != Sums::none) state.weighted += static_cast<double>(L::sum(L::add(even.weighted, odd.weighted)));
  if constexpr (sums == Sums::shares) state.mass += static_cast<double>(L::sum(L::add(even.mass, odd.mass)));
}

// `ahead` is what this row, or the next one, reads next: fetched while the arithmetic runs. Null: nothing.
template <class L, class In, Sums sums, bool entropy>
void fold_block(RowState<typename L::T>& state, const In* z, const typename L::T* t, int64_t n, const In* ahead) {
  using T = typename L::T;
  raise_top(state, top_of<L>(z, n));
  if (state.top == T(INFINITY)) state.has_nan = state.has_nan || holds_nan(z, n);
  constexpr int64_t piece = 128 * L::width;
  for (int64_t i = 0; i < n; i += piece)
    fold_piece<L, In, sums, entropy>(state, z + i, t == nullptr ? nullptr : t + i, smaller(piece, n - i),
                                     ahead == nullptr ? nullptr : ahead + i);
}

// Called after fold_block, with the state before it: the block is searched only when it holds a new maximum.
template <class T, class In>
inline void find_argmax(RowState<T>& state, T top_before, const In* z, int64_t n, int64_t first_class) {
  if (state.found_nan) return;
  if (state.sum != state.sum) {  // a NaN, or +inf - (+inf)
    for (int64_t i = 0; i < n; ++i) {
      if (widen(z[i]) != widen(z[i])) {
        state.argmax = first_class + i;
        state.found_nan = true;
        return;
      }
    }
  }
  if (!(state.top > top_before)) return;
  for (int64_t i = 0; i < n; ++i) {
    if (widen(z[i]) == state.top) {
      state.argmax = first_class + i;
      return;
    }
  }
}

// As torch.logsumexp has it: +inf for a row with +inf, -inf for a row of -inf, NaN for a row with NaN.
template <class T>
inline double log_sum_exp_of(const RowState<T>& state) {
  if (state.top == T(INFINITY)) return state.has_nan ? NAN : INFINITY;
  if (state.top == -T(INFINITY)) return state.sum != state.sum ? NAN : -INFINITY;
  return static_cast<double>(state.top) + std::log(state.sum);
}

template <class L, class In>
using FoldBlock = void (*)(RowState<typename L::T>&, const In*, const typename L::T*, int64_t, const In*);

template <class L, class In>
inline FoldBlock<L, In> fold_for(Sums sums, bool entropy) {
  switch (sums) {
    case Sums::none: return entropy ? fold_block<L, In, Sums::none, true> : fold_block<L, In, Sums::none, false>;
    case Sums::plain: return entropy ? fold_block<L, In, Sums::plain, true> : fold_block<L, In, Sums::plain, false>;
    case Sums::shares: return entropy ? fold_block<L, In, Sums::shares, true> : fold_block<L, In, Sums::shares, false>;
    default: return entropy ? fold_block<L, In, Sums::weighted, true> : fold_block<L, In, Sums::weighted, false>;
  }
}

}  // namespace xent::XENT_ISA
