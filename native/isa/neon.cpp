// Advanced SIMD of 64-bit Arm, which every such processor has.
#define XENT_ISA neon

#include <arm_neon.h>

#include "element.h"

namespace xent::XENT_ISA {

template <class Number>
struct Lanes;

template <>
struct Lanes<float> {
  using T = float;
  using reg = float32x4_t;
  static constexpr int width = 4;
  static constexpr int together = 4;

  static reg set(T x) { return vdupq_n_f32(x); }
  static reg from(bf16, uint16x4_t v) { return vreinterpretq_f32_u32(vshll_n_u16(v, 16)); }
  static reg from(f16, uint16x4_t v) { return vcvt_f32_f16(vreinterpret_f16_u16(v)); }
  static uint16x4_t to(f16, reg v) { return vreinterpret_u16_f16(vcvt_f16_f32(v)); }
  static uint16x4_t to(bf16, reg v) {  // to nearest, ties to even
    const uint32x4_t u = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    const uint32x4_t up = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
    return vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), up, vdupq_n_u32(0x7fc00000)), 16);
  }

  static reg load(const float* p) { return vld1q_f32(p); }
  template <class Half>
  static reg load(const Half* p) { return from(Half{}, vld1_u16(&p->bits)); }
  static reg load(const double* p) { return vcvt_high_f32_f64(vcvt_f32_f64(vld1q_f64(p)), vld1q_f64(p + 2)); }
  template <class In>
  static reg load_part(const In* p, int n, T fill) {
    if (n == width) return load(p);
    T part[width];
    for (int i = 0; i < width; ++i) part[i] = i < n ? static_cast<T>(widen(p[i])) : fill;
    return vld1q_f32(part);
  }
  static void store(float* p, reg v) { vst1q_f32(p, v); }
  template <class Half>
  static void store(Half* p, reg v) { vst1_u16(&p->bits, to(Half{}, v)); }
  template <class Out>
  static void store_part(Out* p, reg v, int n) {
    if (n == width) return store(p, v);
    Out part[width];
    store(part, v);
    for (int i = 0; i < n; ++i) p[i] = part[i];
  }
  // No store of one vector goes around the caches; whole lines that are written in sequence are not read first.
  template <class Out>
  static void stream(Out* p, reg v) { store(p, v); }
  static void fence() {}
  static void prefetch(const void* p) { __builtin_prefetch(p); }

  static reg add(reg a, reg b) { return vaddq_f32(a, b); }
  static reg sub(reg a, reg b) { return vsubq_f32(a, b); }
  static reg mul(reg a, reg b) { return vmulq_f32(a, b); }
  static reg div(reg a, reg b) { return vdivq_f32(a, b); }
  static reg fma(reg a, reg b, reg c) { return vfmaq_f32(c, a, b); }
  static reg fnma(reg a, reg b, reg c) { return vfmsq_f32(c, a, b); }
  static reg max(reg a, reg b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }  // b where either is NaN: vmaxq differs
  static reg min(reg a, reg b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
  static bool any_above(reg a, reg b) { return vmaxvq_u32(vcgtq_f32(a, b)) != 0; }
  static reg abs(reg a) { return vabsq_f32(a); }
  static reg copysign(reg a, reg s) { return vbslq_f32(vdupq_n_u32(0x80000000u), s, a); }
  static reg round(reg a) { return vrndnq_f32(a); }
  static reg power(int32x4_t n) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23)); }
  static reg scale(reg a, reg n) {  // two factors: 2^n alone is no float for n = 128 and n < -126
    const int32x4_t whole = vcvtnq_s32_f32(n);
    const int32x4_t half = vshrq_n_s32(whole, 1);
    return mul(mul(a, power(half)), power(vsubq_s32(whole, half)));
  }
  static reg scale_down(reg a, reg n) {  // n + 159 in the low bits of a float: the exponent of 2^(n + 32)
    const int32x4_t shifted = vshlq_n_s32(vreinterpretq_s32_f32(add(n, set(0x1.8p23f + 159))), 23);
    return mul(mul(a, vreinterpretq_f32_s32(shifted)), set(0x1p-32f));
  }
  static reg zero_where_zero(reg test, reg v) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vceqzq_f32(test)));
  }
  static reg first(reg v, int n) {
    const int32_t lane[width] = {0, 1, 2, 3};
    return vreinterpretq_f32_u32(vandq_u32(vcltq_s32(vld1q_s32(lane), vdupq_n_s32(n)), vreinterpretq_u32_f32(v)));
  }
  static T sum(reg v) { return vaddvq_f32(v); }
  static T top(reg v) { return vmaxvq_f32(v); }
};

template <>
struct Lanes<double> {
  using T = double;
  using reg = float64x2_t;
  static constexpr int width = 2;
  static constexpr int together = 4;

  static reg set(T x) { return vdupq_n_f64(x); }
  static reg load(const double* p) { return vld1q_f64(p); }
  static reg load(const float* p) { return vcvt_f64_f32(vld1_f32(p)); }
  template <class Half>
  static reg load(const Half* p) { return load_part(p, width, 0); }
  template <class In>
  static reg load_part(const In* p, int n, T fill) {
    const T part[width] = {n > 0 ? static_cast<T>(widen(p[0])) : fill, n > 1 ? static_cast<T>(widen(p[1])) : fill};
    return vld1q_f64(part);
  }
  static void store(double* p, reg v) { vst1q_f64(p, v); }
  static void store_part(double* p, reg v, int n) {
    if (n == width) return store(p, v);
    if (n > 0) vst1q_lane_f64(p, v, 0);
  }
  static void stream(double* p, reg v) { store(p, v); }
  static void fence() {}
  static void prefetch(const void* p) { __builtin_prefetch(p); }

  static reg add(reg a, reg b) { return vaddq_f64(a, b); }
  static reg sub(reg a, reg b) { return vsubq_f64(a, b); }
  static reg mul(reg a, reg b) { return vmulq_f64(a, b); }
  static reg div(reg a, reg b) { return vdivq_f64(a, b); }
  static reg fma(reg a, reg b, reg c) { return vfmaq_f64(c, a, b); }
  static reg fnma(reg a, reg b, reg c) { return vfmsq_f64(c, a, b); }
  static reg max(reg a, reg b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }
  static reg min(reg a, reg b) { return vbslq_f64(vcltq_f64(a, b), a, b); }
  static bool any_above(reg a, reg b) { return vmaxvq_u32(vreinterpretq_u32_u64(vcgtq_f64(a, b))) != 0; }
  static reg abs(reg a) { return vabsq_f64(a); }
  static reg copysign(reg a, reg s) { return vbslq_f64(vdupq_n_u64(uint64_t{1} << 63), s, a); }
  static reg round(reg a) { return vrndnq_f64(a); }
  static reg power(int64x2_t n) { return vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(n, vdupq_n_s64(1023)), 52)); }
  static reg scale(reg a, reg n) {  // two factors: 2^n alone is no double for n = 1024 and n < -1022
    const int64x2_t whole = vcvtnq_s64_f64(n);
    const int64x2_t half = vshrq_n_s64(whole, 1);
    return mul(mul(a, power(half)), power(vsubq_s64(whole, half)));
  }
  static reg scale_down(reg a, reg n) {  // n + 1087 in the low bits of a double: the exponent of 2^(n + 64)
    const int64x2_t shifted = vshlq_n_s64(vreinterpretq_s64_f64(add(n, set(0x1.8p52 + 1087))), 52);
    return mul(mul(a, vreinterpretq_f64_s64(shifted)), set(0x1p-64));
  }
  static reg zero_where_zero(reg test, reg v) {
    return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(v), vceqzq_f64(test)));
  }
  static reg first(reg v, int n) {
    const T zero = 0;
    return n >= width ? v : n == 1 ? vld1q_lane_f64(&zero, v, 1) : set(0);
  }
  static T sum(reg v) { return vaddvq_f64(v); }
  static T top(reg v) { return vmaxvq_f64(v); }
};

}  // namespace xent::XENT_ISA

#include "../losses/kernel_table.h"

namespace xent {
const KernelTable* neon_kernels() { return &neon::table; }
}  // namespace xent
