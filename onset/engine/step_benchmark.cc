#include "onset/engine/step_benchmark.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "onset/compute/linear.h"
#include "onset/schedule/step_builder.h"

namespace onset {
namespace {

// Runs what it is told: a chunk of the newest request that reads a prompt, and the rows of chosen answers.
class Script : public SchedulePolicy {
 public:
  const char* name() const override { return "script"; }

  void run(int32_t rows, std::vector<RequestId> answers) {
    rows_ = rows;
    answers_ = std::move(answers);
  }

  Step next(const ScheduleContext& context) override {
    StepBuilder builder(context, options_, INT32_MAX);
    for (const ScheduledRequest* request : builder.waiting()) builder.admit(*request, /*whole=*/true, 0);
    for (size_t i = 0; i < builder.residents().size(); ++i) {
      const bool chosen = std::find(answers_.begin(), answers_.end(), builder.residents()[i]->id) != answers_.end();
      if (chosen && continues_answer(*builder.residents()[i])) builder.run_answer(i);
    }
    const ScheduledRequest* newest = nullptr;
    for (const auto* list : {&builder.residents(), &builder.waiting()}) {
      for (const ScheduledRequest* request : *list) {
        if (!continues_answer(*request) && (newest == nullptr || request->id > newest->id)) newest = request;
      }
    }
    if (rows_ > 0 && newest != nullptr) builder.run_prompt(*newest, rows_);
    return builder.take();
  }

 private:
  ScheduleOptions options_;
  int32_t rows_ = 0;
  std::vector<RequestId> answers_;
};

// An engine under a script.
class Stage {
 public:
  explicit Stage(Engine& engine, uint32_t seed) : engine_(engine), random_(seed) {}
  ~Stage() {
    for (const RequestId id : answers_) engine_.cancel(id);
    engine_.cancel(prompt_);
    engine_.set_step_hook({});
    // The script goes with it; nobody has work any more, so this cannot fail.
    const Status ignored = engine_.use_schedule(*make_schedule_policy(default_schedule_policy, engine_.scheduling()));
    static_cast<void>(ignored);
  }

  Status begin() {
    auto script = std::make_unique<Script>();
    script_ = script.get();
    ONSET_TRY(engine_.use_schedule(std::move(script)));
    engine_.set_step_hook([this](const StepReport& report) { last_ = report; });
    return {};
  }

  // An answer that has `context` tokens behind it and goes on as long as it is asked to.
  Status add_answer(int32_t context, int32_t new_tokens) {
    ONSET_ASSIGN(const RequestId id, submit(context, new_tokens + 1));
    script_->run(context, {});
    ONSET_TRY(engine_.step());
    ONSET_TRY(failure_);
    answers_.push_back(id);
    return {};
  }

  // Puts a new prompt of `tokens` tokens in the place of the one before, and reads its first `read` tokens.
  Status new_prompt(int32_t tokens, int32_t read) {
    engine_.cancel(prompt_);
    ONSET_ASSIGN(prompt_, submit(tokens, 1));
    left_ = tokens;
    if (read == 0) return {};
    script_->run(read, {});
    ONSET_TRY(engine_.step());
    left_ -= read;
    return failure_;
  }

  // A step of the prompt's next `rows` rows and the rows of these answers.
  Result<StepSample> step(int32_t rows, const std::vector<RequestId>& answers) {
    script_->run(rows, answers);
    ONSET_TRY(engine_.step());
    ONSET_TRY(failure_);
    left_ -= rows;
    return StepSample{.shape = step_shape(last_.step), .seconds = last_.seconds};
  }

  int32_t left() const { return left_; }  // rows of the prompt
  const std::vector<RequestId>& answers() const { return answers_; }
  std::mt19937& random() { return random_; }

 private:
  Result<RequestId> submit(int32_t tokens, int32_t new_tokens) {
    std::uniform_int_distribution<int32_t> token(0, engine_.model().config().vocabulary - 1);
    Request request{.most_new_tokens = new_tokens, .ignore_end = true, .prefix_cache = false};
    for (int32_t i = 0; i < tokens; ++i) request.tokens.push_back(token(random_));
    return engine_.submit(std::move(request), [this](const Event& event) {
      if (event.finish == Finish::failed) failure_ = event.status;
    });
  }

  Engine& engine_;
  std::mt19937 random_;
  Script* script_ = nullptr;
  StepReport last_;
  Status failure_;
  std::vector<RequestId> answers_;
  RequestId prompt_ = 0;
  int32_t left_ = 0;
};

// Between 1 and most, each power of two as likely as another.
int32_t log_uniform(std::mt19937& random, int32_t most) {
  std::uniform_real_distribution<double> exponent(0, std::log(static_cast<double>(most)));
  return std::clamp(static_cast<int32_t>(std::lround(std::exp(exponent(random)))), 1, most);
}

Status check(const Engine& engine, const StepBenchmarkOptions& options) {
  const auto check_one = [](const char* name, int32_t value, int32_t least, int32_t most) -> Status {
    if (value >= least && value <= most) return {};
    return error(Code::invalid_argument, "{} is {}, expected {} to {}", name, value, least, most);
  };
  ONSET_TRY(check_one("samples", options.samples, 40, 1 << 20));
  ONSET_TRY(check_one("most_answers", options.most_answers, 1, 1 << 10));
  ONSET_TRY(check_one("most_context", options.most_context, 16, engine.context() - options.samples - 1));
  return check_one("most_rows", options.most_rows, 1, options.most_context);
}

// One random step. Prompts are read through, so that chunks come after contexts of all lengths; now and then a prompt is read whole, so
// that a row of logits comes without an answer's row.
Result<StepSample> random_step(Stage& stage, const StepBenchmarkOptions& options) {
  std::mt19937& random = stage.random();
  const uint32_t kind = random() % 8;  // of eight steps one has answers alone, two a prompt alone
  int32_t answers = kind == 1 || kind == 2 ? 0 : log_uniform(random, options.most_answers);
  const int32_t rows = kind == 0 ? 0 : log_uniform(random, options.most_rows);
  if (rows > 0 && random() % 4 == 0) {
    ONSET_TRY(stage.new_prompt(rows, 0));
  } else if (stage.left() <= rows) {
    ONSET_TRY(stage.new_prompt(options.most_context, 0));
  }
  answers = std::max(answers, rows == 0 ? 1 : 0);
  std::vector<RequestId> chosen = stage.answers();
  std::shuffle(chosen.begin(), chosen.end(), random);
  chosen.resize(answers);
  return stage.step(rows, chosen);
}

}  // namespace

StepModelKey step_model_key(const Model& model, int32_t threads, KvType kv_type) {
  return {.model = model.file().path().filename().string(),
          .weight_bytes = static_cast<int64_t>(model.packed_bytes()),
          .threads = threads,
          .isa = isa_name(model.isa()),
          .precision = precision_name(model.precision()),
          .kv = kv_type_name(kv_type)};
}

int64_t step_benchmark_tokens(const StepBenchmarkOptions& options) {
  // Each request's last page is not full.
  const int64_t each = options.most_context + options.samples + page_tokens;
  return (options.most_answers + 1) * each;
}

Result<StepBenchmark> benchmark_steps(Engine& engine, const StepBenchmarkOptions& options) {
  ONSET_TRY(check(engine, options));
  Stage stage(engine, options.seed);
  ONSET_TRY(stage.begin());
  const auto progress = [&](const char* what, double share) {
    if (options.progress) options.progress(what, share);
  };
  for (int32_t i = 0; i < options.most_answers; ++i) {
    progress("contexts", 0.5 * i / options.most_answers);
    ONSET_TRY(stage.add_answer(log_uniform(stage.random(), options.most_context), options.samples));
  }
  StepBenchmark result;
  for (int32_t i = 0; i < options.samples; ++i) {
    progress("steps", 0.5 + 0.5 * i / options.samples);
    ONSET_ASSIGN(StepSample sample, random_step(stage, options));
    result.samples.push_back(sample);
  }

  const int32_t layers = engine.model().config().layers;
  const std::vector<double> bends = {4.0 * layers, 16.0 * layers, 48.0 * layers, 128.0 * layers};
  ONSET_ASSIGN(result.model.fit, fit_step_cost(result.samples, bends));
  std::vector<StepSample> fitted, judged;
  for (size_t i = 0; i < result.samples.size(); ++i) (i % 2 == 0 ? fitted : judged).push_back(result.samples[i]);
  ONSET_ASSIGN(const StepFit half, fit_step_cost(fitted, bends));
  result.held_out = judge_step_cost(half.weights, judged);
  // What was not seen while fitting tells better how far times stray.
  result.model.fit.ratio_99 = std::max(result.model.fit.ratio_99, result.held_out.ratio_99);
  result.model.key = step_model_key(engine.model(), engine.threads(), engine.kv_type());
  result.model.layers = layers;
  result.model.row_block = static_cast<int32_t>(linear_tile_rows(engine.model().isa()));
  return result;
}

Result<std::vector<std::vector<double>>> measure_points(Engine& engine, std::span<const StepPoint> points, int32_t repeat,
                                                        const std::function<void(double share)>& progress) {
  std::vector<std::vector<double>> seconds(points.size());
  for (int32_t round = -1; round < repeat; ++round) {  // the first is thrown away
    for (size_t i = 0; i < points.size(); ++i) {
      const StepPoint& point = points[i];
      if (point.rows < 0 || point.answers < 0 || point.rows + point.answers < 1 || point.context < 1 ||
          point.context + point.rows + 1 > engine.context()) {
        return error(Code::invalid_argument, "a step of {} rows and {} answers after {} tokens cannot be measured in a context of {}",
                     point.rows, point.answers, point.context, engine.context());
      }
      if (progress) progress((static_cast<double>(round + 1) + static_cast<double>(i) / static_cast<double>(points.size())) / (repeat + 1));
      Stage stage(engine, static_cast<uint32_t>(round + 2));
      ONSET_TRY(stage.begin());
      for (int32_t a = 0; a < point.answers; ++a) ONSET_TRY(stage.add_answer(point.context, 2));
      if (point.rows > 0) ONSET_TRY(stage.new_prompt(point.context + point.rows + 1, point.context));
      ONSET_ASSIGN(const StepSample sample, stage.step(point.rows, stage.answers()));
      if (round >= 0) seconds[i].push_back(sample.seconds);
    }
  }
  return seconds;
}

}  // namespace onset
