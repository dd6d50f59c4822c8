#include "onset/load/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace onset {

double percentile(const std::vector<double>& sorted, double p) {
  if (sorted.empty()) return 0;
  const double place = p * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(place);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (place - static_cast<double>(low));
}

Distribution Distribution::of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {.p50 = percentile(values, 0.5),
          .p90 = percentile(values, 0.9),
          .p99 = percentile(values, 0.99),
          .mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()),
          .most = values.back()};
}

LoadStatistics load_statistics(const std::vector<LoadRecord>& records, const LoadLimits& limits) {
  LoadStatistics statistics;
  std::vector<double> first, between, normalised;
  double begin = 0, end = 0;
  for (const LoadRecord& record : records) {
    begin = statistics.requests == 0 ? record.arrival : std::min(begin, record.arrival);
    end = std::max(end, record.finished);
    ++statistics.requests;
    if (!record.problem.empty() || record.tokens.empty()) {
      ++statistics.failed;
      continue;
    }
    statistics.prompt_tokens += record.prompt_tokens;
    statistics.output_tokens += record.output_tokens;
    first.push_back(record.tokens.front() - record.arrival);
    std::vector<double> gaps;
    for (size_t i = 1; i < record.tokens.size(); ++i) gaps.push_back(record.tokens[i] - record.tokens[i - 1]);
    between.insert(between.end(), gaps.begin(), gaps.end());
    normalised.push_back((record.finished - record.arrival) / std::max(1, record.output_tokens));
    std::sort(gaps.begin(), gaps.end());
    const bool soon = !limits.first_token || first.back() <= *limits.first_token;
    const bool even = !limits.between_tokens || percentile(gaps, 0.99) <= *limits.between_tokens;
    statistics.within_limits += soon && even;
  }
  statistics.first_token = Distribution::of(std::move(first));
  statistics.between_tokens = Distribution::of(std::move(between));
  statistics.normalised_latency = Distribution::of(std::move(normalised));
  statistics.seconds = end - begin;
  if (statistics.seconds <= 0) return statistics;
  statistics.requests_per_second = (statistics.requests - statistics.failed) / statistics.seconds;
  statistics.output_tokens_per_second = static_cast<double>(statistics.output_tokens) / statistics.seconds;
  statistics.tokens_per_second = static_cast<double>(statistics.output_tokens + statistics.prompt_tokens) / statistics.seconds;
  statistics.goodput = statistics.within_limits / statistics.seconds;
  return statistics;
}

bool meets_limits(const LoadStatistics& statistics, const LoadLimits& limits) {
  if (statistics.failed > 0 || statistics.requests == 0) return false;
  if (limits.first_token && statistics.first_token.p50 > *limits.first_token) return false;
  return !limits.between_tokens || statistics.between_tokens.p99 <= *limits.between_tokens;
}

Result<Capacity> find_capacity(const CapacityOptions& options, const std::function<Result<LoadStatistics>(double rate)>& probe) {
  if (!options.limits.first_token && !options.limits.between_tokens) {
    return error(Code::invalid_argument, "a capacity needs a limit: expected --ttft, --tbt or both");
  }
  const bool rates = options.least_rate > 0 && options.first_rate >= options.least_rate && options.most_rate >= options.first_rate;
  if (!rates || !(options.precision > 0 && options.precision < 1)) {
    return error(Code::invalid_argument, "capacity: expected rates above 0 in order, and a precision between 0 and 1");
  }
  Capacity capacity;
  const auto tried = [&](double rate) -> Result<bool> {
    ONSET_ASSIGN(LoadStatistics statistics, probe(rate));
    const bool meets = meets_limits(statistics, options.limits);
    capacity.probes.push_back({rate, std::move(statistics), meets});
    if (meets) capacity.rate = std::max(capacity.rate, rate);
    return meets;
  };
  double rate = options.first_rate, refused = 0;
  ONSET_ASSIGN(bool meets, tried(rate));
  const bool up = meets;
  while (meets == up) {
    if (!up) refused = rate;
    rate = up ? rate * 2 : rate / 2;
    if (rate > options.most_rate || rate < options.least_rate) return capacity;
    ONSET_ASSIGN(meets, tried(rate));
  }
  if (up) refused = rate;
  while (refused - capacity.rate > options.precision * capacity.rate) {
    rate = (refused + capacity.rate) / 2;
    ONSET_ASSIGN(meets, tried(rate));
    if (!meets) refused = rate;
  }
  return capacity;
}

}  // namespace onset
