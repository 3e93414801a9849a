// Arrays of Python as the kernels take them, checked.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <optional>
#include <string>

#include "kernels.h"

namespace xent::binding {

namespace nb = nanobind;

using In = nb::ndarray<nb::ro, nb::device::cpu>;
using Out = nb::ndarray<nb::device::cpu>;
using OptionalIn = std::optional<In>;

inline std::string shape_of(const auto& a) {
  std::string text = "(";
  for (size_t d = 0; d < a.ndim(); ++d) text += (d != 0 ? ", " : "") + std::to_string(a.shape(d));
  return text + ")";
}

inline std::optional<Dtype> dtype_of(nb::dlpack::dtype t) {
  const bool is_float = t.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float) && t.lanes == 1;
  const bool is_bfloat = t.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Bfloat) && t.lanes == 1;
  if (is_float && t.bits == 32) return Dtype::f32;
  if (is_float && t.bits == 64) return Dtype::f64;
  if (is_float && t.bits == 16) return Dtype::f16;
  if (is_bfloat && t.bits == 16) return Dtype::bf16;
  return std::nullopt;
}

inline Dtype checked_dtype(const char* name, nb::dlpack::dtype t) {
  if (const auto dtype = dtype_of(t)) return *dtype;
  throw nb::type_error((std::string(name) + " must be float32, float64, bfloat16 or float16").c_str());
}

inline Dtype statistic(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

// Outermost first; dims of size 1 vanish, dims that continue each other become one.
inline void collapse_rows(const char* name, const auto& a, RowView& view) {
  view.rows = 1;
  for (size_t d = 0; d + 1 < a.ndim(); ++d) {
    const int64_t size = static_cast<int64_t>(a.shape(d)), stride = a.stride(d);
    view.rows *= size;
    if (size == 1) continue;
    const int last = view.row_dims - 1;
    if (last >= 0 && view.row_stride[last] == size * stride) {
      view.row_size[last] *= size;
      view.row_stride[last] = stride;
      continue;
    }
    if (view.row_dims == xent::max_row_dims)
      throw nb::value_error((std::string(name) + " has too many row dimensions that do not collapse").c_str());
    view.row_size[view.row_dims] = size;
    view.row_stride[view.row_dims++] = stride;
  }
}

// Loads and stores in a compiler's eyes, and streaming stores in the processor's, need whole multiples.
inline void* data_of(const std::string& name, const auto& a) {
  const void* data = a.data();
  if (reinterpret_cast<uintptr_t>(data) % a.itemsize() != 0)
    throw nb::value_error((name + " lies at an address that is no multiple of its element size").c_str());
  return const_cast<void*>(data);
}

inline RowView view_of(const char* name, const auto& a) {
  if (a.ndim() == 0) throw nb::value_error((std::string(name) + " is a scalar; it needs classes last").c_str());
  RowView view;
  view.dtype = checked_dtype(name, a.dtype());
  view.data = data_of(name, a);
  view.classes = static_cast<int64_t>(a.shape(a.ndim() - 1));
  view.class_stride = view.classes == 1 ? 1 : a.stride(a.ndim() - 1);
  collapse_rows(name, a, view);
  return view;
}

inline void check_same_shape(const char* name, const auto& a, const auto& like) {
  bool same = a.ndim() == like.ndim();
  for (size_t d = 0; same && d < a.ndim(); ++d) same = a.shape(d) == like.shape(d);
  if (!same)
    throw nb::value_error((std::string(name) + " has shape " + shape_of(a) + ", needs " + shape_of(like)).c_str());
}

inline RowView same_view_of(const char* name, const auto& a, const In& like) {
  check_same_shape(name, a, In(like));
  return view_of(name, a);
}

inline RowView output_view(const char* name, const Out& a, const In& like, Dtype dtype) {
  const RowView view = same_view_of(name, In(a), like);
  if (view.dtype != dtype) throw nb::type_error((std::string(name) + " has the wrong dtype").c_str());
  for (size_t d = 0; d < a.ndim(); ++d)
    if (a.shape(d) > 1 && a.stride(d) == 0)
      throw nb::value_error((std::string(name) + " is expanded: two rows would be written to one place").c_str());
  return view;
}

inline bool is_int64(nb::dlpack::dtype t) {
  return t.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Int) && t.bits == 64 && t.lanes == 1;
}

inline void check_length(const std::string& name, const auto& a, int64_t n) {
  if (a.ndim() != 1 || static_cast<int64_t>(a.shape(0)) != n)
    throw nb::value_error((name + " has shape " + shape_of(a) + ", needs (" + std::to_string(n) + ",)").c_str());
}

inline RowArray array_of(const std::string& name, const auto& a, int64_t rows, Dtype dtype) {
  check_length(name, a, rows);
  if (dtype_of(a.dtype()) != dtype)
    throw nb::type_error((name + " must be " + (dtype == Dtype::f64 ? "float64" : "float32")).c_str());
  return {data_of(name, a), rows > 1 ? a.stride(0) : 0};
}

inline RowArray output_array(const std::string& name, const Out& a, int64_t rows, Dtype dtype) {
  const RowArray array = array_of(name, a, rows, dtype);
  if (rows > 1 && array.stride == 0)
    throw nb::value_error((name + " is expanded: its rows would be written to one place").c_str());
  return array;
}

inline RowArray integers_of(const std::string& name, const auto& a, int64_t rows) {
  check_length(name, a, rows);
  if (!is_int64(a.dtype())) throw nb::type_error((name + " must be int64").c_str());
  return {data_of(name, a), rows > 1 ? a.stride(0) : 0};
}

inline RowArray optional_array(const std::string& name, const OptionalIn& a, int64_t rows, Dtype dtype) {
  return a ? array_of(name, *a, rows, dtype) : RowArray{};
}

inline int checked_threads(int threads) {
  if (threads < 1 || threads > 4096) throw nb::value_error("threads must lie in [1, 4096]");
  return threads;
}

}  // namespace xent::binding
