// The head tables that are built in: tables/*.json.
#pragma once

#include <span>

namespace onset {

struct ShippedTable {
  const char* name;
  const char* json;
};
extern const std::span<const ShippedTable> shipped_tables;

}  // namespace onset
