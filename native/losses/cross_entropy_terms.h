// What the forward and the backward pass of cross-entropy share: the terms in the statistic's type, the target mass.
//
//   t_c  = w_c q'_c              q' = (1 - eps) q + eps / C,  q the given probabilities or the indicator of y
//   ce   = sum_c t_c (lse - z_c)
//   loss = r ce + weight zeta lse^2,   weight = r w_y (class indices), r (probabilities), 0 (ignored)
#pragma once

#include "log_sum_exp.h"

namespace xent::XENT_ISA {

template <class T>
struct Terms {
  explicit Terms(const CrossEntropyProblem& p)
      : probabilities(p.probabilities.data != nullptr),
        classes(p.logits.classes),
        class_weight(static_cast<const T*>(p.terms.class_weight)),
        smoothing(p.terms.label_smoothing),
        uniform(p.terms.label_smoothing / static_cast<double>(p.logits.classes)),
        z_loss(p.terms.z_loss) {}

  Sums sums() const {
    if (probabilities) return Sums::shares;
    if (smoothing == 0.0) return Sums::none;
    return class_weight != nullptr ? Sums::weighted : Sums::plain;
  }
  double weight_of(int64_t target) const {
    return class_weight != nullptr ? static_cast<double>(class_weight[target]) : 1.0;
  }

  bool probabilities;
  int64_t classes;
  const T* class_weight;
  double smoothing, uniform, z_loss;
};

struct Target {
  int64_t index;  // -1 for probabilities and ignored rows
  bool ignored, bad;
};

inline Target target_of(const CrossEntropyProblem& p, int64_t row) {
  if (p.target.data == nullptr) return {-1, false, false};
  const int64_t y = get<int64_t>(p.target, row);
  if (y == p.terms.ignore_index) return {-1, true, false};
  if (y < 0 || y >= p.logits.classes) return {-1, true, true};
  return {y, false, false};
}

// t of a block of probabilities.
template <class L>
void read_shares(const CrossEntropyProblem& p, const Terms<typename L::T>& terms, int64_t row, int64_t run,
                 int64_t first, int64_t n, typename L::T* block, int64_t pitch) {
  using T = typename L::T;
  read_block<L>(p.probabilities, row, run, first, n, block, pitch);
  if (terms.smoothing == 0.0 && terms.class_weight == nullptr) return;
  const auto keep = L::set(static_cast<T>(1.0 - terms.smoothing));
  const auto uniform = L::set(static_cast<T>(terms.uniform));
  for (int64_t r = 0; r < run; ++r) {
    for (int64_t i = 0; i < n; i += L::width) {
      T* at = block + r * pitch + i;
      const int left = static_cast<int>(smaller(n - i, L::width));
      auto share = L::load_part(at, left, 0);
      if (terms.smoothing != 0.0) share = L::fma(share, keep, uniform);
      if (terms.class_weight != nullptr)
        share = L::mul(share, L::load_part(terms.class_weight + first + i, left, 0));
      L::store_part(at, share, left);
    }
  }
}

inline bool tiled(const CrossEntropyProblem& p) { return strided(p.logits) || strided(p.probabilities); }

inline int64_t run_at(const RowView& logits, const RowView& other, int64_t row, int64_t limit) {
  int64_t run = smaller(limit, rows_left_in_run(logits, row));
  if (other.data != nullptr) run = smaller(run, rows_left_in_run(other, row));
  return run;
}

}  // namespace xent::XENT_ISA
