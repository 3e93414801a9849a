// Which instruction set runs: the widest one of this machine, or the one that XENT_ISA names.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace xent {

std::vector<std::string> supported_isas();  // narrowest first

// Throws std::invalid_argument when this machine, or this build, lacks the instruction set.
const KernelTable& kernels_for(const std::string& isa);

const KernelTable& chosen_kernels();  // reads XENT_ISA at every call: a test may change it

}  // namespace xent
