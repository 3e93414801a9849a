// Python's door to the kernels: checks every array and forwards. No arithmetic.
//
// Arrays come by DLPack, on the CPU. Numbers per row are one-dimensional, in the order of the rows; logits, probabilities
// and gradients are (*rows, C) with any strides. The interpreter's lock is released while a kernel runs.
#include <nanobind/stl/pair.h>

#include <utility>

#include "arrays.h"
#include "cpu_choice.h"
#include "huge_pages.h"
#include "row_sum.h"
#include "shard_bindings.h"

namespace {

using namespace xent::binding;
using xent::Dtype;
using xent::RowArray;
using xent::RowView;

// The arrays of one call; they stay referenced while a kernel runs without the interpreter's lock.
struct Problem {
  In logits;
  OptionalIn target, probabilities, class_weight, row_weight;
  xent::CrossEntropyProblem parts;

  Problem(In logits_in, OptionalIn target_in, OptionalIn probabilities_in, OptionalIn class_weight_in,
          OptionalIn row_weight_in)
      : logits(std::move(logits_in)), target(std::move(target_in)), probabilities(std::move(probabilities_in)),
        class_weight(std::move(class_weight_in)), row_weight(std::move(row_weight_in)) {
    parts.logits = view_of("logits", logits);
    if (parts.logits.classes == 0) throw nb::value_error("logits have no classes");
    if (target.has_value() == probabilities.has_value())
      throw nb::value_error("one of target and probabilities is needed, and not both");
    const Dtype dtype = statistic(parts.logits.dtype);
    if (target) parts.target = integers_of("target", *target, parts.logits.rows);
    if (probabilities) parts.probabilities = same_view_of("probabilities", *probabilities, logits);
    if (class_weight) {
      check_length("class_weight", *class_weight, parts.logits.classes);
      if (parts.logits.classes > 1 && class_weight->stride(0) != 1)
        throw nb::value_error("class_weight must be contiguous");
      parts.terms.class_weight = array_of("class_weight", *class_weight, parts.logits.classes, dtype).data;
    }
    parts.terms.row_weight = optional_array("row_weight", row_weight, parts.logits.rows, dtype);
    parts.terms.class_weight_sum = static_cast<double>(parts.logits.classes);
  }

  void set_options(int64_t ignore_index, double label_smoothing, double z_loss, double softcap, double logit_scale,
                   double class_weight_sum) {
    parts.terms.ignore_index = ignore_index;
    parts.terms.label_smoothing = label_smoothing;
    parts.terms.z_loss = z_loss;
    parts.terms.map = {logit_scale, softcap};
    parts.terms.class_weight_sum = class_weight_sum;
  }
};

struct NamedOutput {
  const char* name;
  RowArray xent::CrossEntropyRows::*place;
};

constexpr NamedOutput statistic_outputs[] = {
    {"loss", &xent::CrossEntropyRows::loss},       {"lse", &xent::CrossEntropyRows::lse},
    {"entropy", &xent::CrossEntropyRows::entropy}, {"z_loss", &xent::CrossEntropyRows::z_loss},
    {"weight", &xent::CrossEntropyRows::weight},   {"mass", &xent::CrossEntropyRows::mass},
};

void place_output(const std::string& name, const Out& a, const RowView& logits, xent::CrossEntropyRows& rows) {
  if (name == "exact_lse") {
    rows.exact_lse = array_of(name, a, logits.rows, Dtype::f64);
  } else if (name == "lse_low") {
    rows.lse_low = array_of(name, a, logits.rows, Dtype::f64);
  } else if (name == "prediction") {
    rows.prediction = integers_of(name, a, logits.rows);
  } else {
    for (const auto& known : statistic_outputs) {
      if (name != known.name) continue;
      rows.*known.place = array_of(name, a, logits.rows, statistic(logits.dtype));
      return;
    }
    throw nb::value_error(("no such output: " + name).c_str());
  }
}

using Kernel = decltype(xent::KernelTable::cross_entropy);

// The arrays that a call fills; they stay referenced while it runs.
struct Outputs {
  std::vector<Out> held;
  xent::CrossEntropyRows rows;

  Outputs(const nb::dict& outputs, const RowView& logits) {
    for (const auto& [name, value] : outputs) {
      held.push_back(nb::cast<Out>(value));
      if (held.back().ndim() == 1 && held.back().shape(0) > 1 && held.back().stride(0) == 0)
        throw nb::value_error("an output is expanded: its rows would be written to one place");
      place_output(nb::cast<std::string>(name), held.back(), logits, rows);
    }
  }
};

int64_t run_rows(Kernel kernel, const Problem& problem, const nb::dict& outputs, int threads) {
  const Outputs into(outputs, problem.parts.logits);
  checked_threads(threads);
  nb::gil_scoped_release unlocked;
  return kernel(problem.parts, into.rows, threads);
}

struct Upstream {
  OptionalIn loss, lse, entropy, saved_lse, saved_entropy, saved_mass, saved_lse_low;
  Upstream(OptionalIn l, OptionalIn s, OptionalIn e, OptionalIn sl, OptionalIn se, OptionalIn sm, OptionalIn low)
      : loss(std::move(l)), lse(std::move(s)), entropy(std::move(e)), saved_lse(std::move(sl)),
        saved_entropy(std::move(se)), saved_mass(std::move(sm)), saved_lse_low(std::move(low)) {}

  xent::CrossEntropyUpstream parts(const RowView& logits) const {
    const Dtype dtype = statistic(logits.dtype);
    return {optional_array("loss", loss, logits.rows, dtype),
            optional_array("lse", lse, logits.rows, dtype),
            optional_array("entropy", entropy, logits.rows, dtype),
            optional_array("saved_lse", saved_lse, logits.rows, Dtype::f64),
            optional_array("saved_lse_low", saved_lse_low, logits.rows, Dtype::f64),
            optional_array("saved_entropy", saved_entropy, logits.rows, dtype),
            optional_array("saved_mass", saved_mass, logits.rows, dtype)};
  }
};

xent::CrossEntropyUpstream checked_upstream(const Problem& problem, const Upstream& upstream) {
  const auto up = upstream.parts(problem.parts.logits);
  if (up.saved_lse.data == nullptr && problem.parts.logits.rows > 0) throw nb::value_error("saved_lse is needed");
  if (upstream.entropy && !upstream.saved_entropy) throw nb::value_error("saved_entropy is needed");
  if (problem.probabilities && !upstream.saved_mass) throw nb::value_error("saved_mass is needed");
  return up;
}

void cross_entropy_gradient(const Problem& problem, const Upstream& upstream, const Out& gradient, bool streaming,
                            int threads) {
  const auto up = checked_upstream(problem, upstream);
  const RowView view = output_view("gradient", gradient, problem.logits, problem.parts.logits.dtype);
  const auto kernel = xent::chosen_kernels().cross_entropy_gradient;
  checked_threads(threads);
  nb::gil_scoped_release unlocked;
  kernel(problem.parts, up, view, streaming, threads);
}

// Values, and the gradient under a gradient of each row's loss that is known beforehand. The log-sum-exp that the values
// fill is the one that the gradient reads.
void cross_entropy_both(const Problem& problem, const nb::dict& outputs, const In& upstream_loss, const Out& gradient,
                        int threads) {
  const RowView& logits = problem.parts.logits;
  const Outputs into(outputs, logits);
  const RowView view = output_view("gradient", gradient, problem.logits, logits.dtype);
  xent::CrossEntropyUpstream up;
  up.loss = array_of("upstream_loss", upstream_loss, logits.rows, statistic(logits.dtype));
  up.saved_lse = into.rows.exact_lse;
  up.saved_lse_low = into.rows.lse_low;
  if (up.saved_lse.data == nullptr && logits.rows > 0) throw nb::value_error("an output exact_lse is needed");
  if (problem.probabilities) throw nb::value_error("probabilities take two passes");
  const auto kernel = xent::chosen_kernels().cross_entropy_both;
  checked_threads(threads);
  nb::gil_scoped_release unlocked;
  kernel(problem.parts, into.rows, up, view, threads);
}

std::pair<int64_t, int64_t> counted_rows(const Problem& problem) {
  if (!problem.target) throw nb::value_error("rows are counted by their targets");
  const auto kernel = xent::chosen_kernels().counted_rows;
  nb::gil_scoped_release unlocked;
  const auto found = kernel(problem.parts);
  return {found.count, found.bad_row};
}

double sum_of_rows(const In& values, int threads) {
  const Dtype dtype = checked_dtype("values", values.dtype());
  if (dtype != Dtype::f32 && dtype != Dtype::f64) throw nb::type_error("values must be float32 or float64");
  const auto n = static_cast<int64_t>(values.size());
  check_length("values", values, n);
  if (n > 1 && values.stride(0) != 1) throw nb::value_error("values must be contiguous");
  const void* data = data_of("values", values);
  checked_threads(threads);
  const auto& kernels = xent::chosen_kernels();
  nb::gil_scoped_release unlocked;
  return xent::row_sum(kernels, data, dtype, n, threads);
}

void nll_loss_gradient(const Problem& problem, const Upstream& upstream, const Out& gradient, int threads) {
  if (problem.probabilities) throw nb::value_error("nll_loss takes class indices");
  if (!upstream.loss) throw nb::value_error("the gradient of the loss is needed");
  const auto up = upstream.parts(problem.parts.logits);
  const RowView view = output_view("gradient", gradient, problem.logits, problem.parts.logits.dtype);
  const auto kernel = xent::chosen_kernels().nll_loss_gradient;
  checked_threads(threads);
  nb::gil_scoped_release unlocked;
  kernel(problem.parts, up, view, threads);
}

void log_softmax(const In& input, const Out& output, int threads) {
  xent::LogSoftmaxProblem p;
  p.input = view_of("input", input);
  p.output = output_view("output", output, input, p.input.dtype);
  const auto kernel = xent::chosen_kernels().log_softmax;
  checked_threads(threads);
  nb::gil_scoped_release unlocked;
  kernel(p, threads);
}

void log_softmax_gradient(const In& log_probabilities, const In& upstream, const Out& gradient, int threads) {
  xent::LogSoftmaxProblem p;
  p.log_probabilities = view_of("log_probabilities", log_probabilities);
  p.upstream = same_view_of("upstream", upstream, log_probabilities);
  p.output = output_view("gradient", gradient, log_probabilities, p.log_probabilities.dtype);
  const auto kernel = xent::chosen_kernels().log_softmax_gradient;
  checked_threads(threads);
  nb::gil_scoped_release unlocked;
  kernel(p, threads);
}

void logsumexp(const In& input, const Out& lse, const Out& exact_lse, int threads) {
  const RowView view = view_of("input", input);
  const RowArray out = output_array("lse", lse, view.rows, statistic(view.dtype));
  const RowArray exact = output_array("exact_lse", exact_lse, view.rows, Dtype::f64);
  const auto kernel = xent::chosen_kernels().logsumexp;
  checked_threads(threads);
  nb::gil_scoped_release unlocked;
  kernel(view, out, exact, threads);
}

void logsumexp_gradient(const In& input, const In& exact_lse, const In& upstream, const Out& gradient, int threads) {
  const RowView view = view_of("input", input);
  const RowArray exact = array_of("exact_lse", exact_lse, view.rows, Dtype::f64);
  const RowArray up = array_of("upstream", upstream, view.rows, statistic(view.dtype));
  const RowView out = output_view("gradient", gradient, input, view.dtype);
  const auto kernel = xent::chosen_kernels().logsumexp_gradient;
  checked_threads(threads);
  nb::gil_scoped_release unlocked;
  kernel(view, exact, up, out, threads);
}

xent::BinaryCrossEntropyProblem binary_problem(const In& logits, const In& target, const OptionalIn& weight,
                                               const OptionalIn& positive_weight) {
  xent::BinaryCrossEntropyProblem p;
  p.logits = view_of("logits", logits);
  p.target = same_view_of("target", target, logits);
  if (weight) p.weight = same_view_of("weight", *weight, logits);
  if (positive_weight) p.positive_weight = same_view_of("positive_weight", *positive_weight, logits);
  return p;
}

void binary_cross_entropy(const In& logits, const In& target, const OptionalIn& weight,
                          const OptionalIn& positive_weight, const Out& loss, int threads) {
  auto p = binary_problem(logits, target, weight, positive_weight);
  p.loss = output_view("loss", loss, logits, p.logits.dtype);
  const auto kernel = xent::chosen_kernels().binary_cross_entropy;
  checked_threads(threads);
  nb::gil_scoped_release unlocked;
  kernel(p, threads);
}

void binary_cross_entropy_gradient(const In& logits, const In& target, const OptionalIn& weight,
                                   const OptionalIn& positive_weight, const In& upstream, const Out& gradient,
                                   int threads) {
  auto p = binary_problem(logits, target, weight, positive_weight);
  p.loss = same_view_of("upstream", upstream, logits);
  p.gradient = output_view("gradient", gradient, logits, p.logits.dtype);
  const auto kernel = xent::chosen_kernels().binary_cross_entropy_gradient;
  checked_threads(threads);
  nb::gil_scoped_release unlocked;
  kernel(p, threads);
}

int function_number(const std::string& name) {
  const char* names[] = {"exp", "tanh", "log1p", "exp_of_difference", "ln"};
  for (int i = 0; i < 5; ++i)
    if (name == names[i]) return i;
  throw nb::value_error("functions: exp, tanh, log1p, exp_of_difference, ln");
}

void apply(const std::string& function, const In& x, const Out& y) {
  check_same_shape("y", In(y), x);
  const auto n = static_cast<int64_t>(x.size());
  check_length("x", x, n);
  if (n > 1 && (x.stride(0) != 1 || y.stride(0) != 1)) throw nb::value_error("x and y must be contiguous");
  if (dtype_of(x.dtype()) != dtype_of(y.dtype())) throw nb::type_error("x and y need one dtype");
  const int number = function_number(function);
  const void* from = data_of("x", x);
  void* to = data_of("y", y);
  const auto& kernels = xent::chosen_kernels();
  if (dtype_of(x.dtype()) == Dtype::f32)
    kernels.apply_f32(number, static_cast<const float*>(from), static_cast<float*>(to), n);
  else if (dtype_of(x.dtype()) == Dtype::f64)
    kernels.apply_f64(number, static_cast<const double*>(from), static_cast<double*>(to), n);
  else
    throw nb::type_error("x must be float32 or float64");
}

void raise_backend_error(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const xent::UnknownIsa& error) {
    const nb::object type = nb::module_::import_("xent.errors").attr("BackendError");
    const nb::tuple clauses = nb::make_tuple(error.got, error.need, error.action);
    PyErr_SetObject(type.ptr(), clauses.ptr());
  }
}

}  // namespace

NB_MODULE(_kernels, m) {
  using namespace nb::literals;
  nb::register_exception_translator(raise_backend_error);
  m.doc() = "Row kernels of xent for the CPU.";
  m.def("isa", [] { return std::string(xent::chosen_kernels().isa); }, "The instruction set that runs.");
  m.def("supported_isas", &xent::supported_isas, "The instruction sets of this machine and build, narrowest first.");
  nb::class_<Problem>(m, "Problem", "Logits, targets and terms of one call, checked.")
      .def(nb::init<In, OptionalIn, OptionalIn, OptionalIn, OptionalIn>(), "logits"_a, "target"_a.none(),
           "probabilities"_a.none() = nb::none(), "class_weight"_a.none() = nb::none(),
           "row_weight"_a.none() = nb::none())
      .def("set_options", &Problem::set_options, "ignore_index"_a, "label_smoothing"_a, "z_loss"_a, "softcap"_a,
           "logit_scale"_a, "class_weight_sum"_a)
      .def("is_one_pass", [](const Problem& p) { return xent::chosen_kernels().one_pass(p.parts); },
           "Whether cross_entropy_both reads the logits once.")
      .def("counted_rows", &counted_rows, "How many rows count, and the first row with a bad target, or -1.");
  nb::class_<Upstream>(m, "Upstream", "Gradients of the outputs, and what the forward pass saved.")
      .def(nb::init<OptionalIn, OptionalIn, OptionalIn, OptionalIn, OptionalIn, OptionalIn, OptionalIn>(),
           "loss"_a.none() = nb::none(), "lse"_a.none() = nb::none(), "entropy"_a.none() = nb::none(),
           "saved_lse"_a.none() = nb::none(), "saved_entropy"_a.none() = nb::none(),
           "saved_mass"_a.none() = nb::none(), "saved_lse_low"_a.none() = nb::none());
  m.def("cross_entropy",
        [](const Problem& p, const nb::dict& outputs, int threads) {
          return run_rows(xent::chosen_kernels().cross_entropy, p, outputs, threads);
        },
        "problem"_a, "outputs"_a, "threads"_a, "Fill the outputs; the first row with a bad target, or -1.");
  m.def("nll_loss",
        [](const Problem& p, const nb::dict& outputs, int threads) {
          if (p.probabilities) throw nb::value_error("nll_loss takes class indices");
          return run_rows(xent::chosen_kernels().nll_loss, p, outputs, threads);
        },
        "problem"_a, "outputs"_a, "threads"_a);
  m.def("cross_entropy_gradient", &cross_entropy_gradient, "problem"_a, "upstream"_a, "gradient"_a, "streaming"_a,
        "threads"_a, "Write dL/dlogits into gradient, which may be the logits themselves.");
  m.def("cross_entropy_both", &cross_entropy_both, "problem"_a, "outputs"_a, "upstream_loss"_a, "gradient"_a,
        "threads"_a, "Fill the outputs and write dL/dlogits; no target may be bad.");
  m.def("sum_of_rows", &sum_of_rows, "values"_a, "threads"_a, "In double, the same for any number of threads.");
  m.def("nll_loss_gradient", &nll_loss_gradient, "problem"_a, "upstream"_a, "gradient"_a, "threads"_a);
  m.def("log_softmax", &log_softmax, "input"_a, "output"_a, "threads"_a);
  m.def("log_softmax_gradient", &log_softmax_gradient, "log_probabilities"_a, "upstream"_a, "gradient"_a, "threads"_a);
  m.def("logsumexp", &logsumexp, "input"_a, "lse"_a, "exact_lse"_a, "threads"_a);
  m.def("logsumexp_gradient", &logsumexp_gradient, "input"_a, "exact_lse"_a, "upstream"_a, "gradient"_a, "threads"_a);
  m.def("binary_cross_entropy", &binary_cross_entropy, "logits"_a, "target"_a, "weight"_a.none(),
        "positive_weight"_a.none(), "loss"_a, "threads"_a);
  m.def("binary_cross_entropy_gradient", &binary_cross_entropy_gradient, "logits"_a, "target"_a, "weight"_a.none(),
        "positive_weight"_a.none(), "upstream"_a, "gradient"_a, "threads"_a);
  m.def("advise_huge_pages",
        [](const Out& a) { return xent::advise_huge_pages(a.data(), a.nbytes()); }, "buffer"_a,
        "Ask for huge pages on the aligned inside of a fresh buffer; whether the system took the advice.");
  add_shard_rows(m);
  m.def("apply", &apply, "function"_a, "x"_a, "y"_a, "One of the vector functions over an array, for tests.");
}
