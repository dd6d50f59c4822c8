// onset store: what folders of chunks hold, and putting texts there before anybody asks for them.
#include "onset/base/mapped_file.h"
#include "onset/cli/chunk_stores.h"
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/engine/chat.h"
#include "onset/kv/chunk_folder.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

// --- list, verify, prune ------------------------------------------------------------------------------------------

struct FolderOptions {
  std::string folder, capacity;
  bool all = false, json = false;
};

void declare_folder(CLI::App& command, FolderOptions& options) {
  command.add_option("FOLDER", options.folder, "the folder of chunks (Redis has commands of its own: keys begin with onset:chunk:)")
      ->required();
}

void declare_list(CLI::App& command, FolderOptions& options) {
  declare_folder(command, options);
  command.add_flag("--json", options.json, "print one JSON object");
  set_examples(command, "  onset store list ~/.cache/onset/chunks");
}

void declare_prune(CLI::App& command, FolderOptions& options) {
  declare_folder(command, options);
  auto* capacity = command.add_option("--capacity", options.capacity, "leave so many bytes at most, as in 500M or 16G");
  command.add_flag("--all", options.all, "leave nothing")->excludes(capacity);
  command.add_flag("--json", options.json, "print one JSON object");
  set_examples(command, "  onset store prune ~/.cache/onset/chunks --capacity 4G");
}

Result<std::unique_ptr<ChunkFolder>> open_existing(const std::string& folder) {
  std::error_code ignored;
  if (!std::filesystem::exists(std::filesystem::path(folder) / "index.sqlite", ignored)) {
    return error(Code::not_found, "{}: there is no folder of chunks", folder);
  }
  // Whoever only looks drops nothing.
  return ChunkFolder::open(folder, INT64_MAX);
}

Status list(const FolderOptions& options) {
  ONSET_ASSIGN(const auto store, open_existing(options.folder));
  ONSET_ASSIGN(const std::vector<ChunkFileInfo> chunks, store->list());
  std::vector<std::vector<std::string>> rows = {{"chunk", "tokens", "size", "age", "model"}};
  Json json{{"chunks", Json::array()}, {"bytes", 0}};
  int64_t bytes = 0;
  for (const ChunkFileInfo& chunk : chunks) {
    bytes += chunk.bytes;
    rows.push_back({chunk.key.substr(0, 16), fmt::format("{}", chunk.tokens), bytes_text(static_cast<double>(chunk.bytes)),
                    fmt::format("{:.0f} s", chunk.age_seconds), chunk.model});
    json["chunks"].push_back({{"key", chunk.key},
                              {"tokens", chunk.tokens},
                              {"lead_tokens", chunk.lead},
                              {"bytes", chunk.bytes},
                              {"age_seconds", chunk.age_seconds},
                              {"model", chunk.model}});
  }
  json["bytes"] = bytes;
  if (options.json) return write_json(json);
  ONSET_TRY(write_out(table_text(rows)));
  return write_out(fmt::format("{} chunks, {}; the least recently used first\n", chunks.size(), bytes_text(static_cast<double>(bytes))));
}

Status verify(const FolderOptions& options) {
  ONSET_ASSIGN(const auto store, open_existing(options.folder));
  ONSET_ASSIGN(const std::vector<ChunkFileInfo> chunks, store->list());
  const int64_t unreadable = store->statistics().chunks - static_cast<int64_t>(chunks.size());
  ProgressBar bar("reading chunks");
  Json json{{"right", 0}, {"damaged", Json::array()}};
  int64_t right = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    bar.update(static_cast<double>(i) / static_cast<double>(chunks.size()));
    if (const Status status = store->verify(chunks[i].key); status.ok()) {
      ++right;
    } else {
      json["damaged"].push_back(status.message());
    }
  }
  json["right"] = right;
  const auto damaged = static_cast<int64_t>(json["damaged"].size()) + unreadable;
  if (options.json) {
    ONSET_TRY(write_json(json));
  } else {
    ONSET_TRY(write_out(fmt::format("{} chunks are what was written\n", right)));
  }
  if (damaged == 0) return {};
  return error(Code::failed, "{}: {} of {} chunks were damaged; they are read again when they are wanted", options.folder, damaged,
               damaged + right);
}

Status prune(const FolderOptions& options) {
  if (!options.all && options.capacity.empty()) {
    return error(Code::invalid_argument, "store prune: expected --capacity or --all");
  }
  int64_t capacity = 0;
  if (!options.all) {
    ONSET_ASSIGN(capacity, bytes_of("--capacity", options.capacity));
  }
  ONSET_ASSIGN(const auto store, open_existing(options.folder));
  ONSET_ASSIGN(const int64_t gone, store->prune(capacity));
  const ChunkStoreStatistics left = store->statistics();
  if (options.json) return write_json(Json{{"pruned", gone}, {"chunks", left.chunks}, {"bytes", left.bytes}});
  return write_out(fmt::format("{} chunks are gone, {} are left ({})\n", gone, left.chunks, bytes_text(static_cast<double>(left.bytes))));
}

// --- add ----------------------------------------------------------------------------------------------------------

struct AddOptions {
  EngineFlags engine;
  StoreFlags stores;
  std::vector<std::string> files;
  std::string system, reuse = "cacheblend";
  std::optional<int32_t> newlines;
  bool raw = false, json = false;
};

void declare_add(CLI::App& command, AddOptions& options) {
  command.add_option("FILES", options.files, "texts, each one context")->required();
  command
      .add_option(
          "--reuse", options.reuse,
          "what they are for: cacheblend (and full), which reads them behind nothing; or ape, which reads them behind the beginning "
          "that the prompts have")
      ->check(CLI::IsMember({"cacheblend", "ape"}))
      ->capture_default_str();
  command.add_option("-s,--system", options.system, "ape: the prompts' system message");
  command.add_flag("--raw", options.raw, "ape: the prompts have no chat template");
  add_newlines_flag(command, options.newlines);
  command.add_flag("--json", options.json, "print one JSON object");
  add_store_flags(command, options.stores);
  add_engine_flags(command, options.engine);
  set_examples(command,
               "  onset store add --store ~/.cache/onset/chunks manual.txt notes.txt\n"
               "  onset run --store ~/.cache/onset/chunks --context notes.txt --reuse cacheblend \"How is it switched on?\"");
}

// Reads one text, or finds it.
Result<ContextsReport> read_context(Engine& engine, std::vector<int32_t> prefix, std::vector<int32_t> text, const ContextReuse& reuse) {
  Event last;
  // What asks for the text is one token, which is not kept.
  Request request;
  request.tokens = {text.front()};
  request.most_new_tokens = 0;
  request.contexts = Contexts{std::move(prefix), {std::move(text)}, reuse};
  ONSET_TRY(run_to_end(engine, std::move(request), [&](const Event& event) { last = event; }));
  return *last.contexts;
}

Status add(const AddOptions& options) {
  if (options.stores.stores.empty()) return error(Code::invalid_argument, "store add: expected --store, where the texts are to be kept");
  std::vector<std::string> texts;
  for (const std::string& file : options.files) {
    ONSET_ASSIGN(texts.emplace_back(), read_file(file));
    if (texts.back().empty()) return error(Code::invalid_argument, "{}: the file is empty", file);
  }
  ONSET_ASSIGN(const auto stores, open_chunk_stores(options.stores));
  const auto use = [&](EngineOptions& engine) {
    engine.chunk_stores = stores;
    return Status();
  };
  ONSET_ASSIGN(auto engine, load_engine(options.engine, 0, 0, use));
  std::optional<ChatTemplate> chat_template;
  if (!options.raw) {
    ONSET_ASSIGN(chat_template, load_chat_template(*engine));
  }
  ContextReuse reuse = CacheBlendOptions{.ratio = 0};
  if (options.reuse == "ape") reuse = ParallelContextsOptions();
  ProgressBar bar("reading");
  Json json = Json::array();
  std::vector<std::vector<std::string>> rows = {{"file", "tokens", ""}};
  for (size_t i = 0; i < texts.size(); ++i) {
    bar.update(static_cast<double>(i) / static_cast<double>(texts.size()), options.files[i]);
    ONSET_ASSIGN(PromptParts parts, prompt_parts(*engine, chat_template, options.system, "?", {texts[i]}, options.newlines));
    const auto tokens = static_cast<int64_t>(parts.contexts.front().size());
    const auto read = read_context(*engine, std::move(parts.prefix), std::move(parts.contexts.front()), reuse);
    if (!read.ok()) return read.status().within(options.files[i]);
    const bool known = !read->tokens.contains("read");
    rows.push_back({options.files[i], fmt::format("{}", tokens), known ? "was there" : "read"});
    json.push_back({{"file", options.files[i]}, {"tokens", tokens}, {"known", known}});
  }
  engine.reset();  // what it read is written when it ends
  for (const auto& store : stores) {
    if (const ChunkStoreStatistics counts = store->statistics(); counts.failures > 0) return error(Code::failed, "{}", counts.failure);
  }
  return options.json ? write_json(json) : write_out(table_text(rows));
}

struct NoOptions {};

}  // namespace

void add_store(CLI::App& app, Action& action) {
  CLI::App* store = add_command<NoOptions>(
      app, action, "store", "kept keys and values of contexts", [](CLI::App& command, NoOptions&) { command.require_subcommand(1); },
      [](const NoOptions&) { return Status(); });
  add_command<AddOptions>(*store, action, "add", "read texts and keep them", declare_add, add);
  add_command<FolderOptions>(*store, action, "list", "what a folder holds", declare_list, list);
  add_command<FolderOptions>(*store, action, "verify", "read everything in a folder; what is damaged goes", declare_list, verify);
  add_command<FolderOptions>(*store, action, "prune", "drop the least recently used", declare_prune, prune);
}

}  // namespace onset::cli
