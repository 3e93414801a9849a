#include "cpu_choice.h"

#include <cstdlib>

namespace xent {
namespace {

#if defined(XENT_X86)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

struct Candidate {
  const char* name;
  const KernelTable* (*kernels)();
  bool supported;
};

std::vector<Candidate> candidates() {
  return {
      {"scalar", scalar_kernels, true},
#if defined(XENT_X86)
      {"avx2", avx2_kernels, has_avx2()},
      {"avx512", avx512_kernels, has_avx512()},
#endif
#if defined(XENT_ARM64)
      {"neon", neon_kernels, true},
#endif
  };
}

const KernelTable& widest() {
  static const KernelTable* table = &kernels_for(supported_isas().back());
  return *table;
}

}  // namespace

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const auto& c : candidates())
    if (c.supported) names.emplace_back(c.name);
  return names;
}

const KernelTable& kernels_for(const std::string& isa) {
  for (const auto& c : candidates())
    if (c.supported && isa == c.name) return *c.kernels();
  std::string known;
  for (const auto& name : supported_isas()) known += (known.empty() ? "" : ", ") + name;
  throw UnknownIsa(isa, known);
}

const KernelTable& chosen_kernels() {
  const char* forced = std::getenv("XENT_ISA");
  return forced != nullptr && *forced != '\0' ? kernels_for(forced) : widest();
}

}  // namespace xent
