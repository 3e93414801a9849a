#pragma once

namespace driver {

int check_shard_rows();  // prints what exceeds its bound and returns how often

}  // namespace driver
