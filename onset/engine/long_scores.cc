#include "onset/engine/long_scores.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <limits>

namespace onset {
namespace {

using Clock = std::chrono::steady_clock;

std::string lowered(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

double share_found(const std::string& answer, const std::vector<std::string>& references) {
  if (references.empty()) return 0;
  const std::string text = lowered(answer);
  const auto found = std::count_if(references.begin(), references.end(),
                                   [&](const std::string& reference) { return text.find(lowered(reference)) != std::string::npos; });
  return static_cast<double>(found) / static_cast<double>(references.size());
}

Request request_of(const LongItem& item, const LongWay& way, const std::string& space) {
  Request request{.tokens = item.prompt, .ignore_end = true, .space = space};
  request.attend_spec = way.attend;
  request.select_spec = way.select;
  return request;
}

// Bytes of pages in use, and of stored states.
int64_t used_bytes(const Engine& engine, const Event& event) {
  const EngineStatistics statistics = engine.statistics();
  const int64_t pages = (statistics.pages - statistics.free_pages) * static_cast<int64_t>(statistics.page_bytes);
  return pages + (event.select ? event.select->stored_bytes : 0);
}

// Reads the prompt and goes on with the likeliest tokens: the answer, and what it took.
Status answer(Engine& engine, const LongItem& item, const LongWay& way, const std::string& space, LongScore& score) {
  bool ended = false;
  Event last;
  const auto begin = Clock::now();
  const auto on_event = [&](const Event& event) {
    last = event;
    score.bytes = std::max(score.bytes, used_bytes(engine, event));
    if (event.new_tokens == 1 && event.select) {
      double rows = 0;
      for (const int32_t of_layer : event.select->prompt_rows) rows += of_layer;
      score.rows = rows / static_cast<double>(event.select->prompt_rows.size() * item.prompt.size());
    }
    // The answer goes on to its length, so that there is something to be timed; what counts ends where the model would end.
    ended = ended || (event.token && engine.tokenizer() != nullptr && engine.tokenizer()->is_end_of_generation(event.token->token));
    if (!ended) score.answer += event.text;
  };
  Request request = request_of(item, way, space);
  request.most_new_tokens = std::max(item.most_new_tokens, 2);  // the second one is timed
  ONSET_TRY(run_to_end(engine, std::move(request), on_event));
  score.exact = share_found(score.answer, item.references);
  score.first_token_seconds = last.first_token_seconds;
  score.decoded_tokens = last.new_tokens - 1;
  score.decode_seconds = std::chrono::duration<double>(Clock::now() - begin).count() - last.first_token_seconds;
  if (last.attend) score.skipped = skipped_share(last.attend->counts);
  return {};
}

// The log-probability of each token of an answer, behind what is given.
Result<std::vector<double>> answer_logprobs(Engine& engine, const LongItem& item, const std::vector<int32_t>& tokens, const LongWay& way,
                                            const std::string& space) {
  std::vector<double> logprobs;
  Request request = request_of(item, way, space);
  request.sampling.logprobs = true;
  request.sampling.given = item.given;
  request.sampling.given.insert(request.sampling.given.end(), tokens.begin(), tokens.end());
  request.most_new_tokens = static_cast<int32_t>(request.sampling.given.size());
  ONSET_TRY(run_to_end(engine, std::move(request), [&](const Event& event) {
    if (event.token) logprobs.push_back(event.token->logprob);
  }));
  logprobs.erase(logprobs.begin(), logprobs.begin() + static_cast<std::ptrdiff_t>(item.given.size()));
  return logprobs;
}

}  // namespace

Result<LongScore> score_item(Engine& engine, const LongItem& item, const LongWay& way, const std::string& space) {
  LongScore score;
  ONSET_TRY(answer(engine, item, way, space, score));
  score.logprob = -std::numeric_limits<double>::infinity();
  double best_right = score.logprob, best_wrong = score.logprob;
  for (size_t i = 0; i < item.answers.size(); ++i) {
    ONSET_ASSIGN(const std::vector<double> logprobs, answer_logprobs(engine, item, item.answers[i], way, space));
    double sum = 0;
    for (const double logprob : logprobs) sum += logprob;
    double& best = i < item.right ? best_right : best_wrong;
    best = std::max(best, sum);
    if (i < item.right) score.logprob = std::max(score.logprob, sum / static_cast<double>(logprobs.size()));
  }
  score.first = best_right >= best_wrong;
  return score;
}

LongSummary summary_of(std::span<const LongScore> scores) {
  LongSummary summary;
  summary.items = static_cast<int64_t>(scores.size());
  double tokens = 0, seconds = 0;
  for (const LongScore& score : scores) {
    summary.exact += score.exact;
    summary.first += score.first ? 1 : 0;
    summary.logprob += score.logprob;
    summary.first_token_seconds += score.first_token_seconds;
    summary.skipped += score.skipped;
    summary.rows += score.rows;
    summary.bytes = std::max(summary.bytes, score.bytes);
    tokens += score.decoded_tokens;
    seconds += score.decode_seconds;
  }
  for (double* mean : {&summary.exact, &summary.first, &summary.logprob, &summary.first_token_seconds, &summary.skipped, &summary.rows}) {
    *mean /= static_cast<double>(std::max<int64_t>(1, summary.items));
  }
  if (seconds > 0) summary.decode_tokens_per_second = tokens / seconds;
  return summary;
}

Interval wilson_interval(double share, int64_t trials) {
  if (trials <= 0) return {};
  constexpr double z = 1.959964;
  const auto n = static_cast<double>(trials);
  const double middle = (share + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z * std::sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n);
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

bool above_chance(double share, double chance, int64_t trials) {
  return trials > 0 && share > 0 && share >= chance + 3 * std::sqrt(chance * (1 - chance) / static_cast<double>(trials));
}

double mcnemar(int64_t only_first, int64_t only_second) {
  const int64_t pairs = only_first + only_second, less = std::min(only_first, only_second);
  double tail = 0;  // of the binomial distribution at 1/2
  for (int64_t k = 0; k <= less; ++k) {
    const auto n = static_cast<double>(pairs), of = static_cast<double>(k);
    tail += std::exp(std::lgamma(n + 1) - std::lgamma(of + 1) - std::lgamma(n - of + 1) - n * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

}  // namespace onset
