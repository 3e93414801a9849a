// Cross-entropy, backward, of bfloat16 rows on an instruction set without bfloat16 (AVX2), where arithmetic, not memory,
// is what a row costs. With eight bits kept of every result, an exponential of half the instructions will do:
//
//   p = 2^n 2^r,   y = z log2(e) - lse log2(e),   n = round(y),   r = y - n,   2^r a polynomial of degree 4
//
// Its relative error is 2.9e-6 (2^-18.4), 700 times below half a unit in the last place of bfloat16; tested over every
// bfloat16 (tests/native/test_gradient_bf16.py). A p below 2^-126 is 0. Rows with finite factors only: there no result is
// NaN, and rounding need not look for one. Rows with |lse| <= 2^24 only: z log2(e) and lse log2(e), as float32 has them,
// differ there by less than 2 where z = lse, and y rounds as near 0; beyond, its error grows with the lse (2^-18 at 2^30,
// 2 % at 2^50, no digit left at 2^100), where z - lse, in GradientLanes, is exact.
#pragma once

#include "gradient_block.h"

namespace xent::XENT_ISA {

template <class L>
concept hurried = requires(typename L::reg v) { L::scale_to_zero(v, v); };

template <class L>
struct HurriedLanes {
  using reg = typename L::reg;
  static constexpr double log2_e = 1.4426950408889634074;
  static constexpr float q[] = {0.6931241750717163f, 0.24024099111557007f, 0.055906400084495544f, 0.009582829661667347f};

  explicit HurriedLanes(const RowFactors<float>& f)
      : probability(L::set(static_cast<float>(f.probability))), flat(L::set(static_cast<float>(f.flat))),
        share(L::set(static_cast<float>(f.share))) {
    const double offset = -(static_cast<double>(f.lse_high) + static_cast<double>(f.lse_low)) * log2_e;
    high = L::set(static_cast<float>(offset));
    // y is short of what the offset lost, and of what log2(e) lost times a z near the lse.
    const double slope = log2_e - static_cast<double>(static_cast<float>(log2_e));
    low = L::set(static_cast<float>(offset - static_cast<double>(static_cast<float>(offset)) +
                                    slope * static_cast<double>(f.lse_high)));
  }

  template <int count, bool shares>
  inline void of(const reg (&z)[count], const reg (&t)[count], reg (&g)[count]) const {
    reg n[count], r[count];
    for (int j = 0; j < count; ++j) r[j] = L::fma(z[j], L::set(static_cast<float>(log2_e)), high);
    for (int j = 0; j < count; ++j) r[j] = L::max(L::set(-127), L::add(r[j], low));
    for (int j = 0; j < count; ++j) n[j] = L::round(r[j]);
    for (int j = 0; j < count; ++j) r[j] = L::sub(r[j], n[j]);
    for (int j = 0; j < count; ++j) g[j] = L::fma(L::set(q[3]), r[j], L::set(q[2]));
    for (int i = 1; i >= 0; --i)
      for (int j = 0; j < count; ++j) g[j] = L::fma(g[j], r[j], L::set(q[i]));
    for (int j = 0; j < count; ++j) g[j] = L::scale_to_zero(L::fma(g[j], r[j], L::set(1)), n[j]);
    for (int j = 0; j < count; ++j)
      g[j] = shares ? L::fnma(t[j], share, L::mul(g[j], probability)) : L::fma(g[j], probability, L::sub(L::set(0), flat));
  }

  reg probability, flat, share, high, low;
};

// A line of classes; `t`, where there are shares, are probabilities in bfloat16 too.
template <class L, bool streaming, bool shares>
inline void hurried_line(const RowFactors<float>& factors, const bf16* z, const bf16* t, bf16* g, int64_t n) {
  using reg = typename L::reg;
  constexpr int w = L::width, step = 4;
  constexpr int64_t bytes = 2 * w * static_cast<int64_t>(sizeof(bf16));
  const HurriedLanes<L> lanes(factors);
  const auto part = [&](int64_t i, int left) {
    const reg at[1] = {L::load_part(z + i, left, 0)}, of[1] = {shares ? L::load_part(t + i, left, 0) : L::set(0)};
    reg v[1];
    lanes.template of<1, shares>(at, of, v);
    L::store_part(g + i, v[0], left);
  };
  int64_t i = 0;
  if constexpr (streaming) {  // up to the first aligned store
    const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(g) % bytes);
    const int64_t head = smaller(n, (bytes - past) % bytes / static_cast<int64_t>(sizeof(bf16)));
    for (int left = 0; i < head; i += left) part(i, left = static_cast<int>(smaller(head - i, w)));
  }
  for (; i + step * w <= n; i += step * w) {
    reg at[step], of[step], v[step];
    for (int j = 0; j < step; j += 2) {
      const Pair<L> two = L::load_pair(z + i + j * w), share = shares ? L::load_pair(t + i + j * w) : Pair<L>{};
      at[j] = two.first, at[j + 1] = two.second;
      of[j] = share.first, of[j + 1] = share.second;
    }
    lanes.template of<step, shares>(at, of, v);
    for (int j = 0; j < step; j += 2) L::template store_finite_pair<streaming>(g + i + j * w, {v[j], v[j + 1]});
  }
  for (; i < n; i += w) part(i, static_cast<int>(smaller(n - i, w)));
}

template <class L, bool streaming>
void hurried_gradient_block(const RowFactors<float>& factors, const bf16* z, const float*, bf16* g, int64_t n) {
  hurried_line<L, streaming, false>(factors, z, nullptr, g, n);
}

// A NaN or an infinite probability has made the row's mass, and so the factor of p, the same.
inline bool may_hurry(const RowFactors<float>& f) {
  return std::abs(f.lse_high) <= 0x1p24f && std::isfinite(static_cast<float>(f.probability)) &&
         std::isfinite(static_cast<float>(f.flat));
}

// A whole row of probability targets in bfloat16, read as they are; whether it was done.
template <class L, class In>
inline bool hurried_shares(const CrossEntropyProblem& p, const RowFactors<typename L::T>& f, int64_t row, const In* x,
                           In* g, bool streaming) {
  if constexpr (std::is_same_v<In, bf16> && hurried<L>) {
    const bool as_they_are = p.probabilities.data != nullptr && p.probabilities.dtype == Dtype::bf16 &&
                             p.terms.label_smoothing == 0.0 && p.terms.class_weight == nullptr;
    if (!as_they_are || !may_hurry(f) || !std::isfinite(static_cast<float>(f.share))) return false;
    const bf16* t = at<bf16>(p.probabilities, row, 0);
    if (streaming) hurried_line<L, true, true>(f, x, t, g, p.logits.classes);
    else hurried_line<L, false, true>(f, x, t, g, p.logits.classes);
    return true;
  }
  return false;
}

// The block for a row: the short one where the row allows it.
template <class L, class In>
inline GradientBlock<L, In, In> block_for_row(GradientBlock<L, In, In> general, const RowFactors<typename L::T>& f,
                                              Sums sums, bool streaming) {
  if constexpr (std::is_same_v<In, bf16> && hurried<L>) {
    if (may_hurry(f) && (sums == Sums::none || sums == Sums::plain))
      return streaming ? hurried_gradient_block<L, true> : hurried_gradient_block<L, false>;
  }
  return general;
}

}  // namespace xent::XENT_ISA
