// Sends a workload to an OpenAI-compatible server and watches each answer's tokens come.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/load/statistics.h"
#include "onset/load/workload.h"

namespace onset {

struct LoadTarget {
  std::string url = "http://127.0.0.1:8080";  // or https://; /v1/completions is added unless the path ends with completions
  bool chat = false;                          // /v1/chat/completions instead: a prompt is one user's message, as text
  std::string ca_file = {};                   // https: certificates that are trusted, PEM; empty: the system's
  std::string model = {};                     // sent as it is; empty: left out
  std::string api_key = {};
  bool words = false;                       // prompts as text of common words, for servers that do not take token ids
  int32_t first_id = 1000, last_id = 9999;  // of prompts as token ids
  std::vector<int32_t> banned = {};         // token ids that get a logit bias of -100: end-of-answer tokens
  std::string more = {};                    // further members of the request, a JSON object
  double timeout_seconds = 600;             // of one request
};

// Where requests go.
struct LoadAddress {
  std::string host, port, path;
  bool tls = false;
  // Errors: invalid_argument for another scheme, for no host or port, and for a path that ends with the other kind of completions.
  static Result<LoadAddress> of(const std::string& url, bool chat = false);
};

// The body of a request. Errors: invalid_argument if target.more is no JSON object.
Result<std::string> request_body(const LoadTarget& target, const LoadRequest& request);

struct LoadWatch {
  std::function<void(int32_t done, int32_t all)> progress = {};
  const std::atomic<bool>* stop = nullptr;  // ends the load early when it becomes true: what runs has failed then
};

// Sends each request at its time, however many run already, and records what comes: one record for each
// request, in order. Requests that fail say so in their record. Errors: invalid_argument for a target that
// makes no sense or certificates that cannot be read, failed if its host is unknown. A server whose certificate is not trusted, or is
// another host's, gets no request: the record says so.
Result<std::vector<LoadRecord>> run_load(const LoadTarget& target, const std::vector<LoadRequest>& requests, const LoadWatch& watch = {});

}  // namespace onset
