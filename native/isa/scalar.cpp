// The baseline: one lane, plain C++, no instruction beyond what the compiler targets by default.
#define XENT_ISA scalar

#include <cmath>

#include "element.h"

namespace xent::XENT_ISA {

template <class Number>
struct Lanes {
  using T = Number;
  using reg = Number;
  static constexpr int width = 1;
  static constexpr int together = 1;

  static reg set(T x) { return x; }
  template <class In>
  static reg load(const In* p) { return static_cast<T>(widen(*p)); }
  template <class In>
  static reg load_part(const In* p, int n, T fill) { return n > 0 ? load(p) : fill; }
  template <class Out>
  static void store(Out* p, reg v) { narrow(v, p); }
  template <class Out>
  static void store_part(Out* p, reg v, int n) { if (n > 0) store(p, v); }
  template <class Out>
  static void stream(Out* p, reg v) { store(p, v); }
  static void fence() {}
  static void prefetch(const void*) {}

  static reg add(reg a, reg b) { return a + b; }
  static reg sub(reg a, reg b) { return a - b; }
  static reg mul(reg a, reg b) { return a * b; }
  static reg div(reg a, reg b) { return a / b; }
  static reg fma(reg a, reg b, reg c) { return a * b + c; }   // a b + c
  static reg fnma(reg a, reg b, reg c) { return c - a * b; }  // c - a b
  static reg max(reg a, reg b) { return a > b ? a : b; }      // b where either is NaN, as maxps
  static reg min(reg a, reg b) { return a < b ? a : b; }
  static bool any_above(reg a, reg b) { return a > b; }
  static reg abs(reg a) { return std::fabs(a); }
  static reg copysign(reg a, reg s) { return std::copysign(a, s); }
  // Adding 1.5 * 2^mantissa rounds to the nearest integer; right for |a| < 2^22 (2^51), NaN stays NaN.
  static reg round(reg a) {
    constexpr T magic = sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52);
    volatile T shifted = a + magic;
    return shifted - magic;
  }
  static reg scale(reg a, reg n) { return a == a ? std::ldexp(a, static_cast<int>(n == n ? n : T(0))) : a; }
  static reg scale_down(reg a, reg n) { return scale(a, n); }
  static reg zero_where_zero(reg test, reg v) { return test == T(0) ? T(0) : v; }
  static reg first(reg v, int n) { return n > 0 ? v : T(0); }
  static T sum(reg v) { return v; }
  static T top(reg v) { return v; }
};

}  // namespace xent::XENT_ISA

#include "../losses/kernel_table.h"

namespace xent {
const KernelTable* scalar_kernels() { return &scalar::table; }
}  // namespace xent
