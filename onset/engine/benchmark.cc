#include "onset/engine/benchmark.h"

#include <algorithm>
#include <chrono>
#include <random>

namespace onset {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

std::vector<int32_t> random_tokens(const Engine& engine, int32_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int32_t> token(0, engine.model().config().vocabulary - 1);
  std::vector<int32_t> tokens(count);
  for (int32_t& value : tokens) value = token(random);
  return tokens;
}

// Tokens of a context see their neighbours, those behind it what another policy says.
class FilledContext : public AttendPolicy {
 public:
  FilledContext(int32_t context, std::unique_ptr<AttendPolicy> behind) : context_(context), behind_(std::move(behind)) {}
  const AttentionPlan& plan(const AttendContext& context) override {
    if (context.positions.back() >= context_) return behind_->plan(context);
    return context.blocks.any() ? behind_->plan(context) : filling_.plan(context);
  }

 private:
  int32_t context_;
  WindowAttend filling_{2 * page_tokens, 0};
  std::unique_ptr<AttendPolicy> behind_;
};

// Runs one request; the times at which its first, second and last token came, counted from submit().
struct Times {
  double first = 0, second = 0, last = 0;
};
Result<Times> run_request(Engine& engine, Request request) {
  Times times;
  Status status;
  const auto begin = Clock::now();
  const auto handler = [&](const Event& event) {
    times.last = seconds_between(begin, Clock::now());
    if (event.new_tokens == 1) times.first = times.last;
    if (event.new_tokens == 2) times.second = times.last;
    if (event.finish == Finish::failed) status = event.status;
  };
  ONSET_TRY(engine.submit(std::move(request), handler).status());
  while (engine.has_work()) ONSET_TRY(engine.step());
  ONSET_TRY(status);
  return times;
}

Result<Times> run_request(Engine& engine, std::vector<int32_t> prompt, int32_t new_tokens,
                          const std::shared_ptr<const SelectSpec>& select = nullptr) {
  Request request{.tokens = std::move(prompt), .most_new_tokens = new_tokens, .ignore_end = true, .prefix_cache = false};
  request.select_spec = select;
  return run_request(engine, std::move(request));
}

Status check(const Engine& engine, const BenchmarkOptions& options) {
  for (const int32_t tokens : options.prompts) {
    if (tokens < 1 || tokens > engine.context()) {
      return error(Code::invalid_argument, "a prompt of {} tokens cannot be measured: expected 1 to {}, the context", tokens,
                   engine.context());
    }
  }
  if (options.generate < 0 || options.generate > engine.context()) {
    return error(Code::invalid_argument, "an answer of {} tokens cannot be measured: expected 0 to {}, the context", options.generate,
                 engine.context());
  }
  if (options.repeat < 1) return error(Code::invalid_argument, "repeat is {}, expected 1 or more", options.repeat);
  return {};
}

}  // namespace

Result<Benchmark> run_benchmark(Engine& engine, const BenchmarkOptions& options) {
  ONSET_TRY(check(engine, options));
  constexpr int32_t most_warm_up = 2048;
  const double runs =
      static_cast<double>(options.prompts.size() + options.contexts.size() + (options.generate > 0 ? 1 : 0)) * options.repeat;
  double done = 0;
  const auto progress = [&](const std::string& what) {
    if (options.progress) options.progress(what, done++ / runs);
  };

  Benchmark benchmark;
  uint32_t seed = 0;
  for (const int32_t tokens : options.prompts) {
    PrefillSpeed& speed = benchmark.prefill.emplace_back();
    speed.tokens = tokens;
    ONSET_TRY(run_request(engine, random_tokens(engine, std::min(tokens, most_warm_up), ++seed), 1, options.select).status());
    for (int32_t i = 0; i < options.repeat; ++i) {
      progress(fmt::format("prefill {}", tokens));
      ONSET_ASSIGN(const Times times, run_request(engine, random_tokens(engine, tokens, ++seed), 1, options.select));
      speed.tokens_per_second.push_back(tokens / times.first);
    }
  }
  benchmark.decode.tokens = options.generate;
  for (int32_t i = -1; options.generate > 0 && i < options.repeat; ++i) {
    if (i >= 0) progress(fmt::format("decode {}", options.generate));
    ONSET_ASSIGN(const Times times, run_request(engine, random_tokens(engine, 1, ++seed), options.generate + 1, options.select));
    if (i >= 0) benchmark.decode.tokens_per_second.push_back(options.generate / (times.last - times.first));
  }
  for (const int32_t tokens : options.contexts) {
    PrefillSpeed& speed = benchmark.decode_behind.emplace_back();
    speed.tokens = tokens;
    for (int32_t i = 0; i < options.repeat; ++i) {
      progress(fmt::format("decode behind {}", tokens));
      // The first token's step does what others have no part in: bounds of the context's keys, say.
      ONSET_ASSIGN(Request request, behind_context(engine, tokens, options.generate + 2, ++seed));
      request.select_spec = options.select;
      ONSET_ASSIGN(const Times times, run_request(engine, std::move(request)));
      speed.tokens_per_second.push_back(options.generate / (times.last - times.second));
    }
  }
  return benchmark;
}

Result<Request> behind_context(const Engine& engine, int32_t tokens, int32_t generate, uint32_t seed) {
  if (tokens < 1 || int64_t{tokens} + generate > int64_t{engine.context()} + 1) {
    return error(Code::invalid_argument, "{} tokens behind {} cannot be measured: expected up to {} in all, the context", generate, tokens,
                 engine.context());
  }
  AttendFacts facts = engine.attend_facts();
  facts.prompt_tokens = tokens;
  const AttendSpec* spec = engine.attend_spec();
  if (spec != nullptr) ONSET_TRY(spec->check(facts));
  std::unique_ptr<AttendPolicy> behind = spec != nullptr ? spec->make(facts) : std::make_unique<DenseAttend>();
  return Request{.tokens = random_tokens(engine, tokens, seed),
                 .most_new_tokens = generate,
                 .ignore_end = true,
                 .attend = std::make_unique<FilledContext>(tokens, std::move(behind)),
                 .prefix_cache = false};
}

Result<double> first_token_seconds(Engine& engine) {
  ONSET_ASSIGN(const Times times, run_request(engine, {0}, 1));
  return times.first;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace onset
