// log1p(x) for x in [0, 1], the tail of softplus: 2 atanh(s), s = x / (2 + x) in [0, 1/3],
// atanh(s) = s + s^3 a(s^2), a minimax (relative error 2e-10 in float, 2.5e-18 in double). At most 2 ulp.
#pragma once

#include "exponential.h"

namespace xent::XENT_ISA {

template <class T>
struct AtanhConstants;

template <>
struct AtanhConstants<float> {
  static constexpr float a[] = {0.33333336772477837418f, 0.19999476740663475526f, 0.14308439862958745905f,
                                0.10705598583381993963f, 0.12204608107648828976f};
};

template <>
struct AtanhConstants<double> {
  static constexpr double a[] = {0.3333333333333324787,  0.20000000000051480731, 0.14285714276526172715,
                                 0.11111111866448695354, 0.090908748602401486582, 0.076932410613407496323,
                                 0.066507445862683285392, 0.060526985980074505285, 0.041652584066757534198,
                                 0.085281388383626510859};
};

template <class L>
inline typename L::reg log1p_to_one(typename L::reg x) {
  const auto s = L::div(x, L::add(L::set(2), x));
  const auto square = L::mul(s, s);
  const auto tail = L::mul(square, horner<L>(AtanhConstants<typename L::T>::a, square));
  const auto twice = L::add(s, s);
  return L::fma(twice, tail, twice);
}

}  // namespace xent::XENT_ISA
