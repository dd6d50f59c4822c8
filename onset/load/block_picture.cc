#include "onset/load/block_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "onset/load/svg.h"

namespace onset {
namespace {

constexpr double panel = 132, gap = 14, left = 24, head = 46, above = 20, legend = 36, bar_height = 70, bar_left = 60;
constexpr size_t most_in_line = 9;

// How much of a block is visited, from little to all of it; what is not visited and could be is the ground's colour.
struct Shade {
  float least;
  const char* colour;
  const char* name;
};
constexpr std::array<Shade, 4> shades{
    {{0.0f, "#c6dbef", "up to 5 %"}, {0.05f, "#6baed6", "to 25 %"}, {0.25f, "#2171b5", "to 75 %"}, {0.75f, "#08306b", "more of it"}}};
constexpr const char* ground = "#f2ece2";

// The shade of a share; -1: not visited, -2: nothing to be seen.
int shade_of(float share) {
  if (share < 0) return -2;
  if (share == 0) return -1;
  int shade = 0;
  while (shade + 1 < static_cast<int>(shades.size()) && share > shades[shade + 1].least) ++shade;
  return shade;
}

// One path for each shade; neighbours of one shade in a row are one rectangle.
std::string panel_svg(const BlockPanel& map) {
  const auto size = static_cast<double>(map.shares.size());
  std::array<std::string, shades.size() + 1> paths;  // the ground's comes last
  for (size_t row = 0; row < map.shares.size(); ++row) {
    const std::vector<float>& shares = map.shares[row];
    for (size_t begin = 0, end = 0; begin < shares.size(); begin = end) {
      const int shade = shade_of(shares[begin]);
      while (end < shares.size() && shade_of(shares[end]) == shade) ++end;
      if (shade == -2) continue;
      paths[shade < 0 ? shades.size() : static_cast<size_t>(shade)] +=
          fmt::format("M{} {}h{}v1h-{}z", begin, row, end - begin, end - begin);
    }
  }
  std::string svg = fmt::format("<text x='{}' y='{}' text-anchor='middle'>{}</text>\n<g transform='translate(0 {}) scale({:.5f})'>",
                                panel / 2, above - 6, svg_escaped(map.title), above, panel / std::max(1.0, size));
  for (size_t i = 0; i < paths.size(); ++i) {
    if (!paths[i].empty()) svg += fmt::format("<path d='{}' fill='{}'/>\n", paths[i], i < shades.size() ? shades[i].colour : ground);
  }
  return svg + fmt::format("</g><rect y='{}' width='{}' height='{}' fill='none' stroke='#888' stroke-width='0.7'/>\n", above, panel, panel);
}

std::string legend_svg(double y) {
  std::string svg;
  double x = left;
  const auto add = [&](const char* colour, const char* name) {
    svg += fmt::format(
        "<rect x='{}' y='{}' width='12' height='12' fill='{}' stroke='#888' stroke-width='0.5'/><text x='{}' y='{}'>{}</text>\n", x, y,
        colour, x + 18, y + 10, name);
    x += 110;
  };
  add(ground, "not visited");
  for (const Shade& shade : shades) add(shade.colour, shade.name);
  return svg + fmt::format("<text x='{}' y='{}'>of a block's pairs; queries go down, keys to the right</text>\n", x, y + 10);
}

std::string bars_svg(const LayerBars& bars, double width) {
  const double step = (width - bar_left - left) / static_cast<double>(std::max<size_t>(1, bars.values.size()));
  std::string svg = fmt::format("<text x='{}' y='12' font-weight='bold'>{}</text>\n", bar_left, svg_escaped(bars.name));
  for (const int percent : {0, 50, 100}) {
    const double y = 20 + bar_height * (1 - percent / 100.0);
    svg +=
        fmt::format("<line x1='{}' x2='{}' y1='{:.1f}' y2='{:.1f}' stroke='#ddd'/><text x='{}' y='{:.1f}' text-anchor='end'>{} %</text>\n",
                    bar_left, width - left, y, y, bar_left - 6, y + 4, percent);
  }
  for (size_t i = 0; i < bars.values.size(); ++i) {
    const double height = bar_height * std::clamp(bars.values[i], 0.0, 1.0), x = bar_left + step * static_cast<double>(i);
    svg += fmt::format("<rect x='{:.1f}' y='{:.1f}' width='{:.1f}' height='{:.1f}' fill='#2171b5'/>", x + 0.1 * step,
                       20 + bar_height - height, 0.8 * step, height);
    svg += fmt::format("<text x='{:.1f}' y='{}' text-anchor='middle'>{}</text>\n", x + step / 2, 20 + bar_height + 14, i);
  }
  return svg;
}

}  // namespace

std::string block_picture_svg(const BlockPicture& picture) {
  size_t across = 6, down = 0;  // panels; the legend needs room for so many
  for (const auto& line : picture.lines) {
    across = std::max(across, std::min(line.size(), most_in_line));
    down += (line.size() + most_in_line - 1) / most_in_line;
  }
  constexpr double line_height = above + panel + gap, bars_height = bar_height + 50;
  const double width = 2 * left + static_cast<double>(across) * (panel + gap) - gap;
  const double height = head + static_cast<double>(down) * line_height + legend + bars_height * static_cast<double>(picture.bars.size());
  std::string svg = svg_begin(width, height, picture.title);
  svg += fmt::format("<text x='{}' y='35' text-anchor='middle' fill='#444'>{}</text>\n", width / 2, svg_escaped(picture.note));
  double y = head;
  for (const auto& line : picture.lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      if (i > 0 && i % most_in_line == 0) y += line_height;
      svg += fmt::format("<g transform='translate({} {})'>\n{}</g>\n", left + (panel + gap) * static_cast<double>(i % most_in_line), y,
                         panel_svg(line[i]));
    }
    y += line_height;
  }
  svg += legend_svg(y + 4);
  y += legend;
  for (const LayerBars& bars : picture.bars) {
    svg += fmt::format("<g transform='translate(0 {})'>\n{}</g>\n", y, bars_svg(bars, width));
    y += bars_height;
  }
  return svg + "</svg>\n";
}

}  // namespace onset
