#include "onset/load/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "onset/load/svg.h"

namespace onset {
namespace {

constexpr double cell_width = 42, cell_height = 24, left = 62, right = 18, above = 24, below = 40, head = 28, line_head = 20, foot = 52;

struct Colour {
  double red, green, blue;
};
// From nothing to everything; tell apart by light alone, too.
constexpr Colour colours[] = {{165, 0, 38}, {244, 109, 67}, {254, 224, 144}, {145, 207, 196}, {43, 120, 142}};

Colour colour_of(double value) {
  const double place = std::clamp(value, 0.0, 1.0) * (std::size(colours) - 1);
  const auto from = std::min<size_t>(static_cast<size_t>(place), std::size(colours) - 2);
  const double share = place - static_cast<double>(from);
  const auto mix = [&](double a, double b) { return a + share * (b - a); };
  const Colour &a = colours[from], &b = colours[from + 1];
  return {mix(a.red, b.red), mix(a.green, b.green), mix(a.blue, b.blue)};
}

std::string hex(const Colour& colour) {
  return fmt::format("#{:02x}{:02x}{:02x}", std::lround(colour.red), std::lround(colour.green), std::lround(colour.blue));
}

// Black or white, whichever is read more easily on the colour.
const char* ink_on(const Colour& colour) {
  return 0.299 * colour.red + 0.587 * colour.green + 0.114 * colour.blue > 140 ? "#222" : "white";
}

// The title begins above the first cell.
double width_of(const HeatMap& map) {
  constexpr double letter = 6.8;
  return left + std::max(cell_width * static_cast<double>(map.columns.size()), letter * static_cast<double>(map.title.size())) + right;
}
double height_of(const HeatMap& map) {
  return above + cell_height * static_cast<double>(map.rows.size()) + below;
}
double height_of(const HeatMapLine& line) {
  double highest = 0;
  for (const HeatMap& map : line.maps) highest = std::max(highest, height_of(map));
  return line_head + highest;
}

std::string cell_svg(double x, double y, const std::optional<double>& value) {
  if (!value) {
    return fmt::format("<rect x='{}' y='{}' width='{}' height='{}' fill='#eee' stroke='white'/>\n", x, y, cell_width, cell_height);
  }
  const Colour colour = colour_of(*value);
  return fmt::format(
      "<rect x='{}' y='{}' width='{}' height='{}' fill='{}' stroke='white'/>"
      "<text x='{}' y='{}' text-anchor='middle' fill='{}'>{:.0f}</text>\n",
      x, y, cell_width, cell_height, hex(colour), x + cell_width / 2, y + cell_height / 2 + 4, ink_on(colour), 100 * *value);
}

std::string map_svg(const HeatMap& map, const std::string& x_name, const std::string& y_name) {
  const double width = cell_width * static_cast<double>(map.columns.size()), height = cell_height * static_cast<double>(map.rows.size());
  std::string svg = fmt::format("<text x='{}' y='{}' font-weight='bold'>{}</text>\n", left, above - 8, svg_escaped(map.title));
  for (size_t row = 0; row < map.rows.size(); ++row) {
    const double y = above + cell_height * static_cast<double>(row);
    svg += fmt::format("<text x='{}' y='{}' text-anchor='end'>{}</text>\n", left - 6, y + cell_height / 2 + 4, svg_escaped(map.rows[row]));
    for (size_t column = 0; column < map.columns.size(); ++column) {
      svg += cell_svg(left + cell_width * static_cast<double>(column), y, map.cells[row][column]);
    }
  }
  for (size_t column = 0; column < map.columns.size(); ++column) {
    svg += fmt::format("<text x='{}' y='{}' text-anchor='middle'>{}</text>\n", left + cell_width * (static_cast<double>(column) + 0.5),
                       above + height + 15, svg_escaped(map.columns[column]));
  }
  svg += fmt::format("<text x='{}' y='{}' text-anchor='middle'>{}</text>\n", left + width / 2, above + height + 31, svg_escaped(x_name));
  svg += fmt::format("<text transform='translate(15 {}) rotate(-90)' text-anchor='middle'>{}</text>\n", above + height / 2,
                     svg_escaped(y_name));
  return svg;
}

// All colours with the values that they stand for.
std::string legend_svg(const std::string& name, double y) {
  constexpr int steps = 50;
  constexpr double width = 5, height = 12;
  std::string svg;
  for (int i = 0; i < steps; ++i) {
    svg += fmt::format("<rect x='{}' y='{}' width='{}' height='{}' fill='{}'/>", left + width * i, y, width + 0.5, height,
                       hex(colour_of((i + 0.5) / steps)));
  }
  for (int i = 0; i <= 4; ++i) {
    svg += fmt::format("\n<text x='{}' y='{}' text-anchor='middle'>{} %</text>", left + width * steps * i / 4, y + height + 14, 25 * i);
  }
  return svg + fmt::format("\n<text x='{}' y='{}'>{}</text>\n", left + width * steps + 24, y + height - 2, svg_escaped(name));
}

}  // namespace

std::string heat_maps_svg(const HeatMapPicture& picture) {
  double column = 0, height = head;
  size_t columns = 0;
  for (const HeatMapLine& line : picture.lines) {
    for (const HeatMap& map : line.maps) column = std::max(column, width_of(map));
    columns = std::max(columns, line.maps.size());
    height += height_of(line);
  }
  constexpr double least_width = 680;  // the legend's
  std::string svg = svg_begin(std::max(least_width, column * static_cast<double>(columns)), height + foot, picture.title);
  double y = head;
  for (const HeatMapLine& line : picture.lines) {
    svg += fmt::format("<text x='10' y='{}' font-size='13' font-weight='bold'>{}</text>\n", y + 15, svg_escaped(line.title));
    for (size_t i = 0; i < line.maps.size(); ++i) {
      svg += fmt::format("<g transform='translate({} {})'>\n{}</g>\n", column * static_cast<double>(i), y + line_head,
                         map_svg(line.maps[i], picture.x, picture.y));
    }
    y += height_of(line);
  }
  return svg + legend_svg(picture.legend, y + 8) + "</svg>\n";
}

}  // namespace onset
