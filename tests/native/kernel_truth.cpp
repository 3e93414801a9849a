// Bounds. u is half a unit in the last place of 1 in the statistic's type (2^-24 or 2^-53). A row's sum is made of at
// most 128 / 2 additions in one lane before it goes to double, each of an exp with 1.5 units: its relative error, and
// so the error of ln s, is below 67 u. A mapped logit carries 12 u |z| (a product, a tanh with 4 units, a product).
// Every bound is `slack` = (72 + 12 max |z|) u times the magnitude of what is added up, plus the rounding of the result.
#include "kernel_truth.h"

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernel_buffers.h"

namespace driver {
namespace {

using Real = long double;

double unit_of(Dtype dtype) {
  return dtype == Dtype::f64 ? 0x1p-53 : dtype == Dtype::f32 ? 0x1p-24 : dtype == Dtype::bf16 ? 0x1p-8 : 0x1p-11;
}

Real softplus(Real z) { return (z > 0 ? z : 0) + log1pl(expl(-fabsl(z))); }
Real sigmoid(Real z) { return 1 / (1 + expl(-z)); }

struct Case {
  const KernelTable& k;
  Dtype dtype;
  int64_t rows, classes;
  bool columns;
  int options;
  int wrong = 0;

  Case(const KernelTable& kernels, Dtype type, int64_t num_rows, int64_t num_classes, bool in_columns, int chosen = 0)
      : k(kernels), dtype(type), rows(num_rows), classes(num_classes), columns(in_columns), options(chosen) {}
  bool has(int option) const { return (options & option) != 0; }
  double unit() const { return unit_of(statistic_of(dtype)); }
  int64_t at(int64_t row, int64_t c) const { return place(row, c, rows, classes, columns); }

  // `output`: the dtype that the result was rounded to.
  void check(const char* what, int64_t row, double got, Real truth, Real bound, Dtype output) {
    const Real smallest = output == Dtype::f16 ? 0x1p-25L : 0x1p-149L;  // half a step below the normal numbers
    const Real allowed = bound + unit_of(output) * fabsl(truth) + smallest;
    if (fabsl(got - truth) <= allowed) return;
    const Real rounds_to_infinity = 65520;  // half a step above the largest float16
    const bool overflows = output == Dtype::f16 && fabsl(truth) + allowed >= rounds_to_infinity;
    if (overflows && std::isinf(got) && (got > 0) == (truth > 0)) return;
    ++wrong;
    std::printf("%s %s %s %lldx%lld%s options %d row %lld: %.17g, truth %.17Lg, off by %.3Lg of the bound\n", k.isa,
                name_of(dtype), what, static_cast<long long>(rows), static_cast<long long>(classes),
                columns ? " in columns" : "", options, static_cast<long long>(row), got, truth,
                fabsl(got - truth) / allowed);
  }
};

struct RowTruth {
  std::vector<Real> z, p;
  Real top = -INFINITY, lse = 0, entropy = 0, largest = 0;

  explicit RowTruth(std::vector<Real> logits) : z(std::move(logits)), p(z.size()) {
    for (Real v : z) top = v > top ? v : top, largest = fabsl(v) > largest ? fabsl(v) : largest;
    Real sum = 0;
    for (Real v : z) sum += expl(v - top);
    lse = top + logl(sum);
    for (size_t c = 0; c < z.size(); ++c) {
      p[c] = expl(z[c] - lse);
      entropy -= p[c] * (z[c] - lse);
    }
  }
  Real slack(double unit) const { return (72 + 12 * largest) * unit; }
};

std::vector<Real> row_of(const Case& c, const Buffer& x, int64_t row) {
  std::vector<Real> values(static_cast<size_t>(c.classes));
  for (int64_t i = 0; i < c.classes; ++i) values[static_cast<size_t>(i)] = x[c.at(row, i)];
  return values;
}

enum Option : int { soft = 1, weighted = 2, smoothed = 4, mapped = 8, stats = 16, without_z = 32, row_weighted = 64, own_shares = 128 };
constexpr double smoothing = 0.1, scale = 1.5, cap = 4.0;

struct CrossEntropy {
  Case& c;
  Dtype statistic;
  double z_loss;
  Buffer x, q, w, omega, y, g, loss, weight, mass, exact_lse, low, entropy, lse, z_part, prediction;

  explicit CrossEntropy(Case& problem)
      : c(problem), statistic(statistic_of(c.dtype)), z_loss(c.has(without_z) ? 0 : 0.01), x(c.dtype, c.rows * c.classes),
        q(c.has(own_shares) ? c.dtype : Dtype::f32, x.n), w(statistic, c.classes), omega(statistic, c.rows), y(Dtype::f64, c.rows), g(c.dtype, x.n), loss(statistic, c.rows),
        weight(statistic, c.rows), mass(statistic, c.rows), exact_lse(Dtype::f64, c.rows), low(Dtype::f64, c.rows),
        entropy(statistic, c.rows), lse(statistic, c.rows), z_part(statistic, c.rows), prediction(Dtype::f64, c.rows) {
    x.fill(-2);
    q.fill(0);
    for (int64_t i = 0; i < c.classes; ++i) w.set(i, 0.5 + static_cast<double>(i % 5) / 4);
    for (int64_t r = 0; r < c.rows; ++r) target()[r] = r % 5 == 4 ? -100 : r * 31 % c.classes;
    for (int64_t r = 0; r < c.rows; ++r) omega.set(r, static_cast<double>(r % 4) / 2);
  }

  int64_t* target() { return static_cast<int64_t*>(y.data); }
  Real class_weight(int64_t i) const { return c.has(weighted) ? Real(w[i]) : 1; }
  Real row_weight(int64_t row) const { return c.has(row_weighted) ? Real(omega[row]) : 1; }

  std::vector<Real> shares(int64_t row) {  // t of the equations in cross_entropy_terms.h, times the row's weight
    const Real eps = c.has(smoothed) ? Real(smoothing) : 0;
    std::vector<Real> t(static_cast<size_t>(c.classes));
    for (int64_t i = 0; i < c.classes; ++i) {
      const Real given = c.has(soft) ? Real(q[c.at(row, i)]) : (target()[row] == i ? 1 : 0);
      t[static_cast<size_t>(i)] = row_weight(row) * class_weight(i) * ((1 - eps) * given + eps / static_cast<Real>(c.classes));
    }
    return t;
  }

  RowTruth truth(int64_t row) {
    auto z = row_of(c, x, row);
    if (c.has(mapped))
      for (Real& v : z) v = cap * tanhl(scale * v / cap);
    return RowTruth(z);
  }

  void run() {
    compute();
    for (int64_t row = 0; row < c.rows; ++row) check_row(row);
  }

  void compute() {
    CrossEntropyProblem p;
    p.logits = x.view(c.rows, c.classes, c.columns);
    if (c.has(soft)) p.probabilities = q.view(c.rows, c.classes, c.columns);
    else p.target = y.array();
    p.terms.class_weight = c.has(weighted) ? w.data : nullptr;
    for (int64_t i = 0; i < c.classes; ++i) p.terms.class_weight_sum += static_cast<double>(class_weight(i));
    p.terms.label_smoothing = c.has(smoothed) ? smoothing : 0;
    p.terms.z_loss = z_loss;
    if (c.has(row_weighted)) p.terms.row_weight = omega.array();
    if (c.has(mapped)) p.terms.map = {scale, cap};
    CrossEntropyRows out;
    out.loss = loss.array(), out.weight = weight.array();
    if (c.has(soft)) out.mass = mass.array();
    out.exact_lse = exact_lse.array(), out.lse_low = low.array();
    if (c.has(stats)) {
      out.entropy = entropy.array(), out.lse = lse.array();
      out.z_loss = z_part.array(), out.prediction = prediction.array();
    }
    if (c.k.cross_entropy(p, out, 2) != -1) c.check("bad row", -1, 0, 1, 0, statistic);
    CrossEntropyUpstream up;  // the loss itself is the gradient of the loss: any number of the right kind
    up.loss = out.loss, up.saved_lse = out.exact_lse, up.saved_lse_low = out.lse_low, up.saved_mass = out.mass;
    if (c.has(stats)) up.lse = out.weight, up.entropy = out.loss, up.saved_entropy = out.entropy;
    c.k.cross_entropy_gradient(p, up, g.view(c.rows, c.classes, c.columns), c.classes % 2 == 0, 2);
    if (!c.has(soft)) compute_again(p, out, up);
  }

  // Both passes in one, where they are: the same bits.
  void compute_again(const CrossEntropyProblem& p, const CrossEntropyRows& out, const CrossEntropyUpstream& up) {
    Buffer again(c.dtype, c.rows * c.classes);
    c.k.cross_entropy_both(p, out, up, again.view(c.rows, c.classes, c.columns), 2);
    if (std::memcmp(again.data, g.data, static_cast<size_t>(again.n) * bytes_of(c.dtype)) != 0)
      c.check("both passes", -1, 1, 0, 0, statistic);
  }

  void check_row(int64_t row) {
    if (!c.has(soft) && target()[row] == -100) {
      c.check("ignored", row, loss[row], 0, 0, statistic);
      for (int64_t i = 0; i < c.classes; ++i) c.check("ignored gradient", row, g[c.at(row, i)], 0, 0, c.dtype);
      return;
    }
    const RowTruth r = truth(row);
    const auto t = shares(row);
    const Real slack = r.slack(c.unit()), weight_of_row = row_weight(row) * (c.has(soft) ? 1 : class_weight(target()[row]));
    Real ce = 0, cost = 0;
    for (size_t i = 0; i < t.size(); ++i) {
      ce += t[i] * (r.lse - r.z[i]);
      cost += t[i] * (1 + fabsl(r.lse - r.z[i]) + fabsl(r.z[i] - r.z[0]));
    }
    const Real z_term = weight_of_row * z_loss * r.lse * r.lse, z_cost = 2 * weight_of_row * z_loss * (1 + fabsl(r.lse));
    c.check("loss", row, loss[row], ce + z_term, slack * (cost + z_cost), statistic);
    c.check("weight", row, weight[row], weight_of_row, 0, statistic);
    if (c.has(stats)) {
      c.check("lse", row, lse[row], r.lse, slack, statistic);
      c.check("entropy", row, entropy[row], r.entropy, slack * (4 + r.entropy), statistic);
      c.check("z_loss", row, z_part[row], z_term, slack * z_cost, statistic);
      const auto seen = static_cast<size_t>(static_cast<int64_t*>(prediction.data)[row]);
      if (seen >= r.z.size() || r.z[seen] != r.top) c.check("prediction", row, static_cast<double>(seen), -1, 0, statistic);
    }
    check_gradient(row, r, t, weight_of_row);
  }

  void check_gradient(int64_t row, const RowTruth& r, const std::vector<Real>& t, Real weight_of_row) {
    const Real up = loss[row], up_lse = c.has(stats) ? Real(weight[row]) : 0, up_entropy = c.has(stats) ? up : 0;
    const Real slack = r.slack(c.unit());
    Real sum = 0;
    for (Real share : t) sum += share;
    for (int64_t i = 0; i < c.classes; ++i) {
      const auto at = static_cast<size_t>(i);
      const Real p = r.p[at], log_p = r.z[at] - r.lse, z_factor = 2 * weight_of_row * z_loss * r.lse;
      Real value = up * (p * (sum + z_factor) - t[at]) + up_lse * p - up_entropy * p * (log_p + r.entropy);
      Real size = fabsl(up) * (p * (sum + fabsl(z_factor) + z_loss) + t[at]) + fabsl(up_lse) * p +
                  fabsl(up_entropy) * p * (fabsl(log_p) + r.entropy + 5);
      size *= 1 + fabsl(log_p) / 72;
      if (c.has(mapped)) {
        const Real bend = r.z[at] / cap;
        value *= scale * (1 - bend * bend);
        size *= scale;
      }
      c.check("gradient", row, g[c.at(row, i)], value, slack * size, c.dtype);
    }
  }
};

void check_log_softmax(Case& c) {
  Buffer x(c.dtype, c.rows * c.classes), up(c.dtype, x.n), out(c.dtype, x.n), g(c.dtype, x.n);
  x.fill(-2);
  up.fill(-1);
  const auto view = [&](Buffer& b) { return b.view(c.rows, c.classes, c.columns); };
  c.k.log_softmax({view(x), view(out), {}, {}}, 2);
  c.k.log_softmax_gradient({{}, view(g), view(out), view(up)}, 2);
  for (int64_t row = 0; row < c.rows; ++row) {
    const RowTruth r(row_of(c, x, row));
    const Real slack = r.slack(c.unit());
    Real sum = 0, size = 0;
    for (int64_t i = 0; i < c.classes; ++i) sum += up[c.at(row, i)], size += std::fabs(up[c.at(row, i)]);
    for (int64_t i = 0; i < c.classes; ++i) {
      const Real log_p = r.z[static_cast<size_t>(i)] - r.lse, stored = expl(Real(out[c.at(row, i)]));
      c.check("log_softmax", row, out[c.at(row, i)], log_p, slack, c.dtype);
      c.check("log_softmax gradient", row, g[c.at(row, i)], up[c.at(row, i)] - stored * sum, slack * stored * size, c.dtype);
    }
  }
}

void check_logsumexp(Case& c) {
  const Dtype statistic = statistic_of(c.dtype);
  Buffer x(c.dtype, c.rows * c.classes), g(c.dtype, x.n), lse(statistic, c.rows), exact(Dtype::f64, c.rows);
  x.fill(-2);
  c.k.logsumexp(x.view(c.rows, c.classes, c.columns), lse.array(), exact.array(), 2);
  c.k.logsumexp_gradient(x.view(c.rows, c.classes, c.columns), exact.array(), lse.array(),
                         g.view(c.rows, c.classes, c.columns), 2);
  for (int64_t row = 0; row < c.rows; ++row) {
    const RowTruth r(row_of(c, x, row));
    const Real slack = r.slack(c.unit());
    c.check("logsumexp", row, lse[row], r.lse, slack, statistic);
    for (int64_t i = 0; i < c.classes; ++i) {
      const Real value = lse[row] * r.p[static_cast<size_t>(i)];
      c.check("logsumexp gradient", row, g[c.at(row, i)], value, slack * fabsl(value) * (1 + fabsl(r.lse)), c.dtype);
    }
  }
}

void check_binary(Case& c) {
  Buffer x(c.dtype, c.rows * c.classes), t(c.dtype, x.n), omega(c.dtype, x.n), out(c.dtype, x.n), g(c.dtype, x.n);
  x.fill(-2);
  omega.fill(0.25);
  for (int64_t i = 0; i < t.n; ++i) t.set(i, static_cast<double>(i % 9) / 8);
  const auto view = [&](Buffer& b) { return b.view(c.rows, c.classes, c.columns); };
  c.k.binary_cross_entropy({view(x), view(t), {}, view(omega), view(out), {}}, 2);
  c.k.binary_cross_entropy_gradient({view(x), view(t), {}, view(omega), view(omega), view(g)}, 2);
  for (int64_t i = 0; i < x.n; ++i) {
    const Real z = x[i], yes = omega[i] * t[i], no = 1 - t[i], up = omega[i];
    const Real size = yes * sigmoid(-z) + no * sigmoid(z), loss = yes * softplus(-z) + no * softplus(z);
    const Real slack = 16 * c.unit();  // exp 1.5 units, log1p or a quotient 2 to 4, three products and a sum
    c.check("binary", i, out[i], loss, slack * loss, c.dtype);
    c.check("binary gradient", i, g[i], up * (no * sigmoid(z) - yes * sigmoid(-z)), slack * fabsl(up) * size, c.dtype);
  }
}

void check_nll(Case& c) {
  const Dtype statistic = statistic_of(c.dtype);
  Buffer x(c.dtype, c.rows * c.classes), g(c.dtype, x.n), y(Dtype::f64, c.rows), loss(statistic, c.rows);
  Buffer weight(statistic, c.rows);
  x.fill(-2);
  CrossEntropyProblem p;
  p.logits = x.view(c.rows, c.classes, c.columns);
  p.target = y.array();
  for (int64_t r = 0; r < c.rows; ++r) static_cast<int64_t*>(y.data)[r] = r * 31 % c.classes;
  CrossEntropyRows out;
  out.loss = loss.array(), out.weight = weight.array();
  CrossEntropyUpstream up;
  up.loss = out.weight;
  c.k.nll_loss(p, out, 2);
  c.k.nll_loss_gradient(p, up, g.view(c.rows, c.classes, c.columns), 2);
  for (int64_t r = 0; r < c.rows; ++r) {
    c.check("nll_loss", r, loss[r], -x[c.at(r, r * 31 % c.classes)], 0, statistic);
    for (int64_t i = 0; i < c.classes; ++i)
      c.check("nll_loss gradient", r, g[c.at(r, i)], i == r * 31 % c.classes ? -1 : 0, 0, c.dtype);
  }
}

}  // namespace

int check_losses(const KernelTable& k, int thinning) {
  struct Shape {
    int64_t rows, classes;
  };
  const Shape shapes[] = {{1, 1}, {6, 2}, {3, 7}, {17, 9}, {9, 16}, {33, 17}, {70, 33}, {5, 259}, {2, 4101}, {530, 19}};
  int wrong = 0;
  for (Dtype dtype : dtypes)
    for (bool columns : {false, true})
      for (const Shape& s : shapes) {
        const bool large = s.rows * s.classes > 5000;
        for (int options = 0; options < 32; options += (large ? 5 : 1) * thinning) {
          Case c(k, dtype, s.rows, s.classes, columns, options);
          CrossEntropy(c).run();
          wrong += c.wrong;
        }
        for (int options : {int{without_z}, without_z | mapped, without_z | smoothed, row_weighted | stats | weighted,
                            row_weighted | smoothed, without_z | soft | own_shares, row_weighted | soft | own_shares | stats}) {
          if (large && thinning > 1 && (options & without_z) == 0) continue;
          Case c(k, dtype, s.rows, s.classes, columns, options);
          CrossEntropy(c).run();
          wrong += c.wrong;
        }
        Case c(k, dtype, s.rows, s.classes, columns);
        check_log_softmax(c), check_logsumexp(c), check_binary(c), check_nll(c);
        wrong += c.wrong;
      }
  return wrong;
}

// One odd number in a row of 19: loss, log-sum-exp and gradient are NaN, +inf, -inf or finite where the scalar kernels'
// are.
int check_special_values(const KernelTable& k) {
  constexpr int64_t rows = 19, classes = 19;
  const auto kind = [](double x) { return x != x ? 2 : std::isinf(x) ? (x > 0 ? 1 : -1) : 0; };
  const float odd[] = {NAN, INFINITY, -INFINITY};
  int wrong = 0;
  for (Dtype dtype : {Dtype::f32, Dtype::f64})
    for (float value : odd)
      for (bool columns : {false, true}) {
        Case chosen(k, dtype, rows, classes, columns, stats), plain(*scalar_kernels(), dtype, rows, classes, columns, stats);
        CrossEntropy got(chosen), expected(plain);
        for (int64_t r = 0; r < rows; ++r) got.x.set(chosen.at(r, r), value), expected.x.set(chosen.at(r, r), value);
        got.compute(), expected.compute();
        for (int64_t r = 0; r < rows; ++r) {
          bool same = kind(got.loss[r]) == kind(expected.loss[r]) && kind(got.lse[r]) == kind(expected.lse[r]);
          for (int64_t i = 0; i < classes; ++i)
            same = same && kind(got.g[chosen.at(r, i)]) == kind(expected.g[chosen.at(r, i)]);
          if (same) continue;
          ++wrong;
          std::printf("%s %s: a row with %g ends otherwise than the scalar one\n", k.isa, name_of(dtype), value);
        }
      }
  return wrong;
}

}  // namespace driver
