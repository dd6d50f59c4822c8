#include "onset/engine/scoring.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "onset/compute/elementwise.h"

namespace onset {
namespace {

using LogitsHandler = std::function<void(int32_t position, std::span<const float> logits)>;

// A conversation that is closed with this object.
class OpenSession {
 public:
  explicit OpenSession(Engine& engine) : engine_(engine), session_(engine.open_session()) {}
  ~OpenSession() { engine_.close_session(session_); }
  OpenSession(const OpenSession&) = delete;
  OpenSession& operator=(const OpenSession&) = delete;

  // Reads further tokens, and hands out the logits after each of them.
  Status read(std::vector<int32_t> tokens, LogitsHandler on_logits) {
    Status ended;
    Request request{
        .tokens = std::move(tokens), .most_new_tokens = 0, .prefix_cache = false, .session = session_, .on_logits = std::move(on_logits)};
    ONSET_TRY(engine_.submit(std::move(request), [&](const Event& event) { ended = event.status; }).status());
    while (engine_.has_work()) ONSET_TRY(engine_.step());
    return ended;
  }

 private:
  Engine& engine_;
  int64_t session_;
};

// Reads tokens that belong to no conversation, and hands out the logits after each of them.
Status read_alone(Engine& engine, std::vector<int32_t> tokens, LogitsHandler on_logits) {
  Status ended;
  Request request{.tokens = std::move(tokens), .most_new_tokens = 0, .prefix_cache = false, .on_logits = std::move(on_logits)};
  ONSET_TRY(engine.submit(std::move(request), [&](const Event& event) { ended = event.status; }).status());
  while (engine.has_work()) ONSET_TRY(engine.step());
  return ended;
}

// The `count` most likely tokens with their log-probabilities.
std::vector<std::pair<int32_t, double>> most_likely(std::span<const float> logits, double log_sum_exp, int32_t count) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  count = std::min(count, static_cast<int32_t>(order.size()));
  std::partial_sort(order.begin(), order.begin() + count, order.end(),
                    [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  std::vector<std::pair<int32_t, double>> top;
  for (int32_t i = 0; i < count; ++i) top.emplace_back(order[i], logits[order[i]] - log_sum_exp);
  return top;
}

// How many logits come before `token`'s when sorted from most to least likely, plus one. Among equal logits the lower index
// comes first.
int32_t rank_of(std::span<const float> logits, int32_t token) {
  const float own = logits[token];
  int32_t before = 0;
  for (const float logit : logits.first(token)) before += logit >= own;
  for (const float logit : logits.subspan(token + 1)) before += logit > own;
  return before + 1;
}

// The windows that are read, BOS included.
Result<std::vector<std::vector<int32_t>>> cut_windows(const Engine& engine, std::span<const int32_t> tokens, int32_t window) {
  if (window < 2 || window > engine.context()) {
    return error(Code::invalid_argument, "the window is {}, expected 2 to {} (the context)", window, engine.context());
  }
  if (static_cast<int64_t>(tokens.size()) < window) {
    return error(Code::invalid_argument, "the text has {} tokens, a window needs {}", tokens.size(), window);
  }
  const Tokenizer* tokenizer = engine.tokenizer();
  const bool begins = tokenizer != nullptr && tokenizer->add_bos() && tokenizer->bos().has_value();
  std::vector<std::vector<int32_t>> windows;
  for (size_t begin = 0; begin + window <= tokens.size(); begin += window) {
    std::vector<int32_t>& here = windows.emplace_back();
    if (begins) here.push_back(*tokenizer->bos());
    here.insert(here.end(), tokens.begin() + begin, tokens.begin() + begin + window - (begins ? 1 : 0));
  }
  return windows;
}

// Means over the rows that score a token. Rows come in any order from several threads, so each has its own place.
Perplexity perplexity_of(const std::vector<double>& logprobs, int64_t windows) {
  const double sum = std::accumulate(logprobs.begin(), logprobs.end(), 0.0);
  const auto count = static_cast<int64_t>(logprobs.size());
  const double nll = -sum / static_cast<double>(count);
  return {.windows = windows, .tokens_scored = count, .nll = nll, .perplexity = std::exp(nll)};
}

// Rows of a window that score the token behind them.
int64_t scored_rows(const PerplexityOptions& options) {
  return options.last > 0 ? std::min(options.last, options.window - 1) : options.window - 1;
}

// Logits of one engine's rows, kept until the other engine has computed the same rows.
struct KeptRows {
  std::vector<float> values;  // [rows of a step, vocabulary]
  int32_t first = 0;
  int64_t width = 0;

  std::span<float> row(int32_t position) { return {values.data() + (position - first) * width, static_cast<size_t>(width)}; }
};

// Largest number of rows whose logits are held at a time.
constexpr int32_t rows_held = 64;

}  // namespace

RowDifference compare_rows(Isa isa, std::span<const float> reference, std::span<const float> tested, int32_t next) {
  const LogitStatistics of_reference = logit_statistics(isa, reference);
  const LogitStatistics of_tested = logit_statistics(isa, tested);
  thread_local std::vector<float> p;
  p.assign(reference.begin(), reference.end());
  softmax(isa, p);
  double sum = 0;  // of p times the difference of the logits
  constexpr size_t block = 64;
  for (size_t begin = 0; begin < p.size(); begin += block) {
    const size_t end = std::min(p.size(), begin + block);
    float part = 0;
    for (size_t i = begin; i < end; ++i) part += p[i] * (reference[i] - tested[i]);
    sum += part;
  }
  return {.kl = sum - of_reference.log_sum_exp + of_tested.log_sum_exp,
          .tested_logprob = tested[next] - of_tested.log_sum_exp,
          .reference_logprob = reference[next] - of_reference.log_sum_exp,
          .same_top = of_reference.argmax == of_tested.argmax};
}

Result<Scores> score_tokens(Engine& engine, std::span<const int32_t> tokens, int32_t top) {
  Scores scores;
  const size_t count = tokens.size();
  scores.logprob.resize(count);
  scores.rank.resize(count);
  scores.argmax.resize(count);
  const auto on_logits = [&](int32_t position, std::span<const float> logits) {
    const LogitStatistics statistics = logit_statistics(engine.model().isa(), logits);
    scores.argmax[position] = statistics.argmax;
    if (position + 1 == static_cast<int32_t>(count)) {
      scores.last_logits.assign(logits.begin(), logits.end());
      scores.top = most_likely(logits, statistics.log_sum_exp, top);
      return;
    }
    const int32_t next = tokens[position + 1];
    scores.logprob[position + 1] = logits[next] - statistics.log_sum_exp;
    scores.rank[position + 1] = rank_of(logits, next);
  };
  ONSET_TRY(read_alone(engine, {tokens.begin(), tokens.end()}, on_logits));
  return scores;
}

Result<Perplexity> measure_perplexity(Engine& engine, std::span<const int32_t> tokens, const PerplexityOptions& options) {
  ONSET_ASSIGN(const auto windows, cut_windows(engine, tokens, options.window));
  const int64_t scored = scored_rows(options), first = options.window - 1 - scored;
  std::vector<double> logprobs(windows.size() * scored);
  for (size_t i = 0; i < windows.size(); ++i) {
    const std::vector<int32_t>& window = windows[i];
    const auto on_logits = [&](int32_t position, std::span<const float> logits) {
      if (position < first || position >= first + scored) return;
      logprobs[i * scored + position - first] = logits[window[position + 1]] - logit_statistics(engine.model().isa(), logits).log_sum_exp;
    };
    ONSET_TRY(read_alone(engine, window, on_logits));
    if (options.progress) options.progress((i + 1) * window.size(), windows.size() * window.size());
  }
  return perplexity_of(logprobs, static_cast<int64_t>(windows.size()));
}

namespace {

// A conversation in each engine: the window goes through in pieces whose logits fit.
Status compare_windows(Engine& tested, Engine& reference, const std::vector<int32_t>& window, std::span<RowDifference> rows,
                       const std::function<void(int32_t)>& read) {
  const int32_t vocabulary = tested.model().config().vocabulary;
  KeptRows kept{.values = std::vector<float>(size_t{rows_held} * vocabulary), .first = 0, .width = vocabulary};
  OpenSession reference_session(reference);
  OpenSession tested_session(tested);
  const auto scored = static_cast<int32_t>(rows.size());
  for (int32_t begin = 0; begin < scored; begin += rows_held) {
    const int32_t end = std::min<int32_t>(begin + rows_held, scored);
    const std::vector<int32_t> piece(window.begin() + begin, window.begin() + end);
    kept.first = begin;
    ONSET_TRY(reference_session.read(piece, [&](int32_t position, std::span<const float> logits) {
      std::copy(logits.begin(), logits.end(), kept.row(position).begin());
    }));
    ONSET_TRY(tested_session.read(piece, [&](int32_t position, std::span<const float> logits) {
      rows[position] = compare_rows(tested.model().isa(), kept.row(position), logits, window[position + 1]);
    }));
    read(end);
  }
  return {};
}

// The window is one prompt in each engine, and its last rows are compared.
Status compare_ends(Engine& tested, Engine& reference, const std::vector<int32_t>& window, std::span<RowDifference> rows) {
  const int32_t vocabulary = tested.model().config().vocabulary;
  const auto last = static_cast<int32_t>(window.size()) - 1, first = last - static_cast<int32_t>(rows.size());
  KeptRows kept{.values = std::vector<float>(rows.size() * vocabulary), .first = first, .width = vocabulary};
  ONSET_TRY(read_alone(reference, window, [&](int32_t position, std::span<const float> logits) {
    if (position >= first && position < last) std::copy(logits.begin(), logits.end(), kept.row(position).begin());
  }));
  return read_alone(tested, window, [&](int32_t position, std::span<const float> logits) {
    if (position < first || position >= last) return;
    rows[position - first] = compare_rows(tested.model().isa(), kept.row(position), logits, window[position + 1]);
  });
}

}  // namespace

Result<Divergence> measure_divergence(Engine& tested, Engine& reference, std::span<const int32_t> tokens,
                                      const PerplexityOptions& options) {
  const int32_t vocabulary = tested.model().config().vocabulary;
  if (reference.model().config().vocabulary != vocabulary) {
    return error(Code::invalid_argument, "the vocabularies have {} and {} tokens, expected equal ones", vocabulary,
                 reference.model().config().vocabulary);
  }
  ONSET_ASSIGN(const auto windows, cut_windows(tested, tokens, options.window));
  const int64_t scored = scored_rows(options);
  std::vector<RowDifference> rows(windows.size() * scored);
  for (size_t i = 0; i < windows.size(); ++i) {
    const std::span<RowDifference> of_window(rows.data() + i * scored, scored);
    const auto read = [&](int32_t done) {
      if (options.progress) options.progress(i * windows[i].size() + done, windows.size() * windows[i].size());
    };
    if (options.last > 0) {
      ONSET_TRY(compare_ends(tested, reference, windows[i], of_window));
      read(options.window);
    } else {
      ONSET_TRY(compare_windows(tested, reference, windows[i], of_window, read));
    }
  }

  Divergence divergence;
  std::vector<double> tested_logprobs, reference_logprobs, kl;
  for (const RowDifference& row : rows) {
    tested_logprobs.push_back(row.tested_logprob);
    reference_logprobs.push_back(row.reference_logprob);
    kl.push_back(row.kl);
    divergence.top1 += row.same_top;
    divergence.logprob_delta += std::fabs(row.tested_logprob - row.reference_logprob);
  }
  const auto count = static_cast<double>(rows.size());
  divergence.top1 /= count;
  divergence.logprob_delta /= count;
  divergence.kl_mean = std::accumulate(kl.begin(), kl.end(), 0.0) / count;
  const auto place = kl.begin() + static_cast<std::ptrdiff_t>(0.99 * (count - 1));
  std::nth_element(kl.begin(), place, kl.end());
  divergence.kl_99 = *place;
  divergence.tested = perplexity_of(tested_logprobs, static_cast<int64_t>(windows.size()));
  divergence.reference = perplexity_of(reference_logprobs, static_cast<int64_t>(windows.size()));
  return divergence;
}

}  // namespace onset
