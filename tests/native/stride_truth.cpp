// Views that run backwards or repeat a row or a class, against the same numbers in adjacent memory.
#include "kernel_truth.h"

#include <cstdio>
#include <initializer_list>

#include "kernel_buffers.h"

namespace driver {
namespace {

constexpr double eps32 = 0x1p-24, eps64 = 0x1p-53;

struct Layout {
  const char* name;
  int64_t row_step, class_step;  // -1: backwards, 0: one row, or one class, again and again
};

struct Results {
  Results(Dtype dtype, int64_t rows, int64_t n)
      : loss(statistic_of(dtype), rows), weight(statistic_of(dtype), rows), exact(Dtype::f64, rows), lse(statistic_of(dtype), rows),
        gradient(dtype, n), log_p(dtype, n) {}
  Buffer loss, weight, exact, lse, gradient, log_p;
};

RowView stepped(Buffer& x, int64_t rows, int64_t classes, const Layout& layout) {
  RowView view = x.view(rows, classes, false);
  const int64_t first = (layout.row_step < 0 ? (rows - 1) * classes : 0) + (layout.class_step < 0 ? classes - 1 : 0);
  view.data = static_cast<char*>(x.data) + first * static_cast<int64_t>(bytes_of(x.dtype));
  view.row_stride[0] = layout.row_step * classes;
  view.class_stride = layout.class_step;
  return view;
}

void run(const KernelTable& k, const RowView& logits, RowArray target, Results& into) {
  CrossEntropyProblem p;
  p.logits = logits;
  p.target = target;
  p.terms.class_weight_sum = static_cast<double>(logits.classes);
  CrossEntropyRows out;
  out.loss = into.loss.array(), out.weight = into.weight.array(), out.exact_lse = into.exact.array();
  k.cross_entropy(p, out, 2);
  CrossEntropyUpstream up;
  up.loss = out.weight, up.saved_lse = out.exact_lse;
  const RowView gradient = into.gradient.view(logits.rows, logits.classes, false);
  for (bool streaming : {true, false}) k.cross_entropy_gradient(p, up, gradient, streaming, 2);
  k.logsumexp(logits, into.lse.array(), into.exact.array(), 2);
  k.log_softmax({logits, into.log_p.view(logits.rows, logits.classes, false), {}, {}}, 2);
}

// Sums in another order: 67 units of the statistic on each side (kernel_truth.cpp), and one more rounding of a half.
bool near(const Buffer& got, const Buffer& want, Dtype logits) {
  const double statistic = logits == Dtype::f64 ? eps64 : eps32;
  const double half = got.dtype == Dtype::bf16 ? 0x1p-7 : got.dtype == Dtype::f16 ? 0x1p-10 : 0;
  for (int64_t i = 0; i < got.n; ++i)
    if (!(std::fabs(got[i] - want[i]) <= (half + 144 * statistic) * std::fabs(want[i]) + 144 * statistic)) return false;
  return true;
}

}  // namespace

int check_strides(const KernelTable& k) {
  const Layout layouts[] = {{"rows backwards", -1, 1}, {"classes backwards", 1, -1}, {"both backwards", -1, -1},
                            {"one row", 0, 1},         {"one class", 1, 0},          {"one number", 0, 0}};
  struct Shape {
    int64_t rows, classes;
  };
  const Shape shapes[] = {{1, 5}, {7, 9}, {33, 17}, {40, 8}, {3, 259}};
  int wrong = 0;
  for (Dtype dtype : dtypes)
    for (const Shape& s : shapes)
      for (const Layout& layout : layouts) {
        const int64_t n = s.rows * s.classes;
        Buffer x(dtype, n), plain(dtype, n), y(Dtype::f64, s.rows);
        x.fill(-2);
        for (int64_t r = 0; r < s.rows; ++r) {
          static_cast<int64_t*>(y.data)[r] = r % 5 == 4 ? -100 : (s.rows - 1 - r) % s.classes;
          for (int64_t c = 0; c < s.classes; ++c) {
            const int64_t row = layout.row_step < 0 ? s.rows - 1 - r : r * layout.row_step;
            const int64_t column = layout.class_step < 0 ? s.classes - 1 - c : c * layout.class_step;
            plain.set(r * s.classes + c, x[row * s.classes + column]);
          }
        }
        Results got(dtype, s.rows, n), want(dtype, s.rows, n);
        run(k, stepped(x, s.rows, s.classes, layout), y.array(), got);
        run(k, plain.view(s.rows, s.classes, false), y.array(), want);
        if (near(got.loss, want.loss, dtype) && near(got.gradient, want.gradient, dtype) && near(got.lse, want.lse, dtype) &&
            near(got.log_p, want.log_p, dtype))
          continue;
        ++wrong;
        std::printf("%s %s %lldx%lld, %s: other numbers than in adjacent memory\n", k.isa, name_of(dtype),
                    static_cast<long long>(s.rows), static_cast<long long>(s.classes), layout.name);
      }
  return wrong;
}

}  // namespace driver
