// Rows whose classes are spread over ranks, with index targets and no term that weighs classes: a rank's message, the
// merge of all messages, and the gradient where the target is. The kernels do the rest; they see no target.
//
//   message   8 bytes, of which the first says whether the rank failed, then for the counted rows
//             a plane of bases (float32, or the half type of the logits) and a plane of rests, six bytes each
//   base + rest = lse_r; on the rank that has the target base is its logit and rest its surprisal, elsewhere base is a
//   number near lse_r. A rest of -1 with a base of -inf: no class of the rank has a probability.
#pragma once

#include <vector>

#include "kernels.h"

namespace xent {

struct ShardTargets {
  RowArray index;  // int64, counted over all classes
  int64_t rows = 0;
  int64_t ignore_index = -100;
};

struct ShardRows {
  RowView logits;
  ShardTargets target;
  int64_t first_class = 0;
  LogitMap map;
};

struct ShardSums {  // of this rank's classes; without data where it has none
  RowArray lse;     // float; the others double, as a kernel gives them
  RowArray exact_lse, lse_low;
};

int64_t counted_rows(const ShardTargets& target);
int64_t shard_message_bytes(int64_t counted, Dtype base);

// Write what stands behind the first eight bytes.
void encode_shard_rows(const ShardRows& rows, const ShardSums& sums, Dtype base, uint8_t* message, int threads);

struct ShardMessages {
  const uint8_t* data = nullptr;        // one after another, in the order of the ranks
  int64_t bytes = 0;                    // of each
  Dtype base = Dtype::f32;
  std::vector<int64_t> starts;          // the first class of each rank, and at the end the number of classes
};

// The same operations in the same order on every rank: all get the same bits. `loss` has zeta lse^2 in it. Ignored rows
// get 0. `lse` is NaN for a row without a softmax, as the kernels take it.
void merge_shard_rows(const ShardMessages& messages, const ShardTargets& target, double z_loss, float* loss, double* lse,
                      int threads);

// dL/dx at the targets that this rank has: (g_loss + g_lse) p - g_loss, times dz/dx; each g one float per row.
void put_target_gradients(const ShardRows& rows, const RowArray& lse, const RowArray& of_loss, const RowArray& of_lse,
                          const RowView& gradient, int threads);

}  // namespace xent
