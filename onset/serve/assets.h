// The files that travel in the program: the page and the description of the API.
#pragma once

#include <span>
#include <string_view>

namespace onset::serve {

struct Asset {
  std::string_view path, content_type, text;
};
std::span<const Asset> assets();

}  // namespace onset::serve
