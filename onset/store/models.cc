#include "onset/store/models.h"

#include <nlohmann/json.hpp>

#include "onset/base/mapped_file.h"
#include "onset/store/table.h"

namespace onset {
namespace {

using Json = nlohmann::ordered_json;

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos;
}

// Throws what nlohmann throws for members that are absent or of another type.
NamedModel read_entry(const std::string& name, const Json& entry) {
  NamedModel model{.name = name,
                   .file = entry.at("file"),
                   .bytes = entry.at("bytes"),
                   .sha256 = entry.at("sha256"),
                   .licence = entry.at("licence"),
                   .licence_text = entry.at("licence_text"),
                   .must_accept = entry.at("must_accept"),
                   .parts = {}};
  for (const Json& part : entry.at("parts")) {
    model.parts.push_back({.package = part.at("package"), .version = part.at("version"), .ending = part.at("ending")});
  }
  return model;
}

}  // namespace

Result<std::vector<NamedModel>> parse_named_models(std::string_view json) {
  std::vector<NamedModel> models;
  try {
    const Json table = Json::parse(json);
    for (const auto& [name, entry] : table.items()) models.push_back(read_entry(name, entry));
  } catch (const nlohmann::json::exception& problem) {
    return error(Code::invalid_argument, "the table of models: {}", problem.what());
  }
  for (const NamedModel& model : models) {
    if (!is_plain_file_name(model.file) || model.sha256.size() != 64 || model.parts.empty()) {
      return error(Code::invalid_argument, "the table of models: {} needs a file name, a SHA-256 and parts", model.name);
    }
  }
  return models;
}

const std::vector<NamedModel>& named_models() {
  static const std::vector<NamedModel> models = *parse_named_models(named_models_json);
  return models;
}

std::filesystem::path models_folder() {
  return cache_folder() / "models";
}

Result<std::filesystem::path> find_model(const std::string& name) {
  std::error_code ignored;
  const std::string wanted = name.empty() ? default_model_name : name;
  if (!name.empty() && std::filesystem::exists(name, ignored)) return std::filesystem::path(name);
  for (const NamedModel& model : named_models()) {
    if (model.name != wanted) continue;
    const std::filesystem::path path = models_folder() / model.file;
    if (std::filesystem::exists(path, ignored)) return path;
    return error(Code::not_found, "{} has not been fetched yet: onset pull {}{}", name.empty() ? "the default model" : "model " + name,
                 model.name, name.empty() ? ", or name another with --model" : "");
  }
  if (is_plain_file_name(wanted)) {
    for (const std::string& file : {wanted, wanted + ".gguf"}) {
      const std::filesystem::path path = models_folder() / file;
      if (std::filesystem::exists(path, ignored)) return path;
    }
  }
  return error(Code::not_found, "{}: there is no such file, folder or pulled model (onset pull --list shows names)", name);
}

}  // namespace onset
