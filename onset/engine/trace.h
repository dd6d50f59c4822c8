// Time lines for Chrome's trace viewer and Perfetto; and the time line of an engine's steps: who ran, how many tokens, how long.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "onset/engine/engine.h"

namespace onset {

// Something that took some time on one line of the picture.
struct TraceEvent {
  std::string name;  // letters, digits, points, underscores, spaces
  std::string category;
  int64_t line = 0;
  double begin = 0, seconds = 0;
  std::vector<std::pair<std::string, double>> values = {};
};

// Chrome's trace event format: a complete event ("ph": "X") for each, microseconds; and the names of lines.
std::string chrome_trace(std::span<const TraceEvent> events, const std::map<int64_t, std::string>& line_names = {});

// Collects what an engine's step hook reports.
class StepTrace {
 public:
  void add(const StepReport& report) { steps_.push_back(report); }
  const std::vector<StepReport>& steps() const { return steps_; }
  // Line 0 has the steps, line N those in which request N took part: its prompt's chunks, its answer's rows, and where it gave up its
  // pages.
  std::string chrome_trace() const;

 private:
  std::vector<StepReport> steps_;
};

}  // namespace onset
