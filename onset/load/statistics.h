// What a load came to: how long people waited, how evenly their tokens came, and how much the server did.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "onset/base/status.h"

namespace onset {

// What became of one request. Times are seconds since the load began.
struct LoadRecord {
  double arrival = 0;               // when it was to be sent
  double sent = 0;                  // when it was
  std::vector<double> tokens = {};  // when each piece of the answer came; a piece is a token, where the server sends each as it comes
  double finished = 0;
  int32_t prompt_tokens = 0;
  int32_t output_tokens = 0;  // as the server counted them, otherwise pieces
  std::string problem = {};   // why it failed; empty: it did not
};

// 50th, 90th and 99th percentiles (linear between neighbours), mean and largest value.
struct Distribution {
  double p50 = 0, p90 = 0, p99 = 0, mean = 0, most = 0;
  static Distribution of(std::vector<double> values);
};
// The share `p` (0 to 1) of the values lies below; 0 if there are none.
double percentile(const std::vector<double>& sorted, double p);

// Seconds.
struct LoadLimits {
  std::optional<double> first_token = {}, between_tokens = {};
};

struct LoadStatistics {
  int32_t requests = 0, failed = 0, within_limits = 0;
  double seconds = 0;                            // from the first arrival to the last answer's end
  int64_t prompt_tokens = 0, output_tokens = 0;  // of requests that did not fail
  Distribution first_token;                      // seconds from arrival to the first token
  Distribution between_tokens;                   // all gaps between tokens of one answer
  Distribution normalised_latency;               // from arrival to the end, by output token
  double requests_per_second = 0, output_tokens_per_second = 0, tokens_per_second = 0;
  double goodput = 0;  // requests a second within the limits: first token, and the 99th percentile of its own gaps
};

LoadStatistics load_statistics(const std::vector<LoadRecord>& records, const LoadLimits& limits = {});

// One rate that was tried on the way to the capacity.
struct CapacityProbe {
  double rate = 0;
  LoadStatistics statistics;
  bool meets = false;
};

struct CapacityOptions {
  LoadLimits limits;                                           // median time to first token; 99th percentile between tokens
  double first_rate = 1, least_rate = 0.01, most_rate = 1000;  // requests a second
  double precision = 0.05;                                     // of the capacity, as a share of it
};

// Whether no request failed and both limits are met.
bool meets_limits(const LoadStatistics& statistics, const LoadLimits& limits);

// The highest rate that meets the limits: rates are doubled or halved until one meets them and one does not,
// then the gap is halved. `probe` runs the load at a rate. All probes in the order they were made; the
// capacity is the highest that meets the limits (0 if none does). Errors: those of `probe`, invalid_argument
// for options that make no sense.
struct Capacity {
  double rate = 0;
  std::vector<CapacityProbe> probes;
};
Result<Capacity> find_capacity(const CapacityOptions& options, const std::function<Result<LoadStatistics>(double rate)>& probe);

}  // namespace onset
