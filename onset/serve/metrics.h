// What operators scrape at /metrics, in Prometheus' text form. All functions may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace onset::serve {

// The figures of one model.
class ModelMetrics {
 public:
  virtual ~ModelMetrics() = default;
  virtual void queued(double seconds) = 0;       // from the request's arrival to its first row in a step
  virtual void first_token(double seconds) = 0;  // from the request's arrival
  virtual void between_tokens(double seconds) = 0;
  virtual void ended(const char* reason, double seconds, int64_t prompt_tokens, int64_t cached_tokens, int64_t new_tokens) = 0;
  // After each step: its rows and seconds; requests in the engine, and those of them that wait; pages.
  virtual void step(double seconds, int64_t prompt_rows, int64_t answer_rows) = 0;
  virtual void state(int64_t running, int64_t waiting, int64_t pages_used, int64_t pages, int64_t preemptions) = 0;
};

class Metrics {
 public:
  Metrics();
  ~Metrics();

  // Lives as long as this object.
  ModelMetrics& model(const std::string& name);
  void answered(const std::string& route, int status);  // an HTTP request
  void connections(int64_t open);
  std::string text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace onset::serve
