// A load's outcome for programs and for eyes: JSON and pictures.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "onset/load/statistics.h"

namespace onset {

nlohmann::ordered_json to_json(const LoadStatistics& statistics);
nlohmann::ordered_json to_json(const Capacity& capacity);

// Two charts side by side as an SVG: the share of first tokens, and of gaps between tokens, that came within
// a time (logarithmic), with the limits as lines.
std::string load_picture(const std::vector<LoadRecord>& records, const LoadLimits& limits, const std::string& title);
// The median time to the first token and the 99th percentile between tokens at each rate that was tried, with
// the limits.
std::string capacity_picture(const Capacity& capacity, const LoadLimits& limits, const std::string& title);

}  // namespace onset
