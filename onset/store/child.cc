#include "onset/store/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace onset {
namespace {

// In the child: never returns. Everything it needs was made before the fork.
[[noreturn]] void become(const std::filesystem::path& folder, std::vector<char*>& arguments, std::vector<char*>& environment, int output) {
  setpgid(0, 0);  // so that the child's own children end with it
  const int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  signal(SIGPIPE, SIG_DFL);
  if (chdir(folder.c_str()) == 0) execvpe(arguments[0], arguments.data(), environment.data());
  _exit(127);
}

// Pointers as exec wants them; they point into `texts`.
std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> environment_with(const std::vector<std::pair<std::string, std::string>>& added) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    bool replaced = false;
    for (const auto& [name, value] : added) replaced |= text.starts_with(name + "=");
    if (!replaced) all.push_back(text);
  }
  for (const auto& [name, value] : added) all.push_back(name + "=" + value);
  return all;
}

// Reads until the child closes its end; returns false if go_on said so.
bool read_output(int descriptor, const std::function<bool()>& go_on, std::string& output) {
  constexpr size_t most = 64 << 10;
  char block[4096];
  while (true) {
    pollfd waiting{.fd = descriptor, .events = POLLIN, .revents = 0};
    const int ready = poll(&waiting, 1, 200);
    if (go_on && !go_on()) return false;
    if (ready <= 0) continue;
    const ssize_t count = read(descriptor, block, sizeof block);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return true;
    output.append(block, static_cast<size_t>(count));
    if (output.size() > 2 * most) output.erase(0, output.size() - most);
  }
}

}  // namespace

Result<ChildResult> run_child(const std::vector<std::string>& arguments, const std::filesystem::path& folder,
                              const std::vector<std::pair<std::string, std::string>>& environment, const std::function<bool()>& go_on) {
  std::vector<std::string> argument_texts = arguments;
  std::vector<std::string> environment_texts = environment_with(environment);
  std::vector<char*> argument_pointers = pointers(argument_texts);
  std::vector<char*> environment_pointers = pointers(environment_texts);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return error(Code::failed, "{}: no pipe: {}", arguments[0], std::strerror(errno));
  const pid_t child = fork();
  if (child < 0) {
    close(ends[0]);
    close(ends[1]);
    return error(Code::failed, "{} cannot be started: {}", arguments[0], std::strerror(errno));
  }
  if (child == 0) become(folder, argument_pointers, environment_pointers, ends[1]);
  close(ends[1]);
  ChildResult result;
  const bool finished = read_output(ends[0], go_on, result.output);
  close(ends[0]);
  if (!finished) kill(-child, SIGTERM);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!finished) return Status(Code::cancelled, "stopped");
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace onset
