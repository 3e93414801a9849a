// Results of one instruction set against long double. Each function prints what exceeds its bound and returns how often.
#pragma once

#include "kernels.h"

namespace driver {

int check_functions(const xent::KernelTable& k, int thinning);  // exp, tanh, log1p
int check_sums(const xent::KernelTable& k);
int check_strides(const xent::KernelTable& k);  // views that run backwards, or repeat a row or a class
int check_losses(const xent::KernelTable& k, int thinning);  // every loss, dtype, layout, odd sizes, Nth options
int check_special_values(const xent::KernelTable& k);  // NaN and infinities end where the scalar kernels have them

}  // namespace driver
