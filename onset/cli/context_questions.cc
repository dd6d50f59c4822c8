#include "onset/cli/context_questions.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "onset/base/mapped_file.h"
#include "onset/engine/chat.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

bool is_text(const Json& value) {
  return value.is_string() && !value.get_ref<const std::string&>().empty();
}

bool is_list_of_texts(const Json& object, const char* key) {
  return object.contains(key) && object[key].is_array() && !object[key].empty() &&
         std::all_of(object[key].begin(), object[key].end(), is_text);
}

Result<ContextQuestion> question_of(const Json& json) {
  const bool right = json.is_object() && json.contains("question") && is_text(json["question"]) && is_list_of_texts(json, "contexts");
  if (!right) {
    return error(Code::invalid_argument, R"(expected an object with "contexts", a list of texts, and "question", a text)");
  }
  ContextQuestion question{
      .question = json["question"].get<std::string>(), .contexts = json["contexts"].get<std::vector<std::string>>(), .answers = {}};
  const bool labels = json.contains("labels");
  if (labels && json.contains("answers")) return error(Code::invalid_argument, R"(expected "answers" or "labels", got both)");
  if (labels || json.contains("answers")) {
    const char* key = labels ? "labels" : "answers";
    if (!is_list_of_texts(json, key)) return error(Code::invalid_argument, R"(expected "{}" to be a list of texts)", key);
    question.answers = json[key].get<std::vector<std::string>>();
  }
  if (!labels) return question;
  const auto place = json.contains("label") && is_text(json["label"])
                         ? std::find(question.answers.begin(), question.answers.end(), json["label"].get<std::string>())
                         : question.answers.end();
  if (place == question.answers.end()) return error(Code::invalid_argument, R"(expected "label" to be one of "labels")");
  question.label = static_cast<size_t>(place - question.answers.begin());
  return question;
}

}  // namespace

Result<std::vector<ContextQuestion>> read_context_questions(const std::string& file, int32_t limit) {
  ONSET_ASSIGN(const std::string text, read_file(file));
  std::vector<ContextQuestion> questions;
  for (size_t begin = 0, number = 1; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \r") == std::string_view::npos) continue;
    auto question = question_of(Json::parse(line, nullptr, false));
    if (!question.ok()) return error(question.status().code(), "{}, line {}: {}", file, number, question.status().message());
    questions.push_back(*std::move(question));
    if (limit > 0 && static_cast<int32_t>(questions.size()) == limit) break;
  }
  if (questions.empty()) return error(Code::invalid_argument, "{}: there is no question", file);
  return questions;
}

void add_prompt_flags(CLI::App& command, PromptFlags& flags) {
  command.add_option("-s,--system", flags.system, "a system message before the contexts");
  command.add_flag("--raw", flags.raw, "contexts and question as they are, even if the model has a chat template");
  add_newlines_flag(command, flags.newlines);
}

Result<PromptMaker> PromptMaker::create(const Engine& engine, const PromptFlags& flags) {
  PromptMaker maker;
  maker.engine_ = &engine;
  maker.system_ = flags.system;
  if (!flags.raw) {
    ONSET_ASSIGN(maker.chat_template_, load_chat_template(engine));
  }
  if (!maker.chat_template_ && !flags.system.empty()) {
    return error(Code::invalid_argument, "--system needs a chat template, and {}",
                 flags.raw ? "--raw leaves it out" : engine.model().file().path().string() + " has none");
  }
  return maker;
}

Result<AnsweredPrompt> PromptMaker::make(const ContextQuestion& question, std::optional<int32_t> newlines) const {
  AnsweredPrompt prompt;
  ONSET_ASSIGN(prompt.parts, prompt_parts(*engine_, chat_template_, system_, question.question, question.contexts, newlines));
  for (const std::string& answer : question.answers) {
    ONSET_ASSIGN(prompt.answers.emplace_back(), engine_->tokenizer()->encode(answer, {.add_special = false}));
  }
  prompt.label = question.label;
  return prompt;
}

int64_t pool_for(const std::vector<ContextQuestion>& questions, int32_t copies, bool together) {
  int64_t most = 0, all = 0;
  for (const ContextQuestion& question : questions) {
    auto bytes = static_cast<int64_t>(question.question.size()) + 4096;
    for (const std::string& context : question.contexts) bytes += static_cast<int64_t>(context.size()) + page_tokens;
    most = std::max(most, bytes);
    all += bytes;
  }
  return copies * most + (together ? all : 0);
}

}  // namespace onset::cli
