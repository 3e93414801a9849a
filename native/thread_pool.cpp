#include "thread_pool.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <fstream>
#include <string>
#endif

namespace xent {

#if defined(__linux__)
namespace {

std::atomic<bool> forked{false};

// PF_FORKNOEXEC in the flags that /proc shows: a child that came here by fork alone.
bool came_here_by_fork() {
  constexpr unsigned long fork_no_exec = 0x40;
  std::ifstream stat("/proc/self/stat");
  std::string text;
  if (!std::getline(stat, text)) return true;
  const size_t name_end = text.rfind(')');  // pid (name) state ppid pgrp session tty_nr tpgid flags
  if (name_end == std::string::npos) return true;
  size_t at = name_end + 1;
  for (int field = 3; field < 9; ++field) at = text.find(' ', at + 1);
  if (at == std::string::npos) return true;
  return (std::stoul(text.substr(at + 1)) & fork_no_exec) != 0;
}

ParallelCall found_at_load() {
  if (came_here_by_fork()) return nullptr;
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
  return reinterpret_cast<ParallelCall>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
}

}  // namespace

ParallelCall pool_of_the_process() {
  static const ParallelCall found = found_at_load();
  return forked ? nullptr : found;
}
#else
ParallelCall pool_of_the_process() { return nullptr; }
#endif

}  // namespace xent
