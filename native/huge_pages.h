// Fresh pages cost more than the arithmetic: in pages of 2 MiB the first touch of a gradient takes half the time.
#pragma once

#include <cstddef>

namespace xent {

// Advice for the aligned inside of one buffer, which changes no setting of the process and nothing where refused.
bool advise_huge_pages(void* data, size_t bytes);

}  // namespace xent
