// The sum of one number per row, the same to the last bit for any number of threads.
#pragma once

#include "kernels.h"

namespace xent {

double row_sum(const KernelTable& kernels, const void* values, Dtype dtype, int64_t n, int threads);

}  // namespace xent
