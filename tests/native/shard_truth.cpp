// Shards of the classes on 1 to 4 ranks, one after another in this process: messages, merge and gradients at the
// targets against long double over the whole rows.
#include "shard_truth.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "kernel_buffers.h"
#include "shard_rows.h"

namespace driver {
namespace {

using Real = long double;

struct Whole {
  Buffer x, y, g;
  int64_t rows, classes;
  LogitMap map;
  double z_loss;

  Whole(Dtype dtype, int64_t rows_, int64_t classes_, LogitMap map_, double z_loss_)
      : x(dtype, rows_ * classes_), y(Dtype::f64, rows_), g(dtype, rows_ * classes_), rows(rows_), classes(classes_),
        map(map_), z_loss(z_loss_) {
    x.fill(-2);
    for (int64_t r = 0; r < rows; ++r) static_cast<int64_t*>(y.data)[r] = r % 5 == 4 ? -100 : (r * 3) % classes;
  }

  int64_t target(int64_t row) const { return static_cast<int64_t*>(y.data)[row]; }
  Real inner(int64_t i) const { return map.softcap > 0 ? std::tanh(map.scale * Real(x[i]) / map.softcap) : Real(0); }
  Real z(int64_t i) const { return map.softcap > 0 ? map.softcap * inner(i) : map.scale * Real(x[i]); }
  Real slope(int64_t i) const { return map.scale * (1 - inner(i) * inner(i)); }
  Real lse(int64_t row, int64_t first, int64_t last) const {
    Real sum = 0;
    for (int64_t c = first; c < last; ++c) sum += std::exp(z(row * classes + c));
    return std::log(sum);
  }

  ShardRows part(Buffer& of, int64_t first, int64_t last) {
    ShardRows rows_of_rank;
    rows_of_rank.logits = of.view(rows, classes, false);
    rows_of_rank.logits.data = static_cast<char*>(of.data) + static_cast<size_t>(first) * bytes_of(of.dtype);
    rows_of_rank.logits.classes = last - first;
    rows_of_rank.target = {y.array(), rows, -100};
    rows_of_rank.first_class = first;
    rows_of_rank.map = map;
    return rows_of_rank;
  }
};

// The message of one rank, from log-sum-exps that are right.
void send(Whole& whole, int64_t first, int64_t last, Dtype base, uint8_t* message) {
  Buffer lse(Dtype::f32, whole.rows), exact(Dtype::f64, whole.rows), low(Dtype::f64, whole.rows);
  for (int64_t r = 0; r < whole.rows; ++r) {
    const Real truth = whole.lse(r, first, last);
    const auto high = static_cast<double>(truth);
    lse.set(r, high), exact.set(r, high), low.set(r, static_cast<double>(truth - high));
  }
  const ShardSums sums = first == last ? ShardSums{} : ShardSums{lse.array(), exact.array(), low.array()};
  encode_shard_rows(whole.part(whole.x, first, last), sums, base, message, 2);
}

int wrong(const Whole& whole, const char* what, int64_t row, double got, Real truth, Real bound) {
  if (std::fabs(got - truth) <= bound) return 0;
  std::printf("%s of row %ld of %ld classes, %s: %.9g instead of %.9Lg\n", what, static_cast<long>(row),
              static_cast<long>(whole.classes), name_of(whole.x.dtype), got, truth);
  return 1;
}

int check(Whole& whole, const std::vector<int64_t>& starts) {
  const auto size = static_cast<int64_t>(starts.size()) - 1;
  const bool same = whole.map.scale == 1.0 && whole.map.softcap <= 0.0;
  const Dtype base = same ? whole.x.dtype : Dtype::f32;
  const int64_t bytes = shard_message_bytes(counted_rows({whole.y.array(), whole.rows, -100}), base);
  std::vector<uint8_t> messages(static_cast<size_t>(size * bytes));
  for (int64_t rank = 0; rank < size; ++rank)
    send(whole, starts[static_cast<size_t>(rank)], starts[static_cast<size_t>(rank) + 1], base, messages.data() + rank * bytes);
  Buffer loss(Dtype::f32, whole.rows), lse(Dtype::f64, whole.rows), upstream(Dtype::f32, whole.rows);
  upstream.fill(-1);
  merge_shard_rows({messages.data(), bytes, base, starts}, {whole.y.array(), whole.rows, -100}, whole.z_loss,
                   static_cast<float*>(loss.data), static_cast<double*>(lse.data), 2);
  for (int64_t rank = 0; rank < size; ++rank) {
    const int64_t first = starts[static_cast<size_t>(rank)], last = starts[static_cast<size_t>(rank) + 1];
    put_target_gradients(whole.part(whole.x, first, last), lse.array(), upstream.array(), {},
                         whole.part(whole.g, first, last).logits, 2);
  }
  int found = 0;
  for (int64_t r = 0; r < whole.rows; ++r) {
    const int64_t y = whole.target(r), at = r * whole.classes + y;
    if (y < 0) {
      found += wrong(whole, "loss", r, loss[r], 0, 0);
      continue;
    }
    const Real truth = whole.lse(r, 0, whole.classes), ce = truth - whole.z(at) + whole.z_loss * truth * truth;
    found += wrong(whole, "loss", r, loss[r], ce, ce * 0x1p-23L + 0x1p-40L);
    // A rest has 36 binary digits, and a base that is no number of the logits' dtype 24.
    found += wrong(whole, "log-sum-exp", r, lse[r], truth, 0x1p-35L + (same ? 0 : std::fabs(whole.z(at)) * 0x1p-24L));
    const Real gradient = upstream[r] * std::expm1(whole.z(at) - truth) * whole.slope(at);
    const Real unit = whole.x.dtype == Dtype::f32 ? 0x1p-24L : whole.x.dtype == Dtype::f16 ? 0x1p-11L : 0x1p-8L;
    found += wrong(whole, "gradient", r, whole.g[at], gradient, std::fabs(gradient) * unit * 1.01L + 0x1p-22L);
  }
  return found;
}

}  // namespace

int check_shard_rows() {
  int found = 0;
  for (Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16})
    for (const LogitMap& map : {LogitMap{1.0, 0.0}, LogitMap{1.5, 4.0}})
      for (int64_t rows : {int64_t{1}, int64_t{5}, int64_t{2100}})
        for (const std::vector<int64_t>& starts : std::vector<std::vector<int64_t>>{
                 {0, 1}, {0, 7}, {0, 3, 7}, {0, 0, 4, 7}, {0, 1, 4, 4, 19}}) {
          Whole whole(dtype, rows, starts.back(), map, rows == 5 ? 0.01 : 0.0);
          found += check(whole, starts);
        }
  return found;
}

}  // namespace driver
