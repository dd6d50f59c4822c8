// Where models are kept, and those that can be named: the table of tools/models.json, built in.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "onset/base/status.h"

namespace onset {

// A model that travels in PyPI packages, in one part or several that are joined.
struct NamedModel {
  struct Part {
    std::string package, version;
    std::string ending;  // of the one file in the package that is the part
  };
  std::string name;
  std::string file;  // its name in models_folder()
  int64_t bytes = 0;
  std::string sha256;
  std::string licence, licence_text;
  bool must_accept = false;  // the licence has to be accepted before the model is fetched
  std::vector<Part> parts;
};

// Errors: invalid_argument for a table that does not have this form.
Result<std::vector<NamedModel>> parse_named_models(std::string_view json);
const std::vector<NamedModel>& named_models();

// The model that is used where none is named.
inline constexpr const char* default_model_name = "smollm2-135m-instruct";

// `${XDG_CACHE_HOME:-~/.cache}/onset/models`.
std::filesystem::path models_folder();

// The path of a model given by a path, by a name of the table, or by the name of a file or folder in models_folder() (with or without
// ".gguf"); empty: the default model. Errors: not_found, saying how to get it.
Result<std::filesystem::path> find_model(const std::string& name);

}  // namespace onset
