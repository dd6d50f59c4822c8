// onset convert: a model as a GGUF file of another element type.
#include "onset/formats/convert.h"

#include <thread>

#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/formats/open_model.h"
#include "onset/store/models.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr DType target_types[] = {DType::f32,  DType::f16,  DType::bf16, DType::q4_0, DType::q4_1, DType::q5_0,
                                  DType::q5_1, DType::q8_0, DType::q4_k, DType::q5_k, DType::q6_k};

struct ConvertCommand {
  EngineFlags engine;
  std::string source, destination, type = "Q8_0";
  uint64_t split_bytes = 0;
  int64_t split_tensors = 0;
  bool pure = false, json = false, force = false;
};

std::vector<std::string> type_names() {
  std::vector<std::string> names;
  for (const DType type : target_types) names.emplace_back(dtype_name(type));
  return names;
}

void declare(CLI::App& command, ConvertCommand& options) {
  command.add_option("MODEL", options.source, "Hugging Face folder or GGUF file")->required();
  command.add_option("OUTPUT", options.destination, "the GGUF file to be written")->required();
  command.add_option("--type", options.type, "element type of the matrices")
      ->check(CLI::IsMember(type_names(), CLI::ignore_case))
      ->capture_default_str();
  command.add_flag("--pure", options.pure, "every matrix gets this type; otherwise some that matter most get more bits");
  command.add_option("--split-size", options.split_bytes, "begin another file after so many bytes (1G, 500M)")
      ->transform(CLI::AsSizeValue(false));
  command.add_option("--split-tensors", options.split_tensors, "begin another file after so many tensors")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  command.add_flag("--force", options.force, "replace OUTPUT if it exists");
  command.add_flag("--json", options.json, "print one JSON object");
  add_threads_flag(command, options.engine);
  set_examples(command,
               "  onset convert my-model/ my-model.Q8_0.gguf\n"
               "  onset convert --type Q4_K my-model/ my-model.Q4_K.gguf\n"
               "  onset convert --type F16 --split-size 2G my-model/ my-model.gguf");
}

Json to_json(const ConvertReport& report) {
  Json files = Json::array(), fallbacks = Json::array();
  for (const auto& file : report.files) files.push_back(file.string());
  for (const ConvertFallback& fallback : report.fallbacks) {
    fallbacks.push_back({{"tensor", fallback.tensor},
                         {"meant", dtype_name(fallback.meant)},
                         {"used", dtype_name(fallback.used)},
                         {"columns", fallback.columns}});
  }
  return {{"files", files},        {"tensors", report.tensors},         {"source_bytes", report.source_bytes},
          {"bytes", report.bytes}, {"requantised", report.requantised}, {"fallbacks", fallbacks}};
}

Status print_report(const ConvertReport& report) {
  std::string text;
  for (const auto& file : report.files) text += file.string() + "\n";
  text += fmt::format("{} tensors, {} from {}\n", report.tensors, bytes_text(static_cast<double>(report.bytes)),
                      bytes_text(static_cast<double>(report.source_bytes)));
  if (!report.fallbacks.empty()) {
    const ConvertFallback& first = report.fallbacks.front();
    text += fmt::format("{} matrices got another type than was meant because of their row length, such as {} ({} columns): {} for {}\n",
                        report.fallbacks.size(), first.tensor, first.columns, dtype_name(first.used), dtype_name(first.meant));
  }
  if (report.requantised > 0) {
    text += fmt::format("{} matrices had been quantised before, so that both errors add up\n", report.requantised);
  }
  return write_out(text);
}

Status run(const ConvertCommand& options) {
  std::error_code ignored;
  if (!options.force && std::filesystem::exists(options.destination, ignored)) {
    return error(Code::invalid_argument, "{} exists: expected a new name, or --force", options.destination);
  }
  ONSET_ASSIGN(const std::filesystem::path path, find_model(options.source));
  ONSET_ASSIGN(const ModelFile file, open_model(path));
  ConvertOptions chosen;
  chosen.dtype = *dtype_from_name(options.type);
  chosen.pure = options.pure;
  chosen.split = {.part_bytes = options.split_bytes, .part_tensors = options.split_tensors};
  ConvertReport report;
  {
    ProgressBar bar("converting");
    chosen.progress = [&](const ConvertProgress& progress) {
      bar.update(static_cast<double>(progress.bytes_done) / static_cast<double>(std::max<uint64_t>(1, progress.bytes_total)),
                 progress.tensor);
    };
    ThreadPool pool(options.engine.threads > 0 ? options.engine.threads
                                               : static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
    ONSET_ASSIGN(report, convert(file, options.destination, chosen, pool));
  }
  return options.json ? write_json(to_json(report)) : print_report(report);
}

}  // namespace

void add_convert(CLI::App& app, Action& action) {
  add_command<ConvertCommand>(app, action, "convert", "a model as a GGUF file of another element type", declare, run);
}

}  // namespace onset::cli
