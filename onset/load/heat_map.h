// Grids of coloured cells as SVG.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace onset {

// Values from 0 to 1, each cell in the colour of its value with the value in it, in percent.
struct HeatMap {
  std::string title;
  std::vector<std::string> columns, rows;                 // what stands below and left of them
  std::vector<std::vector<std::optional<double>>> cells;  // [row][column]; none: not measured
};

// Maps side by side.
struct HeatMapLine {
  std::string title;
  std::vector<HeatMap> maps;
};

struct HeatMapPicture {
  std::string title;
  std::string x, y;                // what columns and rows are
  std::vector<HeatMapLine> lines;  // one below the other; maps of a place stand in one column
  std::string legend;              // what the values are
};
std::string heat_maps_svg(const HeatMapPicture& picture);

}  // namespace onset
