// The OpenMP pool that is in the process already, which is torch's: its threads wait for work by spinning for some
// milliseconds, and threads of our own would share their cores meanwhile.
#pragma once

namespace xent {

// Calls part(data) on as many threads, the caller among them, and returns when all have.
using ParallelCall = void (*)(void (*part)(void*), void* data, unsigned threads, unsigned flags);

// Null where there is none, and in a forked child: the threads of its parent's pool are not in it.
ParallelCall pool_of_the_process();

}  // namespace xent
