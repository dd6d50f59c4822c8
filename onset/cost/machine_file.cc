#include "onset/cost/machine_file.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "onset/base/mapped_file.h"

namespace onset {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* format_name = "onset machine file";
constexpr int64_t format_version = 1;

// Reads the fields of one object; `where` names it in errors ("machine.json: step_models[0].weights").
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  Status is_object() const { return object_.is_object() ? Status() : error(Code::invalid_argument, "{}: expected an object", where_); }
  Status text(const char* name, std::string& value) const {
    ONSET_ASSIGN(const Json* field, find(name));
    if (!field->is_string()) return wrong(name, "a text");
    value = field->get<std::string>();
    return {};
  }
  template <typename T>
  Status whole(const char* name, int64_t least, int64_t most, T& value) const {
    ONSET_ASSIGN(const Json* field, find(name));
    if (!field->is_number_integer()) return wrong(name, "a whole number");
    const auto number = field->get<int64_t>();
    if (number < least || number > most)
      return error(Code::invalid_argument, "{}.{} is {}, expected {} to {}", where_, name, number, least, most);
    value = static_cast<T>(number);
    return {};
  }
  Status number(const char* name, double least, double& value) const {
    ONSET_ASSIGN(const Json* field, find(name));
    if (!field->is_number()) return wrong(name, "a number");
    value = field->get<double>();
    if (std::isfinite(value) && value >= least) return {};
    return error(Code::invalid_argument, "{}.{} is {}, expected {} or more", where_, name, value, least);
  }
  Result<const Json*> list(const char* name) const {
    ONSET_ASSIGN(const Json* field, find(name));
    if (!field->is_array()) return wrong(name, "a list");
    return field;
  }
  bool has(const char* name) const { return object_.contains(name); }
  Result<const Json*> find(const char* name) const {
    const auto found = object_.find(name);
    if (found == object_.end()) return error(Code::invalid_argument, "{}.{} is missing", where_, name);
    return &*found;
  }
  const std::string& where() const { return where_; }

 private:
  Status wrong(const char* name, const char* expected) const {
    return error(Code::invalid_argument, "{}.{}: expected {}", where_, name, expected);
  }
  const Json& object_;
  std::string where_;
};

Status read_bends(const Fields& weights, std::vector<StepWeights::Bend>& bends) {
  ONSET_ASSIGN(const Json* list, weights.list("bends"));
  constexpr size_t most_bends = 64;
  if (list->size() > most_bends)
    return error(Code::invalid_argument, "{}.bends has {} entries, expected {} at most", weights.where(), list->size(), most_bends);
  for (const Json& entry : *list) {
    const auto good = [](const Json& value) { return value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() >= 0; };
    if (!entry.is_array() || entry.size() != 2 || !good(entry[0]) || !good(entry[1])) {
      return error(Code::invalid_argument, "{}.bends[{}]: expected [row_layers, seconds], neither below 0", weights.where(), bends.size());
    }
    bends.push_back({entry[0].get<double>(), entry[1].get<double>()});
  }
  return {};
}

Status read_weights(const Fields& weights, StepWeights& into) {
  ONSET_TRY(weights.is_object());
  ONSET_TRY(weights.number("per_step", 0, into.per_step));
  ONSET_TRY(weights.number("per_prefill_row_layer", 0, into.per_prefill_row_layer));
  ONSET_TRY(weights.number("per_decode_row_layer", 0, into.per_decode_row_layer));
  ONSET_TRY(weights.number("per_prefill_slot", 0, into.per_prefill_slot));
  ONSET_TRY(weights.number("per_decode_slot", 0, into.per_decode_slot));
  // Files of before this was measured lack it.
  if (weights.has("per_prefill_key")) ONSET_TRY(weights.number("per_prefill_key", 0, into.per_prefill_key));
  ONSET_TRY(weights.number("per_output_row", 0, into.per_output_row));
  return read_bends(weights, into.bends);
}

Result<StepModel> read_model(const Json& json, const std::string& where) {
  const Fields fields(json, where);
  ONSET_TRY(fields.is_object());
  StepModel model;
  ONSET_TRY(fields.text("model", model.key.model));
  ONSET_TRY(fields.whole("weight_bytes", 0, int64_t{1} << 50, model.key.weight_bytes));
  ONSET_TRY(fields.whole("threads", 1, 1024, model.key.threads));
  ONSET_TRY(fields.text("isa", model.key.isa));
  ONSET_TRY(fields.text("precision", model.key.precision));
  ONSET_TRY(fields.text("kv", model.key.kv));
  ONSET_TRY(fields.whole("layers", 1, 1 << 16, model.layers));
  ONSET_TRY(fields.whole("row_block", 1, 1 << 16, model.row_block));
  ONSET_TRY(fields.whole("samples", 0, int64_t{1} << 40, model.fit.samples));
  ONSET_TRY(fields.number("ratio_50", 0, model.fit.ratio_50));
  ONSET_TRY(fields.number("ratio_99", 0, model.fit.ratio_99));
  ONSET_TRY(fields.number("mean_error", 0, model.fit.mean_error));
  ONSET_ASSIGN(const Json* weights, fields.find("weights"));
  ONSET_TRY(read_weights(Fields(*weights, where + ".weights"), model.fit.weights));
  return model;
}

Json weights_object(const StepWeights& weights) {
  Json bends = Json::array();
  for (const StepWeights::Bend& bend : weights.bends) bends.push_back({bend.row_layers, bend.seconds});
  return {{"per_step", weights.per_step},
          {"per_prefill_row_layer", weights.per_prefill_row_layer},
          {"per_decode_row_layer", weights.per_decode_row_layer},
          {"per_prefill_slot", weights.per_prefill_slot},
          {"per_decode_slot", weights.per_decode_slot},
          {"per_prefill_key", weights.per_prefill_key},
          {"per_output_row", weights.per_output_row},
          {"bends", bends}};
}

}  // namespace

std::string to_json(const StepWeights& weights) {
  return weights_object(weights).dump();
}

Result<MachineFile> MachineFile::load(const std::filesystem::path& path) {
  ONSET_ASSIGN(const std::string text, read_file(path));
  return parse(text, path.string());
}

Result<MachineFile> MachineFile::parse(std::string_view text, const std::string& name) {
  constexpr int most_depth = 16;
  bool deep = false;
  const auto shallow = [&](int depth, Json::parse_event_t, Json&) {
    deep = deep || depth > most_depth;
    return !deep;
  };
  const Json json = Json::parse(text, shallow, /*allow_exceptions=*/false);
  if (deep || json.is_discarded()) return error(Code::invalid_argument, "{}: is not valid JSON", name);
  const Fields fields(json, name);
  ONSET_TRY(fields.is_object());
  std::string format;
  int64_t version = 0;
  ONSET_TRY(fields.text("format", format));
  if (format != format_name) return error(Code::invalid_argument, "{}.format is {}, expected {}", name, format, format_name);
  ONSET_TRY(fields.whole("version", format_version, format_version, version));
  ONSET_ASSIGN(const Json* models, fields.list("step_models"));
  MachineFile file;
  for (const Json& model : *models) {
    ONSET_ASSIGN(StepModel read, read_model(model, fmt::format("{}.step_models[{}]", name, file.step_models_.size())));
    file.step_models_.push_back(std::move(read));
  }
  return file;
}

std::string MachineFile::to_json() const {
  Json models = Json::array();
  for (const StepModel& model : step_models_) {
    models.push_back({{"model", model.key.model},
                      {"weight_bytes", model.key.weight_bytes},
                      {"threads", model.key.threads},
                      {"isa", model.key.isa},
                      {"precision", model.key.precision},
                      {"kv", model.key.kv},
                      {"layers", model.layers},
                      {"row_block", model.row_block},
                      {"samples", model.fit.samples},
                      {"ratio_50", model.fit.ratio_50},
                      {"ratio_99", model.fit.ratio_99},
                      {"mean_error", model.fit.mean_error},
                      {"weights", weights_object(model.fit.weights)}});
  }
  const Json json{{"format", format_name}, {"version", format_version}, {"step_models", models}};
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Status MachineFile::save(const std::filesystem::path& path) const {
  std::error_code problem;
  std::filesystem::create_directories(path.parent_path(), problem);
  if (problem) return error(Code::failed, "{}: {}", path.parent_path().string(), problem.message());
  ONSET_ASSIGN(AtomicFile file, AtomicFile::create(path));
  ONSET_TRY(file.write(std::string_view(to_json())));
  return file.commit();
}

const StepModel* MachineFile::find(const StepModelKey& key) const {
  const auto found = std::find_if(step_models_.begin(), step_models_.end(), [&](const StepModel& model) { return model.key == key; });
  return found != step_models_.end() ? &*found : nullptr;
}

void MachineFile::put(StepModel model) {
  std::erase_if(step_models_, [&](const StepModel& other) { return other.key == model.key; });
  step_models_.push_back(std::move(model));
}

std::filesystem::path machine_file_path() {
  return cache_folder() / "machine.json";
}

}  // namespace onset
