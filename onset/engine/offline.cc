#include "onset/engine/offline.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>

#include "onset/attend/policy.h"
#include "onset/compute/attention.h"
#include "onset/engine/running.h"
#include "onset/kv/sequence_cache.h"

namespace onset {
namespace {

constexpr int32_t pad_token = 0;

// The most likely token of each output, and all its logits if they are wanted.
class Greedy : public OutputSink {
 public:
  Greedy(size_t outputs, int32_t vocabulary, bool keep = false) : tokens(outputs, 0), logits(keep ? outputs : 0), vocabulary_(vocabulary) {}
  void output(int32_t index, std::span<const float> values) override {
    const auto known = values.first(std::min<size_t>(vocabulary_, values.size()));
    tokens[index] = static_cast<int32_t>(std::max_element(known.begin(), known.end()) - known.begin());
    if (!logits.empty()) logits[index].assign(known.begin(), known.end());
  }
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;

 private:
  int32_t vocabulary_;
};

// A batch as it is run, and what has to live as long.
struct Assembly {
  Batch batch;
  std::vector<std::unique_ptr<AttendPolicy>> policies;
  std::vector<std::unique_ptr<SequenceCache>> lines;  // caches of packed lines
  struct Segment {
    int32_t prompt = 0, line = 0, first_slot = 0, rows = 0;
  };
  std::vector<Segment> packed;
  std::vector<int32_t> prompt_of_output;
};

class OfflineRunner {
 public:
  OfflineRunner(const Engine& engine, std::span<const std::vector<int32_t>> prompts, const OfflineOptions& options)
      : model_(engine.model()),
        prompts_(prompts),
        options_(options),
        workers_(engine.threads()),
        executor_(workers_),
        layout_(engine.model().cache_layout(engine.kv_type())),
        vocabulary_(engine.tokenizer() != nullptr ? engine.tokenizer()->vocabulary_size() : engine.model().config().vocabulary) {}

  Result<OfflineRun> run() {
    const auto began = Clock::now();
    std::vector<int32_t> lengths;
    for (const auto& prompt : prompts_) lengths.push_back(static_cast<int32_t>(prompt.size()) - (options_.omit_last ? 1 : 0));
    // A prompt of one token has nothing to read before its last; it takes no row, but a place in its line.
    std::vector<int32_t> weights(lengths);
    for (int32_t& weight : weights) weight = std::max(1, weight);
    ONSET_ASSIGN(const std::vector<OfflineBatch> batches,
                 offline_batches(options_.policy, weights, options_.batch, options_.whole_data_set));
    result_.packing_seconds = seconds_since(began);
    result_.prefill_seconds = result_.packing_seconds;
    result_.tokens.resize(prompts_.size());
    lengths_ = std::move(lengths);
    ONSET_TRY(make_pool(batches));
    double done = 0;
    for (const OfflineBatch& batch : batches) {
      ONSET_TRY(run_batch(batch));
      if (options_.progress) options_.progress(++done / static_cast<double>(batches.size()));
    }
    for (const auto& prompt : prompts_) result_.prompt_tokens += static_cast<int64_t>(prompt.size());
    result_.seconds += result_.prefill_seconds;
    return std::move(result_);
  }

 private:
  // Room for the largest batch: every prompt's pages and those of padded rows, each layer whole.
  Status make_pool(std::span<const OfflineBatch> batches) {
    int64_t most = 0;
    for (const OfflineBatch& batch : batches) {
      int64_t pages = 0;
      for (const auto& line : batch.lines) {
        pages += pages_of(batch.line_tokens) + 1;
        for (const int32_t prompt : line) pages += pages_of(lengths_[prompt] + options_.new_tokens + 1) + 1;
      }
      most = std::max(most, pages);
    }
    ONSET_ASSIGN(PagePool pool, PagePool::create(layout_page_bytes(layout_), most * layout_.layers * layout_.head_groups));
    pool_.emplace(std::move(pool));
    return {};
  }
  static int64_t pages_of(int64_t tokens) { return (tokens + page_tokens - 1) / page_tokens; }

  Status run_batch(const OfflineBatch& batch) {
    const auto began = Clock::now();
    std::vector<int32_t> prompts;
    for (const auto& line : batch.lines) prompts.insert(prompts.end(), line.begin(), line.end());
    caches_.clear();
    for (const int32_t prompt : prompts) caches_[prompt] = std::make_unique<SequenceCache>(layout_, *pool_);
    ONSET_TRY(read_prompts(batch));
    if (options_.omit_last) ONSET_TRY(next_tokens(prompts));
    const double seconds = seconds_since(began);
    result_.prefill_seconds += seconds;
    result_.batch_seconds.push_back(seconds);
    result_.batch_lines.push_back(static_cast<int64_t>(batch.lines.size()));
    const auto read = Clock::now();
    for (int32_t i = 1; i < options_.new_tokens; ++i) ONSET_TRY(next_tokens(prompts));
    result_.seconds += seconds_since(read);
    result_.computed_rows += batch.rows();
    result_.most_rows = std::max(result_.most_rows, batch.rows());
    result_.lines += static_cast<int64_t>(batch.lines.size());
    ++result_.batches;
    return {};
  }

  // A forward pass over the whole batch, padding included; then each prompt has its own cache, and its first token.
  Status read_prompts(const OfflineBatch& batch) {
    Assembly assembly;
    for (const auto& line : batch.lines) {
      switch (options_.policy) {
        case OfflinePolicy::padded:
        case OfflinePolicy::length_ordered:
          add_padded(assembly, line[0], batch.line_tokens);
          break;
        case OfflinePolicy::prepack:
          add_packed(assembly, line, batch.line_tokens);
          break;
        case OfflinePolicy::ragged:
          for (const int32_t prompt : line) add_rows(assembly, prompt, caches_[prompt].get(), nullptr);
          break;
      }
    }
    Greedy greedy(assembly.batch.outputs.size(), vocabulary_, options_.on_read != nullptr);
    if (assembly.batch.rows() > 0) ONSET_TRY(model_.forward(assembly.batch, executor_, greedy));
    for (size_t i = 0; i < assembly.prompt_of_output.size(); ++i) result_.tokens[assembly.prompt_of_output[i]].push_back(greedy.tokens[i]);
    for (const Assembly::Segment& segment : assembly.packed) {
      assembly.lines[segment.line]->share_with(*caches_[segment.prompt], segment.first_slot, segment.rows);
    }
    // What was padding after a prompt is forgotten.
    for (const auto& [prompt, cache] : caches_) cache->truncate(lengths_[prompt]);
    if (options_.on_read) {
      if (options_.omit_last) {
        for (const auto& [prompt, cache] : caches_) options_.on_read(prompt, *cache, {});
      }
      for (size_t i = 0; i < greedy.logits.size(); ++i) {
        const int32_t prompt = assembly.prompt_of_output[i];
        options_.on_read(prompt, *caches_.at(prompt), greedy.logits[i]);
      }
    }
    return {};
  }

  // The rows of a prompt, and its last one's output.
  void add_rows(Assembly& assembly, int32_t prompt, SequenceCache* cache, AttendPolicy* attend) const {
    const int32_t rows = lengths_[prompt];
    if (rows == 0) return;
    Batch& batch = assembly.batch;
    const int32_t begin = batch.rows();
    batch.sequences.push_back({.row_begin = begin, .row_end = begin + rows, .cache = cache, .attend = attend});
    for (int32_t i = 0; i < rows; ++i) {
      batch.tokens.push_back(prompts_[prompt][i]);
      batch.positions.push_back(i);
    }
    if (options_.omit_last) return;
    batch.outputs.push_back({.row = batch.rows() - 1});
    assembly.prompt_of_output.push_back(prompt);
  }

  static void add_pad_rows(Batch& batch, int32_t rows, int32_t first_position) {
    for (int32_t i = 0; i < rows; ++i) {
      batch.tokens.push_back(pad_token);
      batch.positions.push_back(first_position + i);
    }
  }

  // Padding stands behind the prompt, where a causal mask hides it.
  void add_padded(Assembly& assembly, int32_t prompt, int32_t line_tokens) const {
    add_rows(assembly, prompt, caches_.at(prompt).get(), nullptr);
    Batch& batch = assembly.batch;
    const int32_t pads = line_tokens - lengths_[prompt];
    if (lengths_[prompt] == 0) {
      batch.sequences.push_back({.row_begin = batch.rows(), .row_end = batch.rows(), .cache = caches_.at(prompt).get()});
    }
    add_pad_rows(batch, pads, lengths_[prompt]);
    batch.sequences.back().row_end += pads;
  }

  // A line: prompts one after another in one cache, each seeing itself alone; then padding that sees nobody.
  void add_packed(Assembly& assembly, const std::vector<int32_t>& line, int32_t line_tokens) {
    auto& cache = assembly.lines.emplace_back(std::make_unique<SequenceCache>(layout_, *pool_));
    // Tiles and segments of attention lie as they would alone, so that sums are the same bits.
    cache->align_appends(attention_segment_slots);
    int32_t slot = 0, rows = 0;
    for (const int32_t prompt : line) {
      if (lengths_[prompt] == 0) continue;
      assembly.policies.push_back(std::make_unique<PackedAttend>(slot));
      add_rows(assembly, prompt, cache.get(), assembly.policies.back().get());
      assembly.packed.push_back({prompt, static_cast<int32_t>(assembly.lines.size()) - 1, slot, lengths_[prompt]});
      slot += (lengths_[prompt] + attention_segment_slots - 1) / attention_segment_slots * attention_segment_slots;
      rows += lengths_[prompt];
    }
    if (rows == line_tokens) return;
    Batch& batch = assembly.batch;
    assembly.policies.push_back(std::make_unique<BlindAttend>());
    batch.sequences.push_back({.row_begin = batch.rows(),
                               .row_end = batch.rows() + line_tokens - rows,
                               .cache = cache.get(),
                               .attend = assembly.policies.back().get()});
    add_pad_rows(batch, line_tokens - rows, 0);
  }

  // One more token for each prompt.
  Status next_tokens(const std::vector<int32_t>& prompts) {
    Batch batch;
    for (const int32_t prompt : prompts) {
      const std::vector<int32_t>& answer = result_.tokens[prompt];
      const int32_t row = batch.rows();
      batch.sequences.push_back({.row_begin = row, .row_end = row + 1, .cache = caches_[prompt].get()});
      batch.tokens.push_back(answer.empty() ? prompts_[prompt].back() : answer.back());
      batch.positions.push_back(caches_[prompt]->length(0));
      batch.outputs.push_back({.row = row});
    }
    Greedy greedy(prompts.size(), vocabulary_);
    ONSET_TRY(model_.forward(batch, executor_, greedy));
    for (size_t i = 0; i < prompts.size(); ++i) result_.tokens[prompts[i]].push_back(greedy.tokens[i]);
    return {};
  }

  const Model& model_;
  std::span<const std::vector<int32_t>> prompts_;
  const OfflineOptions& options_;
  ThreadPool workers_;
  CpuExecutor executor_;
  CacheLayout layout_;
  int32_t vocabulary_;
  std::vector<int32_t> lengths_;  // rows of each prompt that are read in the batch
  std::optional<PagePool> pool_;
  std::map<int32_t, std::unique_ptr<SequenceCache>> caches_;  // of the batch at hand
  OfflineRun result_;
};

}  // namespace

Result<OfflineRun> run_offline(const Engine& engine, std::span<const std::vector<int32_t>> prompts, const OfflineOptions& options) {
  if (!engine.model().cache_layout(engine.kv_type()).patterns.empty()) {
    return error(Code::unsupported, "batches of known prompts need a model without a pattern of blocks in its layers");
  }
  const ModelConfig& config = engine.model().config();
  if (options.new_tokens < 1) return error(Code::invalid_argument, "new_tokens is {}, expected 1 or more", options.new_tokens);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto length = static_cast<int64_t>(prompts[i].size());
    if (length == 0) return error(Code::invalid_argument, "prompt {} is empty: expected one token or more", i);
    if (length + options.new_tokens - 1 > config.context) {
      return error(Code::invalid_argument, "prompt {} has {} tokens and {} new ones, the context has room for {}", i, length,
                   options.new_tokens, config.context);
    }
    for (const int32_t token : prompts[i]) {
      if (token < 0 || token >= config.vocabulary) {
        return error(Code::invalid_argument, "prompt {} has token id {}, expected 0 to {}", i, token, config.vocabulary - 1);
      }
    }
  }
  return OfflineRunner(engine, prompts, options).run();
}

}  // namespace onset
