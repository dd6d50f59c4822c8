// Texts that requests refer to: read by requests of the engine's own, kept while they are needed, and found again in the prefix cache.
#include <algorithm>

#include "onset/cost/loading.h"
#include "onset/engine/engine_state.h"

namespace onset {
namespace {

// The way contexts are blended; null where they stay side by side.
const CacheBlendOptions* blending(const Contexts& contexts) {
  return std::get_if<CacheBlendOptions>(&contexts.reuse);
}

// Whether contexts are read behind the request's prefix.
bool behind_prefix(const Contexts& contexts) {
  const auto* parallel = std::get_if<ParallelContextsOptions>(&contexts.reuse);
  return parallel != nullptr && parallel->shared_prefix;
}

// Parts of prompts that are shorter are not worth a text's loading.
constexpr int32_t least_known_tokens = 64;

}  // namespace

// Waits until a layer of what comes from stores is there.
Status ReadContexts::wait(int32_t layer, int32_t groups) {
  if (!load) return {};
  const Status status = load->wait(layer, groups);
  report->loaded_bytes = load->loaded_bytes();
  report->load_seconds = load->load_seconds();
  report->wait_seconds = load->waited_seconds();
  return status;
}

// What each context is read behind.
std::vector<int32_t> Engine::State::context_lead(const Contexts& contexts) const {
  if (behind_prefix(contexts)) return contexts.prefix;
  const std::optional<TokenId> bos = tokenizer ? tokenizer->bos() : std::nullopt;
  return bos ? std::vector<int32_t>{*bos} : std::vector<int32_t>();
}

// Parts of texts that the prompt has, as they are said to be.
Status Engine::State::check_places(const Contexts& asked, std::span<const int32_t> tokens) const {
  if (asked.places.empty()) return {};
  if (blending(asked) == nullptr || !asked.prefix.empty() || asked.places.size() != asked.texts.size()) {
    return error(Code::invalid_argument, "places go with cacheblend, without a prefix, and with one text each: {} places, {} texts",
                 asked.places.size(), asked.texts.size());
  }
  int64_t earliest = 0;
  for (size_t i = 0; i < asked.places.size(); ++i) {
    const TextPlace& place = asked.places[i];
    const std::vector<int32_t>& text = asked.texts[i];
    const bool inside = place.begin >= earliest && place.from >= 0 && place.count > 0 &&
                        int64_t{place.begin} + place.count <= static_cast<int64_t>(tokens.size()) &&
                        int64_t{place.from} + place.count <= static_cast<int64_t>(text.size());
    if (!inside || !std::equal(text.begin() + place.from, text.begin() + place.from + place.count, tokens.begin() + place.begin)) {
      return error(Code::invalid_argument, "the prompt does not have tokens {} to {} of context {} at {}", place.from,
                   place.from + place.count, i + 1, place.begin);
    }
    earliest = int64_t{place.begin} + place.count;
  }
  return {};
}

Status Engine::State::check_contexts(const Request& request) const {
  const Contexts& asked = *request.contexts;
  if (const CacheBlendOptions* blend = blending(asked); blend != nullptr) {
    ONSET_TRY(check_cache_blend(*blend));
    if (options.scheduling.stage_layers > 0) {
      return error(Code::unsupported, "cacheblend needs steps through all layers, this engine's have {}", options.scheduling.stage_layers);
    }
  } else {
    ONSET_TRY(check_parallel_contexts(std::get<ParallelContextsOptions>(asked.reuse)));
  }
  if (request.session != 0 || request.select || (request.attend && blending(asked) == nullptr)) {
    return error(Code::invalid_argument, "contexts go with no session and with no other attend or select policy");
  }
  if (layout.forgets()) {
    return error(Code::unsupported, "contexts that are read apart need layers that see everything, {} has {}",
                 model->file().path().string(), layout.patterns.empty() ? "windows" : "layers with a pattern of blocks");
  }
  if (!request.vectors.empty() && !blending(asked) && !behind_prefix(asked) && !asked.prefix.empty()) {
    return error(Code::unsupported, "a prompt of vectors cannot begin with the tokens of a prefix that its contexts do not share");
  }
  ONSET_ASSIGN(const int64_t pages, context_pages(request));
  if (pages <= pool->pages()) return {};
  return error(Code::resource_exhausted, "the contexts need {} pages, the key/value pool has {}", pages, pool->pages());
}

// Pages that the contexts need beside the request's own. Errors: texts that cannot be read.
Result<int64_t> Engine::State::context_pages(const Request& request) const {
  const Contexts& asked = *request.contexts;
  if (asked.texts.empty()) return error(Code::invalid_argument, "the list of contexts is empty: expected one or more");
  const auto check_ids = [&](const std::string& name, const std::vector<int32_t>& tokens) -> Status {
    for (const int32_t token : tokens) {
      if (token >= 0 && token < model->config().vocabulary) continue;
      return error(Code::invalid_argument, "{} has token id {}, expected 0 to {}", name, token, model->config().vocabulary - 1);
    }
    return {};
  };
  ONSET_TRY(check_ids("the contexts' prefix", asked.prefix));
  const auto lead = static_cast<int64_t>(context_lead(asked).size());
  int64_t pages = 0;
  for (size_t i = 0; i < asked.texts.size(); ++i) {
    const int64_t tokens = lead + static_cast<int64_t>(asked.texts[i].size());
    if (asked.texts[i].empty()) return error(Code::invalid_argument, "context {} is empty: expected one token or more", i + 1);
    ONSET_TRY(check_ids(fmt::format("context {}", i + 1), asked.texts[i]));
    if (tokens >= context) {
      return error(Code::invalid_argument,
                   "context {} has {} tokens with what it is read behind, the context has room for {} before a prompt", i + 1, tokens,
                   context - 1);
    }
    // The lead's whole pages are there once where the prefix cache has them.
    const int64_t shared = prefixes && request.prefix_cache && i > 0 ? lead / page_tokens * page_tokens : 0;
    pages += pages_of(layout, tokens, most_rows) - pages_of(layout, shared, most_rows);
  }
  return pages;
}

// Parts of an ordinary prompt that are known, as contexts of it; none where there are none, or where they cannot be blended.
std::optional<Contexts> Engine::State::find_known_texts(const Request& request, std::span<const int32_t> tokens, int64_t pages) {
  if (!options.reuse_auto || !prefixes || !request.prefix_cache || request.session != 0 || request.contexts) return {};
  if (request.attend || request.select || request.on_logits || request.on_hidden || !request.vectors.empty()) return {};
  if (options.scheduling.stage_layers > 0 || layout.forgets()) return {};
  if (stored_texts) stored_texts->want(request.space);
  // What the prefix cache has is exact: nothing is blended there.
  const int32_t exact = prefixes->match(request.space, tokens.first(tokens.size() - 1)).tokens;
  Contexts found{.prefix = {}, .texts = {}, .reuse = *options.reuse_auto, .places = {}, .only_known = true};
  for (const KnownPart& part : known_texts.find_in(request.space, tokens, least_known_tokens)) {
    // The last token's answer is wanted: it is computed.
    const int32_t count = std::min(part.count, static_cast<int32_t>(tokens.size()) - 1 - part.begin);
    if (count < least_known_tokens || part.begin + count <= exact) continue;
    found.texts.push_back(*part.text);
    found.places.push_back({part.begin, part.from, count});
  }
  if (found.texts.empty()) return {};
  Request with{.space = request.space};
  with.contexts = std::move(found);
  const auto needed = context_pages(with);
  if (!needed.ok() || *needed + pages > pool->pages()) return {};
  return std::move(with.contexts);
}

// The request's own tokens begin behind the longest of its contexts, which all begin at the same position; or behind all of them.
Status Engine::State::place_behind_contexts(const Request& request, Conversation& conversation, std::vector<int32_t>& prompt) const {
  ONSET_TRY(check_contexts(request));
  const Contexts& asked = *request.contexts;
  if (const CacheBlendOptions* blend = blending(asked); blend != nullptr && !asked.places.empty()) {
    if (blend->ratio < 1) conversation.plain_tokens = asked.places.front().begin;
    return {};
  } else if (blend != nullptr) {
    conversation.tokens = asked.prefix;
    for (const auto& text : asked.texts) conversation.tokens.insert(conversation.tokens.end(), text.begin(), text.end());
    if (blend->ratio < 1) conversation.plain_tokens = static_cast<int32_t>(asked.prefix.size());
    return {};
  }
  size_t longest = 0;
  for (const auto& text : asked.texts) longest = std::max(longest, text.size());
  conversation.plain_tokens = 0;
  conversation.first_position = static_cast<int32_t>(context_lead(asked).size() + longest);
  if (!behind_prefix(asked)) prompt.insert(prompt.begin(), asked.prefix.begin(), asked.prefix.end());
  return {};
}

void Engine::State::begin_contexts(RunningRequest& running) {
  const Contexts& asked = *running.request.contexts;
  running.contexts = std::make_unique<ReadContexts>();
  ReadContexts& contexts = *running.contexts;
  contexts.lead = context_lead(asked);
  contexts.cached.assign(asked.texts.size(), 0);
  contexts.places = asked.places;
  if (asked.places.empty()) {
    auto end = static_cast<int32_t>(asked.prefix.size());
    for (const auto& text : asked.texts) {
      contexts.places.push_back({.begin = end, .from = 0, .count = static_cast<int32_t>(text.size())});
      end += static_cast<int32_t>(text.size());
    }
    running.context_tokens = end;
    if (!blending(asked) && !behind_prefix(asked)) running.context_tokens -= static_cast<int32_t>(asked.prefix.size());
  }
  if (stored_texts) stored_texts->want(running.request.space);
  if (!asked.only_known && running.request.prefix_cache) {
    for (const auto& text : asked.texts) known_texts.add(running.request.space, text);
  }
  const CacheBlendOptions* blend = blending(asked);
  if (blend == nullptr) return;
  contexts.blend = std::make_shared<CacheBlendReport>();
  contexts.ratio = blend->ratio;
  // Nothing is reused where everything is computed.
  contexts.ready = blend->ratio == 1 && !blend->observe;
}

// The first request that waits with contexts gets them read; those behind it have to wait until it has its place, so that no two of them
// hold what the other needs.
void Engine::State::prepare_contexts() {
  const auto found = std::find_if(requests.begin(), requests.end(),
                                  [](const auto& running) { return !running->done && running->contexts && !running->admitted; });
  if (found == requests.end() || !(*found)->unready()) return;
  RunningRequest& running = **found;
  ReadContexts& contexts = *running.contexts;
  if (!look_in_stores(running)) return;
  const size_t count = running.request.contexts->texts.size();
  // The first one alone: the others find the prefix in its pages.
  while (contexts.failure.ok() && contexts.begun < count && (contexts.begun == 0 || contexts.ended > 0)) {
    const size_t index = contexts.begun++;
    if (take_known(running, index) || load_context(running, index)) continue;
    if (running.request.contexts->only_known) {
      contexts.texts.push_back(nullptr);
      ++contexts.ended;
    } else {
      read_context(running, index);
    }
  }
  if (!contexts.failure.ok()) {
    end_early(running, Finish::failed, contexts.failure);
    remove_done();
  } else if (contexts.ended == count) {
    take_contexts(running);
  }
}

// A text with what it is read behind, as stores know it.
ChunkText Engine::State::chunk_text(const RunningRequest& running, size_t index) const {
  return {.space = running.request.space, .lead = running.contexts->lead, .tokens = running.request.contexts->texts[index]};
}

// Asks the stores for what the prefix cache does not have. False: the answer is not there yet, and others have work meanwhile.
bool Engine::State::look_in_stores(RunningRequest& running) {
  ReadContexts& contexts = *running.contexts;
  if (!transfer || !contexts.stores || !running.request.prefix_cache) return true;
  if (!contexts.load) {
    std::vector<std::string> keys;
    for (size_t i = 0; i < running.request.contexts->texts.size(); ++i) keys.push_back(chunk_key(chunk_identity, chunk_text(running, i)));
    contexts.load = transfer->look_up(std::move(keys), chunk_identity);
  }
  if (contexts.load->looked_up()) return true;
  if (std::any_of(requests.begin(), requests.end(), [](const auto& other) { return other->admitted; })) return false;
  contexts.load->wait_for_look_up();
  return true;
}

// A context that is to be filled: its lead and its text.
std::shared_ptr<Conversation> Engine::State::begin_context(RunningRequest& running, size_t index) {
  auto conversation = std::make_shared<Conversation>(layout, *pool);
  std::vector<int32_t>& tokens = conversation->tokens;
  tokens = running.contexts->lead;
  const std::vector<int32_t>& text = running.request.contexts->texts[index];
  tokens.insert(tokens.end(), text.begin(), text.end());
  if (!running.request.prefix_cache) conversation->plain_tokens = 0;
  return conversation;
}

// Tokens of a context that are the request's: a prefix counts with the first context; a token that begins a text is none of the request's.
int32_t Engine::State::counted_tokens(const RunningRequest& running, size_t index) {
  const ReadContexts& contexts = *running.contexts;
  const bool with_prefix = index == 0 && behind_prefix(*running.request.contexts);
  const int32_t lead = with_prefix ? static_cast<int32_t>(contexts.lead.size()) : 0;
  return contexts.places[index].count + lead;
}

// Of the request's tokens, those that were known: what the prefix cache had of its beginning, and of what is behind that, the contexts'.
int32_t Engine::State::cached_tokens(const RunningRequest& running) {
  const ReadContexts& contexts = *running.contexts;
  const int32_t exact = running.conversation->computed;
  int32_t cached = contexts.blend ? exact : 0;
  for (size_t i = 0; i < contexts.places.size(); ++i) {
    const TextPlace& place = contexts.places[i];
    const int32_t open = contexts.blend ? std::max(0, place.begin + place.count - std::max(place.begin, exact)) : contexts.cached[i];
    cached += std::min(open, contexts.cached[i]);
  }
  return cached;
}

// Takes a context that the prefix cache has.
bool Engine::State::take_known(RunningRequest& running, size_t index) {
  if (!prefixes || !running.request.prefix_cache) return false;
  ReadContexts& contexts = *running.contexts;
  const std::string& space = running.request.space;
  const auto conversation = begin_context(running, index);
  const auto count = static_cast<int32_t>(conversation->tokens.size());
  if (prefixes->match(space, conversation->tokens).tokens != count) return false;
  conversation->computed = prefixes->attach(space, conversation->tokens, conversation->cache, conversation->prefix);
  reserve(*conversation, conversation->cache.pages_held() - prefix_pages(*conversation));
  if (conversation->computed != count || taken_pages() > pool->pages()) {
    // Others have the pool's other pages: it waits its turn.
    conversation->cache.truncate(0);
    conversation->prefix.cut(0);
    reserve(*conversation, 0);
    return false;
  }
  const int32_t counted = counted_tokens(running, index);
  contexts.cached[index] = counted;
  contexts.report->tokens["memory"] += counted;
  counts.looked_up_tokens += count;
  counts.cached_tokens += count;
  contexts.texts.push_back(conversation);
  ++contexts.ended;
  return true;
}

// Takes pages for a context that a store has; they are filled when all contexts have theirs.
bool Engine::State::load_context(RunningRequest& running, size_t index) {
  ReadContexts& contexts = *running.contexts;
  const char* tier = contexts.load ? contexts.load->tier(index) : nullptr;
  if (tier == nullptr) return false;
  const auto conversation = begin_context(running, index);
  const auto count = static_cast<int32_t>(conversation->tokens.size());
  const int64_t pages = pages_of(layout, count, count);
  if (taken_pages() + pages > pool->pages() || !conversation->cache.hold(count).ok()) {
    conversation->cache.truncate(0);
    return false;  // as above
  }
  reserve(*conversation, pages);
  conversation->computed = count;
  contexts.pages.resize(running.request.contexts->texts.size());
  ChunkLoad::Pages& places = contexts.pages[index];
  for (int layer = 0; layer < layout.layers; ++layer) {
    auto& here = places.emplace_back();
    for (int group = 0; group < layout.head_groups; ++group) {
      for (int32_t slot = 0; slot < count; slot += page_tokens) here.push_back(conversation->cache.page_for_write(layer, group, slot));
    }
  }
  const int32_t counted = counted_tokens(running, index);
  contexts.cached[index] = counted;
  contexts.report->tokens[tier] += counted;
  contexts.texts.push_back(conversation);
  ++contexts.ended;
  return true;
}

void Engine::State::read_context(RunningRequest& running, size_t index) {
  ReadContexts& contexts = *running.contexts;
  const auto conversation = begin_context(running, index);
  const auto count = static_cast<int32_t>(conversation->tokens.size());
  const int32_t counted = counted_tokens(running, index);
  contexts.report->tokens["read"] += counted;
  contexts.texts.push_back(conversation);
  contexts.unkept.push_back(index);

  Request request{.tokens = conversation->tokens,
                  .most_new_tokens = 0,
                  .priority = running.request.priority,
                  .space = running.request.space,
                  .prefix_cache = running.request.prefix_cache};
  Engine::EventHandler ended = [&contexts, index, behind = count - counted](const Event& event) {
    if (event.finish != Finish::length && contexts.failure.ok()) {
      contexts.failure =
          event.status.ok() ? error(Code::cancelled, "the reading of a context was ended") : event.status.within("a context");
    }
    contexts.cached[index] = std::max(0, event.cached_tokens - behind);
    ++contexts.ended;
  };
  auto reader = std::make_unique<RunningRequest>(next_id++, std::move(request), std::move(ended), Sampler({}, {}, model->isa()),
                                                 AnswerText(nullptr, StopStrings()));
  reader->prompt_end = count;
  reader->pages = pages_of(layout, count, most_rows);
  reader->fixed = true;
  reader->keeps = true;
  reader->looks_up = prefixes && running.request.prefix_cache;
  conversation->busy = reader->id;
  reader->conversation = conversation;
  contexts.readers.push_back(reader->id);
  requests.push_back(std::move(reader));
}

// What reading so many tokens takes: as the step model says, or as prompts took so far (a line; attention makes long ones take longer).
double Engine::State::prefill_seconds(int32_t tokens) const {
  if (!options.cost) return prompt_row_seconds * tokens;
  return options.cost->seconds(span_shape({.first_token = 0, .count = tokens, .layer_end = layout.layers}));
}

// The loading controller: so much is computed again that the loading is hidden behind it, or everything where that is quicker.
void Engine::State::choose_ratio(RunningRequest& running) {
  ReadContexts& contexts = *running.contexts;
  if (!blending(*running.request.contexts)->hide_loading || contexts.pages.empty()) return;
  double load_seconds = 0;
  for (size_t i = 0; i < contexts.pages.size(); ++i) {
    if (contexts.pages[i].empty()) continue;
    const auto bytes = static_cast<double>(contexts.pages[i].front().size() * pool->page_bytes() * contexts.pages[i].size());
    const auto rate = tier_bytes_per_second.find(contexts.load->tier(i));
    if (rate != tier_bytes_per_second.end()) load_seconds += bytes / rate->second;
  }
  int32_t tokens = 0;
  for (const TextPlace& place : contexts.places) tokens += place.count;
  contexts.ratio = static_cast<float>(hiding_ratio(prefill_seconds(tokens), load_seconds, contexts.ratio));
  if (contexts.ratio < 1) return;
  contexts.pages.clear();
  std::fill(contexts.cached.begin(), contexts.cached.end(), 0);
  running.cached_tokens = 0;
  contexts.report->tokens.clear();
  release_contexts(running);
}

// How quick the stores' devices are: half of what is known is what was seen last.
void Engine::State::learn_rate(const ReadContexts& contexts) {
  if (!contexts.load || !contexts.load->complete() || contexts.load->load_seconds() <= 0) return;
  const double rate = static_cast<double>(contexts.load->loaded_bytes()) / contexts.load->load_seconds();
  for (const auto& [tier, tokens] : contexts.report->tokens) {
    if (tier == "memory" || tier == "read") continue;
    double& known = tier_bytes_per_second[tier];
    known = known == 0 ? rate : (known + rate) / 2;
  }
}

// What was read for this request goes to the stores. The bytes are copied: the pages may change hands before they are written.
void Engine::State::keep_contexts(RunningRequest& running) {
  ReadContexts& contexts = *running.contexts;
  if (!transfer || !running.request.prefix_cache) return;
  for (const size_t index : contexts.unkept) {
    const Conversation& text = *contexts.texts[index];
    OwnedChunk chunk{.identity = chunk_identity, .text = chunk_text(running, index), .pages = {}};
    for (int layer = 0; layer < layout.layers; ++layer) {
      for (int group = 0; group < layout.head_groups; ++group) {
        for (const std::byte* page : text.cache.view(layer, group).pages) {
          chunk.pages.insert(chunk.pages.end(), page, page + pool->page_bytes());
        }
      }
    }
    transfer->keep(std::move(chunk));
  }
  contexts.unkept.clear();
}

// A request whose contexts are still being loaded computes beside the loading, but not in one step with others, who would wait for it.
bool Engine::State::must_wait_for_loads(const RunningRequest& running) const {
  if (running.admitted || !running.contexts || !running.contexts->loading() || running.contexts->load->failed()) return false;
  return std::any_of(requests.begin(), requests.end(), [](const auto& other) { return other->admitted; });
}

// All contexts are there. Where they stay side by side, the request's own tokens come behind them; blended ones move when it has its place.
void Engine::State::take_contexts(RunningRequest& running) {
  ReadContexts& contexts = *running.contexts;
  const Contexts& asked = *running.request.contexts;
  contexts.ready = true;
  running.cached_tokens = cached_tokens(running);
  keep_contexts(running);
  if (std::all_of(contexts.texts.begin(), contexts.texts.end(), [](const auto& text) { return text == nullptr; })) {
    // Nothing is known after all: a prompt like others.
    running.conversation->plain_tokens = INT32_MAX;
    contexts.texts.clear();
  }
  if (contexts.blend) choose_ratio(running);
  if (contexts.pages.empty()) {
    contexts.load.reset();
  } else {
    transfer->begin(contexts.load, std::move(contexts.pages), load_groups(running));
  }
  if (contexts.blend) return;
  Conversation& own = *running.conversation;
  // Without a shared prefix the token that begins a context is its own.
  const auto prefix = behind_prefix(asked) ? static_cast<int32_t>(asked.prefix.size()) : 0;
  if (prefix > 0) contexts.texts.front()->cache.lend(own.cache, 0, prefix);
  std::vector<KeyRange> ranges;
  for (size_t i = 0; i < contexts.texts.size(); ++i) {
    const auto end = static_cast<int32_t>(contexts.texts[i]->tokens.size());
    const int32_t place = contexts.texts[i]->cache.lend(own.cache, prefix, end);
    ranges.push_back({place, place + end - prefix});
  }
  own.first_slot = own.cache.length(0);
  if (contexts.load) {
    for (int layer = 0; layer < layout.layers; ++layer) {
      own.cache.set_pending_load(layer, [&running, layer] { return running.contexts->wait(layer, 1); });
    }
  }
  running.request.attend = std::make_unique<ParallelContextsAttend>(std::get<ParallelContextsOptions>(asked.reuse), KeyRange{0, prefix},
                                                                    std::move(ranges), own.first_slot);
}

// What is loaded together: parallel contexts all at once; of blended ones those that begin in the same piece of the prompt, so that a piece
// is computed while the next one's contexts are on their way.
std::vector<int32_t> Engine::State::load_groups(const RunningRequest& running) const {
  std::vector<int32_t> groups;
  for (const TextPlace& place : running.contexts->places) groups.push_back(running.contexts->blend ? place.begin / most_rows : 0);
  return groups;
}

// Sees to it that what was read apart lies where the request has it when the rows below `end` run. Errors: a pool without the pages it was
// promised.
Status Engine::State::blend_contexts(RunningRequest& running, int32_t end) {
  if (!running.contexts || !running.contexts->blend || running.contexts->texts.empty()) return {};
  ReadContexts& contexts = *running.contexts;
  if (!running.request.select) ONSET_TRY(begin_blending(running));
  const auto count = static_cast<size_t>(
      std::count_if(contexts.placements.begin(), contexts.placements.end(), [&](const auto& placement) { return placement.begin < end; }));
  // Each layer when its turn comes: those behind it may still be on their way.
  for (int layer = 0; layer < layout.layers; ++layer) {
    if (contexts.placed[layer] == count) continue;
    running.conversation->cache.set_pending_load(layer, [this, &contexts, layer, count] { return place_layer(contexts, layer, count); });
  }
  return {};
}

// Slots for what is to come, and the policy that says what of it is computed again.
Status Engine::State::begin_blending(RunningRequest& running) {
  const auto began = Clock::now();
  ReadContexts& contexts = *running.contexts;
  const Contexts& asked = *running.request.contexts;
  Conversation& own = *running.conversation;
  ONSET_TRY(own.cache.hold(running.prompt_end));
  const auto lead = static_cast<int32_t>(contexts.lead.size());
  const std::vector<int32_t> groups = load_groups(running);
  std::vector<KeyRange> reused;
  for (size_t i = 0; i < contexts.texts.size(); ++i) {
    if (!contexts.texts[i]) continue;
    const TextPlace& place = contexts.places[i];
    const int32_t end = place.begin + place.count;
    // What the prefix cache had is exact already.
    const int32_t first = std::max(place.begin, own.computed);
    if (first >= end) continue;
    const int32_t from = lead + place.from + first - place.begin;
    contexts.placements.push_back(
        {.begin = first,
         .group = groups[i],
         .moved = Repositioning(*model, contexts.texts[i]->cache, from, from + end - first, own.cache, first, workers)});
    reused.push_back({first, end});
    contexts.blend->reused_tokens += end - first;
  }
  contexts.placed.assign(layout.layers, 0);
  contexts.blend->fresh_tokens = running.prompt_end - own.computed - contexts.blend->reused_tokens;
  CacheBlendOptions chosen = *blending(asked);
  chosen.ratio = contexts.ratio;
  contexts.blend->ratio = contexts.ratio;
  running.request.select = std::make_unique<CacheBlendSelect>(chosen, model->config().layers, std::move(reused), contexts.blend);
  contexts.blend->place_seconds += seconds_since(began);
  return {};
}

// The first `count` placements of a layer, as soon as they are loaded.
Status Engine::State::place_layer(ReadContexts& contexts, int layer, size_t count) {
  for (size_t& placed = contexts.placed[layer]; placed < count; ++placed) {
    const ReadContexts::Placement& next = contexts.placements[placed];
    ONSET_TRY(contexts.wait(layer, next.group + 1));
    const auto began = Clock::now();
    next.moved.move(layer, workers);
    contexts.blend->place_seconds += seconds_since(began);
  }
  return {};
}

// A chunk was not what was written, or its store has gone: the request begins again, and reads what it cannot have.
bool Engine::State::read_contexts_again(RunningRequest& running, const Status& why) {
  if (!running.contexts || !running.contexts->load || !running.contexts->load->failed()) return false;
  ++counts.context_failures;
  counts.context_failure = why.message();
  Conversation& own = *running.conversation;
  release_contexts(running);
  for (int layer = 0; layer < layout.layers; ++layer) own.cache.set_pending_load(layer, nullptr);
  own.cache.truncate(0);
  own.prefix.cut(0);
  own.computed = own.first_slot = 0;
  reserve(own, 0);
  if (!running.contexts->blend) running.request.attend.reset();
  running.request.select.reset();
  running.admitted = false;
  running.layer = running.piece = 0;
  begin_contexts(running);
  running.contexts->stores = false;
  return true;
}

// The request has ended: nobody reads its contexts any more.
void Engine::State::leave_contexts(RunningRequest& running) {
  if (!running.contexts) return;
  for (const RequestId id : running.contexts->readers) {
    if (RunningRequest* reader = find(id); reader != nullptr) end_early(*reader, Finish::cancelled, {});
  }
  release_contexts(running);
}

// The request needs the contexts' own pages no more, but the prefix cache may keep them.
void Engine::State::release_contexts(RunningRequest& running) {
  ReadContexts& contexts = *running.contexts;
  if (contexts.load) contexts.load->stop();
  contexts.placements.clear();
  const bool whole = !contexts.loading();
  learn_rate(contexts);
  for (const auto& text : contexts.texts) {
    if (!text) continue;
    if (prefixes && whole && text->plain_tokens > 0 && text->computed == static_cast<int32_t>(text->tokens.size())) {
      prefixes->publish_all(running.request.space, text->tokens, text->cache, text->prefix);
    }
    reserve(*text, 0);
  }
  contexts.texts.clear();
}

}  // namespace onset
