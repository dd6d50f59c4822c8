// The head tables that are built in: tables/*.json, and tables/streaming/*.json (streaming_table.h).
#pragma once

#include <span>

namespace onset {

struct ShippedTable {
  const char* name;
  const char* json;
};
extern const std::span<const ShippedTable> shipped_tables;
extern const std::span<const ShippedTable> shipped_streaming_tables;

}  // namespace onset
