#include "onset/load/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "onset/load/svg.h"

namespace onset {
namespace {

constexpr double width = 420, height = 280, left = 58, right = 16, top = 46, bottom = 48;
constexpr std::array<const char*, 5> colours{"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#e07b00"};

// One axis: values to places between two pixels.
class Scale {
 public:
  Scale(bool logarithmic, double low, double high, double from, double to) : logarithmic_(logarithmic), from_(from), to_(to) {
    if (!(low <= high)) low = logarithmic ? 0.1 : 0, high = 1;
    if (logarithmic) {
      low_ = std::log10(low) - 0.02;
      high_ = std::log10(high) + 0.02;
    } else {
      low_ = std::min(0.0, low);
      high_ = high == low_ ? low_ + 1 : high;
    }
  }
  bool shows(double value) const { return !logarithmic_ || value > 0; }
  double place(double value) const { return from_ + (to_ - from_) * ((logarithmic_ ? std::log10(value) : value) - low_) / (high_ - low_); }

  std::vector<double> ticks() const {
    std::vector<double> found;
    if (!logarithmic_) {
      const double raw = (high_ - low_) / 5, power = std::pow(10, std::floor(std::log10(raw)));
      const double step = (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10) * power;
      for (double value = std::ceil(low_ / step) * step; value <= high_ * (1 + 1e-9); value += step) found.push_back(value);
      return found;
    }
    const std::vector<double> fine{1, 2, 5}, coarse{1};
    for (double power = std::floor(low_); power <= high_; ++power) {
      for (const double factor : high_ - low_ < 2.5 ? fine : coarse) {
        const double value = factor * std::pow(10, power);
        if (std::log10(value) >= low_ && std::log10(value) <= high_) found.push_back(value);
      }
    }
    return found;
  }

 private:
  bool logarithmic_;
  double from_, to_, low_ = 0, high_ = 1;
};

// The range of all values that an axis has to show.
Scale scale_of(const Chart& chart, ChartMark::Axis axis) {
  const bool is_x = axis == ChartMark::Axis::x;
  const bool logarithmic = is_x ? chart.x.logarithmic : chart.y.logarithmic;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  const auto see = [&](double value) {
    if (!std::isfinite(value) || (logarithmic && value <= 0)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  };
  for (const ChartLine& line : chart.lines) {
    for (const ChartPoint& point : line.points) see(is_x ? point.x : point.y);
  }
  for (const ChartMark& mark : chart.marks) {
    if (mark.axis == axis) see(mark.value);
  }
  if (is_x) return Scale(logarithmic, low, high, left, width - right);
  return Scale(logarithmic, low, high, height - bottom, top);
}

std::string axes(const Chart& chart, const Scale& x, const Scale& y) {
  std::string svg;
  for (const double tick : x.ticks()) {
    const double place = x.place(tick);
    svg += fmt::format(
        "<line x1='{0:.1f}' x2='{0:.1f}' y1='{1}' y2='{2}' stroke='#ddd'/><text x='{0:.1f}' y='{3}' "
        "text-anchor='middle'>{4:g}</text>\n",
        place, top, height - bottom, height - bottom + 16, tick);
  }
  for (const double tick : y.ticks()) {
    const double place = y.place(tick);
    svg += fmt::format(
        "<line x1='{0}' x2='{1}' y1='{2:.1f}' y2='{2:.1f}' stroke='#ddd'/><text x='{3}' y='{4:.1f}' "
        "text-anchor='end'>{5:g}</text>\n",
        left, width - right, place, left - 6, place + 4, tick);
  }
  svg += fmt::format("<rect x='{}' y='{}' width='{}' height='{}' fill='none' stroke='#888'/>\n", left, top, width - left - right,
                     height - top - bottom);
  svg += fmt::format("<text x='{}' y='{}' text-anchor='middle'>{}</text>\n", (left + width - right) / 2, height - 12,
                     svg_escaped(chart.x.name));
  svg += fmt::format("<text transform='translate(14 {}) rotate(-90)' text-anchor='middle'>{}</text>\n", (top + height - bottom) / 2,
                     svg_escaped(chart.y.name));
  svg += fmt::format("<text x='{}' y='{}' text-anchor='middle' font-weight='bold'>{}</text>\n", (left + width - right) / 2, top - 10,
                     svg_escaped(chart.title));
  return svg;
}

std::string chart_svg(const Chart& chart) {
  const Scale x = scale_of(chart, ChartMark::Axis::x), y = scale_of(chart, ChartMark::Axis::y);
  std::string svg = axes(chart, x, y);
  for (size_t i = 0; i < chart.lines.size(); ++i) {
    const char* colour = colours[i % colours.size()];
    std::string path, dots;
    for (const ChartPoint& point : chart.lines[i].points) {
      if (!x.shows(point.x) || !y.shows(point.y)) continue;
      path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", x.place(point.x), y.place(point.y));
      if (chart.dots)
        dots += fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='3' fill='{}'/>\n", x.place(point.x), y.place(point.y), colour);
    }
    svg += fmt::format("<polyline points='{}' fill='none' stroke='{}' stroke-width='1.8'/>\n{}", path, colour, dots);
    if (!chart.lines[i].name.empty()) {
      svg += fmt::format("<text x='{}' y='{}' fill='{}' text-anchor='{}'>{}</text>\n", chart.names_right ? width - right - 8 : left + 8,
                         top + 16 + 14 * static_cast<double>(i), colour, chart.names_right ? "end" : "start",
                         svg_escaped(chart.lines[i].name));
    }
  }
  for (const ChartMark& mark : chart.marks) {
    if (mark.axis == ChartMark::Axis::x) {
      const double place = x.place(mark.value);
      svg += fmt::format(
          "<line x1='{0:.1f}' x2='{0:.1f}' y1='{1}' y2='{2}' stroke='#555' stroke-dasharray='4 3'/>"
          "<text transform='translate({3:.1f} {4}) rotate(-90)' fill='#555'>{5}</text>\n",
          place, top, height - bottom, place - 4, height - bottom - 6, svg_escaped(mark.name));
    } else {
      const double place = y.place(mark.value);
      svg += fmt::format(
          "<line x1='{0}' x2='{1}' y1='{2:.1f}' y2='{2:.1f}' stroke='#555' stroke-dasharray='4 3'/>"
          "<text x='{3}' y='{4:.1f}' fill='#555'>{5}</text>\n",
          left, width - right, place, left + 6, place - 4, svg_escaped(mark.name));
    }
  }
  return svg;
}

}  // namespace

std::string charts_svg(const std::vector<Chart>& charts, const std::string& title) {
  const double all = width * static_cast<double>(charts.size());
  std::string svg = svg_begin(all, height + 10, title);
  for (size_t i = 0; i < charts.size(); ++i) {
    svg += fmt::format("<g transform='translate({} 10)'>\n{}</g>\n", width * static_cast<double>(i), chart_svg(charts[i]));
  }
  return svg + "</svg>\n";
}

}  // namespace onset
