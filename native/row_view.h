// The only data type that crosses the border: rows of classes anywhere in memory, never copied.
// Plain data without inline functions: a header shared by files with different instruction sets must emit no code.
#pragma once

#include <cstdint>

namespace xent {

enum class Dtype : int { f32, f64, bf16, f16 };

constexpr int max_row_dims = 6;

// Element (row, class) lies at data + offset(row) + class * class_stride; strides count elements.
// offset(row) unravels the row number over the collapsed row dims, outermost first.
struct RowView {
  void* data = nullptr;
  Dtype dtype = Dtype::f32;
  int64_t rows = 0;
  int64_t classes = 0;
  int64_t class_stride = 1;
  int row_dims = 0;
  int64_t row_size[max_row_dims] = {};
  int64_t row_stride[max_row_dims] = {};
};

// One number per row; stride 0 repeats one number for all rows. A null pointer means "not given" or "not asked for".
struct RowArray {
  void* data = nullptr;
  int64_t stride = 0;
};

}  // namespace xent
