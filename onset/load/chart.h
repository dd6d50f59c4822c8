// Small line charts as SVG.
#pragma once

#include <string>
#include <vector>

namespace onset {

struct ChartPoint {
  double x = 0, y = 0;
};
struct ChartLine {
  std::string name = {};  // empty: none is written
  std::vector<ChartPoint> points = {};
};
// A value on an axis, as a dashed line across the chart.
struct ChartMark {
  enum class Axis : char { x, y };
  std::string name;
  double value = 0;
  Axis axis = Axis::x;
};
struct ChartAxis {
  std::string name;
  bool logarithmic = false;  // values of 0 or less are left out
};
struct Chart {
  std::string title;
  ChartAxis x, y;
  std::vector<ChartLine> lines = {};
  std::vector<ChartMark> marks = {};
  bool dots = false;
  bool names_right = false;  // the lines' names stand in the right corner
};

// The charts side by side under one title.
std::string charts_svg(const std::vector<Chart>& charts, const std::string& title);

}  // namespace onset
