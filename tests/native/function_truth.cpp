// exp, tanh, log1p, ln and sums against the C library in double and in long double.
#include "kernel_truth.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernel_buffers.h"
#include "row_sum.h"

namespace driver {
namespace {

using Real = long double;

// The largest error in units of the last place, over every `stride`th float32 up to `highest`.
double worst_of_floats(const KernelTable& k, int function, uint32_t stride, float highest, Real (*exact)(Real)) {
  double worst = 0;
  std::vector<float> x, y;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += stride) {
    const auto low = static_cast<uint32_t>(bits);
    float value;
    std::memcpy(&value, &low, 4);
    if (value <= highest && value >= (function == 2 ? 0.0f : -INFINITY)) x.push_back(value);
  }
  y.resize(x.size());
  k.apply_f32(function, x.data(), y.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    const Real truth = exact(x[i]);
    const float near = static_cast<float>(truth);
    if (std::isinf(near) && std::isinf(y[i])) continue;
    const double size = std::fabs(near) < 0x1p-126f ? 0x1p-126 : std::fabs(near);
    const double step = std::ldexp(1.0, std::ilogb(size) - 23);
    const double error = static_cast<double>(fabsl(y[i] - truth)) / step;
    worst = error > worst || error != error ? error : worst;
  }
  return worst;
}

double worst_of_doubles(const KernelTable& k, int function, double lowest, double highest, Real (*exact)(Real)) {
  constexpr int count = 20011;
  std::vector<double> x, y(count);
  for (int i = 0; i < count; ++i) x.push_back(lowest + (highest - lowest) * i / (count - 1));
  k.apply_f64(function, x.data(), y.data(), count);
  double worst = 0;
  for (int i = 0; i < count; ++i) {
    const Real truth = exact(x[static_cast<size_t>(i)]);
    const double size = fabsl(truth) < 0x1p-1022L ? 0x1p-1022 : static_cast<double>(fabsl(truth));
    const double step = std::ldexp(1.0, std::ilogb(size) - 52);
    const double error = static_cast<double>(fabsl(y[static_cast<size_t>(i)] - truth)) / step;
    worst = error > worst || error != error ? error : worst;
  }
  return worst;
}

int within(const KernelTable& k, const char* what, double worst, double bound) {
  std::printf("%s: %s is off by %.3f units in the last place, %.1f allowed\n", k.isa, what, worst, bound);
  return worst <= bound ? 0 : 1;
}

}  // namespace

int check_functions(const KernelTable& k, int thinning) {
  const uint32_t stride = 4099 * static_cast<uint32_t>(thinning);
  const float all = INFINITY;
  const auto on_floats = [](Real x) { return Real(std::exp(static_cast<double>(x))); };
  return within(k, "exp of float32", worst_of_floats(k, 0, stride, all, on_floats), 1.5) +
         within(k, "exp of a float32 difference", worst_of_floats(k, 3, stride, 64, on_floats), 1.5) +
         within(k, "tanh of float32", worst_of_floats(k, 1, stride, all, [](Real x) { return Real(std::tanh(double(x))); }), 4) +
         within(k, "log1p of float32", worst_of_floats(k, 2, stride, 1, [](Real x) { return Real(std::log1p(double(x))); }), 2) +
         within(k, "exp of float64", worst_of_doubles(k, 0, -745, 709.7, expl), 1.5) +
         within(k, "exp of a float64 difference", worst_of_doubles(k, 3, -745, 64, expl), 1.5) +
         within(k, "tanh of float64", worst_of_doubles(k, 1, -20, 20, tanhl), 4) +
         within(k, "log1p of float64", worst_of_doubles(k, 2, 0, 1, log1pl), 2) +
         within(k, "ln of float64 near 1", worst_of_doubles(k, 4, 0.708, 1.5, logl), 2.5) +
         within(k, "ln of float64", worst_of_doubles(k, 4, 1, 1e6, logl), 2.5);
}

// In double: as many roundings as numbers, each of half a unit of the sum of magnitudes.
int check_sums(const KernelTable& k) {
  int wrong = 0;
  for (Dtype dtype : {Dtype::f32, Dtype::f64})
    for (int64_t n : {0, 1, 15, 16, 17, 16384, 16385, 40001}) {
      Buffer x(dtype, n);
      x.fill(-2);
      Real truth = 0, size = 0;
      for (int64_t i = 0; i < n; ++i) truth += x[i], size += std::fabs(x[i]);
      for (int threads : {1, 3}) {
        const double sum = row_sum(k, x.data, dtype, n, threads);
        if (fabsl(sum - truth) <= static_cast<Real>(n) * 0x1p-53L * size) continue;
        ++wrong;
        std::printf("%s: the sum of %lld numbers is %.17g\n", k.isa, static_cast<long long>(n), sum);
      }
    }
  return wrong;
}

}  // namespace driver
