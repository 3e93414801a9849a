// log1p(x) for x in [0, 1], the tail of softplus: 2 atanh(s), s = x / (2 + x) in [0, 1/3],
// atanh(s) = s + s^3 a(s^2), a minimax (relative error 2e-10 in float, 2.5e-18 in double). At most 2 ulp:
// in float tested at every x (tests/native/test_exponential.py), in double at samples.
#pragma once

#include <bit>
#include <cstdint>

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

// ln x of a normal x >= sqrt(1/2), at most 2.5 ulp (tested at every such float, and at samples between them), without a
// branch or a call, so that a compiler takes several at a time: x = 2^k m with m in [sqrt(1/2), sqrt(2)),
// ln x = k ln 2 + 2 atanh((m - 1) / (m + 1)), and ln 2 in two parts, the first of which has no digits that a product
// with k would lose. Infinity and NaN give neither.
inline double ln_from_root_half(double x) {
  constexpr uint64_t root_half = 0x3fe6a09e667f3bcd;
  constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33, shift = 0x1p52;
  const auto& a = AtanhConstants<double>::a;
  const uint64_t bits = std::bit_cast<uint64_t>(x), exponent = (bits - root_half) >> 52;
  const double k = std::bit_cast<double>(exponent | std::bit_cast<uint64_t>(shift)) - shift;
  const double over_one = std::bit_cast<double>(bits - (exponent << 52)) - 1.0;
  const double s = over_one / (2.0 + over_one), square = s * s;
  double tail = a[9];
  for (int i = 8; i >= 0; --i) tail = tail * square + a[i];
  return k * ln2_high + (2.0 * s + (2.0 * s * (square * tail) + k * ln2_low));
}

}  // namespace xent::XENT_ISA
