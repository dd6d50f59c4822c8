// Questions to contexts from a file, and the prompts they become: what commands that measure reuse have in common.
#pragma once

#include "onset/cli/command.h"
#include "onset/engine/answer_scores.h"

namespace onset::cli {

struct ContextQuestion {
  std::string question;
  std::vector<std::string> contexts;
  std::vector<std::string> answers;  // as they follow the question; may be empty
  std::optional<size_t> label = {};  // the answers are labels, and this one is right
};
inline constexpr const char* context_questions_help =
    R"(questions, one JSON object on each line: {"contexts": ["...", ...], "question": "..."}, with "answers": ["...", ...] or "labels": ["...", ...] and "label": "...")";

// The first `limit` questions, 0: all. Errors: invalid_argument naming the file, the line and what was expected.
Result<std::vector<ContextQuestion>> read_context_questions(const std::string& file, int32_t limit);

// How prompts are made of them.
struct PromptFlags {
  std::string system;
  bool raw = false;
  std::optional<int32_t> newlines;
};
void add_prompt_flags(CLI::App& command, PromptFlags& flags);

// Makes prompts for one engine.
class PromptMaker {
 public:
  // Errors: those of load_chat_template(); invalid_argument for a system message without a template.
  static Result<PromptMaker> create(const Engine& engine, const PromptFlags& flags);
  // Errors: those of prompt_parts() and of the tokenizer.
  Result<AnsweredPrompt> make(const ContextQuestion& question, std::optional<int32_t> newlines) const;
  // Whether something comes before the contexts without line ends.
  bool has_beginning() const { return chat_template_.has_value(); }

 private:
  const Engine* engine_ = nullptr;
  std::optional<ChatTemplate> chat_template_;
  std::string system_;
};

// Key/value cache in tokens for questions whose contexts are to stay in memory together, and for the longest of them `copies` times more.
// A token for each byte: memory is taken as it is used.
int64_t pool_for(const std::vector<ContextQuestion>& questions, int32_t copies, bool together);

}  // namespace onset::cli
