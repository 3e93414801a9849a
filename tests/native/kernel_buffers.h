// Buffers without a byte to spare, and the four dtypes as plain doubles, for kernel_driver and kernel_truth.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstdint>

#include "row_view.h"

namespace driver {

using namespace xent;

constexpr Dtype dtypes[] = {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::f16};

inline size_t bytes_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }
inline Dtype statistic_of(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }
inline const char* name_of(Dtype dtype) {
  return dtype == Dtype::f64 ? "float64" : dtype == Dtype::f32 ? "float32" : dtype == Dtype::bf16 ? "bfloat16" : "float16";
}

struct HalfFormat {
  int mantissa, bias;
};
inline HalfFormat format_of(Dtype half) { return half == Dtype::bf16 ? HalfFormat{7, 127} : HalfFormat{10, 15}; }

// Exact for zero and for normal numbers of the format.
inline uint16_t encoded(double x, HalfFormat f) {
  if (x == 0) return 0;
  int exponent;
  const double fraction = std::frexp(std::fabs(x), &exponent);  // in [1/2, 1)
  const int bits = static_cast<int>(std::ldexp(fraction, f.mantissa + 1));
  return static_cast<uint16_t>((x < 0 ? 0x8000 : 0) + ((exponent - 1 + f.bias) << f.mantissa) + bits - (1 << f.mantissa));
}

inline double decoded(uint16_t bits, HalfFormat f) {
  const int exponent = (bits & 0x7fff) >> f.mantissa, fraction = bits & ((1 << f.mantissa) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 2 * f.bias + 1) return fraction != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - f.bias - f.mantissa);
  return sign * std::ldexp(fraction + (1 << f.mantissa), exponent - f.bias - f.mantissa);
}

struct Buffer {  // malloc: the sanitizer guards its very ends
  Buffer(Dtype dtype_, int64_t n_) : dtype(dtype_), n(n_), data(std::calloc(n == 0 ? 1 : static_cast<size_t>(n), bytes_of(dtype))) {}
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;

  double operator[](int64_t i) const {
    if (dtype == Dtype::f32) return static_cast<float*>(data)[i];
    if (dtype == Dtype::f64) return static_cast<double*>(data)[i];
    return decoded(static_cast<uint16_t*>(data)[i], format_of(dtype));
  }
  void set(int64_t i, double x) {
    if (dtype == Dtype::f32) static_cast<float*>(data)[i] = static_cast<float>(x);
    else if (dtype == Dtype::f64) static_cast<double*>(data)[i] = x;
    else static_cast<uint16_t*>(data)[i] = encoded(x, format_of(dtype));
  }
  // Numbers k / 32 in [low, low + 101 / 32], which every dtype holds exactly for |k| < 128.
  void fill(double low) {
    for (int64_t i = 0; i < n; ++i) set(i, low + static_cast<double>((i * 7919) % 101) / 32.0);
  }
  RowArray array() { return {data, 1}; }
  RowView view(int64_t rows, int64_t classes, bool columns) {
    RowView view;
    view.data = data;
    view.dtype = dtype;
    view.rows = rows;
    view.classes = classes;
    view.class_stride = columns && classes > 1 ? rows : 1;
    view.row_dims = 1;
    view.row_size[0] = rows;
    view.row_stride[0] = columns ? 1 : classes;
    return view;
  }

  Dtype dtype;
  int64_t n;
  void* data;
};

inline int64_t place(int64_t row, int64_t c, int64_t rows, int64_t classes, bool columns) {
  return columns ? c * rows + row : row * classes + c;
}

}  // namespace driver
