#include "onset/engine/schedule_benchmark.h"

#include <algorithm>
#include <chrono>
#include <random>

namespace onset {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class LoadRun {
 public:
  LoadRun(Engine& engine, const ScheduledLoad& load) : engine_(engine), load_(load), random_(load.seed), streams_(load.requests) {}

  Result<ScheduleRun> run() {
    result_.answers.resize(load_.requests + (load_.late_prompt > 0 ? 1 : 0));
    engine_.set_step_hook([this](const StepReport& report) { end_step(report); });
    const Status status = run_all();
    engine_.set_step_hook({});
    ONSET_TRY(status);
    return std::move(result_);
  }

 private:
  struct Stream {
    double last = 0;            // when its last token came
    double last_predicted = 0;  // predicted seconds of all steps until then
    int32_t tokens = 0;
  };

  Status run_all() {
    const double began = now();
    for (int32_t i = 0; i < load_.requests; ++i) ONSET_TRY(submit(i, load_.prompt, load_.answer));
    bool late_is_due = load_.late_prompt > 0;
    while (engine_.has_work()) {
      if (late_is_due && ready()) {
        late_is_due = false;
        ONSET_TRY(submit(load_.requests, load_.late_prompt, 1));
        late_submitted_ = now();
      }
      ONSET_TRY(engine_.step());
      ONSET_TRY(failure_);
    }
    result_.seconds = now() - began;
    if (late_is_due)
      return error(Code::invalid_argument, "the answers of {} tokens ended before each had {}", load_.answer, load_.late_after);
    return {};
  }

  bool ready() const {
    const auto full =
        std::count_if(streams_.begin(), streams_.end(), [&](const Stream& stream) { return stream.tokens >= load_.late_after; });
    return full == static_cast<int64_t>(streams_.size());
  }

  Status submit(int32_t number, int32_t prompt, int32_t answer) {
    std::uniform_int_distribution<int32_t> token(0, engine_.model().config().vocabulary - 1);
    Request request{.most_new_tokens = answer, .ignore_end = true, .prefix_cache = false};
    for (int32_t i = 0; i < prompt; ++i) request.tokens.push_back(token(random_));
    result_.tokens += prompt + answer;
    return engine_.submit(std::move(request), [this, number](const Event& event) { take(number, event); }).status();
  }

  void take(int32_t number, const Event& event) {
    if (event.finish == Finish::failed) failure_ = event.status;
    if (!event.token) return;
    result_.answers[number].push_back(event.token->token);
    if (number == load_.requests) {
      late_done_ = now();
      result_.late_first_token_seconds = late_done_ - late_submitted_;
      return;
    }
    came_.emplace_back(number, now());
    if (load_.progress) load_.progress(static_cast<double>(++tokens_) / (static_cast<double>(load_.requests) * load_.answer));
  }

  // Gaps are closed when the step has ended: then it is among the predicted ones.
  void end_step(const StepReport& report) {
    predicted_ += report.predicted_seconds;
    result_.trace.add(report);
    for (const auto& [number, time] : came_) {
      Stream& stream = streams_[number];
      if (stream.tokens > 0 && counts(stream.last)) result_.gaps.push_back({time - stream.last, predicted_ - stream.last_predicted});
      stream.last = time;
      stream.last_predicted = predicted_;
      ++stream.tokens;
    }
    came_.clear();
  }

  // Whether a gap that began then saw the late prompt.
  bool counts(double began) const { return load_.late_prompt == 0 || (late_submitted_ > 0 && (late_done_ == 0 || began <= late_done_)); }

  Engine& engine_;
  const ScheduledLoad& load_;
  std::mt19937 random_;
  std::vector<Stream> streams_;
  ScheduleRun result_;
  Status failure_;
  double predicted_ = 0, late_submitted_ = 0, late_done_ = 0;
  std::vector<std::pair<int32_t, double>> came_;  // tokens of the step at hand: whose, and when
  int64_t tokens_ = 0;
};

}  // namespace

Result<ScheduleRun> run_scheduled_load(Engine& engine, const ScheduledLoad& load) {
  return LoadRun(engine, load).run();
}

}  // namespace onset
