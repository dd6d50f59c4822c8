// onset tokenize: text to token ids and back.
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/formats/open_model.h"
#include "onset/store/models.h"
#include "onset/text/tokenizer_gguf.h"
#include "onset/text/tokenizer_json.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct TokenizeOptions {
  EngineFlags engine;
  TextSource text;
  std::string text_option;
  std::vector<int32_t> decode;
  bool no_special = false, plain = false, count = false, json = false;
};

void declare(CLI::App& command, TokenizeOptions& options) {
  auto* words = command.add_option("TEXT", options.text.words, "the text, or - for standard input");
  auto* text = command.add_option("--text", options.text_option, "the text");
  auto* file = command.add_option("-f,--file", options.text.file, "the text from a file, - for standard input");
  auto* decode = command.add_option("-d,--decode", options.decode, "print the text of these token ids instead")
                     ->delimiter(',')
                     ->allow_extra_args(false);
  text->excludes(words)->excludes(file);
  file->excludes(words);
  decode->excludes(words)->excludes(text)->excludes(file);
  command.add_flag("--no-special", options.no_special, "neither begin with BOS nor end with EOS");
  command.add_flag("--plain", options.plain, "special tokens in the text are text like any other");
  command.add_flag("-c,--count", options.count, "print only the number of tokens");
  command.add_flag("--json", options.json, "print one JSON object with ids, texts and count");
  add_model_flag(command, options.engine);
  set_examples(command,
               "  onset tokenize \"two words\"\n"
               "  onset tokenize --count --file book.txt\n"
               "  onset tokenize --json --model model.gguf --text \"<|im_start|>user\"\n"
               "  onset tokenize --decode 504,3575,282");
}

Result<Tokenizer> open_tokenizer(const std::string& name) {
  ONSET_ASSIGN(const std::filesystem::path path, find_model(name));
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return load_tokenizer(path);
  ONSET_ASSIGN(const ModelFile file, open_model(path));
  return load_tokenizer(file);
}

std::string quoted(std::string_view text) {
  return Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
}

Status run(const TokenizeOptions& options) {
  ONSET_ASSIGN(const Tokenizer tokenizer, open_tokenizer(options.engine.model));
  if (!options.decode.empty()) {
    ONSET_ASSIGN(const std::string text, tokenizer.decode(options.decode));
    return options.json ? write_json({{"text", text}}) : write_out(text + "\n");
  }
  ONSET_ASSIGN(const std::string text,
               options.text_option.empty() ? read_text(options.text, "the text") : Result<std::string>(options.text_option));
  ONSET_ASSIGN(const std::vector<int32_t> ids,
               tokenizer.encode(text, {.add_special = !options.no_special, .parse_special = !options.plain}));
  if (options.count) {
    return options.json ? write_json({{"count", ids.size()}}) : write_out(fmt::format("{}\n", ids.size()));
  }
  if (options.json) {
    Json texts = Json::array();
    for (const int32_t id : ids) texts.push_back(tokenizer.piece(id));
    return write_json({{"count", ids.size()}, {"ids", ids}, {"texts", texts}});
  }
  std::string lines;
  for (const int32_t id : ids) lines += fmt::format("{:8}  {}\n", id, quoted(tokenizer.piece(id)));
  return write_out(lines);
}

}  // namespace

void add_tokenize(CLI::App& app, Action& action) {
  add_command<TokenizeOptions>(app, action, "tokenize", "text to token ids, and back", declare, run);
}

}  // namespace onset::cli
