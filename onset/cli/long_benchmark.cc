// onset long-bench: what policies for long prompts cost in answers and gain in time, on tasks whose answers are known.
#include <algorithm>
#include <filesystem>

#include "onset/base/mapped_file.h"
#include "onset/cli/commands.h"
#include "onset/cli/context_questions.h"
#include "onset/cli/long_report.h"
#include "onset/cli/output.h"
#include "onset/engine/chat.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct LongBenchOptions {
  EngineFlags engine;
  std::vector<std::string> ways = {"dense,minference,lazyllm:mild"};
  std::vector<std::string> tasks = {"needle", "passkey", "variables", "pairs", "two-facts"};
  std::vector<int32_t> lengths = {1024, 2048, 4096};
  std::vector<double> depths = {0, 25, 50, 75, 100};
  int32_t each = 1, wrong = 3, windows = 4, scored = 64, limit = 0;
  std::string haystack, text, questions, svg;
  uint64_t seed = 1;
  bool raw = false, json = false;
};

void declare_tasks(CLI::App& command, LongBenchOptions& options) {
  const std::string group = "Tasks";
  command
      .add_option("--tasks", options.tasks,
                  "separated by commas: needle, passkey, variables, pairs, two-facts (docs/long.md); none: only --text and --questions")
      ->delimiter(',')
      ->check(CLI::IsMember({"needle", "passkey", "variables", "pairs", "two-facts", "none"}))
      ->capture_default_str()
      ->group(group);
  command.add_option("--lengths", options.lengths, "tokens of prompts and answers, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 27))
      ->capture_default_str()
      ->group(group);
  command.add_option("--depths", options.depths, "where in the prompt the answer stands, in percent, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str()
      ->group(group);
  command.add_option("--each", options.each, "prompts of each length and depth")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->group(group);
  command.add_option("--wrong", options.wrong, "wrong answers that the right one is compared with; 0: none")
      ->check(CLI::Range(0, 100))
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--haystack", options.haystack,
                  "text in which needles and facts are hidden: a file, or a folder of .txt files (default: sentences that say nothing)")
      ->group(group);
  command.add_option("--text", options.text, "also the likelihood of this text's tokens behind the tokens before them")->group(group);
  command.add_option("--windows", options.windows, "--text: pieces of the text of each length")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->group(group);
  command.add_option("--scored", options.scored, "--text: tokens at the end of each piece that are scored")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str()
      ->group(group);
  command.add_option("--questions", options.questions, std::string("also ") + context_questions_help)->group(group);
  command.add_option("--limit", options.limit, "--questions: use the first so many; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str()
      ->group(group);
  command.add_option("--seed", options.seed, "of what is hidden and where")->capture_default_str()->group(group);
  command.add_flag("--raw", options.raw, "prompts as they are, even if the model has a chat template")->group(group);
}

void declare(CLI::App& command, LongBenchOptions& options) {
  command
      .add_option("--ways", options.ways,
                  "how prompts are read, separated by commas: what --attend and --select of onset run take, or both joined by +; "
                  "dense is always among them")
      ->allow_extra_args(false)
      ->capture_default_str();
  command.add_option("--svg", options.svg, "write heat maps of the tasks with depths to this file");
  command.add_flag("--json", options.json, "print one JSON object, with every prompt's figures");
  declare_tasks(command, options);
  add_engine_flags(command, options.engine);
  set_examples(command,
               "  onset long-bench --ways minference,lazyllm:mild,longgen:10,window:1024:64\n"
               "  onset long-bench --tasks needle --haystack essays/ --lengths 2048,4096,8000 --each 5 --svg needle.svg\n"
               "  onset long-bench --tasks none --text wiki.test.raw --questions questions.jsonl --ways lazyllm:9,18,27:0.7");
}

// Texts separated by commas; a comma before a digit belongs to a list of numbers (lazyllm:9,18,27:0.7).
std::vector<std::string> split_ways(const std::string& text) {
  std::vector<std::string> ways(1);
  for (size_t i = 0; i < text.size(); ++i) {
    const bool number_follows = i + 1 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '9';
    if (text[i] == ',' && !number_follows) {
      ways.emplace_back();
    } else {
      ways.back() += text[i];
    }
  }
  return ways;
}

// ATTEND, SELECT, or both joined by +.
Result<LongWay> way_of(const std::string& name) {
  LongWay way{.name = name};
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('+', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    begin = end + 1;
    const bool selects = is_select_name(part);
    if (selects ? way.select != nullptr : way.attend != nullptr) {
      return error(Code::invalid_argument, "--ways {}: expected at most one of --attend's and one of --select's, joined by +", name);
    }
    if (selects) {
      ONSET_ASSIGN(way.select, named_select(part));
      continue;
    }
    auto attend = parse_attend(part, AttendFiles::read);
    if (!attend.ok()) return attend.status().within("--ways");
    way.attend = *std::move(attend);
  }
  return way;
}

Result<std::vector<LongWay>> ways_of(const LongBenchOptions& options) {
  std::vector<LongWay> ways = {{.name = "dense"}};
  for (const std::string& list : options.ways) {
    for (const std::string& name : split_ways(list)) {
      const bool known = std::any_of(ways.begin(), ways.end(), [&](const LongWay& way) { return way.name == name; });
      if (known) continue;
      ONSET_ASSIGN(ways.emplace_back(), way_of(name));
    }
  }
  return ways;
}

Result<std::string> read_haystack(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) return read_file(path);
  std::vector<std::filesystem::path> files;
  std::error_code failed;
  for (std::filesystem::directory_iterator entry(path, failed), end; !failed && entry != end; entry.increment(failed)) {
    if (entry->path().extension() == ".txt") files.push_back(entry->path());
  }
  if (failed) return error(Code::failed, "{}: {}", path, failed.message());
  if (files.empty()) return error(Code::invalid_argument, "{}: the folder has no file whose name ends in .txt", path);
  std::sort(files.begin(), files.end());
  std::string text;
  for (const std::filesystem::path& file : files) {
    ONSET_ASSIGN(const std::string one, read_file(file));
    text += one + "\n\n";
  }
  return text;
}

Result<Haystack> haystack_of(const LongBenchOptions& options) {
  if (options.haystack.empty()) return Haystack::noise();
  auto text = read_haystack(options.haystack);
  if (!text.ok()) return text.status().within("--haystack");
  auto haystack = Haystack::of_text(*text);
  return haystack.ok() ? std::move(haystack) : haystack.status().within("--haystack " + options.haystack);
}

// What is to be asked, task by task.
struct Asked {
  LongFindings found;
  std::vector<LongItem> items;
};

void add_item(Asked& asked, LongItem item) {
  asked.found.lengths.push_back(item.length);
  asked.found.depth.push_back(item.depth);
  asked.items.push_back(std::move(item));
}

Result<Asked> generated(const Engine& engine, const LongBenchOptions& options, LongTask task, const Haystack& haystack,
                        const std::optional<ChatTemplate>& chat_template) {
  Asked asked{.found = {.task = long_task_name(task), .depths = has_depth(task), .chance = 1.0 / (1 + options.wrong)}, .items = {}};
  const Haystack noise = Haystack::noise();
  const bool says_nothing = task == LongTask::passkey || task == LongTask::variables;
  uint64_t number = 0;
  for (const int32_t length : options.lengths) {
    for (const double depth : options.depths) {
      for (int32_t i = 0; i < options.each; ++i) {
        const uint64_t seed = options.seed + 1000003 * (8 * ++number + static_cast<uint64_t>(task));
        const DraftPrompt draft(task, says_nothing ? noise : haystack, depth / 100, seed, options.wrong);
        auto item = long_item(engine, chat_template, draft, length);
        if (!item.ok()) return item.status().within(asked.found.task);
        if (has_depth(task)) item->depth = depth / 100;
        add_item(asked, *std::move(item));
      }
    }
  }
  return asked;
}

Result<Asked> text_windows(const Engine& engine, const LongBenchOptions& options) {
  Asked asked{.found = {.task = "text", .answers = false, .chance = 1}, .items = {}};
  if (engine.tokenizer() == nullptr) return error(Code::unsupported, "{} has no tokenizer", engine.model().file().path().string());
  ONSET_ASSIGN(const std::string text, read_file(options.text));
  ONSET_ASSIGN(const std::vector<int32_t> tokens, engine.tokenizer()->encode(text, {.add_special = false, .parse_special = false}));
  for (const int32_t length : options.lengths) {
    if (length < options.scored + 2) {
      return error(Code::invalid_argument, "--lengths {}: pieces of the text whose last {} tokens are scored need {} or more", length,
                   options.scored, options.scored + 2);
    }
    const auto there = static_cast<int64_t>(tokens.size()) / length;
    if (there < options.windows) {
      return error(Code::invalid_argument, "--text {}: the text has {} pieces of {} tokens, expected {} or more (--windows)", options.text,
                   there, length, options.windows);
    }
    for (int64_t window = 0; window < options.windows; ++window) {
      add_item(asked, text_item(engine, std::span(tokens).subspan(window * length, length), options.scored));
    }
  }
  return asked;
}

Result<Asked> asked_questions(const Engine& engine, const LongBenchOptions& options, const std::vector<ContextQuestion>& questions) {
  Asked asked{.found = {.task = "questions", .chance = 1}, .items = {}};
  ONSET_ASSIGN(const PromptMaker maker, PromptMaker::create(engine, {.system = {}, .raw = options.raw, .newlines = {}}));
  for (size_t i = 0; i < questions.size(); ++i) {
    ONSET_ASSIGN(AnsweredPrompt prompt, maker.make(questions[i], {}));
    LongItem item{.prompt = std::move(prompt.parts.prefix), .answers = std::move(prompt.answers)};
    for (const auto& context : prompt.parts.contexts) item.prompt.insert(item.prompt.end(), context.begin(), context.end());
    item.prompt.insert(item.prompt.end(), prompt.parts.prompt.begin(), prompt.parts.prompt.end());
    if (item.answers.empty()) {
      return error(Code::invalid_argument, R"(--questions {}: question {} has no "answers", whose likelihood is measured)",
                   options.questions, i + 1);
    }
    item.right = prompt.label ? 1 : item.answers.size();
    if (prompt.label) {
      std::swap(item.answers[0], item.answers[*prompt.label]);
      asked.found.chance = std::min(asked.found.chance, 1.0 / static_cast<double>(item.answers.size()));
    }
    std::string reference = questions[i].answers[prompt.label.value_or(0)];
    reference.erase(0, reference.find_first_not_of(" \n"));
    item.references = {std::move(reference)};
    item.length = static_cast<int32_t>(item.prompt.size());
    constexpr int32_t answer_tokens = 16;
    item.most_new_tokens = answer_tokens;
    add_item(asked, std::move(item));
  }
  return asked;
}

Status check(const Engine& engine, const LongBenchOptions& options) {
  const bool generates = std::any_of(options.tasks.begin(), options.tasks.end(), [](const std::string& name) { return name != "none"; });
  if (!generates && options.text.empty()) return {};  // questions have lengths of their own
  for (const int32_t length : options.lengths) {
    if (length > engine.context()) {
      return error(Code::invalid_argument, "--lengths {}: the context has room for {} tokens (--rope-scaling makes it longer)", length,
                   engine.context());
    }
  }
  return {};
}

Result<std::vector<Asked>> all_asked(const Engine& engine, const LongBenchOptions& options, const std::vector<ContextQuestion>& questions) {
  ONSET_TRY(check(engine, options));
  std::optional<ChatTemplate> chat_template;
  if (!options.raw) {
    ONSET_ASSIGN(chat_template, load_chat_template(engine));
  }
  ONSET_ASSIGN(const Haystack haystack, haystack_of(options));
  std::vector<Asked> all;
  for (const std::string& name : options.tasks) {
    if (const std::optional<LongTask> task = long_task(name)) {
      ONSET_ASSIGN(all.emplace_back(), generated(engine, options, *task, haystack, chat_template));
    }
  }
  if (!options.text.empty()) {
    ONSET_ASSIGN(all.emplace_back(), text_windows(engine, options));
  }
  if (!questions.empty()) {
    ONSET_ASSIGN(all.emplace_back(), asked_questions(engine, options, questions));
  }
  if (!all.empty()) return all;
  return error(Code::invalid_argument, "--tasks none: expected --text or --questions with it");
}

// Each prompt in all ways, one after the other, so that what else the machine does meets them alike.
Status measure(Engine& engine, const std::vector<LongWay>& ways, std::vector<Asked>& all) {
  double tokens = 0, done = 0;
  for (const Asked& asked : all) {
    for (const LongItem& item : asked.items) tokens += static_cast<double>(item.prompt.size());
  }
  ProgressBar bar("answering");
  constexpr size_t warm_up_tokens = 512;
  const std::vector<int32_t>& first = all[0].items[0].prompt;
  const std::vector<int32_t> warm_up(first.begin(), first.begin() + static_cast<std::ptrdiff_t>(std::min(first.size(), warm_up_tokens)));
  ONSET_TRY(run_to_end(engine, {.tokens = warm_up, .most_new_tokens = 1, .prefix_cache = false}, {}));
  for (Asked& asked : all) {
    asked.found.scores.resize(ways.size());
    for (size_t i = 0; i < asked.items.size(); ++i) {
      for (size_t way = 0; way < ways.size(); ++way) {
        bar.update(done / tokens, fmt::format("{} {} of {}, {}", asked.found.task, i + 1, asked.items.size(), ways[way].name));
        const std::string space = fmt::format("{} {} {}", asked.found.task, i, ways[way].name);
        auto score = score_item(engine, asked.items[i], ways[way], space);
        if (!score.ok()) return score.status().within(fmt::format("{}, {} prompt {}", ways[way].name, asked.found.task, i + 1));
        asked.found.scores[way].push_back(*std::move(score));
        done += static_cast<double>(asked.items[i].prompt.size()) / static_cast<double>(ways.size());
      }
    }
  }
  return {};
}

Status report(const LongBenchOptions& options, const Engine& engine, const std::vector<LongWay>& ways,
              const std::vector<LongFindings>& found) {
  std::vector<std::string> names;
  for (const LongWay& way : ways) names.push_back(way.name);
  const std::string model = engine.model().file().path().string();
  if (!options.svg.empty()) {
    ONSET_ASSIGN(AtomicFile file, AtomicFile::create(options.svg));
    ONSET_TRY(file.write(long_report_svg(names, found, engine.model().file().path().stem().string())));
    ONSET_TRY(file.commit());
  }
  if (!options.json) return write_out(long_report_text(names, found));
  return write_json({{"model", model},
                     {"precision", precision_name(engine.model().precision())},
                     {"threads", engine.threads()},
                     {"seed", options.seed},
                     {"peak_rss_bytes", peak_memory_bytes()},
                     {"tasks", long_report_json(names, found)}});
}

Status run(const LongBenchOptions& options) {
  if (!options.engine.attend.empty()) {
    return error(Code::invalid_argument, "--attend {}: expected it among --ways", options.engine.attend);
  }
  ONSET_ASSIGN(const std::vector<LongWay> ways, ways_of(options));
  std::vector<ContextQuestion> questions;
  if (!options.questions.empty()) {
    ONSET_ASSIGN(questions, read_context_questions(options.questions, options.limit));
  }
  const int64_t longest = *std::max_element(options.lengths.begin(), options.lengths.end());
  // A prompt, and the same once more for a wrong answer, whose rows may not be those that were kept.
  const int64_t pool = 2 * (std::max(longest, pool_for(questions, 1, false)) + 1024);
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, pool));
  ONSET_ASSIGN(std::vector<Asked> all, all_asked(*engine, options, questions));
  ONSET_TRY(measure(*engine, ways, all));
  std::vector<LongFindings> found;
  for (Asked& asked : all) found.push_back(std::move(asked.found));
  return report(options, *engine, ways, found);
}

}  // namespace

void add_long_bench(CLI::App& app, Action& action) {
  add_command<LongBenchOptions>(app, action, "long-bench", "what policies for long prompts cost in answers and gain in time", declare, run);
}

}  // namespace onset::cli
