// What pictures have in common.
#pragma once

#include <string>

namespace onset {

// Text as SVG can have it.
std::string svg_escaped(const std::string& text);

// The beginning of a picture of this size on a white ground, with its title.
std::string svg_begin(double width, double height, const std::string& title);

}  // namespace onset
