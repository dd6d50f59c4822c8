// onset search-heads: each attention head's way of looking at long prompts, as a table for --attend minference:TABLE; or how much each KV
// head needs to see more than the beginning and its neighbours, for --attend lserve:TABLE.
#include <map>
#include <random>

#include "onset/attend/pattern_search.h"
#include "onset/base/mapped_file.h"
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/engine/streaming_search.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct SearchOptions {
  EngineFlags engine;
  std::vector<std::string> files;
  std::string output;
  int32_t length = 8192;
  uint64_t seed = 1;
  bool even = false, slash_alone = false, streaming = false;
  StreamingSearchOptions streams;
  bool json = false;
};

void declare(CLI::App& command, SearchOptions& options) {
  command.add_option("-o,--output", options.output, "the table's file")->required();
  command.add_option("-f,--file", options.files,
                     "a text to be searched with too, beside random keys and values in JSON; may be given again");
  command.add_option("--length", options.length, "tokens of the prompt; budgets are an eighth of it, and scale with the text later")
      ->check(CLI::Range(1024, 1 << 20))
      ->capture_default_str();
  command.add_option("--seed", options.seed, "of the keys and values")->capture_default_str();
  command.add_flag("--slash-alone", options.slash_alone,
                   "only columns and diagonals, which follow texts that are unlike those of the search (the built-in tables are made so)");
  command.add_flag("--even", options.even, "give every head the same cost, as the paper does; else heads that gain more by it get more");
  auto* streaming = command.add_flag("--streaming", options.streaming,
                                     "a table for --attend lserve:TABLE instead: how far the model's answers move when a KV head sees the "
                                     "first and the last tokens alone, in the texts, in which passkeys are hidden");
  command.add_option("--sink", options.streams.sink, "with --streaming: the first tokens")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str()
      ->needs(streaming);
  command.add_option("--local", options.streams.local, "with --streaming: the last tokens")
      ->check(CLI::Range(page_tokens, 1 << 20))
      ->capture_default_str()
      ->needs(streaming);
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(command,
               "  onset search-heads -o table.json\n"
               "  onset run --attend minference:table.json --file report.txt\n"
               "  onset search-heads --streaming --length 4096 --file essays.txt -o streaming.json\n"
               "  onset run --attend lserve:streaming.json --file report.txt");
}

std::string random_name(std::mt19937_64& random) {
  const uint64_t a = random(), b = random();
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", static_cast<uint32_t>(a), static_cast<uint16_t>(a >> 32),
                     static_cast<uint16_t>(a >> 48), static_cast<uint16_t>(b), b >> 16);
}

// Random names in JSON, as in key-value retrieval (arXiv:2307.03172), enough for the length.
std::string retrieval_text(int32_t length, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text = "Extract the value of a key from the JSON object below.\n{";
  std::string wanted;
  const int32_t pairs = length / 32 + 1;  // a pair has more tokens than this with any tokenizer
  for (int32_t i = 0; i < pairs; ++i) {
    const std::string key = random_name(random);
    if (i == pairs / 8) wanted = key;
    text += fmt::format("\"{}\": \"{}\",\n", key, random_name(random));
  }
  return text + fmt::format("}}\nKey: \"{}\"\nThe value of the key is \"", wanted);
}

// The beginning of the text and its end, `length` tokens together.
Result<std::vector<int32_t>> prompt_of(const std::string& text, const std::string& name, int32_t length, const Engine& engine) {
  if (engine.tokenizer() == nullptr) return error(Code::invalid_argument, "the model has no tokenizer");
  ONSET_ASSIGN(std::vector<int32_t> tokens, engine.tokenizer()->encode(text, {.add_special = true}));
  if (static_cast<int64_t>(tokens.size()) < length) {
    return error(Code::invalid_argument, "{} has {} tokens, expected {} or more (--length)", name, tokens.size(), length);
  }
  constexpr int64_t question = 64;
  tokens.erase(tokens.begin() + length - question, tokens.end() - question);
  return tokens;
}

Result<std::vector<std::vector<int32_t>>> prompts_of(const SearchOptions& options, const Engine& engine) {
  std::vector<std::vector<int32_t>> prompts(1);
  ONSET_ASSIGN(prompts[0],
               prompt_of(retrieval_text(options.length, options.seed), "the prompt of keys and values", options.length, engine));
  for (const std::string& file : options.files) {
    ONSET_ASSIGN(const std::string text, read_file(file));
    ONSET_ASSIGN(prompts.emplace_back(), prompt_of(text, file, options.length, engine));
  }
  return prompts;
}

const char* kind_of(const HeadPattern& pattern) {
  switch (pattern.shape) {
    case HeadShape::dense:
      return "dense";
    case HeadShape::a_shape:
      return "A-shape";
    case HeadShape::vertical_slash:
      return "vertical-slash";
    case HeadShape::block_sparse:
      return "block-sparse";
  }
  return "";
}

Json to_json(const PatternFindings& findings) {
  Json layers = Json::array();
  for (const auto& layer : findings.trials) {
    Json heads = Json::array();
    for (const std::vector<PatternTrial>& trials : layer) {
      Json tried = Json::array();
      for (const PatternTrial& trial : trials) {
        tried.push_back({{"shape", kind_of(trial.pattern)},
                         {"first", trial.pattern.first},
                         {"second", trial.pattern.second},
                         {"slots", trial.slots},
                         {"distance", trial.pattern.score}});
      }
      heads.push_back(std::move(tried));
    }
    layers.push_back(std::move(heads));
  }
  return layers;
}

// Heads of each shape.
std::map<std::string, int> shapes_of(const HeadTable& table) {
  std::map<std::string, int> shapes;
  for (const auto& layer : table.layers) {
    for (const HeadPattern& head : layer) ++shapes[kind_of(head)];
  }
  return shapes;
}

// Reads a prompt and tries everything at its end.
Result<PatternFindings> search(Engine& engine, const std::vector<int32_t>& tokens, const PatternSearchOptions& options,
                               const std::function<void(double)>& progress) {
  PatternFindings findings;
  const int32_t layers = engine.model().config().layers;
  auto policy = std::make_unique<PatternSearch>(options, layers, engine.model().query_heads(), findings);
  Request request{.tokens = tokens, .most_new_tokens = 0, .attend = std::move(policy), .prefix_cache = false};
  Status status;
  ONSET_TRY(engine.submit(std::move(request), [&](const Event& event) { status = event.status; }).status());
  while (engine.has_work()) {
    ONSET_TRY(engine.step());
    progress(static_cast<double>(findings.layers_done) / layers);
  }
  ONSET_TRY(status);
  return findings;
}

Status write_table(const std::string& path, const std::string& text) {
  ONSET_ASSIGN(AtomicFile file, AtomicFile::create(path));
  ONSET_TRY(file.write(text));
  return file.commit();
}

// Distances are those of all texts together.
Status run_streaming(const SearchOptions& options, Engine& engine) {
  if (options.files.empty()) return error(Code::invalid_argument, "--streaming: expected --file, a text in which passkeys are hidden");
  for (const int32_t tokens : {options.streams.sink, options.streams.local}) {
    if (tokens % page_tokens == 0) continue;
    return error(Code::invalid_argument, "--sink and --local: {} is no multiple of the page of {} tokens", tokens, page_tokens);
  }
  std::vector<std::vector<double>> sum;
  ProgressBar bar("searching");
  for (size_t i = 0; i < options.files.size(); ++i) {
    ONSET_ASSIGN(const std::string text, read_file(options.files[i]));
    ONSET_ASSIGN(const PasskeyText passkeys, passkey_text(engine, text, options.files[i], options.length, options.seed + i));
    StreamingSearchOptions searched = options.streams;
    searched.progress = [&](double share) { bar.update((static_cast<double>(i) + share) / static_cast<double>(options.files.size())); };
    ONSET_ASSIGN(const std::vector<std::vector<double>> distances, streaming_distances(engine, passkeys, searched));
    if (sum.empty()) {
      sum = distances;
      continue;
    }
    for (size_t layer = 0; layer < sum.size(); ++layer) {
      for (size_t head = 0; head < sum[layer].size(); ++head) sum[layer][head] += distances[layer][head];
    }
  }
  StreamingTable table = streaming_table(sum);
  table.model = engine.model().file().path().stem().string();
  ONSET_TRY(write_table(options.output, streaming_table_json(table)));
  if (options.json) return write_json({{"model", table.model}, {"length", options.length}, {"distances", sum}});
  size_t heads = 0;
  for (const auto& layer : sum) heads += layer.size();
  return write_out(fmt::format("{}: {} KV heads\n", options.output, heads));
}

Status run(const SearchOptions& options) {
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, options.length + page_tokens));
  if (options.streaming) return run_streaming(options, *engine);
  ONSET_ASSIGN(const std::vector<std::vector<int32_t>> prompts, prompts_of(options, *engine));
  PatternSearchOptions searched;
  searched.length = options.length;
  searched.slash_alone = options.slash_alone;
  PatternFindings findings;
  ProgressBar bar("searching");
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto progress = [&](double share) { bar.update((static_cast<double>(i) + share) / static_cast<double>(prompts.size())); };
    ONSET_ASSIGN(PatternFindings found, search(*engine, prompts[i], searched, progress));
    if (i == 0) {
      findings = std::move(found);
    } else {
      add_findings(findings, found, static_cast<int32_t>(i));
    }
  }
  HeadTable table = best_table(findings, searched, options.even);
  table.model = engine->model().file().path().stem().string();
  ONSET_TRY(write_table(options.output, head_table_json(table)));
  const std::map<std::string, int> shapes = shapes_of(table);
  if (options.json) {
    return write_json({{"model", table.model}, {"length", options.length}, {"heads", shapes}, {"trials", to_json(findings)}});
  }
  std::string text = options.output + ":";
  for (const auto& [shape, heads] : shapes) text += fmt::format(" {} {} heads,", heads, shape);
  text.back() = '\n';
  return write_out(text);
}

}  // namespace

void add_search_heads(CLI::App& app, Action& action) {
  add_command<SearchOptions>(app, action, "search-heads",
                             "how each attention head looks at long prompts, for --attend minference:TABLE or lserve:TABLE", declare, run);
}

}  // namespace onset::cli
