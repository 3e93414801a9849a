#include "row_sum.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "thread_rows.h"

namespace xent {

namespace {

constexpr int64_t piece = 1 << 14, pieces_per_chunk = 8;  // of fewer, the sum takes less time than a second thread

struct Pieces {
  const KernelTable& kernels;
  const void* values;
  Dtype dtype;
  int64_t n;
  double* sums;
};

void sum_pieces(const void* context, int64_t first, int64_t last) {
  const auto& all = *static_cast<const Pieces*>(context);
  for (int64_t i = first; i < last; ++i) {
    const int64_t at = i * piece, left = std::min(piece, all.n - at);
    all.sums[i] = all.dtype == Dtype::f64 ? all.kernels.sum_f64(static_cast<const double*>(all.values) + at, left)
                                          : all.kernels.sum_f32(static_cast<const float*>(all.values) + at, left);
  }
}

}  // namespace

double row_sum(const KernelTable& kernels, const void* values, Dtype dtype, int64_t n, int threads) {
  std::vector<double> sums(static_cast<size_t>((n + piece - 1) / piece));
  const Pieces all{kernels, values, dtype, n, sums.data()};
  thread_rows(static_cast<int64_t>(sums.size()), pieces_per_chunk, threads, sum_pieces, &all);
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace xent
