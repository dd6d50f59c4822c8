// onset perplexity: how well a model predicts a text, and how far fast precision is from reference.
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/engine/scoring.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct PerplexityCommand {
  EngineFlags engine;
  TextSource text;
  int32_t window = 2048;
  int64_t tokens = 0;
  int32_t last = 0;
  std::string kl_against;
  bool json = false;
};

void declare(CLI::App& command, PerplexityCommand& options) {
  command.add_option("-f,--file", options.text.file, "the text, - for standard input; CR LF counts as LF");
  command.add_option("-w,--window", options.window, "tokens that are read together")->check(CLI::Range(2, 1 << 30))->capture_default_str();
  command.add_option("--tokens", options.tokens, "use the first so many tokens of the text (default: all)")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 40));
  command.add_option("--last", options.last, "score only so many tokens at the end of each window")->check(CLI::Range(1, 4096));
  command
      .add_option(
          "--kl-against", options.kl_against,
          "also the divergence from this precision, or from the same one without --attend (dense, with --last), over the same tokens")
      ->check(CLI::IsMember({"fast", "bf16", "reference", "dense"}));
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(
      command,
      "  onset perplexity --file wiki.test.raw --window 512\n"
      "  onset perplexity --file wiki.test.raw --tokens 16384 --kl-against reference\n\n"
      "The text is cut into disjoint windows; every token of a window but its first is scored. Where the tokenizer begins texts with\n"
      "BOS, each window is BOS and the first tokens of its run.");
}

std::string without_carriage_returns(std::string text) {
  size_t kept = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    text[kept++] = text[i];
  }
  text.resize(kept);
  return text;
}

Result<std::vector<int32_t>> read_tokens(const Engine& engine, const PerplexityCommand& options) {
  ONSET_ASSIGN(std::string text, read_text(options.text, "the text"));
  if (engine.tokenizer() == nullptr) return error(Code::unsupported, "{} has no tokenizer", engine.model().file().path().string());
  ONSET_ASSIGN(std::vector<int32_t> tokens,
               engine.tokenizer()->encode(without_carriage_returns(std::move(text)), {.add_special = false, .parse_special = false}));
  if (options.tokens > 0 && static_cast<int64_t>(tokens.size()) > options.tokens) tokens.resize(options.tokens);
  return tokens;
}

Json to_json(const Perplexity& perplexity) {
  return {{"perplexity", perplexity.perplexity},
          {"nll", perplexity.nll},
          {"tokens_scored", perplexity.tokens_scored},
          {"windows", perplexity.windows}};
}

Json to_json(const PerplexityCommand& options, const Engine& engine, const Perplexity& perplexity) {
  Json json{{"model", engine.model().file().path().string()},
            {"precision", precision_name(engine.model().precision())},
            {"window", options.window}};
  json.update(to_json(perplexity));
  return json;
}

Status measure_one(const PerplexityCommand& options, Engine& engine, const std::vector<int32_t>& tokens) {
  ProgressBar bar("reading");
  ONSET_ASSIGN(
      const Perplexity perplexity,
      measure_perplexity(engine, tokens, {.window = options.window, .last = options.last, .progress = [&](int64_t done, int64_t total) {
                                            bar.update(static_cast<double>(done) / static_cast<double>(total));
                                          }}));
  if (options.json) return write_json(to_json(options, engine, perplexity));
  return write_out(fmt::format("perplexity {:.4f} ({:.5f} nats a token) over {} tokens in {} windows of {}\n", perplexity.perplexity,
                               perplexity.nll, perplexity.tokens_scored, perplexity.windows, options.window));
}

Status measure_both(const PerplexityCommand& options, Engine& engine, const std::vector<int32_t>& tokens) {
  EngineFlags other = options.engine;
  if (options.kl_against == "dense") {
    other.attend.clear();
  } else {
    other.precision = options.kl_against;
    // Kept keys and values as this precision has them by default.
    other.kv.clear();
  }
  ONSET_ASSIGN(const auto reference, load_engine(other, options.window));
  ProgressBar bar("reading twice");
  ONSET_ASSIGN(const Divergence divergence,
               measure_divergence(engine, *reference, tokens,
                                  {.window = options.window, .last = options.last, .progress = [&](int64_t done, int64_t total) {
                                     bar.update(static_cast<double>(done) / static_cast<double>(total));
                                   }}));
  if (options.json) {
    Json json = to_json(options, engine, divergence.tested);
    json["against"] = to_json(divergence.reference);
    json["against"]["precision"] = precision_name(reference->model().precision());
    json["kl_mean"] = divergence.kl_mean;
    json["kl_99"] = divergence.kl_99;
    json["top1"] = divergence.top1;
    json["logprob_delta"] = divergence.logprob_delta;
    return write_json(json);
  }
  return write_out(fmt::format(
      "perplexity {:.4f} in {} precision, {:.4f} in {} precision ({:+.3f} %), {} tokens in {} windows of {}\n"
      "divergence: mean {:.5f} nats, 99th percentile {:.5f}; same most likely token {:.2f} %; mean |difference| of "
      "log-probabilities {:.4f}\n",
      divergence.tested.perplexity, options.engine.precision, divergence.reference.perplexity,
      precision_name(reference->model().precision()), 100 * (divergence.tested.perplexity / divergence.reference.perplexity - 1),
      divergence.tested.tokens_scored, divergence.tested.windows, options.window, divergence.kl_mean, divergence.kl_99,
      100 * divergence.top1, divergence.logprob_delta));
}

Status run(const PerplexityCommand& options) {
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, options.window));
  ONSET_ASSIGN(const std::vector<int32_t> tokens, read_tokens(*engine, options));
  return options.kl_against.empty() ? measure_one(options, *engine, tokens) : measure_both(options, *engine, tokens);
}

}  // namespace

void add_perplexity(CLI::App& app, Action& action) {
  add_command<PerplexityCommand>(app, action, "perplexity", "how well a model predicts a text", declare, run);
}

}  // namespace onset::cli
