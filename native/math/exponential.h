// exp, expm1 and tanh of vectors.
//
// exp(x) = 2^n exp(r),  n = round(x / ln 2),  r = x - n ln 2 in [-ln2/2, ln2/2],
// exp(r) = 1 + r + r^2 q(r),  q minimax on that interval (relative error 3.1e-9 in float, 7.8e-18 in double).
// Error of exp: at most 1.5 ulp, tested over every float32 on every instruction set of the machine
// (tests/native/test_exponential.py; beyond |x| = 256, where 0 and infinity alone are left, every 64th number); a
// subnormal result is rounded twice and may be off by one more subnormal step.
#pragma once

namespace xent::XENT_ISA {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  // ln 2 in two parts: the first has 9 trailing zero bits, so n * ln2_high is exact for |n| <= 2^9.
  static constexpr float ln2_high = 0x1.62e400p-1f, ln2_low = 0x1.7f7d1cp-20f, inverse_ln2 = 0x1.715476p0f;
  // exp(-104) rounds to zero, exp(89) is above the largest float.
  static constexpr float lowest = -104.0f, highest = 89.0f;
  static constexpr float q[] = {0.4999999343181193864f, 0.16666520398732230237f, 0.041668390865063875415f,
                                0.0083687451492782608881f, 0.0013814535732042815303f};
};

template <>
struct ExpConstants<double> {
  static constexpr double ln2_high = 0x1.62e42fefa3800p-1, ln2_low = 0x1.ef35793c76730p-45,
                          inverse_ln2 = 0x1.71547652b82fep0;
  static constexpr double lowest = -746.0, highest = 710.0;
  static constexpr double q[] = {0.50000000000000102655,  0.16666666666666674561,   0.041666666666521526972,
                                 0.0083333333333221716539, 0.0013888888947962537016, 0.00019841269886699869538,
                                 0.000024801487165844413748, 2.7557242213566591746e-6, 2.7632716108151887305e-7,
                                 2.511009628499660539e-8};
};

template <class L, int terms>
inline typename L::reg horner(const typename L::T (&c)[terms], typename L::reg x) {
  typename L::reg y = L::set(c[terms - 1]);
  for (int i = terms - 2; i >= 0; --i) y = L::fma(y, x, L::set(c[i]));
  return y;
}

template <class L>
struct Reduced {
  typename L::reg n, r;
};

template <class L>
inline Reduced<L> reduce_exp(typename L::reg x) {
  using K = ExpConstants<typename L::T>;
  const auto n = L::round(L::mul(x, L::set(K::inverse_ln2)));
  const auto r = L::fnma(n, L::set(K::ln2_low), L::fnma(n, L::set(K::ln2_high), x));
  return {n, r};
}

template <class L>
inline typename L::reg exp_of_rest(typename L::reg r) {
  const auto tail = L::fma(horner<L>(ExpConstants<typename L::T>::q, r), r, L::set(1));
  return L::fma(tail, r, L::set(1));
}

// For x <= 64: the exponent of a softmax is never positive, but for rounding.
template <class L>
inline typename L::reg exp_of_difference(typename L::reg x) {
  const auto [n, r] = reduce_exp<L>(L::max(L::set(ExpConstants<typename L::T>::lowest), x));
  return L::scale_down(exp_of_rest<L>(r), n);
}

// The same of several vectors, step by step through all of them where the processor's queues are too short to overlap
// chains of twenty instructions by themselves (L::together > 1); bit by bit the same results.
template <class L, int count>
inline void exp_of_differences(const typename L::reg (&x)[count], typename L::reg (&y)[count]) {
  if constexpr (L::together == 1) {
    for (int j = 0; j < count; ++j) y[j] = exp_of_difference<L>(x[j]);
  } else {
    using K = ExpConstants<typename L::T>;
    constexpr int terms = sizeof(K::q) / sizeof(K::q[0]);
    typename L::reg n[count], r[count];
    for (int j = 0; j < count; ++j) r[j] = L::max(L::set(K::lowest), x[j]);
    for (int j = 0; j < count; ++j) n[j] = L::round(L::mul(r[j], L::set(K::inverse_ln2)));
    for (int j = 0; j < count; ++j) r[j] = L::fnma(n[j], L::set(K::ln2_high), r[j]);
    for (int j = 0; j < count; ++j) r[j] = L::fnma(n[j], L::set(K::ln2_low), r[j]);
    for (int j = 0; j < count; ++j) y[j] = L::set(K::q[terms - 1]);
    for (int i = terms - 2; i >= 0; --i)
      for (int j = 0; j < count; ++j) y[j] = L::fma(y[j], r[j], L::set(K::q[i]));
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < count; ++j) y[j] = L::fma(y[j], r[j], L::set(1));
    for (int j = 0; j < count; ++j) y[j] = L::scale_down(y[j], n[j]);
  }
}

template <class L>
inline typename L::reg exp(typename L::reg x) {
  using K = ExpConstants<typename L::T>;
  const auto [n, r] = reduce_exp<L>(L::min(L::set(K::highest), L::max(L::set(K::lowest), x)));
  return L::scale(exp_of_rest<L>(r), n);
}

// exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1), without cancellation; for x <= 0.
template <class L>
inline typename L::reg expm1_of_negative(typename L::reg x) {
  using K = ExpConstants<typename L::T>;
  const auto [n, r] = reduce_exp<L>(L::max(L::set(K::lowest), x));
  const auto tail = L::fma(horner<L>(K::q, r), r, L::set(1));
  const auto power = L::scale(L::set(1), n);
  return L::fma(L::mul(tail, r), power, L::sub(power, L::set(1)));
}

// tanh(x) = -e / (2 + e), e = exp(-2 |x|) - 1, with the sign of x.
template <class L>
inline typename L::reg tanh(typename L::reg x) {
  const auto e = expm1_of_negative<L>(L::mul(L::set(-2), L::abs(x)));
  return L::copysign(L::div(e, L::add(L::set(2), e)), x);
}

}  // namespace xent::XENT_ISA
