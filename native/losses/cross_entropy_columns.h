// Cross-entropy where classes are strided and rows adjacent, as in (N, C, T) and in segmentation maps: a vector holds
// one class of adjacent rows. Every class of a strip of rows is read as one run of memory, and nothing is transposed.
//
// Per row, eight classes at a time:  m' = max(m, z_1..8),  s' = e^(m - m') s + sum e^(z_i - m');
// after 512 classes the pair is merged into the row's state in double.
//
// Class indices, without entropy and argmax: the calls of training. The rest takes cross_entropy_blocks.
#pragma once

#include <cfloat>
#include <type_traits>

#include "../math/logarithm.h"
#include "cross_entropy.h"

namespace xent::XENT_ISA {

constexpr int64_t strip_rows = 1024;  // per-row numbers of a strip stay in L1, and a page of float32 is read whole
// Numbers of a strip a page apart would share the sets of L1, and shorter strips leave most of these unused.
constexpr int64_t strip_room = strip_rows + 112;
constexpr int64_t least_strip = 256;
constexpr int64_t group = 8;  // classes held in registers
constexpr int64_t merge_classes = 512;
constexpr int64_t ahead_bytes = 512;  // how far in front of the arithmetic memory is asked for

inline bool in_columns(const RowView& view, int64_t width) {
  return view.class_stride != 1 && innermost_stride(view) == 1 && view.row_size[view.row_dims - 1] >= width;
}

// Rows of a chunk: at least two chunks for each thread, as long as strips stay long. No result depends on it.
inline int64_t strip_chunk(const RowView& logits, int threads) {
  const int64_t rows = chunk_numbers / (logits.classes + row_overhead);
  int64_t strip = strip_rows;
  while (strip > least_strip && logits.rows < 2 * threads * strip) strip /= 2;
  return rows <= strip ? strip : rows / strip * strip;
}

inline int64_t whole_vectors(int64_t rows, int64_t width) { return (rows + width - 1) / width * width; }

template <class T>
struct Strip {
  alignas(64) T top[strip_room], sum[strip_room], anchor[strip_room], weighted[strip_room];
};

template <class L, class In>
inline typename L::reg load_lanes(const In* p, int left) {
  return left == L::width ? L::load(p) : L::load_part(p, left, 0);
}

// Up to eight classes of one or two vectors of rows: two, a whole cache line of float32, wherever there are two, since
// lines a power of two apart share one set of L1 and would be gone before their second half is read. Tops start at the
// lowest finite number: -inf - (-inf) never arises. A top that stays leaves a factor of exactly 1.
template <class L, class In, Sums sums, int count, int vectors>
inline void fold_group(Strip<typename L::T>& strip, int64_t r, const In* x, int64_t stride, const typename L::T* w,
                       int left) {
  using reg = typename L::reg;
  constexpr int step = count * vectors < 4 ? count * vectors : 4, in_step = step / vectors;
  const auto z = [&](int i, int v) {
    const In* from = x + i * stride + v * L::width;
    return vectors > 1 ? L::load(from) : load_lanes<L>(from, left);
  };
  reg top[vectors], sum[vectors];
  for (int v = 0; v < vectors; ++v) {
    const auto old = L::load(strip.top + r + v * L::width);
    top[v] = old;
    sum[v] = L::load(strip.sum + r + v * L::width);
    for (int i = 0; i < count; ++i) top[v] = L::max(z(i, v), top[v]);
    if (L::any_above(top[v], old)) sum[v] = L::mul(sum[v], exp_of_difference<L>(L::sub(old, top[v])));
  }
  for (int i = 0; i < count; i += in_step) {
    reg difference[step], e[step];
    for (int j = 0; j < step; ++j) difference[j] = L::sub(z(i + j / vectors, j % vectors), top[j % vectors]);
    exp_of_differences<L>(difference, e);
    for (int j = 0; j < step; ++j) sum[j % vectors] = L::add(sum[j % vectors], e[j]);
  }
  for (int v = 0; v < vectors; ++v) {
    L::store(strip.top + r + v * L::width, top[v]);
    L::store(strip.sum + r + v * L::width, sum[v]);
    if constexpr (sums == Sums::none) continue;
    const auto anchor = L::load(strip.anchor + r + v * L::width);
    auto weighted = L::load(strip.weighted + r + v * L::width);
    for (int i = 0; i < count; ++i) {
      const auto centred = L::sub(z(i, v), anchor);
      if constexpr (sums == Sums::plain) weighted = L::add(weighted, centred);
      else weighted = L::fma(L::set(w[i]), centred, weighted);
    }
    L::store(strip.weighted + r + v * L::width, weighted);
  }
}

// What lies `ahead_bytes` further on in each class, or in the classes that come after these. Processors fetch by
// themselves, but not across the end of a page, and a class may begin a page.
template <class L, class In>
inline void fetch_ahead(const In* x, int64_t r, int64_t rows, int64_t stride, int64_t classes) {
  if (r * static_cast<int64_t>(sizeof(In)) % 64 != 0) return;
  constexpr int64_t ahead = ahead_bytes / static_cast<int64_t>(sizeof(In));
  const In* from = r + ahead < rows ? x + (r + ahead) : x + (r + ahead - rows) + classes * stride;
  for (int64_t i = 0; i < classes; ++i) L::prefetch(from + i * stride);
}

template <class L, class In, Sums sums, int count>
inline void fold_classes(Strip<typename L::T>& strip, const In* x, int64_t stride, const typename L::T* w, int64_t rows,
                         bool fetching) {
  constexpr int pair = 2 * L::width;
  int64_t r = 0;
  for (; r + pair <= rows; r += pair) {
    if (fetching) fetch_ahead<L>(x, r, rows, stride, count);
    fold_group<L, In, sums, count, 2>(strip, r, x + r, stride, w, L::width);
  }
  for (; r < rows; r += L::width)
    fold_group<L, In, sums, count, 1>(strip, r, x + r, stride, w, static_cast<int>(smaller(rows - r, L::width)));
}

template <class L, class In, Sums sums>
void fold_strip(Strip<typename L::T>& strip, const In* x, int64_t stride, const typename L::T* w, int64_t rows,
                int64_t classes) {
  const auto weights_at = [w](int64_t c) { return w == nullptr ? nullptr : w + c; };
  int64_t c = 0;
  for (; c + group <= classes; c += group)
    fold_classes<L, In, sums, group>(strip, x + c * stride, stride, weights_at(c), rows, stride > rows || rows >= least_strip);
  for (; c < classes; ++c) fold_classes<L, In, sums, 1>(strip, x + c * stride, stride, weights_at(c), rows, false);
}

template <class T>
inline void start_strip(Strip<T>& strip, int64_t rows) {
  constexpr T lowest = sizeof(T) == 4 ? T(-FLT_MAX) : T(-DBL_MAX);
  for (int64_t r = 0; r < rows; ++r) strip.top[r] = lowest;
}

// A row's state so far; RowState has more than a strip of rows should carry.
template <class T>
struct ColumnState {
  double sum, weighted;
  T top, anchor;
};

template <class T>
inline void merge(ColumnState<T>& state, T top, T sum, T weighted) {
  state.weighted += static_cast<double>(weighted);
  if (sum == 0) return;  // nothing but -inf so far
  if (top > state.top) {
    if (state.sum != 0) state.sum *= std::exp(static_cast<double>(state.top) - static_cast<double>(top));
    state.top = top;
  }
  const double fall = static_cast<double>(top) - static_cast<double>(state.top);
  state.sum += fall == 0 ? static_cast<double>(sum) : static_cast<double>(sum) * std::exp(fall);
}

// Whether a strip's own sums, in float, are as good as merged ones: a single piece.
template <class T>
inline bool in_one_piece(const CrossEntropyPass& pass, const Terms<T>& terms) {
  return std::is_same_v<T, float> && terms.classes <= merge_classes && is_plain(pass, terms);
}

template <class L, class In>
void sums_of_strip(Strip<typename L::T>& strip, const In* x, int64_t stride, int64_t rows, int64_t classes) {
  const int64_t padded = whole_vectors(rows, L::width);
  start_strip(strip, padded);
  for (int64_t r = 0; r < padded; ++r) strip.sum[r] = 0;
  fold_strip<L, In, Sums::none>(strip, x, stride, nullptr, rows, classes);
}

template <class L, class In, Sums sums>
void states_of_strip(ColumnState<typename L::T>* states, const In* x, int64_t stride, const typename L::T* w, int64_t rows,
                     int64_t classes) {
  using T = typename L::T;
  Strip<T> strip;
  const int64_t padded = whole_vectors(rows, L::width);
  for (int64_t r = 0; r < padded; ++r) {
    const T first = r < rows ? static_cast<T>(widen(x[r])) : T(0);
    strip.anchor[r] = std::isfinite(first) ? first : T(0);
  }
  for (int64_t r = 0; r < rows; ++r) {
    states[r].sum = states[r].weighted = 0;
    states[r].top = -T(INFINITY);
    states[r].anchor = strip.anchor[r];
  }
  start_strip(strip, padded);
  for (int64_t c = 0; c < classes; c += merge_classes) {
    for (int64_t r = 0; r < padded; ++r) strip.sum[r] = strip.weighted[r] = 0;  // tops stay: they rise less often
    fold_strip<L, In, sums>(strip, x + c * stride, stride, w == nullptr ? nullptr : w + c, rows,
                            smaller(merge_classes, classes - c));
    for (int64_t r = 0; r < rows; ++r) merge(states[r], strip.top[r], strip.sum[r], strip.weighted[r]);
  }
}

template <class L, class In>
using StatesOfStrip = void (*)(ColumnState<typename L::T>*, const In*, int64_t, const typename L::T*, int64_t, int64_t);

template <class L, class In>
inline StatesOfStrip<L, In> states_of_strip_for(Sums sums) {
  switch (sums) {
    case Sums::none: return states_of_strip<L, In, Sums::none>;
    case Sums::plain: return states_of_strip<L, In, Sums::plain>;
    default: return states_of_strip<L, In, Sums::weighted>;
  }
}

template <class T>
inline RowState<T> row_state_of(const ColumnState<T>& column, T target_logit) {
  RowState<T> state;
  state.top = column.top;
  state.anchor = column.anchor;
  state.sum = column.sum;
  state.weighted = column.weighted;
  state.target_logit = target_logit;
  return state;
}

// ln of the sums of a strip, NaN for 0: a row of -inf has no softmax. A sum that holds exp(0) is at least 1; the others
// (0, infinity, NaN) have bits outside of [0x3f800000, 0x7f7fffff] and are taken one by one.
inline void logs_of_sums(const float* sum, int64_t rows, double* logs) {
  for (int64_t r = 0; r < rows; ++r) logs[r] = ln_from_root_half(static_cast<double>(sum[r]));
  uint32_t outside = 0;
  for (int64_t r = 0; r < rows; ++r) outside |= std::bit_cast<uint32_t>(sum[r]) - 0x3f800000u;
  if ((outside >> 30) == 0) return;
  for (int64_t r = 0; r < rows; ++r)
    if (!(sum[r] >= 1 && sum[r] <= FLT_MAX)) logs[r] = sum[r] == 0 ? NAN : std::log(static_cast<double>(sum[r]));
}

// Rows of so few classes that their float sums need no merging, with the terms and outputs of `is_plain`. Every step is a
// loop of its own, which a compiler turns into vectors; rows that do not count are mended after.
template <class In>
void put_plain_strip(const CrossEntropyPass& pass, int64_t row, int64_t run, const Strip<float>& strip) {
  const RowView& logits = pass.problem.logits;
  const In* x = at<In>(logits, row, 0);
  const int64_t row_stride = innermost_stride(logits), class_stride = logits.class_stride;
  alignas(64) double logs[strip_room], lse_room[strip_room], low_room[strip_room];
  alignas(64) float target_logit[strip_room], loss_room[strip_room];
  double* __restrict lse = line_of(pass.rows.exact_lse, row, lse_room);
  double* __restrict low = line_of(pass.rows.lse_low, row, low_room);
  float* __restrict loss = line_of(pass.rows.loss, row, loss_room);
  bool some_ignored = false;
  logs_of_sums(strip.sum, run, logs);
  for (int64_t r = 0; r < run; ++r) {
    const int64_t y = get<int64_t>(pass.problem.target, row + r);
    const bool counts = y != pass.problem.terms.ignore_index && static_cast<uint64_t>(y) < static_cast<uint64_t>(logits.classes);
    some_ignored = some_ignored || !counts;
    target_logit[r] = static_cast<float>(widen(x[r * row_stride + (counts ? y : 0) * class_stride]));
  }
  for (int64_t r = 0; r < run; ++r) {
    const double top = strip.top[r];
    lse[r] = top + logs[r];
    low[r] = rounding_of_sum(top, logs[r], lse[r]);
    loss[r] = static_cast<float>(logs[r] - (static_cast<double>(target_logit[r]) - top));
  }
  put_line(pass.rows.loss, row, run, loss);
  put_line(pass.rows.exact_lse, row, run, lse);
  put_line(pass.rows.lse_low, row, run, low);
  for (int64_t r = 0; r < run; ++r) put(pass.rows.weight, row + r, 1.0f);
  if (!some_ignored) return;
  for (int64_t r = 0; r < run; ++r) {
    const Target target = target_of(pass.problem, row + r);
    if (target.bad) note_bad_row(pass.bad_row, row + r);
    if (target.ignored) put_ignored<float>(pass.rows, row + r);
  }
}

// The rows of a strip, written from their states.
template <class T, class In>
void put_strip(const CrossEntropyPass& pass, const Terms<T>& terms, int64_t row, int64_t run, const ColumnState<T>* states) {
  const RowView& logits = pass.problem.logits;
  const In* x = at<In>(logits, row, 0);
  const int64_t row_stride = innermost_stride(logits);
  const bool plain = is_plain(pass, terms);
  for (int64_t r = 0; r < run; ++r) {
    const Target target = target_of(pass.problem, row + r);
    if (target.bad) note_bad_row(pass.bad_row, row + r);
    if (target.ignored) {
      put_ignored<T>(pass.rows, row + r);
      continue;
    }
    const T logit = static_cast<T>(widen(x[r * row_stride + target.index * logits.class_stride]));
    if (plain) put_plain_row(pass.rows, row + r, states[r].top, std::log(states[r].sum), logit);
    else put_row(pass, terms, row + r, row_state_of(states[r], logit), target.index);
  }
}

template <class L, class In>
void cross_entropy_columns(const void* context, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const auto& pass = *static_cast<const CrossEntropyPass*>(context);
  const CrossEntropyProblem& p = pass.problem;
  const Terms<T> terms(p);
  const auto states_of = states_of_strip_for<L, In>(terms.sums());
  const bool one_piece = in_one_piece(pass, terms);
  Strip<T> strip;
  ColumnState<T> states[strip_rows];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = smaller(smaller(strip_rows, last_row - row), rows_left_in_run(p.logits, row));
    if constexpr (std::is_same_v<T, float>) {
      if (one_piece) {
        sums_of_strip<L>(strip, at<In>(p.logits, row, 0), p.logits.class_stride, run, terms.classes);
        put_plain_strip<In>(pass, row, run, strip);
        continue;
      }
    }
    states_of(states, at<In>(p.logits, row, 0), p.logits.class_stride, terms.class_weight, run, terms.classes);
    put_strip<T, In>(pass, terms, row, run, states);
  }
}

inline int64_t lanes_of(Dtype dtype) {
  return by_dtype(dtype, [](auto in) -> int64_t { return Lanes<Statistic<decltype(in)>>::width; });
}

}  // namespace xent::XENT_ISA
