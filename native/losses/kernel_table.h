// All kernels of one instruction set; included once by each file in isa/, which names XENT_ISA and defines Lanes.
#pragma once

#include "../math/logarithm.h"
#include "binary_cross_entropy.h"
#include "cross_entropy_both.h"
#include "log_softmax.h"
#include "logsumexp.h"
#include "nll_loss.h"

#define XENT_QUOTED(name) #name
#define XENT_NAME(name) XENT_QUOTED(name)

namespace xent::XENT_ISA {

template <class L>
void apply(int function, const typename L::T* x, typename L::T* y, int64_t n) {
  if (function == 4) {
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<typename L::T>(ln_from_root_half(static_cast<double>(x[i])));
    return;
  }
  for (int64_t i = 0; i < n; i += L::width) {
    const int left = static_cast<int>(smaller(n - i, L::width));
    const auto v = L::load_part(x + i, left, 0);
    const auto result = function == 0   ? exp<L>(v)
                        : function == 1 ? tanh<L>(v)
                        : function == 2 ? log1p_to_one<L>(v)
                                        : exp_of_difference<L>(v);
    L::store_part(y + i, result, left);
  }
}

template <class In>
double sum_of(const In* x, int64_t n) {
  using L = Lanes<double>;
  constexpr int lines = 4;
  typename L::reg sum[lines];
  for (auto& line : sum) line = L::set(0);
  int64_t i = 0;
  for (; i + lines * L::width <= n; i += lines * L::width)
    for (int j = 0; j < lines; ++j) sum[j] = L::add(sum[j], L::load(x + i + j * L::width));
  for (; i < n; i += L::width)
    sum[0] = L::add(sum[0], L::load_part(x + i, static_cast<int>(smaller(n - i, L::width)), 0));
  return L::sum(L::add(L::add(sum[0], sum[1]), L::add(sum[2], sum[3])));
}

constexpr KernelTable table = {
    XENT_NAME(XENT_ISA),      cross_entropy_any, cross_entropy_gradient_any,
    is_one_pass,              counted_rows,  cross_entropy_both,     nll_loss,
    nll_loss_gradient,        log_softmax,   log_softmax_gradient,   logsumexp,
    logsumexp_gradient,       binary_cross_entropy, binary_cross_entropy_gradient,
    sum_of<float>,            sum_of<double>,
    apply<Lanes<float>>,      apply<Lanes<double>>,
};

}  // namespace xent::XENT_ISA
