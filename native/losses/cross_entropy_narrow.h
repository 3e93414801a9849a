// Cross-entropy of narrow rows, classes adjacent: a vector that holds classes of one row would be half empty, and what a
// row costs by itself would outweigh its classes. A strip of rows is transposed into L1, where a vector holds one class
// of adjacent rows, and takes the loops of cross_entropy_columns.h.
#pragma once

#include "cross_entropy_columns_gradient.h"

namespace xent::XENT_ISA {

// Beyond these, in vectors, a row in place is as fast: measured on AVX2 in float32. Backward transposes twice.
constexpr int64_t narrow_forward = 4, narrow_backward = 2;

inline bool narrow_rows(const RowView& view, int64_t width, int64_t vectors) {
  return view.class_stride == 1 && view.row_dims > 0 && view.classes <= vectors * width &&
         view.row_size[view.row_dims - 1] >= 2 * width;
}

// So short that block and per-row numbers of both passes fit L1 together.
inline int64_t narrow_strip(int64_t classes) { return smaller(256, block_numbers / classes / 16 * 16); }

template <class L>
concept transposing = requires(typename L::reg (&v)[L::width]) { L::transpose(v); };

// The first class of each square of `width` rows and classes; the last one overlaps the one before, and nothing is left
// over. No squares: of too few classes, or where an instruction set has no transposition.
template <class L>
inline int64_t squares_of(int64_t classes) {
  return transposing<L> && classes >= L::width ? (classes + L::width - 1) / L::width : 0;
}

// Moves the squares of as many rows as fill them, and says how many rows these are. load(row, class, j) is register j of
// the square that begins there, and store(row, class, j, v) takes the register j of the transposed one.
template <class L, class Load, class Store>
inline int64_t transpose_squares(int64_t rows, int64_t classes, const Load& load, const Store& store) {
  const int64_t squares = squares_of<L>(classes);
  int64_t r = 0;
  if constexpr (transposing<L>) {
    for (; squares > 0 && r + L::width <= rows; r += L::width) {
      for (int64_t i = 0; i < squares; ++i) {
        const int64_t c = smaller(i * L::width, classes - L::width);
        typename L::reg v[L::width];
        for (int j = 0; j < L::width; ++j) v[j] = load(r, c, j);
        L::transpose(v);
        for (int j = 0; j < L::width; ++j) store(r, c, j, v[j]);
      }
    }
  }
  return r;
}

template <class L, class In, class T>
inline void transpose_in(const In* x, int64_t row_stride, int64_t rows, int64_t classes, T* block, int64_t pitch) {
  int64_t r = transpose_squares<L>(
      rows, classes, [&](int64_t row, int64_t c, int j) { return L::load(x + (row + j) * row_stride + c); },
      [&](int64_t row, int64_t c, int j, auto v) { L::store(block + (c + j) * pitch + row, v); });
  for (; r < rows; ++r)
    for (int64_t c = 0; c < classes; ++c) block[c * pitch + r] = static_cast<T>(widen(x[r * row_stride + c]));
}

template <class L, class In, class T>
inline void transpose_out(const T* block, int64_t pitch, int64_t rows, int64_t classes, In* g, int64_t row_stride) {
  int64_t r = transpose_squares<L>(
      rows, classes, [&](int64_t row, int64_t c, int j) { return L::load(block + (c + j) * pitch + row); },
      [&](int64_t row, int64_t c, int j, auto v) { L::store(g + (row + j) * row_stride + c, v); });
  for (; r < rows; ++r)
    for (int64_t c = 0; c < classes; ++c) narrow(block[c * pitch + r], g + r * row_stride + c);
}

// Values of the rows of a transposed strip.
template <class L, class In>
inline void put_narrow_strip(const CrossEntropyPass& pass, const Terms<typename L::T>& terms, int64_t row, int64_t run,
                             const typename L::T* block, int64_t pitch) {
  using T = typename L::T;
  if constexpr (std::is_same_v<T, float>) {
    if (in_one_piece(pass, terms)) {
      Strip<T> sums;
      sums_of_strip<L>(sums, block, pitch, run, terms.classes);
      return put_plain_strip<In>(pass, row, run, sums);
    }
  }
  ColumnState<T> states[strip_rows];
  states_of_strip_for<L, T>(terms.sums())(states, block, pitch, terms.class_weight, run, terms.classes);
  put_strip<T, In>(pass, terms, row, run, states);
}

template <class L, class In>
void cross_entropy_narrow(const void* context, int64_t first_row, int64_t last_row) {
  const auto& pass = *static_cast<const CrossEntropyPass*>(context);
  const CrossEntropyProblem& p = pass.problem;
  const Terms<typename L::T> terms(p);
  const int64_t strip = narrow_strip(terms.classes), row_stride = innermost_stride(p.logits);
  alignas(64) typename L::T block[block_numbers];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = smaller(smaller(strip, last_row - row), rows_left_in_run(p.logits, row));
    transpose_in<L>(at<In>(p.logits, row, 0), row_stride, run, terms.classes, block, strip);
    put_narrow_strip<L, In>(pass, terms, row, run, block, strip);
  }
}

// The gradient of the rows of a transposed strip, whose logits it overwrites.
template <class L, class In>
inline void put_narrow_gradient(const CrossEntropyGradientPass& pass, const Terms<typename L::T>& terms, int64_t row,
                                int64_t run, typename L::T* block, int64_t pitch) {
  using T = typename L::T;
  GradientStrip<T> strip;
  start_gradient<L, In>(pass, terms, row, run, strip);
  const auto one_class = gradient_of_class_for<L, T, false>(terms.smoothing != 0.0, strip.some_ignored);
  for (int64_t c = 0; c < terms.classes; ++c)
    one_class(strip, block + c * pitch, pitch, block + c * pitch,
              terms.class_weight != nullptr ? terms.class_weight[c] : T(1), run);
  In* g = at<In>(pass.gradient, row, 0);
  const int64_t out_stride = innermost_stride(pass.gradient);
  transpose_out<L>(block, pitch, run, terms.classes, g, out_stride);
  put_targets(strip, g, out_stride, 1, run);
}

template <class L, class In>
void gradient_narrow(const void* context, int64_t first_row, int64_t last_row) {
  const auto& pass = *static_cast<const CrossEntropyGradientPass*>(context);
  const CrossEntropyProblem& p = pass.problem;
  const Terms<typename L::T> terms(p);
  const int64_t most = narrow_strip(terms.classes), row_stride = innermost_stride(p.logits);
  alignas(64) typename L::T block[block_numbers];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = smaller(smaller(most, last_row - row), rows_left_in_run(p.logits, row));
    run = smaller(run, rows_left_in_run(pass.gradient, row));
    transpose_in<L>(at<In>(p.logits, row, 0), row_stride, run, terms.classes, block, most);
    put_narrow_gradient<L, In>(pass, terms, row, run, block, most);
  }
}

inline bool without_statistics(const CrossEntropyRows& rows) {
  return rows.entropy.data == nullptr && rows.prediction.data == nullptr && rows.lse.data == nullptr;
}

// Columns and narrow rows serve class indices without statistics, the calls of training.
inline int64_t cross_entropy_any(const CrossEntropyProblem& p, const CrossEntropyRows& rows, int threads) {
  const int64_t lanes = lanes_of(p.logits.dtype);
  const bool lean = p.target.data != nullptr && identity(p.terms.map) && without_statistics(rows);
  const bool columns = in_columns(p.logits, lanes);
  if (!lean || !(columns || narrow_rows(p.logits, lanes, narrow_forward))) return cross_entropy(p, rows, threads);
  std::atomic<int64_t> bad_row{-1};
  const CrossEntropyPass pass{p, rows, bad_row};
  const RowTask task = by_dtype(p.logits.dtype, [=](auto in) -> RowTask {
    using L = Lanes<Statistic<decltype(in)>>;
    return columns ? cross_entropy_columns<L, decltype(in)> : cross_entropy_narrow<L, decltype(in)>;
  });
  thread_rows(p.logits.rows, strip_chunk(p.logits, threads), threads, task, &pass);
  return bad_row.load();
}

inline void cross_entropy_gradient_any(const CrossEntropyProblem& p, const CrossEntropyUpstream& upstream,
                                       const RowView& gradient, bool streaming, int threads) {
  const int64_t lanes = lanes_of(p.logits.dtype);
  const bool lean = p.target.data != nullptr && identity(p.terms.map) && upstream.entropy.data == nullptr;
  const bool columns = in_columns(p.logits, lanes) && in_columns(gradient, lanes);
  const bool narrow = narrow_rows(p.logits, lanes, narrow_backward) && narrow_rows(gradient, lanes, narrow_backward);
  if (!lean || !(columns || narrow)) return cross_entropy_gradient(p, upstream, gradient, streaming, threads);
  const CrossEntropyGradientPass pass{p, upstream, gradient, streaming};
  const RowTask task = by_dtype(p.logits.dtype, [=](auto in) -> RowTask {
    using L = Lanes<Statistic<decltype(in)>>;
    return columns ? gradient_columns<L, decltype(in)> : gradient_narrow<L, decltype(in)>;
  });
  thread_rows(p.logits.rows, strip_chunk(p.logits, threads), threads, task, &pass);
}

}  // namespace xent::XENT_ISA
