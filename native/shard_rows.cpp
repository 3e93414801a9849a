#include "shard_rows.h"

#define XENT_ISA shard

#include <cmath>

#include "isa/element.h"
#include "losses/blocks.h"

namespace xent {
namespace {

using namespace shard;

constexpr int64_t head_bytes = 8, rest_bytes = 6, rows_of_chunk = 1024;
constexpr double largest_f16 = 65504;  // beyond, a base would be infinite
constexpr double infinity = INFINITY;

int64_t size_of(Dtype base) { return base == Dtype::f32 ? 4 : 2; }

bool ignored(const ShardTargets& target, int64_t row) { return get<int64_t>(target.index, row) == target.ignore_index; }

// How many rows before each chunk count: a message has no place for the others.
std::vector<int64_t> counted_before(const ShardTargets& target) {
  std::vector<int64_t> before{0};
  for (int64_t first = 0; first < target.rows; first += rows_of_chunk) {
    int64_t counted = before.back();
    for (int64_t row = first; row < smaller(first + rows_of_chunk, target.rows); ++row) counted += !ignored(target, row);
    before.push_back(counted);
  }
  return before;
}

// each(row, number among the counted rows) on several threads; another function for the rows that do not count.
template <class Each, class Other>
void for_counted_rows(const ShardTargets& target, int threads, Each each, Other other) {
  const auto before = counted_before(target);
  auto chunk = [&](int64_t first, int64_t last) {
    int64_t number = before[static_cast<size_t>(first / rows_of_chunk)];
    for (int64_t row = first; row < last; ++row) {
      if (ignored(target, row)) other(row);
      else each(row, number++);
    }
  };
  thread_rows(target.rows, rows_of_chunk, threads,
              [](const void* context, int64_t first, int64_t last) {
                (*static_cast<const decltype(chunk)*>(context))(first, last);
              },
              &chunk);
}

double logit(const RowView& logits, int64_t row, int64_t column) {
  return by_dtype(logits.dtype, [&](auto in) -> double { return widen(*at<decltype(in)>(logits, row, column)); });
}

struct Mapped {
  double z, slope;
};

Mapped mapped(const LogitMap& map, double x) {
  x *= map.scale;
  if (map.softcap <= 0.0) return {x, map.scale};
  const double bent = std::tanh(x / map.softcap);
  return {map.softcap * bent, map.scale * (1 - bent * bent)};
}

void write_base(double base, Dtype dtype, uint8_t* to) {
  if (dtype == Dtype::f32) {
    const float number = static_cast<float>(base);
    std::memcpy(to, &number, 4);
  } else if (dtype == Dtype::bf16) {
    const auto number = narrowed<bf16>(static_cast<float>(base));
    std::memcpy(to, &number, 2);
  } else {
    const auto number = narrowed<f16>(static_cast<float>(base));
    std::memcpy(to, &number, 2);
  }
}

template <class Number>
double number_at(const uint8_t* from) {
  Number number;
  std::memcpy(&number, from, sizeof number);
  return widen(number);
}

double read_base(const uint8_t* from, Dtype dtype) {
  if (dtype == Dtype::f32) return number_at<float>(from);
  return dtype == Dtype::bf16 ? number_at<bf16>(from) : number_at<f16>(from);
}

void write_rest(double rest, uint8_t* to) {  // a double without its last 16 binary digits
  uint64_t bits;
  std::memcpy(&bits, &rest, 8);
  bits = (bits + (1u << 15)) >> 16;
  std::memcpy(to, &bits, rest_bytes);
}

double read_rest(const uint8_t* from) {
  uint64_t bits = 0;
  std::memcpy(&bits, from, rest_bytes);
  bits <<= 16;
  double rest;
  std::memcpy(&rest, &bits, 8);
  return rest;
}

struct ShortForm {
  double base, rest;
};

// What a rank says of a row: `has` its target, with the logit z. Bases are as they will be read.
ShortForm short_form(double lse, double lse_low, bool has, double z, Dtype dtype) {
  uint8_t place[4];
  const auto as_sent = [&](double base) {
    if (dtype == Dtype::f16) base = std::fmax(std::fmin(base, largest_f16), -largest_f16);
    write_base(base, dtype, place);
    return read_base(place, dtype);
  };
  const double surprisal = (lse - z) + lse_low;
  if (has && surprisal != infinity) {
    const double whole = lse + lse_low;
    return {as_sent(std::isfinite(z) ? z : whole), surprisal < 0 ? 0 : surprisal};  // NaN stays
  }
  // A target without any probability has a base above lse_r, since a surprisal is never below 0.
  const double base = as_sent(has ? lse + std::fabs(lse) / 64 + 1 : lse);
  return {base, (lse - base) + lse_low};
}

}  // namespace

int64_t counted_rows(const ShardTargets& target) { return counted_before(target).back(); }

int64_t shard_message_bytes(int64_t counted, Dtype base) { return head_bytes + counted * (size_of(base) + rest_bytes); }

void encode_shard_rows(const ShardRows& rows, const ShardSums& sums, Dtype base, uint8_t* message, int threads) {
  const int64_t counted = counted_rows(rows.target);
  uint8_t *const bases = message + head_bytes, *const rests = bases + counted * size_of(base);
  for_counted_rows(rows.target, threads, [&](int64_t row, int64_t number) {
    ShortForm form{-infinity, -1};
    if (sums.lse.data != nullptr && get<float>(sums.lse, row) != -infinity) {
      const int64_t column = get<int64_t>(rows.target.index, row) - rows.first_class;
      const bool has = column >= 0 && column < rows.logits.classes;
      const double z = has ? mapped(rows.map, logit(rows.logits, row, column)).z : 0;
      form = short_form(get<double>(sums.exact_lse, row), get<double>(sums.lse_low, row), has, z, base);
    }
    write_base(form.base, base, bases + number * size_of(base));
    write_rest(form.rest, rests + number * rest_bytes);
  }, [](int64_t) {});
}

namespace {

struct MergedRow {
  double loss, lse;
};

// As xent/distributed/_merge.py: the largest lse_r first, in the order of the ranks; D_r = lse_r - that one.
MergedRow merged(const ShardMessages& messages, int64_t number, int64_t counted, int64_t target) {
  const auto size = static_cast<int64_t>(messages.starts.size()) - 1;
  const auto form = [&](int64_t rank) -> ShortForm {
    const uint8_t* bases = messages.data + rank * messages.bytes + head_bytes;
    const uint8_t* rests = bases + counted * size_of(messages.base);
    return {read_base(bases + number * size_of(messages.base), messages.base), read_rest(rests + number * rest_bytes)};
  };
  const auto rest_of = [](const ShortForm& one) { return one.base == -infinity ? 0.0 : one.rest; };
  const auto order = [&](const ShortForm& one) {  // NaN is larger than all
    const double lse = one.base + rest_of(one);
    return std::isnan(lse) ? infinity : lse;
  };
  int64_t first = 0;
  for (int64_t rank = 1; rank < size; ++rank)
    if (order(form(rank)) > order(form(first))) first = rank;
  const ShortForm top = form(first);
  const double top_base = top.base == -infinity ? 0.0 : top.base;
  const auto distance = [&](const ShortForm& one) {  // an offset that all logits have cancels
    return one.base == -infinity ? -infinity : (one.base - top_base) + (one.rest - rest_of(top));
  };
  double others = 0, loss = 0;
  for (int64_t rank = 0; rank < size; ++rank) others += std::exp(distance(form(rank))) - (rank == first ? 1.0 : 0.0);
  const double spread_out = std::log1p(others);
  for (int64_t rank = 0; rank < size; ++rank) {
    if (target < messages.starts[static_cast<size_t>(rank)] || target >= messages.starts[static_cast<size_t>(rank) + 1])
      continue;
    const ShortForm own = form(rank);
    loss = (own.rest < 0 ? infinity : rest_of(own)) + (spread_out - distance(own));
  }
  const double lse = (top_base + rest_of(top)) + spread_out;
  return {loss, lse == -infinity ? NAN : lse};
}

}  // namespace

void merge_shard_rows(const ShardMessages& messages, const ShardTargets& target, double z_loss, float* loss, double* lse,
                      int threads) {
  const int64_t counted = counted_rows(target);
  for_counted_rows(target, threads, [&](int64_t row, int64_t number) {
    const MergedRow merged_row = merged(messages, number, counted, get<int64_t>(target.index, row));
    const double z_part = z_loss != 0.0 ? z_loss * merged_row.lse * merged_row.lse : 0.0;
    loss[row] = static_cast<float>(merged_row.loss + z_part);
    lse[row] = merged_row.lse;
  }, [&](int64_t row) { loss[row] = 0, lse[row] = 0; });
}

void put_target_gradients(const ShardRows& rows, const RowArray& lse, const RowArray& of_loss, const RowArray& of_lse,
                          const RowView& gradient, int threads) {
  for_counted_rows(rows.target, threads, [&](int64_t row, int64_t) {
    const int64_t column = get<int64_t>(rows.target.index, row) - rows.first_class;
    if (column < 0 || column >= rows.logits.classes) return;
    const Mapped at_target = mapped(rows.map, logit(rows.logits, row, column));
    const double g = get_or<float>(of_loss, row, 0), whole = g + get_or<float>(of_lse, row, 0);
    const double value = (whole * std::exp(at_target.z - get<double>(lse, row)) - g) * at_target.slope;
    by_dtype(gradient.dtype, [&](auto in) {
      narrow(static_cast<Statistic<decltype(in)>>(value), at<decltype(in)>(gradient, row, column));
    });
  }, [](int64_t) {});
}

}  // namespace xent
