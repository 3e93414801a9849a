// Binary cross-entropy of logits, element by element:
//
//   loss  = w (omega t softplus(-z) + (1 - t) softplus(z))       softplus(z) = max(z, 0) + log1p(e^-|z|)
//   dl/dz = w ((1 - t) sigmoid(z) - omega t sigmoid(-z))
//
// Both terms are of one sign, so that none of their digits cancel: a sure and right logit keeps its small loss.
#pragma once

#include "../math/logarithm.h"
#include "blocks.h"

namespace xent::XENT_ISA {

// sigmoid(-z) = 1 / (1 + e^z); e^z = inf gives 0.
template <class L>
inline typename L::reg sigmoid_of_minus(typename L::reg z) {
  return L::div(L::set(1), L::add(L::set(1), exp<L>(z)));
}

template <class L>
struct BinaryBlocks {
  using T = typename L::T;
  alignas(64) T z[block_numbers], t[block_numbers], weight[block_numbers], positive[block_numbers], out[block_numbers];

  void read(const BinaryCrossEntropyProblem& p, int64_t row, int64_t first, int64_t n) {
    read_block<L>(p.logits, row, 1, first, n, z, n);
    read_block<L>(p.target, row, 1, first, n, t, n);
    fill(p.weight, row, first, n, weight);
    fill(p.positive_weight, row, first, n, positive);
  }
  static void fill(const RowView& view, int64_t row, int64_t first, int64_t n, T* block) {
    if (view.data != nullptr) return read_block<L>(view, row, 1, first, n, block, n);
    for (int64_t i = 0; i < n; ++i) block[i] = T(1);
  }
  typename L::reg positives(int64_t i) const { return L::mul(L::load(positive + i), L::load(t + i)); }
  typename L::reg negatives(int64_t i) const { return L::sub(L::set(1), L::load(t + i)); }
};

// Row numbers of the task count blocks: block b of row r is number r * blocks_per_row + b. One long row is threaded too.
inline int64_t blocks_per_row(const RowView& view) { return (view.classes + block_numbers - 1) / block_numbers; }

template <class L, class In, bool gradient>
void binary_task(const void* context, int64_t first_block, int64_t last_block) {
  const auto& p = *static_cast<const BinaryCrossEntropyProblem*>(context);
  const int64_t per_row = blocks_per_row(p.logits);
  BinaryBlocks<L> b;
  for (int64_t number = first_block; number < last_block; ++number) {
    const int64_t row = number / per_row, first = number % per_row * block_numbers;
    const int64_t n = smaller(block_numbers, p.logits.classes - first);
    b.read(p, row, first, n);
    // The lanes beyond n hold old numbers: whole vectors are computed, n numbers are written.
    if constexpr (gradient) {
      read_block<L>(p.loss, row, 1, first, n, b.out, n);
      for (int64_t i = 0; i < n; i += L::width) {
        const auto z = L::load(b.z + i), minus = L::sub(L::set(0), z);
        const auto of_negatives = L::mul(b.negatives(i), sigmoid_of_minus<L>(minus));
        const auto slope = L::fnma(b.positives(i), sigmoid_of_minus<L>(z), of_negatives);
        L::store(b.out + i, L::mul(L::load(b.out + i), L::mul(L::load(b.weight + i), slope)));
      }
      write_block<L, In>(p.gradient, row, 1, first, n, b.out, n, false);
    } else {
      for (int64_t i = 0; i < n; i += L::width) {
        const auto z = L::load(b.z + i), minus = L::sub(L::set(0), z);
        const auto tail = log1p_to_one<L>(exp_of_difference<L>(L::sub(L::set(0), L::abs(z))));
        const auto of_negatives = L::mul(b.negatives(i), L::add(L::max(z, L::set(0)), tail));
        const auto loss = L::fma(b.positives(i), L::add(L::max(minus, L::set(0)), tail), of_negatives);
        L::store(b.out + i, L::mul(L::load(b.weight + i), loss));
      }
      write_block<L, In>(p.loss, row, 1, first, n, b.out, n, false);
    }
  }
}

template <bool gradient>
inline void run_binary(const BinaryCrossEntropyProblem& p, int threads) {
  const RowTask task = by_dtype(p.logits.dtype, [](auto in) -> RowTask {
    return binary_task<Lanes<Statistic<decltype(in)>>, decltype(in), gradient>;
  });
  const int64_t per_chunk = p.logits.classes >= block_numbers ? 16 : chunk_numbers / (p.logits.classes + 1) + 1;
  thread_rows(p.logits.rows * blocks_per_row(p.logits), per_chunk, threads, task, &p);
}

inline void binary_cross_entropy(const BinaryCrossEntropyProblem& p, int threads) { run_binary<false>(p, threads); }
inline void binary_cross_entropy_gradient(const BinaryCrossEntropyProblem& p, int threads) {
  run_binary<true>(p, threads);
}

}  // namespace xent::XENT_ISA
