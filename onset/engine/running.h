// A request on its way through the engine, and the conversation whose pages it fills.
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "onset/base/aligned.h"
#include "onset/engine/engine.h"
#include "onset/kv/chunk_transfer.h"
#include "onset/kv/prefix_cache.h"
#include "onset/kv/sequence_cache.h"
#include "onset/model/reposition.h"
#include "onset/text/detokenizer.h"
#include "onset/text/stop_strings.h"

namespace onset {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Tokens and their pages. A request has one of its own, or works on one that is kept (a session).
struct Conversation {
  Conversation(const CacheLayout& layout, PagePool& pool) : cache(layout, pool) {}
  // Keeps the keys and values of the first `count` tokens, and slots that are held for later ones.
  void truncate_cache(int32_t count) { cache.truncate(std::max(first_slot + count, cache.held())); }

  SequenceCache cache;
  PrefixLease prefix;           // what the prefix cache has of it
  std::vector<int32_t> tokens;  // known so far; -1 where the input was a vector
  int32_t computed = 0;         // tokens whose keys and values are in every layer
  int32_t first_slot = 0;       // of the cache, of the first token: contexts lie before it
  int32_t first_position = 0;   // of the first token
  int64_t reserved_pages = 0;   // it may come to hold so many, those of `prefix` not counted
  // Others can use the pages of so many tokens: those that saw all earlier ones and went through every layer.
  int32_t plain_tokens = INT32_MAX;
  RequestId busy = 0;  // the request that works on it, 0 = none
};

// How the tokens of an answer become text and when they end it.
class AnswerText {
 public:
  AnswerText(const Tokenizer* tokenizer, StopStrings stops) : stops_(std::move(stops)) {
    // The answer continues a text, and special tokens are no part of it.
    if (tokenizer != nullptr) detokenizer_.emplace(*tokenizer, DecodeOptions{.special = false, .text_start = false});
  }
  // The text that may go out after this token.
  std::string push(int32_t token) { return detokenizer_ ? stops_.push(detokenizer_->push(token)) : std::string(); }
  // The answer ended: what was held back.
  std::string finish() {
    if (!detokenizer_ || stopped()) return {};
    std::string text = stops_.push(detokenizer_->finish());
    if (!stopped()) text += stops_.finish();
    return text;
  }
  bool stopped() const { return stops_.stopped().has_value(); }

 private:
  std::optional<Detokenizer> detokenizer_;
  StopStrings stops_;
};

// The contexts of a request while they are being read, and as long as it needs them.
struct ReadContexts {
  std::vector<int32_t> lead;                         // what each is read behind
  std::vector<std::shared_ptr<Conversation>> texts;  // each behind the lead; null: computed with the prompt
  std::vector<RequestId> readers;                    // requests that read them
  size_t begun = 0, ended = 0;
  std::vector<TextPlace> places;  // of blended ones, in the conversation
  std::vector<int32_t> cached;    // of each text: tokens of the request that were known
  Status failure;
  bool ready = false;                       // all of them are read, or on their way
  std::shared_ptr<CacheBlendReport> blend;  // null unless they are blended
  std::shared_ptr<ContextsReport> report = std::make_shared<ContextsReport>();
  // Those that come from a chunk store; null: none, or not looked for yet.
  std::shared_ptr<ChunkLoad> load;
  bool stores = true;                   // look there
  std::vector<ChunkLoad::Pages> pages;  // of the texts that come from there
  std::vector<size_t> unkept;           // texts that were read for this request
  // Blended ones on their way to the request's pages, in groups of those that begin in one piece of the prompt.
  struct Placement {
    int32_t begin, group;
    Repositioning moved;
  };
  std::vector<Placement> placements;
  std::vector<size_t> placed;  // of each layer: how many lie there
  float ratio = 0;             // of blended ones: what is computed again
  bool loading() const { return load && !load->complete(); }
  bool all_placed() const {
    return !placements.empty() && std::all_of(placed.begin(), placed.end(), [&](size_t count) { return count == placements.size(); });
  }
  Status wait(int32_t layer, int32_t groups);
};

struct RunningRequest {
  RunningRequest(RequestId request_id, Request its_request, Engine::EventHandler its_handler, Sampler its_sampler, AnswerText its_answer)
      : id(request_id),
        request(std::move(its_request)),
        handler(std::move(its_handler)),
        sampler(std::move(its_sampler)),
        answer(std::move(its_answer)) {}

  RequestId id;
  Request request;
  Engine::EventHandler handler;
  Sampler sampler;
  AnswerText answer;

  std::shared_ptr<Conversation> conversation;
  int32_t first_token = 0;  // where this request's tokens begin in the conversation
  int32_t prompt_end = 0;   // conversation tokens up to the end of the prompt
  int32_t most_new_tokens = 0;
  int32_t new_tokens = 0;
  int64_t pages = 0;  // the conversation may come to hold so many
  int32_t cached_tokens = 0, context_tokens = 0;
  PrefixCache::Match known_prefix = {};    // while it waits: what the prefix cache has of it ...
  uint64_t known_at = 0;                   // ... at this version
  const CountedAttend* counted = nullptr;  // request.attend, where it was asked for by name
  bool looks_up = false;                   // its prompt's rows need not run if their keys are known
  std::unique_ptr<ReadContexts> contexts;  // null: none
  bool keeps = false;                      // its pages stay after its end, as a session's
  bool answers_apart = false;              // as AttendSpec::answers_apart
  int32_t row_block = 0;                   // as ScheduledRequest::row_block
  bool fixed = false;                      // its pages cannot be taken away: its rows must run once, or its conversation is kept
  bool admitted = false;
  bool done = false;  // its last event was delivered

  // Layer-staged prefill: the current piece, and the hidden states [piece, hidden] that it has at `layer`.
  int32_t layer = 0, piece = 0;
  AlignedVector<float> hidden, next_hidden;

  // Made during a forward pass, by whichever worker has the logits.
  std::optional<SampledToken> sampled;

  Clock::time_point submitted = Clock::now();
  double first_token_seconds = 0;

  int32_t known() const { return static_cast<int32_t>(conversation->tokens.size()); }
  // It waits for its contexts.
  bool unready() const { return contexts && !contexts->ready; }
  bool in_prompt() const { return conversation->computed < prompt_end; }
};

}  // namespace onset
