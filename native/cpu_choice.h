// Which instruction set runs: the widest one of this machine, or the one that XENT_ISA names.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace xent {

std::vector<std::string> supported_isas();  // narrowest first

// An XENT_ISA that this machine, or this build, lacks; the three clauses of a BackendError.
struct UnknownIsa : std::invalid_argument {
  UnknownIsa(const std::string& isa, const std::string& known)
      : std::invalid_argument("XENT_ISA is '" + isa + "'"), got(what()),
        need("this machine and build run " + known), action("choose one of these, or unset XENT_ISA") {}

  std::string got, need, action;
};

// Throws UnknownIsa.
const KernelTable& kernels_for(const std::string& isa);

const KernelTable& chosen_kernels();  // reads XENT_ISA at every call: a test may change it

}  // namespace xent
