// logsumexp(x) = m + ln sum e^(x - m), and its gradient softmax(x) g.
#pragma once

#include "log_sum_exp.h"

namespace xent::XENT_ISA {

struct LogSumExpPass {
  const RowView& input;
  RowArray lse, exact_lse, upstream;
  const RowView* gradient;
};

// The states of `run` rows, in `z` block by block.
template <class L>
void fold_rows(const RowView& input, const Cut& cut, int64_t row, int64_t run, typename L::T* z,
               RowState<typename L::T>* states) {
  using T = typename L::T;
  for (int64_t r = 0; r < run; ++r) states[r] = RowState<T>();
  for (int64_t c = 0; c < input.classes; c += cut.width) {
    const int64_t n = smaller(cut.width, input.classes - c);
    read_block<L>(input, row, run, c, n, z, cut.width);
    for (int64_t r = 0; r < run; ++r)
      fold_block<L, T, Sums::none, false>(states[r], z + r * cut.width, nullptr, n, nullptr);
  }
}

template <class L, class In>
void logsumexp_task(const void* context, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const auto& pass = *static_cast<const LogSumExpPass*>(context);
  const Cut cut = cut_of(pass.input, strided(pass.input));
  alignas(64) T z[block_numbers];
  RowState<T> states[tile_rows];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = smaller(smaller(cut.run, last_row - row), rows_left_in_run(pass.input, row));
    fold_rows<L>(pass.input, cut, row, run, z, states);
    for (int64_t r = 0; r < run; ++r) {
      const double lse = log_sum_exp_of(states[r]);
      put(pass.lse, row + r, static_cast<T>(lse));
      put(pass.exact_lse, row + r, std::isinf(lse) ? NAN : lse);
    }
  }
}

template <class L, class In>
void logsumexp_gradient_task(const void* context, int64_t first_row, int64_t last_row) {
  using T = typename L::T;
  const auto& pass = *static_cast<const LogSumExpPass*>(context);
  const Cut cut = cut_of(pass.input, strided(pass.input) || strided(*pass.gradient));
  alignas(64) T z[block_numbers];
  int64_t run;
  for (int64_t row = first_row; row < last_row; row += run) {
    run = smaller(smaller(cut.run, last_row - row), rows_left_in_run(pass.input, row));
    run = smaller(run, rows_left_in_run(*pass.gradient, row));
    for (int64_t c = 0; c < pass.input.classes; c += cut.width) {
      const int64_t n = smaller(cut.width, pass.input.classes - c);
      read_block<L>(pass.input, row, run, c, n, z, cut.width);
      for (int64_t r = 0; r < run; ++r) {
        const double lse = get<double>(pass.exact_lse, row + r);
        const T high = static_cast<T>(lse);
        const auto low = L::set(static_cast<T>(lse - static_cast<double>(high)));
        const auto g = L::set(get<T>(pass.upstream, row + r));
        T* line = z + r * cut.width;
        for (int64_t i = 0; i < n; i += L::width) {
          const int left = static_cast<int>(smaller(n - i, L::width));
          const auto log_p = L::sub(L::sub(L::load_part(line + i, left, 0), L::set(high)), low);
          L::store_part(line + i, L::mul(g, exp_of_difference<L>(log_p)), left);
        }
      }
      write_block<L, In>(*pass.gradient, row, run, c, n, z, cut.width, false);
    }
  }
}

inline void logsumexp(const RowView& input, const RowArray& lse, const RowArray& exact_lse, int threads) {
  const LogSumExpPass pass{input, lse, exact_lse, {}, nullptr};
  const RowTask task = by_dtype(input.dtype, [](auto in) -> RowTask {
    return logsumexp_task<Lanes<Statistic<decltype(in)>>, decltype(in)>;
  });
  thread_rows(input.rows, cut_of(input, strided(input)).chunk, threads, task, &pass);
}

inline void logsumexp_gradient(const RowView& input, const RowArray& exact_lse, const RowArray& upstream,
                               const RowView& gradient, int threads) {
  const LogSumExpPass pass{input, {}, exact_lse, upstream, &gradient};
  const RowTask task = by_dtype(input.dtype, [](auto in) -> RowTask {
    return logsumexp_gradient_task<Lanes<Statistic<decltype(in)>>, decltype(in)>;
  });
  thread_rows(input.rows, cut_of(input, strided(input) || strided(gradient)).chunk, threads, task, &pass);
}

}  // namespace xent::XENT_ISA
