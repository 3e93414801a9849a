// Rows over threads. A row's result depends on nothing but the row, whatever chunk it falls into: any number of threads
// gives the same bits. Chunks run on the pool that torch has in the process (thread_pool.h), or on threads that live for
// one call: nothing spins against torch's pool and a fork has nothing to inherit.
#pragma once

#include <cstdint>

namespace xent {

using RowTask = void (*)(const void* context, int64_t first_row, int64_t last_row);

void thread_rows(int64_t rows, int64_t rows_per_chunk, int threads, RowTask task, const void* context);

}  // namespace xent
