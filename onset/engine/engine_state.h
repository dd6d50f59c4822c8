// What an engine consists of; for its own source files.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "onset/engine/engine.h"
#include "onset/engine/running.h"
#include "onset/engine/step_batch.h"
#include "onset/kv/chunk_transfer.h"
#include "onset/kv/stored_texts.h"
#include "onset/kv/swap_file.h"

namespace onset {

struct Engine::State {
  State(EngineOptions options_, int threads) : options(std::move(options_)), workers(threads), executor(workers) {}

  // --- requests ---------------------------------------------------------------------------------------------------
  Result<std::vector<int32_t>> prompt_tokens(const Request& request, bool begins) const;
  AttendFacts attend_facts() const;
  Status use_attend_spec(Request& request, int32_t prompt_tokens, const CountedAttend*& counted) const;
  Status check_prompt(const Request& request, std::span<const int32_t> tokens, int64_t earlier) const;
  Status check_select(const Request& request) const;
  Result<std::shared_ptr<Conversation>> conversation_of(const Request& request);
  RunningRequest* find(RequestId id);
  Status keep_target();
  Status make_pool();

  // --- contexts that requests refer to ----------------------------------------------------------------------------
  std::optional<Contexts> find_known_texts(const Request& request, std::span<const int32_t> tokens, int64_t pages);
  Status check_places(const Contexts& asked, std::span<const int32_t> tokens) const;
  Result<int64_t> context_pages(const Request& request) const;
  Status check_contexts(const Request& request) const;
  std::vector<int32_t> context_lead(const Contexts& contexts) const;
  Status place_behind_contexts(const Request& request, Conversation& conversation, std::vector<int32_t>& prompt) const;
  void begin_contexts(RunningRequest& running);
  void prepare_contexts();
  std::shared_ptr<Conversation> begin_context(RunningRequest& running, size_t index);
  static int32_t counted_tokens(const RunningRequest& running, size_t index);
  static int32_t cached_tokens(const RunningRequest& running);
  bool look_in_stores(RunningRequest& running);
  bool take_known(RunningRequest& running, size_t index);
  bool load_context(RunningRequest& running, size_t index);
  void read_context(RunningRequest& running, size_t index);
  void choose_ratio(RunningRequest& running);
  double prefill_seconds(int32_t tokens) const;
  void learn_rate(const ReadContexts& contexts);
  void keep_contexts(RunningRequest& running);
  bool read_contexts_again(RunningRequest& running, const Status& why);
  ChunkText chunk_text(const RunningRequest& running, size_t index) const;
  bool must_wait_for_loads(const RunningRequest& running) const;
  void take_contexts(RunningRequest& running);
  Status blend_contexts(RunningRequest& running, int32_t end);
  Status begin_blending(RunningRequest& running);
  Status place_layer(ReadContexts& contexts, int layer, size_t count);
  std::vector<int32_t> load_groups(const RunningRequest& running) const;
  void leave_contexts(RunningRequest& running);
  void release_contexts(RunningRequest& running);

  // --- the step ---------------------------------------------------------------------------------------------------
  ScheduleContext schedule_context();
  Result<std::vector<Work>> take_up(const Step& step);
  std::span<const int32_t> tokens_to_find(const RunningRequest& running) const;
  bool rows_run_together(const Span& span, const RunningRequest& running) const;
  Status check_span(const Span& span, const RunningRequest* running) const;
  void preempt(RunningRequest& running, PreemptionKind kind);
  void forget_computed(RunningRequest& running);
  Status admit(RunningRequest& running, int64_t pages);
  int64_t taken_pages() const { return reserved_pages + (prefixes ? prefixes->pinned_pages() : 0); }
  void reserve(Conversation& conversation, int64_t pages);
  int64_t prefix_pages(const Conversation& conversation) const;
  int64_t shared_pages(const Conversation& conversation) const;
  int64_t own_pages(const Conversation& conversation) const;
  void look_up(RunningRequest& running, int& looks);
  void attach_prefix(RunningRequest& running);
  void publish_prefix(RunningRequest& running);
  void expire();
  StepReport report(Step step, double began, double predicted) const;
  void run(std::span<const Work> work);
  void advance(const Work& work);
  Event event_of(const RunningRequest& running) const;
  void deliver(RunningRequest& running);
  void end(RunningRequest& running, Event event);
  void end_early(RunningRequest& running, Finish finish, Status status);
  void remove_done();
  void refuse_first_waiting();

  // In this order: later members use earlier ones.
  EngineOptions options;
  ThreadPool workers;
  CpuExecutor executor;
  std::optional<Model> model;
  std::optional<Tokenizer> tokenizer;
  int32_t context = 0;
  KvType kv_type = KvType::int8;
  CacheLayout layout;
  std::optional<PagePool> pool;
  std::optional<PrefixCache> prefixes;  // empty: switched off
  std::optional<SwapFile> swap;
  std::shared_ptr<const AttendSpec> attend;  // of requests that do not name one; null: dense
  ChunkIdentity chunk_identity;
  std::optional<ChunkTransfer> transfer;  // empty: no chunk stores
  mutable KnownTexts known_texts;
  std::unique_ptr<StoredTexts> stored_texts;  // null: no chunk stores
  int32_t most_rows = 0;                      // of one request in a step
  std::optional<StepBatch> batch;

  std::vector<std::unique_ptr<RunningRequest>> requests;  // in order of arrival
  std::map<int64_t, std::shared_ptr<Conversation>> sessions;
  int64_t reserved_pages = 0;  // those of the prefix cache not counted
  RequestId next_id = 1;
  int64_t next_session = 1;
  int pinned = 0;  // requests that end stay in the list while somebody holds pointers: a step, a handler that is running
  // What loading and computing have taken so far, each as a moving average; 0: not known yet.
  std::map<std::string, double> tier_bytes_per_second;
  double prompt_row_seconds = 0;
  EngineStatistics counts;
  std::function<void(const StepReport&)> step_hook;
  const Clock::time_point made = Clock::now();
};

// Pages of `tokens` tokens of one sequence that runs `rows_per_step` rows or fewer at a time.
inline int64_t pages_of(const CacheLayout& layout, int64_t tokens, int64_t rows_per_step) {
  return pages_needed(layout, tokens, std::min(tokens, rows_per_step));
}

}  // namespace onset
