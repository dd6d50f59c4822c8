// The engine: requests in, tokens out, one step at a time.
//
//     ONSET_ASSIGN(auto engine, Engine::create({.model = "model.gguf"}));
//     ONSET_ASSIGN(auto id, engine->submit({.text = "Hello"}, [](const Event& event) { fmt::print("{}", event.text); }));
//     while (engine->has_work()) ONSET_TRY(engine->step());
//
// Many requests run in one ragged batch, prompt chunks and continuing answers mixed. Chunk size, companions in the batch and
// number of threads never change a request's result: in the default mode its logits are bit-identical.
// An Engine belongs to one thread; all its functions are called from that thread. Handlers are called from within step() and
// cancel(), and may themselves submit and cancel.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "onset/attend/named.h"
#include "onset/attend/parallel_contexts.h"
#include "onset/attend/policy.h"
#include "onset/base/status.h"
#include "onset/engine/sampler.h"
#include "onset/kv/chunk_store.h"
#include "onset/kv/known_texts.h"
#include "onset/model/executor.h"
#include "onset/model/model.h"
#include "onset/schedule/policy.h"
#include "onset/select/cache_blend.h"
#include "onset/select/named.h"
#include "onset/select/policy.h"
#include "onset/text/tokenizer.h"

namespace onset {

struct EngineOptions {
  std::filesystem::path model;  // GGUF file or Hugging Face folder
  Precision precision = Precision::fast;
  int32_t threads = 0;            // 0: one for each core this process may use
  std::string rope_scaling = {};  // for texts beyond the model's context, and layers that forget: what model/load_options.h says
  std::string layers = {};
  std::string attend = {};             // whom queries of requests see that do not say so themselves (attend/named.h); empty: dense
  std::optional<KvType> kv_type = {};  // default: int8 in fast, bf16 in bf16, f32 in reference precision
  int64_t pool_tokens = 0;             // tokens of key/value cache; 0: one full context of the model
  std::string policy = default_schedule_policy;  // who runs when: schedule/policy.h has the names
  ScheduleOptions scheduling = {};               // token budget, watermark, how requests are preempted, ...
  int32_t most_running = 256;                    // requests in the batch at a time
  std::filesystem::path swap_folder = {};        // scheduling.preemption = swap: where; empty: the system's folder for such files
  int64_t swap_bytes = int64_t{4} << 30;         // and how much of it at most
  bool packed_cache = true;                      // keep packed weights in the cache folder
  bool prefix_cache = true;                      // texts that begin as an earlier one did share its pages (kv/prefix_cache.h)
  // Where contexts are kept beyond memory: looked for in this order, and kept in all of them. They may be shared with other engines.
  std::vector<std::shared_ptr<ChunkStore>> chunk_stores = {};
  double chunk_bytes_per_second = 0;  // loads them no faster, as if from a slower device; 0: as fast as it goes
  // Known texts are blended wherever they stand in ordinary prompts, if their keys and values are there: texts that were some request's
  // contexts, or that a chunk store has. none: only contexts are.
  std::optional<CacheBlendOptions> reuse_auto = {};
  std::function<void(double)> progress = {};      // share of the weights packed, while loading; from any worker
  std::unique_ptr<SchedulePolicy> schedule = {};  // a policy of the caller's own; null: the one named by `policy`
  std::shared_ptr<const StepCost> cost = {};      // what the schedule asks, if it asks
  double most_step_seconds = 0;                   // how long a step should take, as `cost` predicts it; 0: no limit
  // More than 0: nobody shall wait longer for the next token, at the 99th percentile. Sets scheduling.token_budget, cost and
  // most_step_seconds from what `onset bench steps` has measured for this model.
  double tbt_seconds = 0;
  std::filesystem::path machine_file = {};  // where that is kept; empty: machine_file_path()
};

enum class Finish : uint8_t {
  none,
  stop,    // an end-of-answer token or a stop string
  length,  // most_new_tokens, or the context's end
  cancelled,
  failed,
  expired,  // its deadline has passed, or cannot be met
};
const char* finish_name(Finish finish);  // "stop", "length", ...

// Where the tokens of a request's contexts came from.
struct ContextsReport {
  std::map<std::string, int32_t>
      tokens;                // by tier: "memory" (the prefix cache), those of chunk stores ("disk", "redis"), "read" (computed)
  int64_t loaded_bytes = 0;  // from chunk stores
  double load_seconds = 0;   // that it took, beside the computing
  double wait_seconds = 0;   // that computing waited for it
  double find_seconds = 0;   // that known texts were looked for in the prompt (EngineOptions::reuse_auto)
};

// What an attend policy that was asked for by name has left out so far.
struct AttendReport {
  std::string name;     // as it was asked for
  AttendCounts counts;  // rows found in the prefix cache are in neither
};

// What a request is told: one event for each generated token. The last event of a request has finish != none: it is the last
// token's, or one without a token if the request was cancelled, failed, or asked for none.
struct Event {
  RequestId id = 0;
  std::string text;                   // whole characters only; may be empty while one is incomplete or a stop string may begin
  std::optional<SampledToken> token;  // the token this event is about, if any
  Finish finish = Finish::none;
  Status status;              // why it failed, if it did
  int32_t prompt_tokens = 0;  // of this request: a conversation's earlier tokens are not counted
  // Of these, and of those of its contexts, tokens whose keys and values the prefix cache had.
  int32_t cached_tokens = 0;
  int32_t context_tokens = 0;  // of its contexts and their prefix
  int32_t new_tokens = 0;
  double first_token_seconds = 0;                  // from submit() to the first token, or to the prompt's end if no token is wanted
  std::shared_ptr<const ContextsReport> contexts;  // where there were any
  std::shared_ptr<const CacheBlendReport> blend;   // where they were blended
  std::shared_ptr<const SelectReport> select;      // of a select policy that tells
  std::shared_ptr<const AttendReport> attend;      // of the last event, where a policy was asked for by name
};

// Texts that a prompt refers to, each read by itself: their keys and values do not depend on the prompt or on each other, and are found
// again in the prefix cache. Not for models whose layers have windows.
//   - APE (arXiv:2502.05431): each is read behind the prefix, and all of them stay side by side; the prompt comes behind the longest.
//     Without a shared prefix each is read behind nothing but the token that begins a text, and the prefix is the prompt's beginning.
//   - CacheBlend (arXiv:2405.16444): each is read behind nothing but the token that begins a text. The model then reads the prefix, the
//     contexts and the prompt one after the other, but of the contexts' rows only those that it would compute most differently.
using ContextReuse = std::variant<ParallelContextsOptions, CacheBlendOptions>;
// A part of a text, and where the prompt has it.
struct TextPlace {
  int32_t begin = 0;  // token of the prompt
  int32_t from = 0;   // token of the text
  int32_t count = 0;
};
struct Contexts {
  std::vector<int32_t> prefix;              // token ids; may be empty
  std::vector<std::vector<int32_t>> texts;  // token ids
  ContextReuse reuse = {};
  // CacheBlend only. Empty: the prompt comes behind prefix and texts. Otherwise one for each text, ascending, and no prefix: the request's
  // prompt is all that is read, and has these parts of the texts.
  std::vector<TextPlace> places = {};
  // Texts whose keys and values are nowhere are computed with the prompt and not by themselves.
  bool only_known = false;
};

struct Request {
  std::string text = {};                         // the prompt: tokenised as it is (special tokens recognised) ...
  std::vector<int32_t> tokens = {};              // ... or token ids ...
  std::vector<std::vector<float>> vectors = {};  // ... or input vectors [hidden]; one of the three
  std::optional<int32_t> most_new_tokens = {};   // none: up to the context's end; 0: only reads the prompt
  SamplingOptions sampling = {};
  std::vector<std::string> stop = {};         // the answer ends before any of these
  bool ignore_end = false;                    // go on after end-of-answer tokens
  int32_t priority = 0;                       // higher ones go first; equals in order of arrival
  double deadline_seconds = 0;                // from submit(): an answer that is not complete by then ends as expired; 0: none
  std::unique_ptr<AttendPolicy> attend = {};  // null: dense, or what `attend_spec` or EngineOptions::attend say
  // A policy by name: makes `attend`, and the last event says what it has left out. Goes with no contexts.
  std::shared_ptr<const AttendSpec> attend_spec = {};
  std::unique_ptr<SelectPolicy> select = {};           // null: all rows ...
  std::shared_ptr<const SelectSpec> select_spec = {};  // ... or what this makes (select/named.h)
  std::optional<Contexts> contexts = {};
  // Whose texts may share pages with this one: pages are found only among requests of the same space (an API key's, say).
  std::string space = {};
  bool prefix_cache = true;  // false: every row is computed, and nobody else gets the pages (what is to be timed, say)
  // A conversation whose pages are kept: continues it (the prompt is what comes after what it has read). 0: none.
  int64_t session = 0;
  // Called for each prompt row with its position and logits [vocabulary]; makes the engine compute the head for all of them. Called
  // from worker threads, for different rows at once; must not call the engine.
  std::function<void(int32_t position, std::span<const float> logits)> on_logits = {};
  // Called with each prompt row's final hidden state (after the output norm), likewise.
  std::function<void(int32_t position, std::span<const float> hidden)> on_hidden = {};
};

// A step that was run.
struct StepReport {
  int64_t number = 0;                        // counts from 0
  double begin_seconds = 0, seconds = 0;     // since the engine was made; how long it took
  double predicted_seconds = 0;              // by EngineOptions::cost, 0 without
  int32_t prompt_rows = 0, answer_rows = 0;  // rows of prompts; answers that got their row
  int32_t prompts = 0;                       // prompts that took part
  int32_t running = 0, waiting = 0;          // requests with a place and without one, when it was decided
  int64_t free_pages = 0;                    // of the pool, likewise
  Step step = {};                            // who ran, who was admitted, who gave up pages
};

// What the engine has done so far, and how it stands; for statistics lines and metrics.
struct EngineStatistics {
  int64_t steps = 0, prompt_rows = 0, decode_rows = 0;  // rows of recomputed answers count as prompt rows
  int64_t pages = 0, free_pages = 0, reserved_pages = 0;
  size_t page_bytes = 0;
  int32_t running = 0, waiting = 0, swapped = 0;  // requests with a place; without; of these, with their pages in a file
  // Requests that gave up their pages: forgotten and read again, or written to the swap file. swap_failures: those meant for the file
  // that were read again instead, and the sentence that says why, of the last one.
  int64_t preempted_to_recompute = 0, preempted_to_file = 0, swap_failures = 0;
  std::string swap_failure;
  int64_t expired = 0;
  // Prompt tokens that the prefix cache was asked for, and that it had; pages that only it holds (they count as free).
  int64_t looked_up_tokens = 0, cached_tokens = 0, cached_pages = 0;
  // Requests whose contexts could not be loaded to the end, and were read again.
  int64_t context_failures = 0;
  std::string context_failure;
  StepReport last;
};

class Engine {
 public:
  using EventHandler = std::function<void(const Event&)>;

  // Errors: those of open_model, Model::load and tokenizer loading, invalid_argument naming the option or the vocabulary sizes
  // that do not fit each other, resource_exhausted for a pool that cannot be had.
  static Result<std::unique_ptr<Engine>> create(EngineOptions options);
  ~Engine();

  // Errors: invalid_argument (an empty prompt, token ids or options that make no sense, a prompt longer than the context; each
  // says what was found and expected), resource_exhausted for a request that can never fit the pool. A request that does not
  // fit now waits.
  Result<RequestId> submit(Request request, EventHandler handler);
  // The request's last event comes from within; its pages are free when this returns. Unknown or finished ids do nothing.
  void cancel(RequestId id);

  bool has_work() const;
  // Runs one step: all events of its tokens are delivered before it returns. A request that fails ends with its own last
  // event; an error here means that the engine itself cannot go on.
  Status step();

  // Conversations: open one, name it in requests, and close it to free its pages (a request that runs in it is cancelled).
  int64_t open_session();
  void close_session(int64_t session);
  // The tokens read and generated so far; -1 for inputs that were vectors. Empty for an unknown session.
  std::vector<int32_t> session_tokens(int64_t session) const;
  // Forgets the tokens from `length` on; returns how many are left: `length`, or 0 where a layer's window has let go of keys that
  // would be needed again. Errors: invalid_argument for an unknown session, a running one, or a length beyond its tokens.
  Result<int32_t> truncate_session(int64_t session, int32_t length);

  const Model& model() const;
  const Tokenizer* tokenizer() const;  // null for a model without one: prompts are ids or vectors then
  int32_t context() const;             // tokens that one request, or a whole conversation, may read
  // A context that some request had, or that a chunk store has, by its name (kv/known_texts.h): its tokens, or null. Any thread.
  KnownText known_text(const std::string& space, const std::string& id) const;
  KvType kv_type() const;
  AttendFacts attend_facts() const;       // of the model; of a request without tokens
  const AttendSpec* attend_spec() const;  // EngineOptions::attend; null: dense
  int32_t threads() const;
  const SchedulePolicy& schedule() const;
  const ScheduleOptions& scheduling() const;  // the token budget that --tbt has led to, for instance
  EngineStatistics statistics() const;
  // Counts every page anew, for tests. Between steps each page is referred to as often as conversations and the prefix cache hold it; those
  // that somebody holds and those that are free make the pool; and no more are in use than reserved, nor reserved than there are. Errors:
  // failed, saying what differs.
  Status audit() const;
  // Another policy from now on. Errors: invalid_argument while there is work.
  Status use_schedule(std::unique_ptr<SchedulePolicy> policy);
  // Waits until the chunk stores have what was read so far, or could not keep it (ChunkStore::statistics()).
  void wait_until_kept();
  // What steps are predicted to take from now on; null: nothing.
  void use_cost(std::shared_ptr<const StepCost> cost);
  // The executor's time hook, for profiles.
  void set_time_hook(TimeHook hook);
  // Called after each step, when its events have been delivered.
  void set_step_hook(std::function<void(const StepReport&)> hook);

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Runs one request to its end, with whatever else the engine has to do. Errors: those of submit() and step(), and what made the request
// fail.
Status run_to_end(Engine& engine, Request request, const Engine::EventHandler& handler);

}  // namespace onset
