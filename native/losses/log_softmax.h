// ln p = (x - m) - ln s, and its gradient g - p sum g.
#pragma once

#include "logsumexp.h"

namespace xent::XENT_ISA {

template <class L, class In>
void log_softmax_task(const void* context, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const auto& p = *static_cast<const LogSoftmaxProblem*>(context);
  const Cut cut = cut_of(p.input, strided(p.input) || strided(p.output));
  alignas(64) T z[block_numbers];
  RowState<T> states[tile_rows];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = smaller(smaller(cut.run, last_row - row), rows_left_in_run(p.input, row));
    run = smaller(run, rows_left_in_run(p.output, row));
    fold_rows<L>(p.input, cut, row, run, z, states);
    for (int64_t c = 0; c < p.input.classes; c += cut.width) {
      const int64_t n = smaller(cut.width, p.input.classes - c);
      read_block<L>(p.input, row, run, c, n, z, cut.width);
      for (int64_t r = 0; r < run; ++r) {
        const auto top = L::set(states[r].top);
        const auto log_sum = L::set(static_cast<T>(std::log(states[r].sum)));
        T* line = z + r * cut.width;
        for (int64_t i = 0; i < n; i += L::width) {
          const int left = static_cast<int>(smaller(n - i, L::width));
          L::store_part(line + i, L::sub(L::sub(L::load_part(line + i, left, 0), top), log_sum), left);
        }
      }
      write_block<L, In>(p.output, row, run, c, n, z, cut.width, false);
    }
  }
}

// In double after every 64 vectors, so that a long row loses no digits, one lane or sixteen.
template <class L>
double sum_of(const typename L::T* x, int64_t n) {
  constexpr int64_t piece = 64 * L::width;
  double total = 0;
  for (int64_t first = 0; first < n; first += piece) {
    const int64_t last = smaller(first + piece, n);
    auto sum = L::set(0);
    for (int64_t i = first; i < last; i += L::width)
      sum = L::add(sum, L::load_part(x + i, static_cast<int>(smaller(last - i, L::width)), 0));
    total += static_cast<double>(L::sum(sum));
  }
  return total;
}

template <class L, class In>
void log_softmax_gradient_task(const void* context, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const auto& p = *static_cast<const LogSoftmaxProblem*>(context);
  const bool is_tiled = strided(p.log_probabilities) || strided(p.upstream) || strided(p.output);
  const Cut cut = cut_of(p.output, is_tiled);
  alignas(64) T log_p[block_numbers], g[block_numbers];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = smaller(smaller(cut.run, last_row - row), rows_left_in_run(p.output, row));
    run = smaller(run, rows_left_in_run(p.log_probabilities, row));
    run = smaller(run, rows_left_in_run(p.upstream, row));
    double sums[tile_rows] = {};
    for (int64_t c = 0; c < p.output.classes; c += cut.width) {
      const int64_t n = smaller(cut.width, p.output.classes - c);
      read_block<L>(p.upstream, row, run, c, n, g, cut.width);
      for (int64_t r = 0; r < run; ++r) {
        sums[r] += sum_of<L>(g + r * cut.width, n);
      }
    }
    for (int64_t c = 0; c < p.output.classes; c += cut.width) {
      const int64_t n = smaller(cut.width, p.output.classes - c);
      read_block<L>(p.upstream, row, run, c, n, g, cut.width);
      read_block<L>(p.log_probabilities, row, run, c, n, log_p, cut.width);
      for (int64_t r = 0; r < run; ++r) {
        const auto sum = L::set(static_cast<T>(sums[r]));
        for (int64_t i = 0; i < n; i += L::width) {
          const int64_t at = r * cut.width + i;
          const int left = static_cast<int>(smaller(n - i, L::width));
          const auto probability = exp_of_difference<L>(L::load_part(log_p + at, left, 0));
          L::store_part(g + at, L::fnma(probability, sum, L::load_part(g + at, left, 0)), left);
        }
      }
      write_block<L, In>(p.output, row, run, c, n, g, cut.width, false);
    }
  }
}

inline void log_softmax(const LogSoftmaxProblem& p, int threads) {
  const RowTask task = by_dtype(p.input.dtype, [](auto in) -> RowTask {
    return log_softmax_task<Lanes<Statistic<decltype(in)>>, decltype(in)>;
  });
  thread_rows(p.input.rows, cut_of(p.input, strided(p.input) || strided(p.output)).chunk, threads, task, &p);
}

inline void log_softmax_gradient(const LogSoftmaxProblem& p, int threads) {
  const bool is_tiled = strided(p.log_probabilities) || strided(p.upstream) || strided(p.output);
  const RowTask task = by_dtype(p.output.dtype, [](auto in) -> RowTask {
    return log_softmax_gradient_task<Lanes<Statistic<decltype(in)>>, decltype(in)>;
  });
  thread_rows(p.output.rows, cut_of(p.output, is_tiled).chunk, threads, task, &p);
}

}  // namespace xent::XENT_ISA
