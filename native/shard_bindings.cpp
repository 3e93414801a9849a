// Python's door to shard_rows.h: checks every array and forwards.
#include "shard_bindings.h"

#include "arrays.h"
#include "shard_rows.h"

namespace {

using namespace xent::binding;
using xent::Dtype;
using xent::RowArray;
using xent::RowView;
using Message = nb::ndarray<uint8_t, nb::device::cpu, nb::c_contig>;

struct ShardRows {
  In logits, target;
  xent::ShardRows parts;
  Dtype base;

  ShardRows(In logits_in, In target_in, int64_t first_class, int64_t ignore_index, double softcap, double logit_scale)
      : logits(std::move(logits_in)), target(std::move(target_in)) {
    parts.logits = view_of("logits", logits);
    if (parts.logits.dtype == Dtype::f64) throw nb::type_error("logits must be float32, bfloat16 or float16");
    parts.target = {integers_of("target", target, parts.logits.rows), parts.logits.rows, ignore_index};
    parts.first_class = first_class;
    parts.map = {logit_scale, softcap};
    base = logit_scale == 1.0 && softcap <= 0.0 ? parts.logits.dtype : Dtype::f32;
  }

  int64_t counted() const { return xent::counted_rows(parts.target); }
  int64_t message_bytes() const { return xent::shard_message_bytes(counted(), base); }

  void encode(const OptionalIn& lse, const OptionalIn& exact_lse, const OptionalIn& lse_low, const Message& message,
              int threads) const {
    const int64_t rows = parts.logits.rows;
    check_length("message", message, message_bytes());
    if (lse.has_value() != exact_lse.has_value() || lse.has_value() != lse_low.has_value())
      throw nb::value_error("lse, exact_lse and lse_low are given together");
    if (!lse && parts.logits.classes > 0) throw nb::value_error("lse is needed where there are classes");
    const xent::ShardSums sums{optional_array("lse", lse, rows, Dtype::f32),
                               optional_array("exact_lse", exact_lse, rows, Dtype::f64),
                               optional_array("lse_low", lse_low, rows, Dtype::f64)};
    checked_threads(threads);
    nb::gil_scoped_release unlocked;
    xent::encode_shard_rows(parts, sums, base, message.data(), threads);
  }

  void merge(const Message& messages, const std::vector<int64_t>& starts, double z_loss, const Out& loss,
             const Out& lse, int threads) const {
    const int64_t rows = parts.logits.rows;
    if (messages.ndim() != 2 || starts.size() != messages.shape(0) + 1 || starts.size() < 2)
      throw nb::value_error("messages are (size, bytes) and starts size + 1 numbers");
    if (static_cast<int64_t>(messages.shape(1)) != message_bytes())
      throw nb::value_error(("messages have shape " + shape_of(messages) + ", needs " +
                             std::to_string(message_bytes()) + " bytes each").c_str());
    const RowArray losses = array_of("loss", loss, rows, Dtype::f32), sums = array_of("lse", lse, rows, Dtype::f64);
    if (rows > 1 && (losses.stride != 1 || sums.stride != 1)) throw nb::value_error("outputs must be contiguous");
    const xent::ShardMessages given{messages.data(), message_bytes(), base, starts};
    checked_threads(threads);
    nb::gil_scoped_release unlocked;
    xent::merge_shard_rows(given, parts.target, z_loss, static_cast<float*>(losses.data),
                           static_cast<double*>(sums.data), threads);
  }

  void put_target_gradients(const In& lse, const OptionalIn& of_loss, const OptionalIn& of_lse, const Out& gradient,
                            int threads) const {
    const int64_t rows = parts.logits.rows;
    const RowArray sums = array_of("lse", lse, rows, Dtype::f64);
    const RowArray by_loss = optional_array("of_loss", of_loss, rows, Dtype::f32);
    const RowArray by_lse = optional_array("of_lse", of_lse, rows, Dtype::f32);
    const RowView view = output_view("gradient", gradient, logits, parts.logits.dtype);
    checked_threads(threads);
    nb::gil_scoped_release unlocked;
    xent::put_target_gradients(parts, sums, by_loss, by_lse, view, threads);
  }
};

}  // namespace

void add_shard_rows(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<ShardRows>(m, "ShardRows", "One rank's classes of rows with index targets, checked.")
      .def(nb::init<In, In, int64_t, int64_t, double, double>(), "logits"_a, "target"_a, "first_class"_a,
           "ignore_index"_a, "softcap"_a, "logit_scale"_a)
      .def("counted", &ShardRows::counted, "How many rows are not ignored.")
      .def("message_bytes", &ShardRows::message_bytes)
      .def("encode", &ShardRows::encode, "lse"_a.none(), "exact_lse"_a.none(), "lse_low"_a.none(), "message"_a.noconvert(),
           "threads"_a, "Write this rank's state of the counted rows behind the first 8 bytes of the message.")
      .def("merge", &ShardRows::merge, "messages"_a.noconvert(), "starts"_a, "z_loss"_a, "loss"_a, "lse"_a, "threads"_a,
           "Loss and log-sum-exp of every row from the messages of all ranks, (size, bytes).")
      .def("put_target_gradients", &ShardRows::put_target_gradients, "lse"_a, "of_loss"_a.none(), "of_lse"_a.none(),
           "gradient"_a, "threads"_a, "Write the gradient where this rank has the target.");
}
