// onset chat: a conversation on the terminal.
#include "onset/engine/chat.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

#include "onset/cli/commands.h"
#include "onset/cli/output.h"

namespace onset::cli {
namespace {

struct ChatCommand {
  EngineFlags engine;
  SamplingFlags sampling;
  std::string system;
  bool figures = false;
};

void declare(CLI::App& command, ChatCommand& options) {
  command.add_option("-s,--system", options.system, "the system message");
  command.add_flag("--figures", options.figures, "a line of figures after each answer");
  add_engine_flags(command, options.engine);
  add_sampling_flags(command, options.sampling);
  set_examples(command,
               "  onset chat\n"
               "  onset chat --system \"You are a pirate.\" --temperature 0.8\n\n"
               "Lines beginning with / are commands; /help lists them. Ctrl-C stops an answer, Ctrl-D leaves.");
}

constexpr const char* help_text =
    "/help           this list\n"
    "/reset          begin a new conversation\n"
    "/system TEXT    begin a new conversation with this system message\n"
    "/stats          how full the context is\n"
    "/quit           leave (Ctrl-D too)\n"
    "Ctrl-C          stop the answer\n"
    "A line that ends in \\ goes on in the next one.\n";

// Lines from standard input. Ctrl-C while waiting gives an empty line and clears what was typed.
class LineReader {
 public:
  // Nothing at the end of the input.
  std::optional<std::string> next() {
    while (true) {
      if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
        std::string line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return line;
      }
      char block[4096];
      const ssize_t count = ::read(STDIN_FILENO, block, sizeof block);
      if (count < 0 && errno == EINTR) {
        if (!interrupted.exchange(false)) continue;
        std::fputs("\n(Ctrl-D or /quit leaves)\n", stderr);
        buffer_.clear();
        return std::string();
      }
      if (count <= 0) {
        if (buffer_.empty()) return {};
        return std::exchange(buffer_, {});
      }
      buffer_.append(block, static_cast<size_t>(count));
    }
  }

 private:
  std::string buffer_;
};

class Dialogue {
 public:
  Dialogue(Engine& engine, Chat& chat, bool figures)
      : engine_(engine), chat_(chat), figures_(figures), terminal_(isatty(STDIN_FILENO) == 1) {}

  Status run() {
    if (terminal_) std::fputs("Type a message; /help lists commands.\n", stderr);
    while (true) {
      std::optional<std::string> text = read_message();
      if (!text || *text == "/quit" || *text == "/exit") return {};
      if (text->empty()) continue;
      if (text->starts_with("/")) {
        command(*text);
      } else {
        ONSET_TRY(answer(*text));
      }
    }
  }

 private:
  std::optional<std::string> read_message() {
    std::string text;
    for (const char* prompt = "> ";; prompt = ". ") {
      if (terminal_) std::fputs(prompt, stderr);
      std::optional<std::string> line = lines_.next();
      if (!line) {
        if (terminal_) std::fputs("\n", stderr);
        return text.empty() ? std::nullopt : std::optional(text);
      }
      if (!line->ends_with("\\")) return text + *line;
      text += line->substr(0, line->size() - 1) + "\n";
    }
  }

  void command(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string name = line.substr(0, space);
    if (name == "/help") {
      std::fputs(help_text, stderr);
    } else if (name == "/reset") {
      chat_.reset();
      std::fputs("A new conversation.\n", stderr);
    } else if (name == "/system") {
      chat_.set_system(space == std::string::npos ? "" : line.substr(space + 1));
      std::fputs(
          space == std::string::npos ? "A new conversation without a system message.\n" : "A new conversation with this system message.\n",
          stderr);
    } else if (name == "/stats") {
      std::fprintf(stderr, "%zu messages, %d of %d tokens of the context\n", chat_.messages().size(), chat_.tokens(), engine_.context());
    } else {
      std::fprintf(stderr, "There is no command %s; /help lists them.\n", name.c_str());
    }
  }

  // One turn. An error is one that ends the program; a message that cannot be answered only says why.
  Status answer(const std::string& text) {
    interrupted = false;
    Event last;
    Status output;
    bool at_line_start = true;
    const auto began = std::chrono::steady_clock::now();
    const auto handler = [&](const Event& event) {
      last = event;
      if (event.text.empty() || !output.ok()) return;
      at_line_start = event.text.back() == '\n';
      output = write_out(event.text);
    };
    const Result<Chat::Turn> turn = chat_.ask(text, handler);
    if (!turn.ok()) {
      note(turn.status().message());
      return {};
    }
    if (turn->dropped_messages > 0) {
      std::fprintf(stderr, "[the context of %d tokens was full: the %d oldest messages were forgotten]\n", engine_.context(),
                   turn->dropped_messages);
    }
    while (engine_.has_work()) {
      ONSET_TRY(engine_.step());
      if (interrupted || !output.ok()) engine_.cancel(turn->request);
    }
    ONSET_TRY(output);
    if (!at_line_start) ONSET_TRY(write_out("\n"));
    say_end(*turn, last, std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    return {};
  }

  void say_end(const Chat::Turn& turn, const Event& last, double seconds) {
    if (last.finish == Finish::failed) note(last.status.message());
    if (last.finish == Finish::cancelled) std::fputs("[stopped]\n", stderr);
    if (last.finish == Finish::length) {
      const bool full = chat_.tokens() > engine_.context();
      std::fputs(
          full ? fmt::format("[the context of {} tokens is full: the answer ends here, and the oldest messages will be forgotten next]\n",
                             engine_.context())
                     .c_str()
               : "[stopped at the most tokens allowed]\n",
          stderr);
    }
    interrupted = false;
    if (!figures_) return;
    const double answer_seconds = seconds - last.first_token_seconds;
    std::fprintf(stderr, "[%d prompt tokens, %d of them from earlier turns; first token after %.0f ms; %d tokens at %.0f tokens/s]\n",
                 turn.prompt_tokens, turn.reused_tokens, 1e3 * last.first_token_seconds, last.new_tokens,
                 last.new_tokens > 1 ? (last.new_tokens - 1) / answer_seconds : 0.0);
  }

  Engine& engine_;
  Chat& chat_;
  bool figures_;
  bool terminal_;
  LineReader lines_;
};

Status run(const ChatCommand& options) {
  ONSET_ASSIGN(const SamplingOptions sampling, sampling_of(options.sampling));
  ONSET_ASSIGN(const auto engine, load_engine(options.engine));
  ChatOptions chat_options{.system = options.system, .sampling = sampling, .stop = options.sampling.stop};
  if (options.sampling.most_new_tokens >= 0) chat_options.most_new_tokens = options.sampling.most_new_tokens;
  ONSET_ASSIGN(const auto chat, Chat::create(*engine, std::move(chat_options)));
  catch_interrupts();
  return Dialogue(*engine, *chat, options.figures).run();
}

}  // namespace

void add_chat(CLI::App& app, Action& action) {
  add_command<ChatCommand>(app, action, "chat", "a conversation", declare, run);
}

}  // namespace onset::cli
