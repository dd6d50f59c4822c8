// What onset long-bench found, as tables, JSON and a picture.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "onset/engine/long_scores.h"

namespace onset::cli {

// Of one task: every prompt in every way, the first of which is dense.
struct LongFindings {
  std::string task;
  bool answers = true;                              // prompts have references: answers can be right
  bool depths = false;                              // each prompt has one
  double chance = 0;                                // that the likeliest answer is the right one; 1: there are no wrong ones
  std::vector<int32_t> lengths = {};                // of each prompt
  std::vector<double> depth = {};                   // of each prompt, 0 to 1
  std::vector<std::vector<LongScore>> scores = {};  // [way][prompt]
};

std::string long_report_text(const std::vector<std::string>& ways, const std::vector<LongFindings>& found);
nlohmann::ordered_json long_report_json(const std::vector<std::string>& ways, const std::vector<LongFindings>& found);
// Heat maps of the tasks with depths, a line of them for each task and measure: exact answers, and the probability of a right answer's
// token.
std::string long_report_svg(const std::vector<std::string>& ways, const std::vector<LongFindings>& found, const std::string& model);

}  // namespace onset::cli
