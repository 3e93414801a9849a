// Runs every kernel of every instruction set over odd sizes and layouts in buffers without a byte to spare, for
// AddressSanitizer and UBSan (make sanitize), and compares its results with long double (kernel_truth.cpp). The same
// program, cross-compiled, is how NEON is tested on other machines (make neon).
#include <cstdio>
#include <cstdlib>

#include "cpu_choice.h"
#include "kernel_buffers.h"
#include "kernel_truth.h"
#include "shard_truth.h"

namespace {

using namespace driver;

void cross_entropy(const KernelTable& k, Dtype dtype, int64_t rows, int64_t classes, bool columns, int options) {
  const auto n = rows * classes;
  const Dtype statistic = statistic_of(dtype);
  Buffer x(dtype, n), g(dtype, n), q((options & 4) != 0 ? Dtype::f32 : dtype, n), w(statistic, classes), y(Dtype::f64, rows);
  Buffer row_weight(statistic, rows);
  Buffer loss(statistic, rows), weight(statistic, rows), mass(statistic, rows), exact_lse(Dtype::f64, rows);
  Buffer entropy(statistic, rows), lse(statistic, rows), z_loss(statistic, rows), prediction(Dtype::f64, rows);
  x.fill(-2);
  q.fill(-2);
  w.fill(-2);
  row_weight.fill(-2);
  for (int64_t r = 0; r < rows; ++r) static_cast<int64_t*>(y.data)[r] = r % 5 == 4 ? -100 : r % classes;
  CrossEntropyProblem p;
  p.logits = x.view(rows, classes, columns);
  const bool soft = (options & 1) != 0;
  if (soft) p.probabilities = q.view(rows, classes, (options & 2) != 0);
  else p.target = y.array();
  if ((options & 2) != 0) p.terms.class_weight = w.data;
  if ((options & 4) != 0) p.terms.label_smoothing = 0.1;
  if ((options & 8) != 0) p.terms.map = {1.5, 4.0};
  if ((options & 8) != 0) p.terms.row_weight = row_weight.array();
  p.terms.class_weight_sum = static_cast<double>(classes);
  CrossEntropyRows out;
  out.loss = loss.array(), out.weight = weight.array(), out.exact_lse = exact_lse.array();
  if (soft) out.mass = mass.array();
  const bool stats = (options & 16) != 0;
  if (stats) {
    p.terms.z_loss = 0.01;  // without it, the rows of plain training
    out.entropy = entropy.array(), out.lse = lse.array();
    out.z_loss = z_loss.array(), out.prediction = prediction.array();
  }
  k.cross_entropy(p, out, 3);
  CrossEntropyUpstream up;
  up.loss = out.weight, up.saved_lse = out.exact_lse, up.saved_mass = out.mass;
  if (stats) up.entropy = out.weight, up.lse = out.weight, up.saved_entropy = out.entropy;
  const RowView gradient = g.view(rows, classes, columns != ((options & 32) != 0));
  for (bool streaming : {false, true}) k.cross_entropy_gradient(p, up, gradient, streaming, 3);
  if (!soft) {
    if (k.counted_rows(p).count != rows - rows / 5) std::abort();  // every fifth is ignored
    k.cross_entropy_both(p, out, up, gradient, 3);
    k.nll_loss(p, out, 2);
    k.nll_loss_gradient(p, up, gradient, 2);
  }
  k.cross_entropy_gradient(p, up, p.logits, false, 2);  // in place
}

void others(const KernelTable& k, Dtype dtype, int64_t rows, int64_t classes, bool columns) {
  const auto n = rows * classes;
  Buffer x(dtype, n), t(dtype, n), out(dtype, n), g(dtype, n), lse(statistic_of(dtype), rows), exact(Dtype::f64, rows);
  x.fill(-2);
  t.fill(-2);
  const RowView in = x.view(rows, classes, columns), target = t.view(rows, classes, !columns);
  const RowView result = out.view(rows, classes, columns), gradient = g.view(rows, classes, columns);
  k.logsumexp(in, lse.array(), exact.array(), 2);
  k.logsumexp_gradient(in, exact.array(), lse.array(), gradient, 2);
  k.log_softmax({in, result, {}, {}}, 2);
  k.log_softmax_gradient({{}, gradient, result, target}, 2);
  k.binary_cross_entropy({in, target, {}, target, result, {}}, 2);
  k.binary_cross_entropy_gradient({in, target, target, {}, result, gradient}, 2);
}

void memory(const KernelTable& k, int thinning) {
  const int64_t sizes[] = {1, 3, 8, 15, 16, 17, 33, 129};
  for (Dtype dtype : dtypes)
    for (bool columns : {false, true}) {
      for (int64_t rows : sizes)
        for (int64_t classes : sizes) {
          if (rows == 17 || classes == 17 || thinning == 1) others(k, dtype, rows, classes, columns);
          for (int options = 0; options < 64; options += (rows == 17 || classes == 17 ? 1 : 13) * thinning)
            cross_entropy(k, dtype, rows, classes, columns, options);
        }
      for (int options = 0; options < 64; options += 5) cross_entropy(k, dtype, 3, 4099, columns, options);
      cross_entropy(k, dtype, 1100, 530, columns, 4);
      others(k, dtype, 3, 4099, columns);
      others(k, dtype, 4099, 3, columns);
    }
}

}  // namespace

// `kernel_driver N` takes every Nth choice of options: an emulator needs minutes for all of them.
int main(int num_arguments, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // what was found before somebody loses patience
  const int thinning = num_arguments > 1 ? std::atoi(arguments[1]) : 1;
  int failures = check_shard_rows();
  std::printf("shards: memory clean, %s\n", failures == 0 ? "values within their bounds" : "VALUES WRONG");
  for (const auto& isa : supported_isas()) {
    const KernelTable& k = kernels_for(isa);
    memory(k, thinning);
    const int wrong = check_functions(k, thinning) + check_sums(k) + check_losses(k, thinning) + check_strides(k) +
                      check_special_values(k);
    std::printf("%s: memory clean, %s\n", isa.c_str(), wrong == 0 ? "values within their bounds" : "VALUES WRONG");
    failures += wrong;
  }
  return failures == 0 ? 0 : 1;
}
