#include "onset/engine/streaming_search.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <random>

#include "onset/attend/lserve.h"

namespace onset {
namespace {

constexpr const char* alphabet[] = {"alpha",  "bravo", "charlie", "delta",  "echo",     "foxtrot", "golf",   "hotel",  "india",
                                    "juliet", "kilo",  "lima",    "mike",   "november", "oscar",   "papa",   "quebec", "romeo",
                                    "sierra", "tango", "uniform", "victor", "whiskey",  "xray",    "yankee", "zulu"};
constexpr const char* ordinals[] = {"first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"};
constexpr int most_passkeys = 10, passkey_words = 32;

// Final hidden states of the text's rows, one after the other, with this policy (null: dense).
Result<std::vector<float>> hidden_of(Engine& engine, const PasskeyText& text, std::unique_ptr<AttendPolicy> policy) {
  const auto width = static_cast<size_t>(engine.model().config().hidden);
  std::vector<float> hidden(text.rows.size() * width);
  Request request{.tokens = text.tokens, .most_new_tokens = 0, .attend = std::move(policy), .prefix_cache = false};
  request.on_hidden = [&](int32_t position, std::span<const float> row) {
    const auto found = std::lower_bound(text.rows.begin(), text.rows.end(), position);
    if (found == text.rows.end() || *found != position) return;
    std::copy(row.begin(), row.end(), hidden.begin() + (found - text.rows.begin()) * static_cast<std::ptrdiff_t>(width));
  };
  Status status;
  ONSET_TRY(engine.submit(std::move(request), [&](const Event& event) { status = event.status; }).status());
  while (engine.has_work()) ONSET_TRY(engine.step());
  ONSET_TRY(status);
  return hidden;
}

}  // namespace

Result<PasskeyText> passkey_text(const Engine& engine, const std::string& haystack, const std::string& name, int32_t length,
                                 uint64_t seed) {
  if (engine.tokenizer() == nullptr) return error(Code::invalid_argument, "the model has no tokenizer");
  const auto encode = [&](const std::string& text, bool begins) { return engine.tokenizer()->encode(text, {.add_special = begins}); };
  std::mt19937_64 random(seed);
  // A passkey is hidden, asked for and answered in some 200 tokens.
  const int passkeys = std::clamp(length / 400, 1, most_passkeys);
  std::vector<std::vector<int32_t>> hidden;
  std::vector<int32_t> questions, answer_rows;
  for (int i = 0; i < passkeys; ++i) {
    std::vector<const char*> words;
    for (int word = 0; word < passkey_words; ++word) words.push_back(alphabet[random() % std::size(alphabet)]);
    const std::string passkey = fmt::format("{}", fmt::join(words, " "));
    ONSET_ASSIGN(hidden.emplace_back(), encode(fmt::format("\nThe {} passkey to the vault is: {}.\n", ordinals[i], passkey), false));
    ONSET_ASSIGN(const std::vector<int32_t> question, encode(fmt::format("\nThe {} passkey to the vault is:", ordinals[i]), false));
    ONSET_ASSIGN(const std::vector<int32_t> answer, encode(" " + passkey, false));
    questions.insert(questions.end(), question.begin(), question.end());
    for (size_t token = 0; token < answer.size(); ++token) answer_rows.push_back(static_cast<int32_t>(questions.size() + token) - 1);
    questions.insert(questions.end(), answer.begin(), answer.end());
  }
  ONSET_ASSIGN(std::vector<int32_t> prose, encode(haystack, true));
  auto rest = static_cast<int64_t>(length) - static_cast<int64_t>(questions.size());
  for (const auto& each : hidden) rest -= static_cast<int64_t>(each.size());
  if (rest < passkeys || static_cast<int64_t>(prose.size()) < rest) {
    return error(Code::invalid_argument, "{} has {} tokens, expected {} or more for a text of {}", name, prose.size(),
                 std::max<int64_t>(rest, passkeys), length);
  }
  prose.resize(static_cast<size_t>(rest));
  std::vector<int64_t> depths;
  for (int i = 0; i < passkeys; ++i) depths.push_back(rest * static_cast<int64_t>(50 + random() % 901) / 1000);
  std::sort(depths.begin(), depths.end());
  PasskeyText text;
  int64_t at = 0;
  for (size_t i = 0; i < hidden.size(); ++i) {
    text.tokens.insert(text.tokens.end(), prose.begin() + at, prose.begin() + depths[i]);
    text.tokens.insert(text.tokens.end(), hidden[i].begin(), hidden[i].end());
    at = depths[i];
  }
  text.tokens.insert(text.tokens.end(), prose.begin() + at, prose.end());
  for (const int32_t row : answer_rows) text.rows.push_back(row + static_cast<int32_t>(text.tokens.size()));
  text.tokens.insert(text.tokens.end(), questions.begin(), questions.end());
  return text;
}

Result<std::vector<std::vector<double>>> streaming_distances(Engine& engine, const PasskeyText& text,
                                                             const StreamingSearchOptions& options) {
  const ModelConfig& config = engine.model().config();
  const int32_t kv_heads = engine.model().kv_heads();
  LServeOptions lserve;
  lserve.sink = options.sink;
  lserve.prefill = lserve.local = options.local;
  ONSET_ASSIGN(const std::vector<float> dense, hidden_of(engine, text, nullptr));
  std::vector<std::vector<double>> distances(static_cast<size_t>(config.layers));
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    for (int32_t head = 0; head < kv_heads && config.layer[layer].window == 0; ++head) {
      StreamingHeads heads(static_cast<size_t>(config.layers), std::vector<bool>(static_cast<size_t>(kv_heads), false));
      heads[layer][head] = true;
      auto policy = std::make_unique<LServeAttend>(std::make_shared<StreamingHeads>(std::move(heads)), lserve,
                                                   static_cast<int32_t>(text.tokens.size()));
      ONSET_ASSIGN(const std::vector<float> streaming, hidden_of(engine, text, std::move(policy)));
      double sum = 0;
      for (size_t i = 0; i < dense.size(); ++i) sum += (double{dense[i]} - streaming[i]) * (double{dense[i]} - streaming[i]);
      distances[layer].push_back(sum / static_cast<double>(dense.size()));
      if (options.progress) options.progress((layer * kv_heads + head + 1.0) / (config.layers * kv_heads));
    }
  }
  return distances;
}

StreamingTable streaming_table(const std::vector<std::vector<double>>& distances) {
  double most = 0;
  for (const auto& layer : distances) {
    for (const double distance : layer) most = std::max(most, distance);
  }
  StreamingTable table;
  table.layers = distances;
  for (auto& layer : table.layers) {
    for (double& distance : layer) distance = most > 0 ? distance / most : 0;
  }
  return table;
}

}  // namespace onset
