// AVX2, FMA, F16C.
#define XENT_ISA avx2

#include <immintrin.h>

#include "element.h"

namespace xent::XENT_ISA {

template <class Number>
struct Lanes;

template <>
struct Lanes<float> {
  using T = float;
  using reg = __m256;
  static constexpr int width = 8;
  static constexpr int together = 4;

  static reg set(T x) { return _mm256_set1_ps(x); }
  static reg from(bf16, __m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
  static reg from(f16, __m128i v) { return _mm256_cvtph_ps(v); }
  static __m128i to(f16, reg v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  // Without a look for NaN, which would overflow to a number.
  static __m256i rounded_finite(reg v) {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
  }
  static __m256i rounded(reg v) {  // the upper halves are bf16: to nearest, ties to even
    const __m256i up = rounded_finite(v);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(up, _mm256_set1_epi32(0x7fc00000), nan);
  }
  static __m128i to(bf16, reg v) {
    const __m256i half = _mm256_srli_epi32(rounded(v), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0x08);
    return _mm256_castsi256_si128(packed);
  }

  // Sixteen bf16 as the even ones and the odd ones: a shift and a mask each way, where the order of lanes is free.
  static Pair<Lanes> load_pair(const bf16* p) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(v, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
  static __m256i joined(Pair<Lanes> v) {
    return _mm256_blend_epi16(_mm256_srli_epi32(rounded(v.first), 16), rounded(v.second), 0xaa);
  }
  static void store_pair(bf16* p, Pair<Lanes> v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), joined(v)); }
  template <bool streaming>
  static void store_finite_pair(bf16* p, Pair<Lanes> v) {
    const __m256i joined =
        _mm256_blend_epi16(_mm256_srli_epi32(rounded_finite(v.first), 16), rounded_finite(v.second), 0xaa);
    if constexpr (streaming) _mm256_stream_si256(reinterpret_cast<__m256i*>(p), joined);
    else _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), joined);
  }
  static void stream_pair(bf16* p, Pair<Lanes> v) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), joined(v)); }

  static reg load(const float* p) { return _mm256_loadu_ps(p); }
  template <class Half>
  static reg load(const Half* p) { return from(Half{}, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static reg load(const double* p) { return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(p + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(p))); }
  template <class In>
  static reg load_part(const In* p, int n, T fill) {
    if (n == 8) return load(p);
    alignas(32) float part[8];
    for (int i = 0; i < 8; ++i) part[i] = i < n ? static_cast<float>(widen(p[i])) : fill;
    return _mm256_load_ps(part);
  }
  static void store(float* p, reg v) { _mm256_storeu_ps(p, v); }
  template <class Half>
  static void store(Half* p, reg v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to(Half{}, v)); }
  template <class Out>
  static void store_part(Out* p, reg v, int n) {
    if (n == 8) return store(p, v);
    alignas(32) Out part[8];
    store(part, v);
    for (int i = 0; i < n; ++i) p[i] = part[i];
  }
  static void stream(float* p, reg v) { _mm256_stream_ps(p, v); }
  template <class Half>
  static void stream(Half* p, reg v) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), to(Half{}, v)); }
  static void fence() { _mm_sfence(); }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  static reg add(reg a, reg b) { return _mm256_add_ps(a, b); }
  static reg sub(reg a, reg b) { return _mm256_sub_ps(a, b); }
  static reg mul(reg a, reg b) { return _mm256_mul_ps(a, b); }
  static reg div(reg a, reg b) { return _mm256_div_ps(a, b); }
  static reg fma(reg a, reg b, reg c) { return _mm256_fmadd_ps(a, b, c); }
  static reg fnma(reg a, reg b, reg c) { return _mm256_fnmadd_ps(a, b, c); }
  static reg max(reg a, reg b) { return _mm256_max_ps(a, b); }
  static reg min(reg a, reg b) { return _mm256_min_ps(a, b); }
  static bool any_above(reg a, reg b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }
  static reg abs(reg a) { return _mm256_andnot_ps(set(-0.0f), a); }
  static reg copysign(reg a, reg s) { return _mm256_or_ps(abs(a), _mm256_and_ps(s, set(-0.0f))); }
  static reg round(reg a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static reg power(__m256i n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23)); }
  static reg scale(reg a, reg n) {  // two factors: 2^n alone is no float for n = 128 and n < -126
    const __m256i whole = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    return mul(mul(a, power(half)), power(_mm256_sub_epi32(whole, half)));
  }
  static reg scale_down(reg a, reg n) {  // n + 159 in the low bits of a float: the exponent of 2^(n + 32)
    const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(add(n, set(0x1.8p23f + 159))), 23);
    return mul(mul(a, _mm256_castsi256_ps(shifted)), set(0x1p-32f));
  }
  static reg scale_to_zero(reg a, reg n) {  // n in [-127, 127]; 2^-127 is 0
    return mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(add(n, set(0x1.8p23f + 127))), 23)));
  }
  // Eight rows of eight numbers become eight columns.
  static void transpose(reg (&v)[8]) {
    reg two[8], four[8];
    for (int i = 0; i < 8; i += 2) two[i] = _mm256_unpacklo_ps(v[i], v[i + 1]), two[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    for (int i = 0; i < 8; i += 4) {
      for (int j = 0; j < 2; ++j) {
        four[i + 2 * j] = _mm256_shuffle_ps(two[i + j], two[i + j + 2], _MM_SHUFFLE(1, 0, 1, 0));
        four[i + 2 * j + 1] = _mm256_shuffle_ps(two[i + j], two[i + j + 2], _MM_SHUFFLE(3, 2, 3, 2));
      }
    }
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
      v[i + 4] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
    }
  }
  static reg zero_where_zero(reg test, reg v) {
    return _mm256_and_ps(_mm256_cmp_ps(test, _mm256_setzero_ps(), _CMP_NEQ_UQ), v);
  }
  static reg first(reg v, int n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_and_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane)), v);
  }
  static T sum(reg v) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  static T top(reg v) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
};

template <>
struct Lanes<double> {
  using T = double;
  using reg = __m256d;
  static constexpr int width = 4;
  static constexpr int together = 4;

  static reg set(T x) { return _mm256_set1_pd(x); }
  static reg load(const double* p) { return _mm256_loadu_pd(p); }
  static reg load(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
  template <class Half>
  static reg load(const Half* p) { return _mm256_setr_pd(widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])); }
  template <class In>
  static reg load_part(const In* p, int n, T fill) {
    if (n == 4) return load(p);
    alignas(32) double part[4];
    for (int i = 0; i < 4; ++i) part[i] = i < n ? static_cast<double>(widen(p[i])) : fill;
    return _mm256_load_pd(part);
  }
  static void store(double* p, reg v) { _mm256_storeu_pd(p, v); }
  static void store_part(double* p, reg v, int n) {
    if (n == 4) return store(p, v);
    alignas(32) double part[4];
    store(part, v);
    for (int i = 0; i < n; ++i) p[i] = part[i];
  }
  static void stream(double* p, reg v) { _mm256_stream_pd(p, v); }
  static void fence() { _mm_sfence(); }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  static reg add(reg a, reg b) { return _mm256_add_pd(a, b); }
  static reg sub(reg a, reg b) { return _mm256_sub_pd(a, b); }
  static reg mul(reg a, reg b) { return _mm256_mul_pd(a, b); }
  static reg div(reg a, reg b) { return _mm256_div_pd(a, b); }
  static reg fma(reg a, reg b, reg c) { return _mm256_fmadd_pd(a, b, c); }
  static reg fnma(reg a, reg b, reg c) { return _mm256_fnmadd_pd(a, b, c); }
  static reg max(reg a, reg b) { return _mm256_max_pd(a, b); }
  static reg min(reg a, reg b) { return _mm256_min_pd(a, b); }
  static bool any_above(reg a, reg b) { return _mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_GT_OQ)) != 0; }
  static reg abs(reg a) { return _mm256_andnot_pd(set(-0.0), a); }
  static reg copysign(reg a, reg s) { return _mm256_or_pd(abs(a), _mm256_and_pd(s, set(-0.0))); }
  static reg round(reg a) { return _mm256_round_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static reg power(__m128i n) {
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_add_epi64(_mm256_cvtepi32_epi64(n), _mm256_set1_epi64x(1023)), 52));
  }
  static reg scale(reg a, reg n) {  // two factors: 2^n alone is no double for n = 1024 and n < -1022
    const __m128i whole = _mm256_cvtpd_epi32(n);
    const __m128i half = _mm_srai_epi32(whole, 1);
    return mul(mul(a, power(half)), power(_mm_sub_epi32(whole, half)));
  }
  static reg scale_down(reg a, reg n) {  // n + 1087 in the low bits of a double: the exponent of 2^(n + 64)
    const __m256i shifted = _mm256_slli_epi64(_mm256_castpd_si256(add(n, set(0x1.8p52 + 1087))), 52);
    return mul(mul(a, _mm256_castsi256_pd(shifted)), set(0x1p-64));
  }
  static reg zero_where_zero(reg test, reg v) {
    return _mm256_and_pd(_mm256_cmp_pd(test, _mm256_setzero_pd(), _CMP_NEQ_UQ), v);
  }
  static reg first(reg v, int n) {
    const __m256d lane = _mm256_setr_pd(0, 1, 2, 3);
    return _mm256_and_pd(_mm256_cmp_pd(lane, _mm256_set1_pd(n), _CMP_LT_OQ), v);
  }
  static T sum(reg v) {
    const __m128d x = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)));
  }
  static T top(reg v) {
    const __m128d x = _mm_max_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_max_sd(x, _mm_unpackhi_pd(x, x)));
  }
};

}  // namespace xent::XENT_ISA

#include "../losses/kernel_table.h"

namespace xent {
const KernelTable* avx2_kernels() { return &avx2::table; }
}  // namespace xent
