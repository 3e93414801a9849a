// AVX-512 F, BW, DQ, VL.
#define XENT_ISA avx512

#include <immintrin.h>

#include "element.h"

namespace xent::XENT_ISA {

template <class Number>
struct Lanes;

template <>
struct Lanes<float> {
  using T = float;
  using reg = __m512;
  static constexpr int width = 16;
  static constexpr int together = 1;

  static __mmask16 mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static reg set(T x) { return _mm512_set1_ps(x); }

  static reg from(bf16, __m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
  static reg from(f16, __m256i v) { return _mm512_cvtph_ps(v); }
  static __m256i to(f16, reg v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static __m256i to(bf16, reg v) {  // to nearest, ties to even; vcvtneps2bf16 would flush subnormals
    const __m512i u = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0)));
  }

  static reg load(const float* p) { return _mm512_loadu_ps(p); }
  template <class Half>
  static reg load(const Half* p) { return from(Half{}, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static reg load_part(const float* p, int n, T fill) { return _mm512_mask_loadu_ps(set(fill), mask(n), p); }
  template <class Half>
  static reg load_part(const Half* p, int n, T fill) {
    return _mm512_mask_mov_ps(set(fill), mask(n), from(Half{}, _mm256_maskz_loadu_epi16(mask(n), p)));
  }
  static reg load(const double* p) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(_mm512_loadu_pd(p))),
                              _mm512_cvtpd_ps(_mm512_loadu_pd(p + 8)), 1);
  }
  static reg load_part(const double* p, int n, T fill) {
    alignas(64) float part[16];
    for (int i = 0; i < 16; ++i) part[i] = i < n ? static_cast<float>(p[i]) : fill;
    return _mm512_load_ps(part);
  }
  static void store(float* p, reg v) { _mm512_storeu_ps(p, v); }
  template <class Half>
  static void store(Half* p, reg v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to(Half{}, v)); }
  static void store_part(float* p, reg v, int n) { _mm512_mask_storeu_ps(p, mask(n), v); }
  template <class Half>
  static void store_part(Half* p, reg v, int n) { _mm256_mask_storeu_epi16(p, mask(n), to(Half{}, v)); }
  static void stream(float* p, reg v) { _mm512_stream_ps(p, v); }
  template <class Half>
  static void stream(Half* p, reg v) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), to(Half{}, v)); }
  static void fence() { _mm_sfence(); }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  static reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  static reg sub(reg a, reg b) { return _mm512_sub_ps(a, b); }
  static reg mul(reg a, reg b) { return _mm512_mul_ps(a, b); }
  static reg div(reg a, reg b) { return _mm512_div_ps(a, b); }
  static reg fma(reg a, reg b, reg c) { return _mm512_fmadd_ps(a, b, c); }
  static reg fnma(reg a, reg b, reg c) { return _mm512_fnmadd_ps(a, b, c); }
  static reg max(reg a, reg b) { return _mm512_max_ps(a, b); }
  static reg min(reg a, reg b) { return _mm512_min_ps(a, b); }
  static bool any_above(reg a, reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
  static reg abs(reg a) { return _mm512_abs_ps(a); }
  static reg copysign(reg a, reg s) { return _mm512_or_ps(abs(a), _mm512_and_ps(s, set(-0.0f))); }
  static reg round(reg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static reg scale(reg a, reg n) { return _mm512_scalef_ps(a, n); }
  static reg scale_down(reg a, reg n) { return scale(a, n); }
  static reg zero_where_zero(reg test, reg v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_NEQ_UQ), v);
  }
  static reg first(reg v, int n) { return _mm512_maskz_mov_ps(mask(n), v); }
  static T sum(reg v) { return _mm512_reduce_add_ps(v); }
  static T top(reg v) { return _mm512_reduce_max_ps(v); }
};

template <>
struct Lanes<double> {
  using T = double;
  using reg = __m512d;
  static constexpr int width = 8;
  static constexpr int together = 1;

  static __mmask8 mask(int n) { return static_cast<__mmask8>((1u << n) - 1u); }
  static reg set(T x) { return _mm512_set1_pd(x); }
  static reg load(const double* p) { return _mm512_loadu_pd(p); }
  static reg load_part(const double* p, int n, T fill) { return _mm512_mask_loadu_pd(set(fill), mask(n), p); }
  template <class In>
  static reg load(const In* p) { return load_part(p, 8, 0.0); }
  template <class In>
  static reg load_part(const In* p, int n, T fill) {
    alignas(64) double part[8];
    for (int i = 0; i < 8; ++i) part[i] = i < n ? static_cast<double>(widen(p[i])) : fill;
    return _mm512_load_pd(part);
  }
  static void store(double* p, reg v) { _mm512_storeu_pd(p, v); }
  static void store_part(double* p, reg v, int n) { _mm512_mask_storeu_pd(p, mask(n), v); }
  static void stream(double* p, reg v) { _mm512_stream_pd(p, v); }
  static void fence() { _mm_sfence(); }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  static reg add(reg a, reg b) { return _mm512_add_pd(a, b); }
  static reg sub(reg a, reg b) { return _mm512_sub_pd(a, b); }
  static reg mul(reg a, reg b) { return _mm512_mul_pd(a, b); }
  static reg div(reg a, reg b) { return _mm512_div_pd(a, b); }
  static reg fma(reg a, reg b, reg c) { return _mm512_fmadd_pd(a, b, c); }
  static reg fnma(reg a, reg b, reg c) { return _mm512_fnmadd_pd(a, b, c); }
  static reg max(reg a, reg b) { return _mm512_max_pd(a, b); }
  static reg min(reg a, reg b) { return _mm512_min_pd(a, b); }
  static bool any_above(reg a, reg b) { return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ) != 0; }
  static reg abs(reg a) { return _mm512_abs_pd(a); }
  static reg copysign(reg a, reg s) { return _mm512_or_pd(abs(a), _mm512_and_pd(s, set(-0.0))); }
  static reg round(reg a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static reg scale(reg a, reg n) { return _mm512_scalef_pd(a, n); }
  static reg scale_down(reg a, reg n) { return scale(a, n); }
  static reg zero_where_zero(reg test, reg v) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(test, _mm512_setzero_pd(), _CMP_NEQ_UQ), v);
  }
  static reg first(reg v, int n) { return _mm512_maskz_mov_pd(mask(n), v); }
  static T sum(reg v) { return _mm512_reduce_add_pd(v); }
  static T top(reg v) { return _mm512_reduce_max_pd(v); }
};

}  // namespace xent::XENT_ISA

#include "../losses/kernel_table.h"

namespace xent {
const KernelTable* avx512_kernels() { return &avx512::table; }
}  // namespace xent
