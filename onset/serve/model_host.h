// A model that serves: its engine on a thread of its own, fed through a queue that any thread may write to.
//
// The thread takes what is in the queue, runs one step, and hands out all events of the step at once. So a request that is cancelled
// leaves before the next step, and the network is woken once a step, not once a token.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "onset/engine/chat.h"
#include "onset/engine/engine.h"
#include "onset/engine/running.h"
#include "onset/serve/metrics.h"
#include "onset/text/tool_calls.h"

namespace onset::serve {

// Where the events of one call go. A call may have several requests (choices), numbered in the order in which they were submitted.
class Receiver {
 public:
  virtual ~Receiver() = default;
  virtual void receive(int choice, Event event) = 0;
};

struct Delivery {
  std::shared_ptr<Receiver> receiver;
  int choice = 0;
  Event event;
};
// Called on the engine's thread with the events of a step; whoever gets them passes each to its receiver on the thread of his choice.
using Deliver = std::function<void(std::vector<Delivery>)>;

// One step, for the picture of what the engine does.
struct StepRecord {
  int64_t number = 0;     // ascending from 1
  double at_seconds = 0;  // when it ended, since the host was started
  double seconds = 0;
  std::vector<int32_t> prompts = {};  // rows of each prompt chunk
  int32_t answers = 0;                // rows that continue answers
  int32_t running = 0, waiting = 0;   // requests
  int64_t pages_used = 0;
};

class ModelHost {
 public:
  // Errors: those of the model's chat template.
  static Result<std::unique_ptr<ModelHost>> create(std::string name, std::unique_ptr<Engine> engine, Deliver deliver,
                                                   ModelMetrics& metrics);
  ~ModelHost();  // as stop()

  // Any thread, and any time: what is said after the end of the engine ends with an event that says so.
  void submit(std::vector<Request> requests, std::shared_ptr<Receiver> receiver);
  // Its pages are free before the next step. Events that were on their way may still come.
  void cancel(std::shared_ptr<Receiver> receiver);
  // Cancels everything and ends the thread.
  void stop();

  const std::string& name() const { return name_; }
  int64_t created() const { return created_; }  // seconds since 1970
  const Tokenizer* tokenizer() const { return engine_->tokenizer(); }
  const std::optional<ChatTemplate>& chat_template() const { return chat_template_; }
  // How the model writes calls of tools, as its chat template shows it.
  ToolCallForm tool_form() const { return tool_form_; }
  int32_t context() const { return engine_->context(); }
  KnownText known_text(const std::string& space, const std::string& id) const { return engine_->known_text(space, id); }
  int32_t vocabulary() const { return engine_->model().config().vocabulary; }
  int64_t hidden() const { return engine_->model().config().hidden; }
  int64_t pages() const { return pages_; }
  // What plain prompts that name no select policy run with. Before the first request. Errors: as check_select.
  Status use_select(std::shared_ptr<const SelectSpec> select);
  const std::shared_ptr<const SelectSpec>& select() const { return select_; }
  // Whether this model can run with it. Errors: those of SelectSpec::make.
  Status check_select(const SelectSpec& select) const;
  // A compiled grammar over the model's tokens, kept for the next request that has the same key. The model must have a tokenizer.
  Result<std::shared_ptr<const TokenGrammar>> grammar(const std::string& key, const std::function<Result<Grammar>()>& compile) const;
  // Why the engine has ended, if it has.
  Status status() const;
  // The steps after number `after`, of the last 512.
  std::vector<StepRecord> steps_after(int64_t after) const;

 private:
  using Command = std::function<void()>;
  struct Live {  // a request in the engine
    std::shared_ptr<Receiver> receiver;
    int choice = 0;
    int32_t prompt_tokens = 0;
    Clock::time_point arrived, last_token;
    bool scheduled = false, wants_tokens = true;
  };

  ModelHost(std::string name, std::unique_ptr<Engine> engine, std::optional<ChatTemplate> chat_template, Deliver deliver,
            ModelMetrics& metrics);
  void run();
  void post(Command command);
  std::deque<Command> take_commands();
  void take_in(Request request, const std::shared_ptr<Receiver>& receiver, int choice, Clock::time_point arrived);
  void on_event(const Event& event);
  void on_step(const StepReport& report);
  void hand_out();
  void give_up(const Status& status);

  std::string name_;
  int64_t created_;
  std::unique_ptr<Engine> engine_;
  std::optional<ChatTemplate> chat_template_;
  ToolCallForm tool_form_ = ToolCallForm::none;
  Deliver deliver_;
  ModelMetrics& metrics_;
  int64_t pages_;
  std::shared_ptr<const SelectSpec> select_;
  Clock::time_point began_ = Clock::now();

  // Of the thread.
  std::map<RequestId, Live> live_;
  std::vector<Delivery> deliveries_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Command> commands_;
  bool stopping_ = false;
  Status status_;
  std::deque<StepRecord> records_;

  mutable std::mutex grammars_mutex_;
  mutable std::shared_ptr<const TokenTrie> vocabulary_;
  mutable std::map<std::string, std::shared_ptr<const TokenGrammar>> grammars_;

  std::thread thread_;
};

}  // namespace onset::serve
