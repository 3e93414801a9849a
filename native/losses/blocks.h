// A block: up to `run` adjacent rows times `width` classes, brought into L1 as plain numbers z = map(x), or written
// back from there. Contiguous rows are read in place and need no block. With strided classes the block is transposed
// on the way, so that every loss has one loop, over contiguous classes.
#pragma once

#include "../kernels.h"
#include "../math/exponential.h"
#include "../thread_rows.h"

namespace xent::XENT_ISA {

constexpr int64_t block_numbers = 4096;  // 16 KB of float: half of an L1 cache
constexpr int64_t tile_rows = 32;        // two cache lines of float along the rows
constexpr int64_t chunk_numbers = 1 << 17;
constexpr int64_t row_overhead = 64;     // what a row costs beside its classes, in classes

// Dtype to statistic.
template <class In>
struct StatisticOf {
  using type = float;
};
template <>
struct StatisticOf<double> {
  using type = double;
};
template <class In>
using Statistic = typename StatisticOf<In>::type;

// choose(In{}) for the type that a dtype stands for.
template <class Choose>
inline auto by_dtype(Dtype dtype, Choose choose) {
  switch (dtype) {
    case Dtype::f64: return choose(double{});
    case Dtype::bf16: return choose(bf16{});
    case Dtype::f16: return choose(f16{});
    default: return choose(float{});
  }
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

inline int64_t offset_of(const RowView& view, int64_t row) {
  if (view.row_dims == 1) return row * view.row_stride[0];
  int64_t offset = 0;
  for (int d = view.row_dims - 1; d >= 0; --d) {
    const int64_t outer = row / view.row_size[d];
    offset += (row - outer * view.row_size[d]) * view.row_stride[d];
    row = outer;
  }
  return offset;
}

inline int64_t innermost_stride(const RowView& view) {
  return view.row_dims > 0 ? view.row_stride[view.row_dims - 1] : 0;
}

// How many rows, from `row` on, lie innermost_stride apart.
inline int64_t rows_left_in_run(const RowView& view, int64_t row) {
  if (view.row_dims == 0) return 1;
  const int64_t size = view.row_size[view.row_dims - 1];
  return size - row % size;
}

// How rows are cut for a call: whole rows in place, or tiles.
struct Cut {
  int64_t run, width, chunk;
};

inline Cut cut_of(const RowView& view, bool tiled) {
  const int64_t run = tiled ? tile_rows : 1;
  const int64_t rows = chunk_numbers / (view.classes + row_overhead);
  return {run, block_numbers / run, rows <= run ? run : rows / run * run};
}

inline bool strided(const RowView& view) { return view.data != nullptr && view.class_stride != 1; }

template <class In>
inline In* at(const RowView& view, int64_t row, int64_t first_class) {
  return static_cast<In*>(view.data) + offset_of(view, row) + first_class * view.class_stride;
}

template <class T>
inline T get(const RowArray& array, int64_t row) {
  return static_cast<const T*>(array.data)[row * array.stride];
}

template <class T>
inline T get_or(const RowArray& array, int64_t row, T otherwise) {
  return array.data == nullptr ? otherwise : get<T>(array, row);
}

template <class T>
inline void put(const RowArray& array, int64_t row, T value) {
  if (array.data != nullptr) static_cast<T*>(array.data)[row * array.stride] = value;
}

// Where a line of per-row numbers is made: the output itself, or room that `put_line` then copies from.
template <class T>
inline T* line_of(const RowArray& array, int64_t row, T* room) {
  return array.data != nullptr && array.stride == 1 ? static_cast<T*>(array.data) + row : room;
}

template <class T>
inline void put_line(const RowArray& array, int64_t row, int64_t count, const T* line) {
  if (array.data == nullptr || array.stride == 1) return;
  for (int64_t r = 0; r < count; ++r) put(array, row + r, line[r]);
}

// Whether two vectors of this type have their own order of lanes.
template <class L, class In>
concept paired = requires(const In* p) { L::load_pair(p); };

template <class L, class In>
inline Pair<L> load_pair(const In* p) {
  if constexpr (paired<L, In>) return L::load_pair(p);
  else return {L::load(p), L::load(p + L::width)};
}

template <class L, bool streaming, class Out>
inline void store_pair(Out* p, Pair<L> v) {
  if constexpr (paired<L, Out> && streaming) L::stream_pair(p, v);
  else if constexpr (paired<L, Out>) L::store_pair(p, v);
  else if constexpr (streaming) L::stream(p, v.first), L::stream(p + L::width, v.second);
  else L::store(p, v.first), L::store(p + L::width, v.second);
}

// One kind of number to another, contiguous, in place of a branch per element.
template <class L, class In, class Out>
inline void convert_line(const In* from, Out* to, int64_t n) {
  int64_t i = 0;
  for (; i + L::width <= n; i += L::width) L::store(to + i, L::load(from + i));
  if (i < n) L::store_part(to + i, L::load_part(from + i, static_cast<int>(n - i), 0), static_cast<int>(n - i));
}

template <class L, class In, class T>
void read_rows(const RowView& view, int64_t row, int64_t run, int64_t first, int64_t n, T* block, int64_t pitch) {
  const In* x = at<In>(view, row, first);
  const int64_t row_stride = innermost_stride(view);
  if (view.class_stride == 1) {
    for (int64_t r = 0; r < run; ++r) convert_line<L>(x + r * row_stride, block + r * pitch, n);
  } else if (row_stride == 1) {
    T line[tile_rows];
    for (int64_t c = 0; c < n; ++c) {
      convert_line<L>(x + c * view.class_stride, line, run);
      for (int64_t r = 0; r < run; ++r) block[r * pitch + c] = line[r];
    }
  } else {
    for (int64_t r = 0; r < run; ++r)
      for (int64_t c = 0; c < n; ++c)
        block[r * pitch + c] = static_cast<T>(widen(x[r * row_stride + c * view.class_stride]));
  }
}

template <class L, class T>
void read_block(const RowView& view, int64_t row, int64_t run, int64_t first, int64_t n, T* block, int64_t pitch) {
  by_dtype(view.dtype, [&](auto in) { read_rows<L, decltype(in)>(view, row, run, first, n, block, pitch); });
}

template <class L, class Out>
inline void stream_line(const typename L::T* from, Out* to, int64_t n) {
  constexpr uintptr_t line = L::width * sizeof(Out);
  int64_t i = 0;
  for (; i < n && reinterpret_cast<uintptr_t>(to + i) % line != 0; ++i) narrow(from[i], to + i);
  for (; i + L::width <= n; i += L::width) L::stream(to + i, L::load(from + i));
  for (; i < n; ++i) narrow(from[i], to + i);
}

template <class L, class Out>
void write_block(const RowView& view, int64_t row, int64_t run, int64_t first, int64_t n,
                 const typename L::T* block, int64_t pitch, bool streaming) {
  using T = typename L::T;
  Out* x = at<Out>(view, row, first);
  const int64_t row_stride = innermost_stride(view);
  if (view.class_stride == 1) {
    for (int64_t r = 0; r < run; ++r) {
      if (streaming) stream_line<L>(block + r * pitch, x + r * row_stride, n);
      else convert_line<L>(block + r * pitch, x + r * row_stride, n);
    }
  } else if (row_stride == 1) {
    T line[tile_rows];
    for (int64_t c = 0; c < n; ++c) {
      for (int64_t r = 0; r < run; ++r) line[r] = block[r * pitch + c];
      convert_line<L>(line, x + c * view.class_stride, run);
    }
  } else {
    for (int64_t r = 0; r < run; ++r)
      for (int64_t c = 0; c < n; ++c) narrow(block[r * pitch + c], x + r * row_stride + c * view.class_stride);
  }
}

inline bool identity(const LogitMap& map) { return map.scale == 1.0 && map.softcap <= 0.0; }

template <class L>
void map_line(const LogitMap& map, typename L::T* z, int64_t n) {
  using T = typename L::T;
  const bool capped = map.softcap > 0.0;
  const auto inner = L::set(static_cast<T>(capped ? map.scale / map.softcap : map.scale));
  const auto cap = L::set(static_cast<T>(map.softcap));
  for (int64_t i = 0; i < n; i += L::width) {
    const int left = static_cast<int>(smaller(n - i, L::width));
    auto v = L::mul(L::load_part(z + i, left, T(0)), inner);
    if (capped) v = L::mul(cap, tanh<L>(v));
    L::store_part(z + i, v, left);
  }
}

template <class L>
void read_logits(const RowView& view, const LogitMap& map, int64_t row, int64_t run, int64_t first, int64_t n,
                 typename L::T* block, int64_t pitch) {
  read_block<L>(view, row, run, first, n, block, pitch);
  if (identity(map)) return;
  for (int64_t r = 0; r < run; ++r) map_line<L>(map, block + r * pitch, n);
}

}  // namespace xent::XENT_ISA
