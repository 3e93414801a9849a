// Runs every kernel of every instruction set over odd sizes and layouts in buffers without a byte to spare, for
// AddressSanitizer and UBSan (make sanitize). It checks memory and arithmetic faults; values are checked from Python.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu_choice.h"

namespace {

using namespace xent;

size_t bytes_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

struct Buffer {  // malloc: the sanitizer guards its very ends
  explicit Buffer(size_t bytes) : data(std::calloc(bytes == 0 ? 1 : bytes, 1)) {}
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
  void* data;
};

void fill(Buffer& buffer, Dtype dtype, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float value = static_cast<float>((i * 7919) % 101) / 25.0f - 2.0f;
    if (dtype == Dtype::f32) static_cast<float*>(buffer.data)[i] = value;
    else if (dtype == Dtype::f64) static_cast<double*>(buffer.data)[i] = value;
    else static_cast<uint16_t*>(buffer.data)[i] = static_cast<uint16_t>(0x3c00 + (i * 37) % 512 + (i % 2) * 0x8000);
  }
}

RowView view_of(Buffer& buffer, Dtype dtype, int64_t rows, int64_t classes, bool columns) {
  RowView view;
  view.data = buffer.data;
  view.dtype = dtype;
  view.rows = rows;
  view.classes = classes;
  view.class_stride = columns && classes > 1 ? rows : 1;
  view.row_dims = 1;
  view.row_size[0] = rows;
  view.row_stride[0] = columns ? 1 : classes;
  return view;
}

struct Statistics {
  explicit Statistics(Dtype dtype, int64_t rows) : bytes(dtype == Dtype::f64 ? 8 : 4) {
    for (auto& column : columns) column = new Buffer(static_cast<size_t>(rows) * 8);
  }
  ~Statistics() {
    for (auto* column : columns) delete column;
  }
  RowArray operator[](int i) { return {columns[i]->data, 1}; }
  size_t bytes;
  Buffer* columns[10];
};

void cross_entropy(const KernelTable& k, Dtype dtype, int64_t rows, int64_t classes, bool columns, int options) {
  const auto n = rows * classes;
  const Dtype statistic = dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  Buffer x(static_cast<size_t>(n) * bytes_of(dtype)), g(static_cast<size_t>(n) * bytes_of(dtype));
  Buffer q(static_cast<size_t>(n) * 4), w(static_cast<size_t>(classes) * bytes_of(statistic));
  Buffer y(static_cast<size_t>(rows) * 8);
  fill(x, dtype, n);
  fill(q, Dtype::f32, n);
  fill(w, statistic, classes);
  for (int64_t r = 0; r < rows; ++r) static_cast<int64_t*>(y.data)[r] = r % 5 == 4 ? -100 : r % classes;
  CrossEntropyProblem p;
  p.logits = view_of(x, dtype, rows, classes, columns);
  const bool soft = (options & 1) != 0;
  if (soft) p.probabilities = view_of(q, Dtype::f32, rows, classes, (options & 2) != 0);
  else p.target = {y.data, 1};
  if ((options & 2) != 0) p.terms.class_weight = w.data;
  if ((options & 4) != 0) p.terms.label_smoothing = 0.1;
  if ((options & 8) != 0) p.terms.map = {1.5, 4.0};
  p.terms.z_loss = 0.01;
  p.terms.class_weight_sum = static_cast<double>(classes);
  Statistics s(dtype, rows);
  CrossEntropyRows out;
  out.loss = s[0], out.weight = s[1], out.mass = s[2], out.exact_lse = s[3];
  const bool stats = (options & 16) != 0;
  if (stats) out.entropy = s[4], out.lse = s[5], out.z_loss = s[6], out.prediction = s[7];
  k.cross_entropy(p, out, 3);
  CrossEntropyUpstream up;
  up.loss = out.weight, up.saved_lse = out.exact_lse, up.saved_mass = out.mass;
  if (stats) up.entropy = out.weight, up.lse = out.weight, up.saved_entropy = out.entropy;
  const RowView gradient = view_of(g, dtype, rows, classes, columns != ((options & 32) != 0));
  for (bool streaming : {false, true}) k.cross_entropy_gradient(p, up, gradient, streaming, 3);
  if (!soft) {
    k.nll_loss(p, out, 2);
    k.nll_loss_gradient(p, up, gradient, 2);
  }
  k.cross_entropy_gradient(p, up, p.logits, false, 2);  // in place
}

void others(const KernelTable& k, Dtype dtype, int64_t rows, int64_t classes, bool columns) {
  const auto n = rows * classes;
  const size_t bytes = static_cast<size_t>(n) * bytes_of(dtype);
  Buffer x(bytes), t(bytes), out(bytes), g(bytes);
  fill(x, dtype, n);
  fill(t, dtype, n);
  Statistics s(dtype, rows);
  const RowView in = view_of(x, dtype, rows, classes, columns), target = view_of(t, dtype, rows, classes, !columns);
  const RowView result = view_of(out, dtype, rows, classes, columns), gradient = view_of(g, dtype, rows, classes, columns);
  k.logsumexp(in, s[0], s[1], 2);
  k.logsumexp_gradient(in, s[1], s[0], gradient, 2);
  k.log_softmax({in, result, {}, {}}, 2);
  k.log_softmax_gradient({{}, gradient, result, target}, 2);
  k.binary_cross_entropy({in, target, {}, target, result, {}}, 2);
  k.binary_cross_entropy_gradient({in, target, target, {}, result, gradient}, 2);
}

}  // namespace

int main() {
  const int64_t sizes[] = {1, 3, 8, 15, 16, 17, 33, 129};
  for (const auto& isa : supported_isas()) {
    const KernelTable& k = kernels_for(isa);
    for (Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::f16})
      for (bool columns : {false, true}) {
        for (int64_t rows : sizes)
          for (int64_t classes : sizes) {
            others(k, dtype, rows, classes, columns);
            for (int options = 0; options < 64; options += rows == 17 || classes == 17 ? 1 : 13)
              cross_entropy(k, dtype, rows, classes, columns, options);
          }
        for (int options = 0; options < 64; options += 5) cross_entropy(k, dtype, 3, 4099, columns, options);
        cross_entropy(k, dtype, 1100, 530, columns, 4);
      }
    std::printf("%s: clean\n", isa.c_str());
  }
  return 0;
}
