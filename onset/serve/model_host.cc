#include "onset/serve/model_host.h"

#include <ctime>

namespace onset::serve {
namespace {

constexpr size_t most_records = 512, most_grammars = 32;

Event last_event(Finish finish, Status status) {
  Event event;
  event.finish = finish;
  event.status = std::move(status);
  return event;
}

}  // namespace

Result<std::unique_ptr<ModelHost>> ModelHost::create(std::string name, std::unique_ptr<Engine> engine, Deliver deliver,
                                                     ModelMetrics& metrics) {
  ONSET_ASSIGN(std::optional<ChatTemplate> chat_template, load_chat_template(*engine));
  return std::unique_ptr<ModelHost>(
      new ModelHost(std::move(name), std::move(engine), std::move(chat_template), std::move(deliver), metrics));
}

ModelHost::ModelHost(std::string name, std::unique_ptr<Engine> engine, std::optional<ChatTemplate> chat_template, Deliver deliver,
                     ModelMetrics& metrics)
    : name_(std::move(name)),
      created_(std::time(nullptr)),
      engine_(std::move(engine)),
      chat_template_(std::move(chat_template)),
      deliver_(std::move(deliver)),
      metrics_(metrics),
      pages_(engine_->statistics().pages) {
  if (chat_template_) {
    if (const auto source = engine_->model().file().text("tokenizer.chat_template"); source.ok()) tool_form_ = tool_call_form(*source);
  }
  engine_->set_step_hook([this](const StepReport& report) { on_step(report); });
  metrics_.state(0, 0, 0, pages_, 0);
  thread_ = std::thread([this] { run(); });
}

ModelHost::~ModelHost() {
  stop();
}

void ModelHost::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void ModelHost::post(Command command) {
  {
    const std::lock_guard lock(mutex_);
    commands_.push_back(std::move(command));
  }
  wake_.notify_one();
}

Status ModelHost::check_select(const SelectSpec& select) const {
  return select.make(engine_->model().cache_layout(engine_->kv_type())).status();
}

Status ModelHost::use_select(std::shared_ptr<const SelectSpec> select) {
  ONSET_TRY(check_select(*select));
  select_ = std::move(select);
  return {};
}

void ModelHost::submit(std::vector<Request> requests, std::shared_ptr<Receiver> receiver) {
  // Functions that are kept must be copyable, requests are not.
  auto kept = std::make_shared<std::vector<Request>>(std::move(requests));
  post([this, kept, receiver = std::move(receiver), arrived = Clock::now()] {
    for (size_t i = 0; i < kept->size(); ++i) take_in(std::move((*kept)[i]), receiver, static_cast<int>(i), arrived);
  });
}

void ModelHost::cancel(std::shared_ptr<Receiver> receiver) {
  post([this, receiver = std::move(receiver)] {
    std::vector<RequestId> ids;
    for (const auto& [id, live] : live_) {
      if (live.receiver == receiver) ids.push_back(id);
    }
    for (const RequestId id : ids) engine_->cancel(id);
  });
}

Status ModelHost::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

std::vector<StepRecord> ModelHost::steps_after(int64_t after) const {
  const std::lock_guard lock(mutex_);
  std::vector<StepRecord> found;
  for (const StepRecord& record : records_) {
    if (record.number > after) found.push_back(record);
  }
  return found;
}

Result<std::shared_ptr<const TokenGrammar>> ModelHost::grammar(const std::string& key,
                                                               const std::function<Result<Grammar>()>& compile) const {
  const std::lock_guard lock(grammars_mutex_);
  if (const auto found = grammars_.find(key); found != grammars_.end()) return found->second;
  ONSET_ASSIGN(Grammar compiled, compile());
  if (vocabulary_ == nullptr) vocabulary_ = TokenTrie::create(*tokenizer());
  if (grammars_.size() == most_grammars) grammars_.clear();  // requests that run keep theirs
  return grammars_[key] = std::make_shared<const TokenGrammar>(std::move(compiled), vocabulary_);
}

// --- the engine's thread ------------------------------------------------------------------------------------------

std::deque<ModelHost::Command> ModelHost::take_commands() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [this] { return stopping_ || !commands_.empty() || (status_.ok() && engine_->has_work()); });
  return std::exchange(commands_, {});
}

void ModelHost::run() {
  while (true) {
    for (const Command& command : take_commands()) command();
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) break;
    }
    if (status().ok() && engine_->has_work()) {
      if (const Status status = engine_->step(); !status.ok()) give_up(status);
    }
    hand_out();
  }
  while (!live_.empty()) engine_->cancel(live_.begin()->first);
  hand_out();
}

// Nothing can be computed any more; the process goes on, so that everybody is told.
void ModelHost::give_up(const Status& status) {
  {
    const std::lock_guard lock(mutex_);
    status_ = status;
  }
  for (auto& [id, live] : live_) deliveries_.push_back({live.receiver, live.choice, last_event(Finish::failed, status)});
  live_.clear();
}

void ModelHost::take_in(Request request, const std::shared_ptr<Receiver>& receiver, int choice, Clock::time_point arrived) {
  Status problem = status();
  if (problem.ok()) {
    Live live{.receiver = receiver,
              .choice = choice,
              .prompt_tokens = static_cast<int32_t>(request.tokens.size()),
              .arrived = arrived,
              .last_token = arrived,
              .wants_tokens = request.most_new_tokens != 0};
    const Result<RequestId> id = engine_->submit(std::move(request), [this](const Event& event) { on_event(event); });
    if (id.ok()) {
      live_.emplace(*id, std::move(live));
      return;
    }
    problem = id.status();
  }
  deliveries_.push_back({receiver, choice, last_event(Finish::failed, std::move(problem))});
}

void ModelHost::on_event(const Event& event) {
  const auto found = live_.find(event.id);
  if (found == live_.end()) return;
  Live& live = found->second;
  const auto now = Clock::now();
  const auto since = [now](Clock::time_point then) { return std::chrono::duration<double>(now - then).count(); };
  if (event.token) {
    if (event.new_tokens == 1) {
      metrics_.first_token(since(live.arrived));
    } else {
      metrics_.between_tokens(since(live.last_token));
    }
    live.last_token = now;
  }
  deliveries_.push_back({live.receiver, live.choice, event});
  if (event.finish == Finish::none) return;
  if (!live.scheduled && event.token) metrics_.queued(since(live.arrived));  // its only step
  metrics_.ended(finish_name(event.finish), since(live.arrived), event.prompt_tokens, event.cached_tokens, event.new_tokens);
  live_.erase(found);
}

void ModelHost::on_step(const StepReport& report) {
  const EngineStatistics statistics = engine_->statistics();
  StepRecord record{.number = report.number + 1,
                    .at_seconds = report.begin_seconds + report.seconds,
                    .seconds = report.seconds,
                    .answers = report.answer_rows,
                    .running = report.running,
                    .waiting = report.waiting,
                    .pages_used = statistics.pages - statistics.free_pages};
  for (const Span& span : report.step.spans) {
    if (!span.answer) record.prompts.push_back(span.count);
    const auto found = live_.find(span.id);
    if (found == live_.end() || found->second.scheduled) continue;
    found->second.scheduled = true;
    metrics_.queued(std::max(0.0, seconds_since(found->second.arrived) - report.seconds));
  }
  metrics_.step(report.seconds, report.prompt_rows, report.answer_rows);
  metrics_.state(statistics.running, statistics.waiting, record.pages_used, statistics.pages,
                 statistics.preempted_to_recompute + statistics.preempted_to_file);
  const std::lock_guard lock(mutex_);
  records_.push_back(std::move(record));
  if (records_.size() > most_records) records_.pop_front();
}

void ModelHost::hand_out() {
  if (deliveries_.empty()) return;
  if (live_.empty()) {
    const EngineStatistics statistics = engine_->statistics();
    metrics_.state(0, 0, statistics.pages - statistics.free_pages, statistics.pages,
                   statistics.preempted_to_recompute + statistics.preempted_to_file);
  }
  deliver_(std::exchange(deliveries_, {}));
}

}  // namespace onset::serve
