// The only entry points. "Statistic" below is float for f32, bf16 and f16 logits, and double for f64 logits;
// every `void*` and RowArray holds statistics unless it says otherwise.
#pragma once

#include "row_view.h"

namespace xent {

// z = logit_scale * x, then softcap * tanh(z / softcap) where softcap > 0 (0 means none).
struct LogitMap {
  double scale = 1.0;
  double softcap = 0.0;
};

struct CrossEntropyTerms {
  LogitMap map;
  double label_smoothing = 0.0;
  double z_loss = 0.0;
  int64_t ignore_index = -100;
  const void* class_weight = nullptr;  // C statistics, contiguous
  double class_weight_sum = 0.0;       // sum of class_weight, or C without one
  RowArray row_weight;
};

struct CrossEntropyProblem {
  RowView logits;
  RowArray target;        // int64 class indices; null when `probabilities` is given
  RowView probabilities;  // any of the four dtypes; data null when `target` is given
  CrossEntropyTerms terms;
};

struct CrossEntropyRows {
  RowArray loss, lse, entropy, z_loss, weight;
  RowArray mass;        // sum over classes of target mass times class weight (what the gradient needs of `probabilities`)
  RowArray exact_lse;   // double, whatever the statistic: the gradient subtracts it from logits with a common offset;
                        // NaN for a row without a softmax, where lse is +inf or -inf
  RowArray lse_low;     // double: what exact_lse lost in its own rounding
  RowArray prediction;  // int64
};

struct CrossEntropyUpstream {
  RowArray loss, lse, entropy;           // the gradients of the three differentiable outputs
  RowArray saved_lse;                    // exact_lse, double
  RowArray saved_lse_low;                // lse_low, or null
  RowArray saved_entropy, saved_mass;    // needed where upstream.entropy, or probabilities, are given
};

struct CountedRows {
  int64_t count, bad_row;  // bad_row: as the kernels return it
};

struct LogSoftmaxProblem {
  RowView input;
  RowView output;   // forward: ln p in the input's dtype; backward: the gradient of the input
  RowView log_probabilities, upstream;  // backward only
};

struct BinaryCrossEntropyProblem {  // rows are the rows of a view; every operand has the same logical shape
  RowView logits, target, weight, positive_weight;  // the last two may have null data
  RowView loss;             // forward: output; backward: the upstream gradient
  RowView gradient;         // backward: output
};

// The kernels return the first row whose target lies outside [0, C) and is not ignore_index, or -1.
struct KernelTable {
  const char* isa;
  int64_t (*cross_entropy)(const CrossEntropyProblem&, const CrossEntropyRows&, int threads);
  void (*cross_entropy_gradient)(const CrossEntropyProblem&, const CrossEntropyUpstream&, const RowView& gradient,
                                 bool streaming, int threads);
  // Both passes in one where `one_pass` says so, else in two. No target is bad: `counted_rows` has looked.
  bool (*one_pass)(const CrossEntropyProblem&);
  CountedRows (*counted_rows)(const CrossEntropyProblem&);
  void (*cross_entropy_both)(const CrossEntropyProblem&, const CrossEntropyRows&, const CrossEntropyUpstream&,
                             const RowView& gradient, int threads);
  int64_t (*nll_loss)(const CrossEntropyProblem&, const CrossEntropyRows&, int threads);
  void (*nll_loss_gradient)(const CrossEntropyProblem&, const CrossEntropyUpstream&, const RowView& gradient,
                            int threads);
  void (*log_softmax)(const LogSoftmaxProblem&, int threads);
  void (*log_softmax_gradient)(const LogSoftmaxProblem&, int threads);
  // lse in statistics, exact_lse in double as above.
  void (*logsumexp)(const RowView& input, const RowArray& lse, const RowArray& exact_lse, int threads);
  void (*logsumexp_gradient)(const RowView& input, const RowArray& exact_lse, const RowArray& upstream,
                             const RowView& gradient, int threads);
  void (*binary_cross_entropy)(const BinaryCrossEntropyProblem&, int threads);
  void (*binary_cross_entropy_gradient)(const BinaryCrossEntropyProblem&, int threads);
  // Of adjacent numbers, in double, in one order.
  double (*sum_f32)(const float* x, int64_t n);
  double (*sum_f64)(const double* x, int64_t n);
  // For the tests of the mathematics: f(x[i]) over an array. Functions: 0 exp, 1 tanh, 2 log1p on
  // [0, 1], 3 exp of a number <= 64, 4 ln of a normal number >= sqrt(1/2), in double.
  void (*apply_f32)(int function, const float* x, float* y, int64_t n);
  void (*apply_f64)(int function, const double* x, double* y, int64_t n);
};

const KernelTable* scalar_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx512_kernels();
const KernelTable* neon_kernels();

}  // namespace xent
