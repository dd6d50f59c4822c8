#include "onset/load/report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "onset/load/chart.h"

namespace onset {

using Json = nlohmann::ordered_json;

namespace {

Json to_json(const Distribution& distribution) {
  return {{"p50", distribution.p50},
          {"p90", distribution.p90},
          {"p99", distribution.p99},
          {"mean", distribution.mean},
          {"max", distribution.most}};
}

// Each value with the share of values up to it; thinned where there are more than a picture shows.
std::vector<ChartPoint> shares(std::vector<double> values) {
  constexpr size_t most_points = 400;
  std::sort(values.begin(), values.end());
  std::vector<ChartPoint> points;
  const size_t step = std::max<size_t>(1, values.size() / most_points);
  for (size_t i = 0; i < values.size(); i += step)
    points.push_back({values[i], static_cast<double>(i + 1) / static_cast<double>(values.size())});
  if (!values.empty()) points.push_back({values.back(), 1});
  return points;
}

}  // namespace

Json to_json(const LoadStatistics& statistics) {
  return {{"requests", statistics.requests},
          {"failed", statistics.failed},
          {"within_limits", statistics.within_limits},
          {"seconds", statistics.seconds},
          {"prompt_tokens", statistics.prompt_tokens},
          {"output_tokens", statistics.output_tokens},
          {"first_token_seconds", to_json(statistics.first_token)},
          {"between_tokens_seconds", to_json(statistics.between_tokens)},
          {"normalised_latency_seconds", to_json(statistics.normalised_latency)},
          {"requests_per_second", statistics.requests_per_second},
          {"output_tokens_per_second", statistics.output_tokens_per_second},
          {"tokens_per_second", statistics.tokens_per_second},
          {"goodput_requests_per_second", statistics.goodput}};
}

Json to_json(const Capacity& capacity) {
  Json probes = Json::array();
  for (const CapacityProbe& probe : capacity.probes) {
    Json json = to_json(probe.statistics);
    json["rate"] = probe.rate;
    json["meets_limits"] = probe.meets;
    probes.push_back(std::move(json));
  }
  return {{"capacity_requests_per_second", capacity.rate}, {"probes", std::move(probes)}};
}

std::string load_picture(const std::vector<LoadRecord>& records, const LoadLimits& limits, const std::string& title) {
  std::vector<double> first, between;
  for (const LoadRecord& record : records) {
    if (!record.problem.empty() || record.tokens.empty()) continue;
    first.push_back(record.tokens.front() - record.arrival);
    for (size_t i = 1; i < record.tokens.size(); ++i) between.push_back(record.tokens[i] - record.tokens[i - 1]);
  }
  Chart left{.title = "time to first token", .x = {"seconds", true}, .y = {"share of requests", false}};
  left.lines.push_back({"", shares(std::move(first))});
  if (limits.first_token) left.marks.push_back({"limit", *limits.first_token, ChartMark::Axis::x});
  Chart right{.title = "time between tokens", .x = {"seconds", true}, .y = {"share of gaps", false}};
  right.lines.push_back({"", shares(std::move(between))});
  if (limits.between_tokens) right.marks.push_back({"limit", *limits.between_tokens, ChartMark::Axis::x});
  return charts_svg({left, right}, title);
}

std::string capacity_picture(const Capacity& capacity, const LoadLimits& limits, const std::string& title) {
  std::vector<CapacityProbe> probes = capacity.probes;
  std::sort(probes.begin(), probes.end(), [](const CapacityProbe& a, const CapacityProbe& b) { return a.rate < b.rate; });
  Chart left{.title = "time to first token, median", .x = {"requests per second", true}, .y = {"seconds", true}};
  Chart right{.title = "time between tokens, 99th percentile", .x = {"requests per second", true}, .y = {"seconds", true}};
  left.lines.emplace_back();
  right.lines.emplace_back();
  for (Chart* chart : {&left, &right}) {
    chart->dots = true;
    if (capacity.rate > 0) chart->marks.push_back({"capacity", capacity.rate, ChartMark::Axis::x});
  }
  for (const CapacityProbe& probe : probes) {
    left.lines[0].points.push_back({probe.rate, probe.statistics.first_token.p50});
    right.lines[0].points.push_back({probe.rate, probe.statistics.between_tokens.p99});
  }
  if (limits.first_token) left.marks.push_back({"limit", *limits.first_token, ChartMark::Axis::y});
  if (limits.between_tokens) right.marks.push_back({"limit", *limits.between_tokens, ChartMark::Axis::y});
  return charts_svg({left, right}, title);
}

}  // namespace onset
