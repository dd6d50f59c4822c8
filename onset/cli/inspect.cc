// onset inspect: what a model file holds.
#include <algorithm>

#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/formats/open_model.h"
#include "onset/model/config.h"
#include "onset/store/models.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectOptions {
  EngineFlags engine;
  std::string model;
  bool tensors = false, metadata = false, json = false;
};

void declare(CLI::App& command, InspectOptions& options) {
  auto* argument = command.add_option("MODEL", options.model, "the model, as --model");
  add_model_flag(command, options.engine);
  command.get_option("--model")->excludes(argument);
  command.add_flag("--tensors", options.tensors, "list every tensor");
  command.add_flag("--metadata", options.metadata, "list every metadata entry");
  command.add_flag("--json", options.json, "print one JSON object with everything");
  set_examples(command, "  onset inspect model.gguf\n  onset inspect --tensors --metadata huggingface-folder/");
}

// Long arrays are cut: a vocabulary has hundreds of thousands of entries.
constexpr size_t most_elements = 8;

template <typename T>
Json cut(const Result<std::vector<T>>& values) {
  if (!values.ok()) return nullptr;
  Json list = Json::array();
  for (size_t i = 0; i < values->size() && i < most_elements; ++i) list.push_back((*values)[i]);
  if (values->size() > most_elements) list.push_back(fmt::format("... {} in all", values->size()));
  return list;
}

template <typename T>
Json one(const Result<T>& value) {
  return value.ok() ? Json(*value) : Json();
}

Json value_of(const ModelFile& file, const MetadataEntry& entry) {
  switch (entry.type) {
    case MetadataType::text:
      return entry.is_array ? cut(file.texts(entry.key)) : one(file.text(entry.key));
    case MetadataType::f32:
    case MetadataType::f64:
      return entry.is_array ? cut(file.reals(entry.key)) : one(file.real(entry.key));
    case MetadataType::boolean:
      if (!entry.is_array) return one(file.boolean(entry.key));
      return fmt::format("{} booleans", entry.count);
    case MetadataType::array:
      return fmt::format("{} arrays", entry.count);
    default:
      return entry.is_array ? cut(file.integers(entry.key)) : one(file.integer(entry.key));
  }
}

std::string type_text(const MetadataEntry& entry) {
  return fmt::format("{}{}", metadata_type_name(entry.type), entry.is_array ? fmt::format("[{}]", entry.count) : "");
}

Json to_json(const ModelFile& file) {
  Json metadata = Json::object(), tensors = Json::array();
  for (const MetadataEntry& entry : file.metadata()) {
    metadata[std::string(entry.key)] = {{"type", type_text(entry)}, {"value", value_of(file, entry)}};
  }
  for (const StoredTensor& tensor : file.tensors()) {
    tensors.push_back({{"name", tensor.name}, {"type", dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"bytes", tensor.bytes.size()}});
  }
  return {{"path", file.path().string()}, {"metadata", metadata}, {"tensors", tensors}};
}

std::string summary(const ModelFile& file) {
  std::map<std::string, std::pair<int64_t, size_t>> types;  // tensors and bytes
  size_t bytes = 0;
  for (const StoredTensor& tensor : file.tensors()) {
    auto& [count, sum] = types[dtype_name(tensor.dtype)];
    ++count;
    sum += tensor.bytes.size();
    bytes += tensor.bytes.size();
  }
  std::string text = fmt::format("{}\n{} metadata entries, {} tensors, {}\n", file.path().string(), file.metadata().size(),
                                 file.tensors().size(), bytes_text(static_cast<double>(bytes)));
  if (const Result<ModelConfig> config = read_config(file); config.ok()) {
    text += fmt::format(
        "{}{}: {:.1f} million parameters, {} layers of {}, {} query and {} key/value heads of {}, feed-forward {}, vocabulary {}, "
        "context {}\n",
        config->architecture, config->name.empty() ? "" : fmt::format(" \"{}\"", config->name),
        static_cast<double>(parameter_count(*config)) / 1e6, config->layers, config->hidden, config->query_heads, config->kv_heads,
        config->head_size, config->feed_forward, config->vocabulary, config->context);
  } else {
    text += fmt::format("cannot be run: {}\n", config.status().message());
  }
  std::vector<std::vector<std::string>> rows = {{"type", "tensors", "size"}};
  for (const auto& [name, sums] : types) rows.push_back({name, std::to_string(sums.first), bytes_text(static_cast<double>(sums.second))});
  return text + "\n" + table_text(rows);
}

Status run(const InspectOptions& options) {
  ONSET_ASSIGN(const std::filesystem::path path, find_model(options.model.empty() ? options.engine.model : options.model));
  ONSET_ASSIGN(const ModelFile file, open_model(path));
  if (options.json) return write_json(to_json(file));
  std::string text = summary(file);
  if (options.metadata) {
    text += "\n";
    for (const MetadataEntry& entry : file.metadata()) {
      text += fmt::format("{} ({}) = {}\n", entry.key, type_text(entry),
                          value_of(file, entry).dump(-1, ' ', false, Json::error_handler_t::replace));
    }
  }
  if (options.tensors) {
    std::vector<std::vector<std::string>> rows = {{"tensor", "type", "shape", "bytes"}};
    for (const StoredTensor& tensor : file.tensors()) {
      rows.push_back({tensor.name, dtype_name(tensor.dtype), shape_text(tensor.shape), std::to_string(tensor.bytes.size())});
    }
    text += "\n" + table_text(rows);
  }
  return write_out(text);
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  add_command<InspectOptions>(app, action, "inspect", "metadata and tensors of a model", declare, run);
}

}  // namespace onset::cli
