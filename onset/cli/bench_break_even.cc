// onset bench break-even: from which length on a text's keys and values are loaded quicker than computed, from each place they may be kept
// in; for the model, and for larger ones by the cost model.
#include <algorithm>
#include <cstring>
#include <filesystem>

#include "onset/base/mapped_file.h"
#include "onset/cli/chunk_stores.h"
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/compute/machine.h"
#include "onset/engine/benchmark.h"
#include "onset/engine/break_even.h"
#include "onset/kv/chunk_folder.h"
#include "onset/kv/chunk_redis.h"
#include "onset/load/chart.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr double lost_seconds = 2e-6;
constexpr int64_t longest = 1 << 20;  // break-evens beyond so many tokens are none

struct BreakEvenFlags {
  EngineFlags engine;
  std::vector<int32_t> tokens = {64, 128, 256, 512, 1024, 2048};
  std::string folder, redis, svg;
  int32_t repeat = 5;
  uint64_t seed = 1;
  bool json = false;
};

void declare(CLI::App& command, BreakEvenFlags& options) {
  command.add_option("--tokens", options.tokens, "lengths of texts, two or more, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--folder", options.folder,
                     "the disk to measure: a folder of chunks is made in this one, and removed at the end (default: "
                     "the system's folder for temporary files)");
  command.add_option("--redis", options.redis,
                     "also measure redis://[:PASSWORD@]HOST[:PORT][/DATABASE]; what is put there is removed again");
  command.add_option("--repeat", options.repeat, "how often each is measured; they take turns")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command.add_option("--seed", options.seed, "decides the texts")->capture_default_str();
  command.add_option("--svg", options.svg, "write a picture of it to this file");
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(command,
               "  onset bench break-even\n"
               "  onset bench break-even --tokens 256,1024,4096 --folder /var/cache --redis redis://10.0.0.5 --svg break_even.svg");
}

// --- places ---------------------------------------------------------------------------------------------------------

// A folder of its own, gone at the end.
class TemporaryFolder {
 public:
  static Result<TemporaryFolder> make(const std::filesystem::path& parent) {
    std::string name = (parent / "onset-break-even-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) {
      return error(Code::failed, "--folder {}: no folder can be made there: {}", parent.string(), std::strerror(errno));
    }
    return TemporaryFolder(std::move(name));
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

struct Places {
  std::shared_ptr<ChunkFolder> folder;
  std::shared_ptr<ChunkRedis> redis;  // null: none
};

// Erases Redis' chunks by their layers, of which the model tells how many there are.
std::vector<MeasuredTier> tiers_of(const Places& places, int32_t layers) {
  // The folder has no more than what is measured now.
  const auto prune = [folder = places.folder](const std::string&) { return folder->prune(0).status(); };
  const auto cold = [folder = places.folder](const std::string& key) { return folder->drop_from_memory(key); };
  std::vector<MeasuredTier> tiers = {{.name = "memory"},
                                     {.name = "disk", .store = places.folder.get(), .after = prune},
                                     {.name = "disk, cold", .store = places.folder.get(), .before = cold, .after = prune}};
  if (places.redis) {
    tiers.push_back({.name = "redis", .store = places.redis.get(), .after = [redis = places.redis, layers](const std::string& key) {
                       return redis->erase(key, layers);
                     }});
  }
  return tiers;
}

// --- what follows from the times --------------------------------------------------------------------------------------

struct TierResult {
  std::string name;
  size_t index = 0;                  // among what was measured
  LoadFit delay = {}, loading = {};  // of a request; of its loading alone
  int64_t from_tokens = 0;           // 0: never
};

// A model by its shape: what loading and computing take.
struct ModelResult {
  ModelShape shape;
  double token_bytes = 0;
  std::vector<int64_t> from_tokens = {};  // of each tier
};

struct Findings {
  std::vector<ChunkTimes> times;
  ComputeFit compute = {};
  std::vector<TierResult> tiers = {};  // those that could be measured
  std::vector<std::string> missing = {};
  std::string arithmetic = {};
  double peak = 0, efficiency = 0;  // operations a second; the share of them that computing the longest text had
  int32_t measured_layers = 0;
  std::vector<ModelResult> models = {};

  double compute_seconds(const ModelShape& shape, int64_t tokens) const {
    return prefill_operations(shape, static_cast<double>(tokens)) / (efficiency * peak);
  }
  // What is paid once is paid for each layer. What comes from a store is put in its place as what is in memory is.
  double load_seconds(const ModelResult& model, const TierResult& tier, int64_t tokens) const {
    const double bytes = model.token_bytes * static_cast<double>(tokens);
    const double layers = static_cast<double>(model.shape.layers) / measured_layers;
    const LoadFit& placing = tiers.front().loading;
    const auto seconds = [&](const LoadFit& fit) { return fit.fixed * layers + fit.per_byte * bytes; };
    return &tier == &tiers.front() ? seconds(placing) : seconds(placing) + seconds(tier.loading);
  }
};

// Times that were lost among other times say nothing, unless there are hardly others.
std::vector<TimedChunk> without_lost(std::vector<TimedChunk> measured) {
  std::vector<TimedChunk> kept;
  std::copy_if(measured.begin(), measured.end(), std::back_inserter(kept),
               [](const TimedChunk& chunk) { return chunk.seconds > lost_seconds; });
  return kept.size() >= 2 ? kept : measured;
}

// Operations a second that the precision's arithmetic has at best here.
void measure_peak(const Engine& engine, Findings& found) {
  const MachinePeaks peaks = measure_machine(engine.model().isa(), engine.threads()).back();
  const Precision precision = engine.model().precision();
  if (precision == Precision::fast) {
    found.arithmetic = "int8";
    found.peak = peaks.int8_operations_per_second;
  } else if (precision == Precision::bf16 && peaks.bf16_operations_per_second > 0) {
    found.arithmetic = "bf16";
    found.peak = peaks.bf16_operations_per_second;
  } else {
    found.arithmetic = "float32";
    found.peak = peaks.float32_operations_per_second;
  }
}

Result<Findings> findings_of(const Engine& engine, std::span<const MeasuredTier> tiers, std::vector<ChunkTimes> times) {
  Findings found{.times = std::move(times), .measured_layers = engine.model().config().layers};
  const auto bytes_of = [&](int64_t tokens) {  // the measured ones are whole pages
    return key_value_bytes(shape_of(engine.model()), bytes_of_number(engine.kv_type(), engine.model().config().head_size)) *
           static_cast<double>(tokens);
  };
  std::vector<TimedChunk> computing;
  for (const ChunkTimes& chunk : found.times) {
    computing.push_back({.tokens = static_cast<double>(chunk.tokens), .seconds = delay_seconds(chunk, chunk.compute_seconds)});
  }
  ONSET_ASSIGN(found.compute, fit_computing(without_lost(computing)));
  for (size_t i = 0; i < tiers.size(); ++i) {
    std::vector<TimedChunk> delay, loading;
    for (const ChunkTimes& chunk : found.times) {
      const TierTimes& here = chunk.tiers[i];
      if (here.first_token_seconds.empty()) continue;
      const auto bytes = static_cast<double>(here.bytes);
      delay.push_back({.bytes = bytes, .seconds = delay_seconds(chunk, here.first_token_seconds)});
      loading.push_back({.bytes = bytes, .seconds = median(here.load_seconds)});
    }
    if (delay.size() < found.times.size()) {
      found.missing.push_back(tiers[i].name);
      continue;
    }
    TierResult& tier = found.tiers.emplace_back(TierResult{.name = tiers[i].name, .index = i});
    ONSET_ASSIGN(tier.delay, fit_loading(without_lost(delay)));
    ONSET_ASSIGN(tier.loading, fit_loading(loading));
    tier.from_tokens = break_even_tokens([&](int64_t tokens) { return found.compute.seconds(static_cast<double>(tokens)); },
                                         [&](int64_t tokens) { return tier.delay.seconds(bytes_of(tokens)); }, longest);
  }
  measure_peak(engine, found);
  const auto& most =
      *std::max_element(computing.begin(), computing.end(), [](const TimedChunk& a, const TimedChunk& b) { return a.tokens < b.tokens; });
  found.efficiency = prefill_operations(shape_of(engine.model()), most.tokens) / most.seconds / found.peak;
  for (const ModelShape& shape : published_shapes()) {
    ModelResult& model = found.models.emplace_back(ModelResult{.shape = shape});
    model.token_bytes = key_value_bytes(shape, bytes_of_number(engine.kv_type(), static_cast<int32_t>(shape.head_size)));
    for (const TierResult& tier : found.tiers) {
      model.from_tokens.push_back(break_even_tokens([&](int64_t tokens) { return found.compute_seconds(shape, tokens); },
                                                    [&](int64_t tokens) { return found.load_seconds(model, tier, tokens); }, longest));
    }
  }
  return found;
}

// --- what is shown ------------------------------------------------------------------------------------------------------

Json fit_json(const LoadFit& fit) {
  return {{"fixed_seconds", fit.fixed}, {"bytes_per_second", fit.bytes_per_second()}};
}

Json to_json(const Engine& engine, const Findings& found) {
  Json json{{"model", engine.model().file().path().string()}, {"threads", engine.threads()},
            {"isa", isa_name(engine.model().isa())},          {"precision", precision_name(engine.model().precision())},
            {"kv", kv_type_name(engine.kv_type())},           {"cannot_be_measured", found.missing}};
  for (const ChunkTimes& chunk : found.times) {
    const double compute = delay_seconds(chunk, chunk.compute_seconds);
    Json entry{{"tokens", chunk.tokens},
               {"alone_seconds", chunk.alone_seconds},
               {"compute_first_token_seconds", chunk.compute_seconds},
               {"compute_seconds", compute},
               {"needed_bytes_per_second", static_cast<double>(chunk.tiers.front().bytes) / compute}};
    for (const TierResult& tier : found.tiers) {
      const TierTimes& here = chunk.tiers[tier.index];
      const double seconds = delay_seconds(chunk, here.first_token_seconds);
      entry["tiers"][tier.name] = {{"bytes", here.bytes},
                                   {"first_token_seconds", here.first_token_seconds},
                                   {"load_seconds", here.load_seconds},
                                   {"seconds", seconds},
                                   {"times_as_fast", compute / seconds}};
    }
    json["lengths"].push_back(std::move(entry));
  }
  json["compute"] = {{"fixed_seconds", found.compute.fixed},
                     {"seconds_per_token", found.compute.per_token},
                     {"seconds_per_token_squared", found.compute.per_token_squared}};
  for (const TierResult& tier : found.tiers) {
    json["tiers"][tier.name] = {{"request", fit_json(tier.delay)}, {"loading", fit_json(tier.loading)}, {"from_tokens", tier.from_tokens}};
  }
  json["cost_model"] = {{"arithmetic", found.arithmetic}, {"peak_operations_per_second", found.peak}, {"efficiency", found.efficiency}};
  for (const ModelResult& model : found.models) {
    Json entry{{"model", model.shape.name}, {"bytes_of_token", model.token_bytes}};
    for (const ChunkTimes& chunk : found.times) {
      const double compute = found.compute_seconds(model.shape, chunk.tokens);
      Json length{
          {"tokens", chunk.tokens}, {"compute_seconds", compute}, {"needed_bytes_per_second", model.token_bytes * chunk.tokens / compute}};
      for (const TierResult& tier : found.tiers) length["tiers"][tier.name] = found.load_seconds(model, tier, chunk.tokens);
      entry["lengths"].push_back(std::move(length));
    }
    for (size_t i = 0; i < found.tiers.size(); ++i) entry["from_tokens"][found.tiers[i].name] = model.from_tokens[i];
    json["cost_model"]["models"].push_back(std::move(entry));
  }
  return json;
}

std::string milliseconds(double seconds) {
  return fmt::format("{:.{}f}", 1e3 * seconds, seconds < 1 ? 2 : 0);
}
// What is lost among other times has no ratio.
std::string times(double compute, double seconds) {
  if (std::min(compute, seconds) < lost_seconds) return "-";
  const double ratio = compute / seconds;
  return fmt::format("{:.{}f}", ratio, ratio < 10 ? 1 : 0);
}
std::string from_text(int64_t tokens) {
  return tokens == 0 ? "never" : fmt::format("{}", tokens);
}

// One row for each length: how long computing takes, the rate at which loading would take as long, and each tier.
std::vector<std::string> heading(std::vector<std::string> columns, const Findings& found) {
  for (const TierResult& tier : found.tiers) {
    columns.push_back(tier.name);
    columns.push_back("times as fast");
  }
  return columns;
}

std::string measured_text(const Findings& found) {
  std::vector<std::vector<std::string>> rows = {heading({"tokens", "computing", "needs MB/s"}, found)};
  for (const ChunkTimes& chunk : found.times) {
    const double compute = delay_seconds(chunk, chunk.compute_seconds);
    auto& row =
        rows.emplace_back(std::vector<std::string>{fmt::format("{}", chunk.tokens), milliseconds(compute),
                                                   fmt::format("{:.1f}", static_cast<double>(chunk.tiers.front().bytes) / compute / 1e6)});
    for (const TierResult& tier : found.tiers) {
      const double seconds = delay_seconds(chunk, chunk.tiers[tier.index].first_token_seconds);
      row.push_back(milliseconds(seconds));
      row.push_back(times(compute, seconds));
    }
  }
  return table_text(rows);
}

std::string modelled_text(const Findings& found) {
  std::vector<std::vector<std::string>> rows = {heading({"model", "tokens", "computing", "needs MB/s"}, found)};
  for (const ModelResult& model : found.models) {
    for (const ChunkTimes& chunk : found.times) {
      const double compute = found.compute_seconds(model.shape, chunk.tokens);
      auto& row = rows.emplace_back(std::vector<std::string>{model.shape.name, fmt::format("{}", chunk.tokens), milliseconds(compute),
                                                             fmt::format("{:.1f}", model.token_bytes * chunk.tokens / compute / 1e6)});
      for (const TierResult& tier : found.tiers) {
        const double seconds = found.load_seconds(model, tier, chunk.tokens);
        row.push_back(milliseconds(seconds));
        row.push_back(times(compute, seconds));
      }
    }
  }
  return table_text(rows);
}

std::string from_table(const Findings& found, const std::string& name) {
  std::vector<std::vector<std::string>> rows = {{"loading wins from so many tokens on"}};
  std::vector<std::string> speeds = {"MB/s of loading alone"}, own = {name};
  for (const TierResult& tier : found.tiers) {
    rows[0].push_back(tier.name);
    const double rate = tier.loading.bytes_per_second();
    speeds.push_back(rate > 0 ? fmt::format("{:.0f}", rate / 1e6) : "-");
    own.push_back(from_text(tier.from_tokens));
  }
  rows.push_back(std::move(own));
  for (const ModelResult& model : found.models) {
    auto& row = rows.emplace_back(std::vector<std::string>{model.shape.name});
    for (const int64_t tokens : model.from_tokens) row.push_back(from_text(tokens));
  }
  rows.push_back(std::move(speeds));
  return table_text(rows);
}

std::string text_of(const Engine& engine, const Findings& found, int32_t repeat) {
  std::string text = fmt::format("{} on {} threads, {}, {} precision, {} keys and values; milliseconds, medians of {}\n\n",
                                 engine.model().file().path().filename().string(), engine.threads(), isa_name(engine.model().isa()),
                                 precision_name(engine.model().precision()), kv_type_name(engine.kv_type()), repeat);
  text += measured_text(found);
  for (const std::string& name : found.missing) {
    text += fmt::format("\n{}: cannot be told from disk here, the system keeps the files in memory\n", name);
  }
  text += fmt::format("\nBy the cost model, at {:.0f} % of {:.3f} T{} ({}), which this model's {} tokens have:\n\n", 100 * found.efficiency,
                      found.peak / 1e12, found.arithmetic == "int8" ? "ops" : "FLOP/s", found.arithmetic,
                      std::max_element(found.times.begin(), found.times.end(), [](const ChunkTimes& a, const ChunkTimes& b) {
                        return a.tokens < b.tokens;
                      })->tokens);
  return text + modelled_text(found) + "\n" + from_table(found, shape_of(engine.model()).name);
}

std::string picture(const Engine& engine, const Findings& found) {
  const std::string name = shape_of(engine.model()).name;
  Chart measured{.title = name + ", measured",
                 .x = {.name = "tokens", .logarithmic = true},
                 .y = {.name = "ms until the text can be used", .logarithmic = true},
                 .lines = {{.name = "computing"}},
                 .dots = true};
  Chart rates{.title = "As quick as computing",
              .x = {.name = "tokens", .logarithmic = true},
              .y = {.name = "MB/s of a device", .logarithmic = true},
              .names_right = true};
  rates.lines.push_back({.name = name});
  for (const TierResult& tier : found.tiers) {
    measured.lines.push_back({.name = tier.name});
    const double rate = tier.loading.bytes_per_second() / 1e6;
    if (&tier == found.tiers.data() || rate == 0) continue;
    // Names of equals would stand on each other.
    if (!rates.marks.empty() && std::max(rate, rates.marks.back().value) < 1.6 * std::min(rate, rates.marks.back().value)) {
      rates.marks.back().name += "; " + tier.name;
    } else {
      rates.marks.push_back({.name = tier.name, .value = rate, .axis = ChartMark::Axis::y});
    }
  }
  for (const ModelResult& model : found.models) rates.lines.push_back({.name = model.shape.name});
  for (const ChunkTimes& chunk : found.times) {
    const double tokens = chunk.tokens, compute = delay_seconds(chunk, chunk.compute_seconds);
    const auto show = [&](size_t line, double seconds) {
      if (seconds > lost_seconds) measured.lines[line].points.push_back({tokens, 1e3 * seconds});
    };
    show(0, compute);
    for (size_t i = 0; i < found.tiers.size(); ++i)
      show(i + 1, delay_seconds(chunk, chunk.tiers[found.tiers[i].index].first_token_seconds));
    rates.lines[0].points.push_back({tokens, static_cast<double>(chunk.tiers.front().bytes) / compute / 1e6});
    for (size_t i = 0; i < found.models.size(); ++i) {
      const ModelResult& model = found.models[i];
      rates.lines[i + 1].points.push_back({tokens, model.token_bytes * tokens / found.compute_seconds(model.shape, chunk.tokens) / 1e6});
    }
  }
  return charts_svg({measured, rates}, "Where loading keys and values wins");
}

Status run(const BreakEvenFlags& options) {
  if (options.tokens.size() < 2) return error(Code::invalid_argument, "--tokens {}: expected two lengths or more", options.tokens.front());
  std::error_code ignored;
  ONSET_ASSIGN(const TemporaryFolder folder, TemporaryFolder::make(options.folder.empty() ? std::filesystem::temp_directory_path(ignored)
                                                                                          : std::filesystem::path(options.folder)));
  Places places;
  ONSET_ASSIGN(places.folder, ChunkFolder::open(folder.path() / "chunks", INT64_MAX));
  if (!options.redis.empty()) {
    ONSET_ASSIGN(places.redis, ChunkRedis::open(options.redis));
    ONSET_TRY(places.redis->ping());
  }
  // Memory keeps the text while a chunk from every store comes.
  const int64_t most = *std::max_element(options.tokens.begin(), options.tokens.end()) + 2 * page_tokens;
  const auto use = [&](EngineOptions& engine) {
    engine.chunk_stores = {places.folder};
    if (places.redis) engine.chunk_stores.push_back(places.redis);
    return Status();
  };
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, 8 * most, 0, use));
  const std::vector<MeasuredTier> tiers = tiers_of(places, engine->model().config().layers);
  std::vector<ChunkTimes> measured;
  {
    ProgressBar bar("measuring");
    ONSET_ASSIGN(measured, measure_break_even(
                               *engine, tiers,
                               {.tokens = options.tokens, .repeat = options.repeat, .seed = options.seed, .progress = [&](double share) {
                                  bar.update(share);
                                }}));
  }
  ONSET_ASSIGN(const Findings found, findings_of(*engine, tiers, std::move(measured)));
  if (!options.svg.empty()) {
    ONSET_ASSIGN(AtomicFile file, AtomicFile::create(options.svg));
    ONSET_TRY(file.write(picture(*engine, found)));
    ONSET_TRY(file.commit());
  }
  return options.json ? write_json(to_json(*engine, found)) : write_out(text_of(*engine, found, options.repeat));
}

}  // namespace

void add_bench_break_even(CLI::App& bench, Action& action) {
  add_command<BreakEvenFlags>(bench, action, "break-even", "from which length on keys and values are loaded quicker than computed", declare,
                              run);
}

}  // namespace onset::cli
