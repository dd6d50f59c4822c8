// Files of requests in OpenAI's batch form, answered without a network.
//
//     {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
// becomes
//     {"id": "batch_req_...", "custom_id": "1", "response": {"status_code": 200, "request_id": "...", "body": {...}}, "error": null}
//
// Answers are appended in the order in which they are ready, each line written at once. A run that was killed goes on where it was: what
// the output has is not asked again, and a line that was cut is.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>

#include "onset/serve/prepare.h"

namespace onset::serve {

struct BatchOptions {
  std::filesystem::path input, output;
  int32_t in_flight = 256;                         // requests that the engines have at a time
  const std::atomic<bool>* interrupted = nullptr;  // stop, and keep what is done
  std::function<void(double share)> progress = {};
};

struct BatchReport {
  int64_t requests = 0, done_before = 0, answered = 0, refused = 0;  // refused: answered with an error
  int64_t new_tokens = 0;                                            // generated in this run
  double seconds = 0;                                                // of this run, without loading models
};

// For the hosts of a batch: events go to their receivers on the engine's thread.
Deliver deliver_at_once();

// Errors: those of reading the input; invalid_argument for a line of it that is no request or whose custom_id came before, for an
// output that holds anything else than answers to this input or that another run writes; failed for one that cannot be written;
// cancelled when it was interrupted.
Result<BatchReport> run_batch(const Hosts& hosts, const BatchOptions& options);

}  // namespace onset::serve
