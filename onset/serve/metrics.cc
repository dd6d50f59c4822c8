#include "onset/serve/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <mutex>
#include <vector>

namespace onset::serve {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

const Buckets wait_seconds = {0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60};
const Buckets step_seconds = {0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2};
const Buckets rows = {0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};

template <typename Builder>
auto& family(Builder builder, const char* name, const char* help, prometheus::Registry& registry) {
  return builder.Name(name).Help(help).Register(registry);
}

// Families are made once, models add themselves to them.
struct Families {
  explicit Families(prometheus::Registry& registry) : r(registry) {}
  prometheus::Family<prometheus::Histogram>& histogram(const char* name, const char* help) {
    return family(prometheus::BuildHistogram(), name, help, r);
  }
  prometheus::Family<prometheus::Counter>& counter(const char* name, const char* help) {
    return family(prometheus::BuildCounter(), name, help, r);
  }
  prometheus::Family<prometheus::Gauge>& gauge(const char* name, const char* help) {
    return family(prometheus::BuildGauge(), name, help, r);
  }

  prometheus::Registry& r;
  prometheus::Family<prometheus::Histogram>& queue =
      histogram("onset_queue_seconds", "From a request's arrival to its first row in a step.");
  prometheus::Family<prometheus::Histogram>& first =
      histogram("onset_time_to_first_token_seconds", "From a request's arrival to its first token.");
  prometheus::Family<prometheus::Histogram>& between = histogram("onset_time_between_tokens_seconds", "Between two tokens of one answer.");
  prometheus::Family<prometheus::Histogram>& request = histogram("onset_request_seconds", "From a request's arrival to its last token.");
  prometheus::Family<prometheus::Histogram>& step = histogram("onset_step_seconds", "Time of one step of the engine.");
  prometheus::Family<prometheus::Histogram>& prompt_rows = histogram("onset_step_prompt_rows", "Prompt tokens computed in one step.");
  prometheus::Family<prometheus::Histogram>& answer_rows = histogram("onset_step_answer_rows", "Answers that got a token in one step.");
  prometheus::Family<prometheus::Counter>& prompt_tokens = counter("onset_prompt_tokens_total", "Prompt tokens of ended requests.");
  prometheus::Family<prometheus::Counter>& cached_tokens =
      counter("onset_cached_prompt_tokens_total", "Of these, tokens whose keys and values the prefix cache had.");
  prometheus::Family<prometheus::Counter>& new_tokens = counter("onset_new_tokens_total", "Generated tokens of ended requests.");
  prometheus::Family<prometheus::Counter>& requests =
      counter("onset_requests_total", "Ended requests by reason: stop, length, cancelled, expired, failed.");
  prometheus::Family<prometheus::Counter>& preemptions = counter("onset_preemptions_total", "Requests that lost their pages for a while.");
  prometheus::Family<prometheus::Gauge>& running = gauge("onset_requests_running", "Requests that hold pages.");
  prometheus::Family<prometheus::Gauge>& waiting = gauge("onset_requests_waiting", "Requests that wait for pages.");
  prometheus::Family<prometheus::Gauge>& pages = gauge("onset_pool_pages", "Pages of the key/value pool.");
  prometheus::Family<prometheus::Gauge>& pages_used = gauge("onset_pool_pages_used", "Pages of the key/value pool that hold something.");
  prometheus::Family<prometheus::Counter>& http = counter("onset_http_requests_total", "Answered HTTP requests by route and status.");
  prometheus::Family<prometheus::Gauge>& connections = gauge("onset_connections", "Open connections.");
};

class OneModel : public ModelMetrics {
 public:
  OneModel(Families& families, const std::string& name)
      : labels_{{"model", name}},
        queue_(families.queue.Add(labels_, wait_seconds)),
        first_(families.first.Add(labels_, wait_seconds)),
        between_(families.between.Add(labels_, step_seconds)),
        request_(families.request.Add(labels_, wait_seconds)),
        step_(families.step.Add(labels_, step_seconds)),
        prompt_rows_(families.prompt_rows.Add(labels_, rows)),
        answer_rows_(families.answer_rows.Add(labels_, rows)),
        prompt_tokens_(families.prompt_tokens.Add(labels_)),
        cached_tokens_(families.cached_tokens.Add(labels_)),
        new_tokens_(families.new_tokens.Add(labels_)),
        preemptions_(families.preemptions.Add(labels_)),
        running_(families.running.Add(labels_)),
        waiting_(families.waiting.Add(labels_)),
        pages_(families.pages.Add(labels_)),
        pages_used_(families.pages_used.Add(labels_)) {
    for (const char* reason : {"stop", "length", "cancelled", "expired", "failed"}) {
      ended_.emplace(reason, &families.requests.Add({{"model", name}, {"reason", reason}}));
    }
  }
  void queued(double seconds) override { queue_.Observe(seconds); }
  void first_token(double seconds) override { first_.Observe(seconds); }
  void between_tokens(double seconds) override { between_.Observe(seconds); }
  void ended(const char* reason, double seconds, int64_t prompt_tokens, int64_t cached_tokens, int64_t new_tokens) override {
    if (const auto found = ended_.find(reason); found != ended_.end()) found->second->Increment();
    request_.Observe(seconds);
    prompt_tokens_.Increment(static_cast<double>(prompt_tokens));
    cached_tokens_.Increment(static_cast<double>(cached_tokens));
    new_tokens_.Increment(static_cast<double>(new_tokens));
  }
  void step(double seconds, int64_t prompt_rows, int64_t answer_rows) override {
    step_.Observe(seconds);
    prompt_rows_.Observe(static_cast<double>(prompt_rows));
    answer_rows_.Observe(static_cast<double>(answer_rows));
  }
  void state(int64_t running, int64_t waiting, int64_t pages_used, int64_t pages, int64_t preemptions) override {
    running_.Set(static_cast<double>(running));
    waiting_.Set(static_cast<double>(waiting));
    pages_.Set(static_cast<double>(pages));
    pages_used_.Set(static_cast<double>(pages_used));
    if (const double more = static_cast<double>(preemptions) - preemptions_.Value(); more > 0) preemptions_.Increment(more);
  }

 private:
  prometheus::Labels labels_;
  prometheus::Histogram &queue_, &first_, &between_, &request_, &step_, &prompt_rows_, &answer_rows_;
  prometheus::Counter &prompt_tokens_, &cached_tokens_, &new_tokens_, &preemptions_;
  prometheus::Gauge &running_, &waiting_, &pages_, &pages_used_;
  std::map<std::string, prometheus::Counter*, std::less<>> ended_;
};

}  // namespace

struct Metrics::State {
  prometheus::Registry registry;
  Families families{registry};
  prometheus::Gauge& connections = families.connections.Add({});
  std::mutex mutex;  // of the map
  std::map<std::string, std::unique_ptr<OneModel>> models;
};

Metrics::Metrics() : state_(std::make_unique<State>()) {}
Metrics::~Metrics() = default;

ModelMetrics& Metrics::model(const std::string& name) {
  const std::lock_guard lock(state_->mutex);
  auto& found = state_->models[name];
  if (found == nullptr) found = std::make_unique<OneModel>(state_->families, name);
  return *found;
}

void Metrics::answered(const std::string& route, int status) {
  state_->families.http.Add({{"route", route}, {"status", std::to_string(status)}}).Increment();
}

void Metrics::connections(int64_t open) {
  state_->connections.Set(static_cast<double>(open));
}

std::string Metrics::text() const {
  return prometheus::TextSerializer().Serialize(state_->registry.Collect());
}

}  // namespace onset::serve
