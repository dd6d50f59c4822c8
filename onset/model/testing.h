// What the model's tests share: loading fixture models, running prompts, golden logits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "onset/formats/open_model.h"
#include "onset/model/executor.h"
#include "onset/model/model.h"

namespace onset::testing {

inline std::filesystem::path fixture_models() {
  return std::filesystem::path(ONSET_SOURCE_DIR) / "tests/fixtures/models";
}

// The logits of Hugging Face transformers for a fixture model (tests/fixtures/models/make_models.py).
struct Golden {
  std::vector<int32_t> tokens, rows;
  int32_t vocabulary = 0;
  std::vector<float> logits;  // [rows, vocabulary]
};

inline Golden read_golden(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path.string() + " cannot be read");
  int32_t sizes[3] = {};
  file.read(reinterpret_cast<char*>(sizes), sizeof sizes);
  Golden golden;
  golden.vocabulary = sizes[2];
  golden.tokens.resize(sizes[0]);
  golden.rows.resize(sizes[1]);
  golden.logits.resize(size_t(sizes[1]) * sizes[2]);
  file.read(reinterpret_cast<char*>(golden.tokens.data()), golden.tokens.size() * 4);
  file.read(reinterpret_cast<char*>(golden.rows.data()), golden.rows.size() * 4);
  file.read(reinterpret_cast<char*>(golden.logits.data()), golden.logits.size() * 4);
  return golden;
}

// Keeps every output of a batch.
class Collect : public OutputSink {
 public:
  explicit Collect(size_t outputs) : values(outputs) {}
  void output(int32_t index, std::span<const float> row) override { values[index].assign(row.begin(), row.end()); }
  std::vector<std::vector<float>> values;
};

template <typename T>
T value_or_throw(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().message());
  return *std::move(result);
}

inline std::shared_ptr<const ModelFile> open_shared(const std::filesystem::path& path) {
  return std::make_shared<const ModelFile>(value_or_throw(open_model(path)));
}

// A model with its pool of workers, pages and executor: what an engine puts together, without its scheduling.
class Runner {
 public:
  Runner(std::shared_ptr<const ModelFile> file, Precision precision, KvType type, int threads, Isa isa, int64_t pages = 4000,
         int32_t head_groups = 1)
      : workers(threads),
        model(value_or_throw(
            Model::load(std::move(file), {.precision = precision, .isa = isa, .shard = {}, .packed_cache = {}, .progress = {}}, workers))),
        layout(model.cache_layout(type, head_groups)),
        pool(value_or_throw(PagePool::create(layout_page_bytes(layout), pages))),
        executor(workers) {}

  std::unique_ptr<SequenceCache> cache() { return std::make_unique<SequenceCache>(layout, pool); }

  // Runs tokens first..first+count-1 of a sequence and returns the logits of these rows.
  std::vector<std::vector<float>> run(SequenceCache& cache, const std::vector<int32_t>& tokens, int32_t first, int32_t count) {
    Batch batch;
    for (int32_t i = 0; i < count; ++i) {
      batch.tokens.push_back(tokens[first + i]);
      batch.positions.push_back(first + i);
      batch.outputs.push_back({.row = i});
    }
    batch.sequences.push_back({.row_begin = 0, .row_end = count, .cache = &cache});
    return run(batch);
  }

  std::vector<std::vector<float>> run(const Batch& batch) {
    Collect sink(batch.outputs.size());
    if (const Status status = model.forward(batch, executor, sink); !status.ok()) throw std::runtime_error(status.message());
    return std::move(sink.values);
  }

  // A whole prompt in chunks: the logits of every row.
  std::vector<std::vector<float>> prefill(const std::vector<int32_t>& tokens, int32_t chunk) {
    const auto sequence = cache();
    std::vector<std::vector<float>> all;
    for (int32_t first = 0; first < static_cast<int32_t>(tokens.size()); first += chunk) {
      const int32_t count = std::min(chunk, static_cast<int32_t>(tokens.size()) - first);
      for (auto& row : run(*sequence, tokens, first, count)) all.push_back(std::move(row));
    }
    return all;
  }

  ThreadPool workers;
  Model model;
  CacheLayout layout;
  PagePool pool;
  CpuExecutor executor;
};

}  // namespace onset::testing
