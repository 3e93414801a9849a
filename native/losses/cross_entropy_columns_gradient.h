// The gradient of cross_entropy_columns.h: a class of a strip of rows at a time, with the rows' factors in L1.
#pragma once

#include <cstring>

#include "cross_entropy_columns.h"
#include "cross_entropy_gradient.h"

namespace xent::XENT_ISA {

template <class T>
struct GradientStrip {
  alignas(64) T probability[strip_room], high[strip_room], low[strip_room], share[strip_room], counted[strip_room];
  alignas(64) T at_target[strip_room], target[strip_room];  // logit, then gradient, of the target's class; its own part
  int64_t index[strip_room];
  bool some_ignored;
};

// Smoothing and ignored rows are looked at where there are some.
template <class L, bool shared, bool ignoring>
inline typename L::reg strip_gradient(const GradientStrip<typename L::T>& strip, int64_t r, typename L::reg e,
                                      typename L::T weight) {
  auto v = L::mul(e, L::load(strip.probability + r));
  if constexpr (shared) v = L::fnma(L::set(weight), L::load(strip.share + r), v);
  if constexpr (ignoring) v = L::zero_where_zero(L::load(strip.counted + r), v);
  return v;
}

template <class L, class In, bool streaming, bool shared, bool ignoring>
void gradient_of_class(const GradientStrip<typename L::T>& strip, const In* x, int64_t stride, In* g,
                       typename L::T weight, int64_t rows) {
  using reg = typename L::reg;
  constexpr int w = L::width;
  constexpr int step = L::together > 2 ? L::together : 2;
  const auto log_p = [&](int64_t r, reg z) { return L::sub(L::sub(z, L::load(strip.high + r)), L::load(strip.low + r)); };
  int64_t r = 0;
  for (; r + step * w <= rows; r += step * w) {
    for (int64_t line = 0; line < step * w; line += 64 / static_cast<int64_t>(sizeof(In)))
      fetch_ahead<L>(x, r + line, rows, stride, 1);
    reg difference[step], e[step];
    for (int j = 0; j < step; ++j) difference[j] = log_p(r + j * w, L::load(x + r + j * w));
    exp_of_differences<L>(difference, e);
    for (int j = 0; j < step; ++j) {
      const auto v = strip_gradient<L, shared, ignoring>(strip, r + j * w, e[j], weight);
      if constexpr (streaming) L::stream(g + r + j * w, v);
      else L::store(g + r + j * w, v);
    }
  }
  for (; r < rows; r += w) {
    const int left = static_cast<int>(smaller(rows - r, w));
    const auto e = exp_of_difference<L>(log_p(r, load_lanes<L>(x + r, left)));
    const auto v = strip_gradient<L, shared, ignoring>(strip, r, e, weight);
    if (left < w) L::store_part(g + r, v, left);
    else if constexpr (streaming) L::stream(g + r, v);
    else L::store(g + r, v);
  }
}

template <class L, class In>
using GradientOfClass = void (*)(const GradientStrip<typename L::T>&, const In*, int64_t, In*, typename L::T, int64_t);

template <class L, class In, bool streaming>
inline GradientOfClass<L, In> gradient_of_class_for(bool shared, bool ignoring) {
  if (shared)
    return ignoring ? gradient_of_class<L, In, streaming, true, true> : gradient_of_class<L, In, streaming, true, false>;
  return ignoring ? gradient_of_class<L, In, streaming, false, true> : gradient_of_class<L, In, streaming, false, false>;
}

template <class T>
inline void put_lse(GradientStrip<T>& strip, int64_t r, double lse, double low) {
  const T high = static_cast<T>(lse);
  strip.high[r] = high;
  strip.low[r] = std::isfinite(high) ? static_cast<T>(lse - static_cast<double>(high) + low) : T(0);
}

// Where the probability's factor is the row's upstream gradient and nothing else: in loops that take several rows at a
// time. Ignored rows have a log-sum-exp of 0.
template <class T>
void put_plain_factors(GradientStrip<T>& strip, const CrossEntropyUpstream& up, int64_t row, int64_t run) {
  for (int64_t r = 0; r < run; ++r)
    put_lse(strip, r, get<double>(up.saved_lse, row + r), get_or<double>(up.saved_lse_low, row + r, 0.0));
  for (int64_t r = 0; r < run; ++r) strip.target[r] = get_or<T>(up.loss, row + r, T(0));
  for (int64_t r = 0; r < run; ++r)
    strip.probability[r] = strip.target[r] = strip.counted[r] != 0 ? strip.target[r] : T(0);
}

template <class T>
void put_factors(GradientStrip<T>& strip, const CrossEntropyGradientPass& pass, const Terms<T>& terms, int64_t row,
                 int64_t run) {
  for (int64_t r = 0; r < run; ++r) {
    if (strip.counted[r] == 0) continue;
    const RowFactors<T> f = factors_of(pass, terms, row + r, strip.index[r]);
    const double share = terms.smoothing != 0.0 ? f.share : 0.0;
    strip.probability[r] = static_cast<T>(f.probability);
    strip.high[r] = f.lse_high;
    strip.low[r] = f.lse_low;
    strip.share[r] = static_cast<T>(share);
    strip.target[r] = static_cast<T>(f.target + (share != 0.0 ? share * terms.weight_of(strip.index[r]) : 0.0));
  }
}

// The factors of the rows, and the gradient at the target's class of each, before its logit may be overwritten.
template <class L, class In>
void start_gradient(const CrossEntropyGradientPass& pass, const Terms<typename L::T>& terms, int64_t row, int64_t run,
                    GradientStrip<typename L::T>& strip) {
  using T = typename L::T;
  const RowView& logits = pass.problem.logits;
  const In* x = at<In>(logits, row, 0);
  const int64_t row_stride = innermost_stride(logits), padded = whole_vectors(run, L::width);
  const CrossEntropyUpstream& up = pass.upstream;
  const bool plain = terms.sums() == Sums::none && terms.z_loss == 0.0 && terms.class_weight == nullptr &&
                     pass.problem.terms.row_weight.data == nullptr && up.lse.data == nullptr;
  strip.some_ignored = false;
  for (T* factors : {strip.probability, strip.high, strip.low, strip.share, strip.counted, strip.at_target, strip.target})
    std::memset(factors, 0, static_cast<size_t>(padded) * sizeof(T));
  for (int64_t r = 0; r < run; ++r) {
    const Target target = target_of(pass.problem, row + r);
    strip.index[r] = target.index;
    strip.some_ignored = strip.some_ignored || target.ignored;
    if (target.ignored) continue;
    strip.counted[r] = T(1);
    strip.at_target[r] = static_cast<T>(widen(x[r * row_stride + target.index * logits.class_stride]));
  }
  if (plain) put_plain_factors(strip, up, row, run);
  else put_factors(strip, pass, terms, row, run);
  for (int64_t r = 0; r < padded; r += L::width) {
    const auto z = L::load(strip.at_target + r);
    const auto e = exp_of_difference<L>(L::sub(L::sub(z, L::load(strip.high + r)), L::load(strip.low + r)));
    L::store(strip.at_target + r, L::sub(L::mul(e, L::load(strip.probability + r)), L::load(strip.target + r)));
  }
}

template <class T, class In>
inline void put_targets(const GradientStrip<T>& strip, In* g, int64_t row_stride, int64_t class_stride, int64_t run) {
  for (int64_t r = 0; r < run; ++r)
    if (strip.index[r] >= 0) narrow(strip.at_target[r], g + r * row_stride + strip.index[r] * class_stride);
}

template <class L, class In>
void gradient_columns(const void* context, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const auto& pass = *static_cast<const CrossEntropyGradientPass*>(context);
  const CrossEntropyProblem& p = pass.problem;
  const Terms<T> terms(p);
  const int64_t stride = p.logits.class_stride, out_stride = pass.gradient.class_stride;
  GradientStrip<T> strip;
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = smaller(smaller(strip_rows, last_row - row), rows_left_in_run(p.logits, row));
    run = smaller(run, rows_left_in_run(pass.gradient, row));
    start_gradient<L, In>(pass, terms, row, run, strip);
    const In* x = at<In>(p.logits, row, 0);
    In* g = at<In>(pass.gradient, row, 0);
    const uintptr_t alignment = reinterpret_cast<uintptr_t>(g) | static_cast<uintptr_t>(out_stride) * sizeof(In);
    const bool streaming = pass.streaming && alignment % (L::width * sizeof(In)) == 0, shared = terms.smoothing != 0.0;
    const auto one_class = streaming ? gradient_of_class_for<L, In, true>(shared, strip.some_ignored)
                                     : gradient_of_class_for<L, In, false>(shared, strip.some_ignored);
    for (int64_t c = 0; c < terms.classes; ++c)
      one_class(strip, x + c * stride, stride, g + c * out_stride,
                terms.class_weight != nullptr ? terms.class_weight[c] : T(1), run);
    put_targets(strip, g, 1, out_stride, run);
  }
  if (pass.streaming) L::fence();
}

}  // namespace xent::XENT_ISA
