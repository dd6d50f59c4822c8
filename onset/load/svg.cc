#include "onset/load/svg.h"

#include <fmt/format.h>

namespace onset {

std::string svg_escaped(const std::string& text) {
  std::string out;
  for (const char byte : text) {
    switch (byte) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      default:
        out += byte;
    }
  }
  return out;
}

std::string svg_begin(double width, double height, const std::string& title) {
  return fmt::format(
      "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {0} {1}' width='{0}' height='{1}' "
      "font-family='sans-serif' font-size='11'>\n"
      "<rect width='100%' height='100%' fill='white'/>\n<text x='{2}' y='17' text-anchor='middle' "
      "font-size='14'>{3}</text>\n",
      width, height, width / 2, svg_escaped(title));
}

}  // namespace onset
