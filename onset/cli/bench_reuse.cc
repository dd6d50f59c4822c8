// onset bench reuse: how soon the first token comes where most of the prompt was read before.
#include <algorithm>
#include <functional>
#include <random>

#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/engine/benchmark.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ReuseFlags {
  EngineFlags engine;
  std::vector<int32_t> tokens = {4096};
  int32_t new_tokens = 64, query = 128, contexts = 8, prefix = 32, repeat = 5;
  float ratio = CacheBlendOptions().ratio;
  uint64_t seed = 1;
  bool json = false;
};

void declare(CLI::App& command, ReuseFlags& options) {
  const CLI::Range some(1, 1 << 20);
  command.add_option("--tokens", options.tokens, "tokens that were read before, separated by commas")
      ->delimiter(',')
      ->check(some)
      ->capture_default_str();
  command.add_option("--new", options.new_tokens, "tokens behind a cached prefix")->check(some)->capture_default_str();
  command.add_option("--query", options.query, "tokens behind parallel contexts")->check(some)->capture_default_str();
  command.add_option("--contexts", options.contexts, "how many contexts the tokens make")->check(some)->capture_default_str();
  command.add_option("--ratio", options.ratio, "share of the contexts' tokens that blending computes again")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--prefix", options.prefix, "tokens before every context")->check(some)->capture_default_str();
  command.add_option("--repeat", options.repeat, "how often each is measured; they take turns")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command.add_option("--seed", options.seed, "decides the tokens")->capture_default_str();
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(command, "  onset bench reuse\n  onset bench reuse --tokens 1024,2048,4096,7000 --json");
}

struct Way {
  std::string name;
  size_t against = 0;  // the way without reuse, among the ways
  int64_t prompt_tokens = 0;
  std::function<Request()> request;
  std::vector<double> seconds = {};
  int64_t cached = 0;
};

std::vector<int32_t> random_tokens(std::mt19937_64& random, int32_t count, int32_t vocabulary) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint64_t>(vocabulary));
  return tokens;
}

std::vector<int32_t> joined(std::vector<int32_t> first, const std::vector<int32_t>& then) {
  first.insert(first.end(), then.begin(), then.end());
  return first;
}

// Seconds to the first token.
Status measure(Engine& engine, Way& way, bool keep) {
  Event last;
  Request request = way.request();
  request.most_new_tokens = 1;
  ONSET_TRY(engine.submit(std::move(request), [&](const Event& event) { last = event; }).status());
  while (engine.has_work()) ONSET_TRY(engine.step());
  ONSET_TRY(last.status);
  if (keep) way.seconds.push_back(last.first_token_seconds);
  way.cached = last.cached_tokens;
  return {};
}

// The ways to one prompt: all of it, what follows a prefix that is known, and a query to contexts that are known: side by side, blended,
// and as they are.
std::vector<Way> ways_of(const ReuseFlags& options, int32_t tokens, int32_t vocabulary, std::mt19937_64& random) {
  const auto text = random_tokens(random, tokens, vocabulary), added = random_tokens(random, options.new_tokens, vocabulary);
  const auto prefix = random_tokens(random, options.prefix, vocabulary), query = random_tokens(random, options.query, vocabulary);
  std::vector<std::vector<int32_t>> contexts;
  std::vector<int32_t> sequence = prefix;
  for (int32_t i = 0; i < options.contexts; ++i) {
    const int64_t begin = int64_t{tokens} * i / options.contexts, end = int64_t{tokens} * (i + 1) / options.contexts;
    contexts.emplace_back(text.begin() + begin, text.begin() + end);
  }
  sequence = joined(joined(sequence, text), query);
  const auto size = [](const std::vector<int32_t>& list) { return static_cast<int64_t>(list.size()); };
  const auto with_contexts = [=](auto reuse) {
    return [=] { return Request{.tokens = query, .contexts = Contexts{prefix, contexts, reuse}}; };
  };
  return {{.name = "all of it",
           .against = 0,
           .prompt_tokens = tokens + options.new_tokens,
           .request = [=] { return Request{.tokens = joined(text, added), .prefix_cache = false}; }},
          {.name = "behind a known prefix",
           .against = 0,
           .prompt_tokens = tokens + options.new_tokens,
           .request = [=] { return Request{.tokens = joined(text, added)}; }},
          {.name = "contexts one after the other",
           .against = 2,
           .prompt_tokens = size(sequence),
           .request = [=] { return Request{.tokens = sequence, .prefix_cache = false}; }},
          {.name = "known contexts, parallel",
           .against = 2,
           .prompt_tokens = size(sequence),
           .request = with_contexts(ParallelContextsOptions())},
          {.name = "known contexts, blended",
           .against = 2,
           .prompt_tokens = size(sequence),
           .request = with_contexts(CacheBlendOptions{.ratio = options.ratio})},
          {.name = "known contexts, as they are",
           .against = 2,
           .prompt_tokens = size(sequence),
           .request = with_contexts(CacheBlendOptions{.ratio = 0})}};
}

Status run(const ReuseFlags& options) {
  for (const int32_t tokens : options.tokens) {
    if (tokens >= options.contexts) continue;
    return error(Code::invalid_argument, "--tokens {}: expected a token or more for each of the {} contexts", tokens, options.contexts);
  }
  const int32_t most = *std::max_element(options.tokens.begin(), options.tokens.end());
  const int64_t page_ends = int64_t{options.contexts + 4} * page_tokens;
  const int64_t pool = 6 * (most + options.prefix + options.query + options.new_tokens + page_ends);
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, pool));
  std::mt19937_64 random(options.seed);
  const int32_t vocabulary = engine->model().config().vocabulary;
  ProgressBar bar("reading");
  Json list = Json::array();
  std::vector<std::vector<std::string>> rows = {{"tokens", "", "ms to the first token", "times as fast"}};
  double done = 0;
  for (const int32_t tokens : options.tokens) {
    std::vector<Way> ways = ways_of(options, tokens, vocabulary, random);
    // The known is made known first: the text without what is new, and the contexts.
    Way before{.name = "", .request = [&] {
                 Request request = ways[1].request();
                 request.tokens.resize(static_cast<size_t>(tokens));
                 return request;
               }};
    ONSET_TRY(measure(*engine, before, false));
    for (size_t i = 3; i < ways.size(); ++i) ONSET_TRY(measure(*engine, ways[i], false));
    for (int32_t round = 0; round < options.repeat; ++round) {
      for (Way& way : ways) {
        // What is new stays new: other tokens each time.
        if (&way == &ways[1]) {
          auto text = before.request().tokens;
          const auto added = random_tokens(random, options.new_tokens, vocabulary);
          way.request = [text = joined(std::move(text), added)] { return Request{.tokens = text}; };
        }
        ONSET_TRY(measure(*engine, way, true));
        bar.update((done += 1) / static_cast<double>(options.tokens.size() * options.repeat * ways.size()));
      }
    }
    for (size_t i = 0; i < ways.size(); ++i) {
      const double seconds = median(ways[i].seconds), faster = median(ways[ways[i].against].seconds) / seconds;
      list.push_back({{"tokens", tokens},
                      {"way", ways[i].name},
                      {"prompt_tokens", ways[i].prompt_tokens},
                      {"cached_tokens", ways[i].cached},
                      {"first_token_seconds", ways[i].seconds},
                      {"times_as_fast", faster}});
      rows.push_back({std::to_string(tokens), ways[i].name, fmt::format("{:.1f}", 1e3 * seconds),
                      ways[i].against == i ? "" : fmt::format("{:.1f}", faster)});
    }
  }
  if (options.json) return write_json({{"model", engine->model().file().path().string()}, {"ways", list}});
  return write_out(table_text(rows));
}

}  // namespace

void add_bench_reuse(CLI::App& bench, Action& action) {
  add_command<ReuseFlags>(bench, action, "reuse", "how soon the first token comes where the text was read before", declare, run);
}

}  // namespace onset::cli
