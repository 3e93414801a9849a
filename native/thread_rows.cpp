#include "thread_rows.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "thread_pool.h"

namespace xent {

void thread_rows(int64_t rows, int64_t rows_per_chunk, int threads, RowTask task, const void* context) {
  const int64_t chunks = (rows + rows_per_chunk - 1) / rows_per_chunk;
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t chunk = next++; chunk < chunks; chunk = next++) {
      const int64_t first = chunk * rows_per_chunk;
      task(context, first, std::min(first + rows_per_chunk, rows));
    }
  };
  const int64_t wanted = std::min<int64_t>(threads, chunks);
  if (wanted <= 1) return work();
  if (const auto parallel = pool_of_the_process()) {
    parallel([](void* queue) { (*static_cast<decltype(work)*>(queue))(); }, &work, static_cast<unsigned>(wanted), 0);
    return;
  }
  // Starting a thread takes as long as half a chunk: one that would find a single chunk to do is not worth it.
  const int64_t helpers_wanted = std::min<int64_t>(threads, chunks / 2) - 1;
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<size_t>(std::max<int64_t>(helpers_wanted, 0)));
  try {
    for (int64_t i = 0; i < helpers_wanted; ++i) helpers.emplace_back(work);
  } catch (const std::exception&) {
    // No more threads, or no memory for one: the ones that started, and this one, share the same queue.
  }
  work();
  for (auto& helper : helpers) helper.join();
}

}  // namespace xent
