#pragma once

#include <nanobind/nanobind.h>

// ShardRows, of the module.
void add_shard_rows(nanobind::module_& m);
