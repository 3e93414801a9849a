// Cross-entropy where classes are strided and rows adjacent, as in (N, C, T) and in segmentation maps: a vector holds
// one class of adjacent rows. Every class of a strip of rows is read as one run of memory, and nothing is transposed.
//
// Per row, eight classes at a time:  m' = max(m, z_1..8),  s' = e^(m - m') s + sum e^(z_i - m');
// after 512 classes the pair is merged into the row's state in double.
//
// Class indices, without entropy and argmax: the calls of training. The rest takes cross_entropy_blocks.
#pragma once

#include <cfloat>

#include "cross_entropy.h"
#include "cross_entropy_gradient.h"

namespace xent::XENT_ISA {

constexpr int64_t strip_rows = 512;  // per-row numbers of a strip stay in L1
constexpr int64_t group = 8;         // classes held in registers
constexpr int64_t merge_classes = 512;

inline bool in_columns(const RowView& view, int64_t width) {
  return view.class_stride != 1 && innermost_stride(view) == 1 && view.row_size[view.row_dims - 1] >= width;
}

inline int64_t strip_chunk(int64_t classes) {
  const int64_t rows = chunk_numbers / (classes + row_overhead);
  return rows <= strip_rows ? strip_rows : rows / strip_rows * strip_rows;
}

template <class T>
struct Strip {
  alignas(64) T top[strip_rows], sum[strip_rows], anchor[strip_rows], weighted[strip_rows];
};

template <class L, class In>
inline typename L::reg load_lanes(const In* p, int left) {
  return left == L::width ? L::load(p) : L::load_part(p, left, 0);
}

// Up to eight classes of one vector of rows. Tops start at the lowest finite number: -inf - (-inf) never arises.
template <class L, class In, Sums sums, int count>
inline void fold_group(Strip<typename L::T>& strip, int64_t r, const In* x, int64_t stride, const typename L::T* w,
                       int left) {
  typename L::reg z[count];
  auto old = L::load(strip.top + r), top = old;
  for (int i = 0; i < count; ++i) {
    z[i] = load_lanes<L>(x + i * stride, left);
    top = L::max(z[i], top);
  }
  auto sum = L::mul(L::load(strip.sum + r), exp_of_difference<L>(L::sub(old, top)));
  for (int i = 0; i < count; ++i) sum = L::add(sum, exp_of_difference<L>(L::sub(z[i], top)));
  L::store(strip.top + r, top);
  L::store(strip.sum + r, sum);
  if constexpr (sums != Sums::none) {
    const auto anchor = L::load(strip.anchor + r);
    auto weighted = L::load(strip.weighted + r);
    for (int i = 0; i < count; ++i) {
      const auto centred = L::sub(z[i], anchor);
      if constexpr (sums == Sums::plain) weighted = L::add(weighted, centred);
      else weighted = L::fma(L::set(w[i]), centred, weighted);
    }
    L::store(strip.weighted + r, weighted);
  }
}

template <class L, class In, Sums sums>
void fold_strip(Strip<typename L::T>& strip, const In* x, int64_t stride, const typename L::T* w, int64_t rows,
                int64_t classes) {
  int64_t c = 0;
  for (; c + group <= classes; c += group)
    for (int64_t r = 0; r < rows; r += L::width)
      fold_group<L, In, sums, group>(strip, r, x + r + c * stride, stride, w == nullptr ? nullptr : w + c,
                                     static_cast<int>(smaller(rows - r, L::width)));
  for (; c < classes; ++c)
    for (int64_t r = 0; r < rows; r += L::width)
      fold_group<L, In, sums, 1>(strip, r, x + r + c * stride, stride, w == nullptr ? nullptr : w + c,
                                 static_cast<int>(smaller(rows - r, L::width)));
}

template <class T>
inline void start_strip(Strip<T>& strip) {
  constexpr T lowest = sizeof(T) == 4 ? T(-FLT_MAX) : T(-DBL_MAX);
  for (int64_t r = 0; r < strip_rows; ++r) {
    strip.top[r] = lowest;
    strip.sum[r] = strip.weighted[r] = 0;
  }
}

template <class T>
inline void merge(RowState<T>& state, T top, T sum, T weighted) {
  state.weighted += static_cast<double>(weighted);
  if (sum == 0) return;  // nothing but -inf so far
  if (top > state.top) {
    if (state.sum != 0) state.sum *= std::exp(static_cast<double>(state.top) - static_cast<double>(top));
    state.top = top;
  }
  const double fall = static_cast<double>(top) - static_cast<double>(state.top);
  state.sum += fall == 0 ? static_cast<double>(sum) : static_cast<double>(sum) * std::exp(fall);
}

template <class L, class In, Sums sums>
void states_of_strip(RowState<typename L::T>* states, const In* x, int64_t stride, const typename L::T* w, int64_t rows,
                     int64_t classes) {
  using T = typename L::T;
  Strip<T> strip;
  for (int64_t r = 0; r < strip_rows; ++r) {
    const T first = r < rows ? static_cast<T>(widen(x[r])) : T(0);
    strip.anchor[r] = std::isfinite(first) ? first : T(0);
  }
  for (int64_t r = 0; r < rows; ++r) {
    states[r] = RowState<T>();
    states[r].anchor = strip.anchor[r];
  }
  for (int64_t c = 0; c < classes; c += merge_classes) {
    start_strip(strip);
    fold_strip<L, In, sums>(strip, x + c * stride, stride, w == nullptr ? nullptr : w + c, rows,
                            smaller(merge_classes, classes - c));
    for (int64_t r = 0; r < rows; ++r) merge(states[r], strip.top[r], strip.sum[r], strip.weighted[r]);
  }
}

template <class L, class In>
void cross_entropy_columns(const void* context, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const auto& pass = *static_cast<const CrossEntropyPass*>(context);
  const CrossEntropyProblem& p = pass.problem;
  const Terms<T> terms(p);
  const auto fold = terms.sums() == Sums::none    ? states_of_strip<L, In, Sums::none>
                    : terms.sums() == Sums::plain ? states_of_strip<L, In, Sums::plain>
                                                  : states_of_strip<L, In, Sums::weighted>;
  RowState<T> states[strip_rows];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = smaller(smaller(strip_rows, last_row - row), rows_left_in_run(p.logits, row));
    const In* x = at<In>(p.logits, row, 0);
    fold(states, x, p.logits.class_stride, terms.class_weight, run, terms.classes);
    for (int64_t r = 0; r < run; ++r) {
      const Target target = target_of(p, row + r);
      if (target.bad) note_bad_row(pass.bad_row, row + r);
      if (target.ignored) {
        put_ignored<T>(pass.rows, row + r);
        continue;
      }
      states[r].target_logit = static_cast<T>(widen(x[r + target.index * p.logits.class_stride]));
      put_row(pass, terms, row + r, states[r], target.index);
    }
  }
}

template <class T>
struct GradientStrip {
  alignas(64) T probability[strip_rows], high[strip_rows], low[strip_rows], share[strip_rows], counted[strip_rows];
};

template <class L, class In, bool streaming>
void gradient_of_class(const GradientStrip<typename L::T>& strip, const In* x, In* g, typename L::T weight,
                       int64_t rows) {
  for (int64_t r = 0; r < rows; r += L::width) {
    const int left = static_cast<int>(smaller(rows - r, L::width));
    const auto log_p = L::sub(L::sub(load_lanes<L>(x + r, left), L::load(strip.high + r)), L::load(strip.low + r));
    const auto pulled = L::mul(exp_of_difference<L>(log_p), L::load(strip.probability + r));
    const auto v = L::zero_where_zero(L::load(strip.counted + r),
                                      L::fnma(L::set(weight), L::load(strip.share + r), pulled));
    if (left < L::width) L::store_part(g + r, v, left);
    else if constexpr (streaming) L::stream(g + r, v);
    else L::store(g + r, v);
  }
}

// The gradient at the target's class of each row, before its logit may be overwritten.
template <class L, class In>
void start_gradient(const CrossEntropyGradientPass& pass, const Terms<typename L::T>& terms, int64_t row, int64_t run,
                    GradientStrip<typename L::T>& strip, int64_t* targets, In* mended) {
  using T = typename L::T;
  const RowView& logits = pass.problem.logits;
  const In* x = at<In>(logits, row, 0);
  for (int64_t r = 0; r < strip_rows; ++r) {
    const Target target = r < run ? target_of(pass.problem, row + r) : Target{-1, true, false};
    targets[r] = target.index;
    strip.counted[r] = target.ignored ? T(0) : T(1);
    strip.probability[r] = strip.high[r] = strip.low[r] = strip.share[r] = 0;
    if (target.ignored) continue;
    const RowFactors<T> f = factors_of(pass, terms, row + r, target.index);
    strip.probability[r] = static_cast<T>(f.probability);
    strip.high[r] = f.lse_high;
    strip.low[r] = f.lse_low;
    strip.share[r] = static_cast<T>(terms.smoothing != 0.0 ? f.share : 0.0);
    const T logit = static_cast<T>(widen(x[r + target.index * logits.class_stride]));
    narrow(gradient_at_target(f, terms, logit, target.index), mended + r);
  }
}

template <class L, class In>
void gradient_columns(const void* context, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const auto& pass = *static_cast<const CrossEntropyGradientPass*>(context);
  const CrossEntropyProblem& p = pass.problem;
  const Terms<T> terms(p);
  const int64_t out_stride = pass.gradient.class_stride;
  GradientStrip<T> strip;
  int64_t targets[strip_rows];
  In mended[strip_rows];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = smaller(smaller(strip_rows, last_row - row), rows_left_in_run(p.logits, row));
    run = smaller(run, rows_left_in_run(pass.gradient, row));
    start_gradient<L, In>(pass, terms, row, run, strip, targets, mended);
    const In* x = at<In>(p.logits, row, 0);
    In* g = at<In>(pass.gradient, row, 0);
    const uintptr_t alignment = reinterpret_cast<uintptr_t>(g) | static_cast<uintptr_t>(out_stride) * sizeof(In);
    const bool streaming = pass.streaming && alignment % (L::width * sizeof(In)) == 0;
    const auto one_class = streaming ? gradient_of_class<L, In, true> : gradient_of_class<L, In, false>;
    for (int64_t c = 0; c < terms.classes; ++c)
      one_class(strip, x + c * p.logits.class_stride, g + c * out_stride,
                terms.class_weight != nullptr ? terms.class_weight[c] : T(1), run);
    for (int64_t r = 0; r < run; ++r)
      if (targets[r] >= 0) g[r + targets[r] * out_stride] = mended[r];
  }
  if (pass.streaming) L::fence();
}

inline int64_t lanes_of(Dtype dtype) {
  return by_dtype(dtype, [](auto in) -> int64_t { return Lanes<Statistic<decltype(in)>>::width; });
}

inline int64_t cross_entropy_any(const CrossEntropyProblem& p, const CrossEntropyRows& rows, int threads) {
  const bool columns = p.target.data != nullptr && in_columns(p.logits, lanes_of(p.logits.dtype)) &&
                       identity(p.terms.map) && rows.entropy.data == nullptr && rows.prediction.data == nullptr &&
                       rows.lse.data == nullptr;
  if (!columns) return cross_entropy(p, rows, threads);
  std::atomic<int64_t> bad_row{-1};
  const CrossEntropyPass pass{p, rows, bad_row};
  const RowTask task = by_dtype(p.logits.dtype, [](auto in) -> RowTask {
    return cross_entropy_columns<Lanes<Statistic<decltype(in)>>, decltype(in)>;
  });
  thread_rows(p.logits.rows, strip_chunk(p.logits.classes), threads, task, &pass);
  return bad_row.load();
}

inline void cross_entropy_gradient_any(const CrossEntropyProblem& p, const CrossEntropyUpstream& upstream,
                                       const RowView& gradient, bool streaming, int threads) {
  const int64_t lanes = lanes_of(p.logits.dtype);
  const bool columns = p.target.data != nullptr && in_columns(p.logits, lanes) && in_columns(gradient, lanes) &&
                       identity(p.terms.map) && upstream.entropy.data == nullptr;
  if (!columns) return cross_entropy_gradient(p, upstream, gradient, streaming, threads);
  const CrossEntropyGradientPass pass{p, upstream, gradient, streaming};
  const RowTask task = by_dtype(p.logits.dtype, [](auto in) -> RowTask {
    return gradient_columns<Lanes<Statistic<decltype(in)>>, decltype(in)>;
  });
  thread_rows(p.logits.rows, strip_chunk(p.logits.classes), threads, task, &pass);
}

}  // namespace xent::XENT_ISA
