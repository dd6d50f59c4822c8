#include "onset/serve/batch.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "onset/base/mapped_file.h"

namespace onset::serve {
namespace {

struct Entry {
  std::string custom_id, url;
  std::string_view line;  // of the input
  int64_t number = 0;     // from 1
};

// Calls use(line, number) for each line that is not empty; ends with the first error.
template <typename Use>
Status each_line(std::string_view text, Use use) {
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(text.size(), end + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") != std::string_view::npos) ONSET_TRY(use(line, number));
  }
  return {};
}

// The fields of a line around its body.
Checked<Entry> read_entry(std::string_view line) {
  const Checked<Json> json = parse_body(line);
  if (!json.ok()) return json.error();
  Errors errors;
  Fields fields(*json, "", errors);
  Entry entry;
  entry.line = line;
  if (fields.need("custom_id") != nullptr) entry.custom_id = fields.text("custom_id").value_or("");
  if (fields.need("url") != nullptr) entry.url = fields.text("url").value_or("");
  if (fields.need("method") != nullptr && fields.text("method") != "POST") fields.fail("method", "expected \"POST\"");
  fields.need("body");
  fields.finish();
  if (!errors.first && entry.url != "/v1/chat/completions" && entry.url != "/v1/completions" && entry.url != "/v1/embeddings") {
    fields.fail("url", "expected /v1/chat/completions, /v1/completions or /v1/embeddings, got " + shown(entry.url));
  }
  if (errors.first) return *errors.first;
  return entry;
}

Result<std::vector<Entry>> read_entries(const std::string& text, const std::filesystem::path& path) {
  std::vector<Entry> entries;
  std::unordered_map<std::string, int64_t> seen;
  ONSET_TRY(each_line(text, [&](std::string_view line, int64_t number) -> Status {
    Checked<Entry> entry = read_entry(line);
    if (!entry.ok()) return error(Code::invalid_argument, "{}: line {}: {}", path.string(), number, entry.error().message);
    const auto [place, fresh] = seen.emplace(entry->custom_id, number);
    if (!fresh)
      return error(Code::invalid_argument, "{}: line {}: custom_id {} is that of line {} too", path.string(), number,
                   shown(entry->custom_id), place->second);
    entry->number = number;
    entries.push_back(*std::move(entry));
    return {};
  }));
  return entries;
}

// The output: locked while a run writes it.
class Output {
 public:
  static Result<std::unique_ptr<Output>> open(const std::filesystem::path& path) {
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0) return error(Code::failed, "{}: cannot be opened: {}", path.string(), std::strerror(errno));
    std::unique_ptr<Output> output(new Output(path, file));
    if (flock(file, LOCK_EX | LOCK_NB) != 0) return error(Code::invalid_argument, "{}: another run writes it", path.string());
    return output;
  }
  ~Output() { ::close(file_); }

  // The ids that have an answer. A line that was cut is taken away.
  Result<std::unordered_set<std::string>> done() {
    ONSET_ASSIGN(std::string text, read_file(path_));
    const size_t whole = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
    if (whole < text.size()) {
      if (ftruncate(file_, static_cast<off_t>(whole)) != 0) return cannot_write();
      text.resize(whole);
    }
    std::unordered_set<std::string> ids;
    ONSET_TRY(each_line(text, [&](std::string_view line, int64_t number) -> Status {
      const Json json = Json::parse(line, nullptr, false);
      if (!json.is_object() || !json.contains("custom_id") || !json["custom_id"].is_string()) {
        return error(Code::invalid_argument, "{}: line {} is no answer of a batch: expected a new file, or one that a batch began",
                     path_.string(), number);
      }
      ids.insert(json["custom_id"].get<std::string>());
      return {};
    }));
    return ids;
  }

  Status append(std::string_view line) {
    while (!line.empty()) {
      const ssize_t count = ::write(file_, line.data(), line.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return cannot_write();
      line.remove_prefix(static_cast<size_t>(count));
    }
    return {};
  }
  Status sync() { return fsync(file_) == 0 || errno == EINVAL || errno == EROFS ? Status() : cannot_write(); }

 private:
  Output(std::filesystem::path path, int file) : path_(std::move(path)), file_(file) {}
  Status cannot_write() const { return error(Code::failed, "{}: cannot be written: {}", path_.string(), std::strerror(errno)); }

  std::filesystem::path path_;
  int file_;
};

std::string output_line(const std::string& custom_id, int status, const std::string& body) {
  std::string id;
  append_json_string(id, custom_id);
  return fmt::format(
      "{{\"id\":\"{}\",\"custom_id\":{},\"response\":{{\"status_code\":{},\"request_id\":\"{}\",\"body\":{}}},\"error\":null}}\n",
      new_id("batch_req_"), id, status, new_id("req_"), body);
}

// One run: a few calls at a time, whose events come on the engines' threads.
class Run {
 public:
  Run(const Hosts& hosts, const BatchOptions& options, Output& output, BatchReport& report)
      : hosts_(hosts), options_(options), output_(output), report_(report) {}

  Status all(const std::vector<Entry>& entries) {
    for (const Entry& entry : entries) {
      ONSET_TRY(wait_for([&] { return in_flight_ < options_.in_flight; }));
      begin(entry);
    }
    return wait_for([&] { return in_flight_ == 0; });
  }
  // After an error: nothing that is still running is wanted.
  void abandon() {
    for (const auto& [name, host] : hosts_) host->stop();
  }

 private:
  template <typename Answer>
  struct Call : Receiver {
    Call(Run& its_run, std::string id, Answer its_answer) : run(its_run), custom_id(std::move(id)), answer(std::move(its_answer)) {}
    void receive(int choice, Event event) override {
      if (ended) return;
      answer.add(choice, std::move(event));
      if (!answer.done()) return;
      ended = true;
      run.end(custom_id, body(answer), tokens(answer));
    }
    Checked<std::string> body(const WholeAnswer& whole) const { return whole.body(); }
    Checked<std::string> body(const EmbeddingAnswer& whole) const {
      return whole.error() ? Checked<std::string>(*whole.error()) : embedding_body(embedding);
    }
    static int64_t tokens(const WholeAnswer& whole) { return whole.completion_tokens(); }
    static int64_t tokens(const EmbeddingAnswer&) { return 0; }
    Run& run;
    std::string custom_id;
    Answer answer;
    PreparedEmbedding embedding;
    bool ended = false;
  };

  void begin(const Entry& entry) {
    {
      const std::lock_guard lock(mutex_);
      in_flight_ += 1;
    }
    const Checked<Json> line = parse_body(entry.line);
    const Json& body = (*line)["body"];
    if (entry.url == "/v1/embeddings") {
      auto ready = ready_embedding(hosts_, body);
      if (!ready.ok()) return end(entry.custom_id, ready.error());
      std::vector<Request> requests = std::move(ready->prepared.requests);
      const auto call = std::make_shared<Call<EmbeddingAnswer>>(*this, entry.custom_id, EmbeddingAnswer(requests.size()));
      call->embedding = std::move(ready->prepared);
      return ready->host->submit(std::move(requests), call);
    }
    auto ready = ready_generation(hosts_, body, entry.url == "/v1/chat/completions", "");
    if (!ready.ok()) return end(entry.custom_id, ready.error());
    if (ready->prepared.stream)
      return end(entry.custom_id, ApiError{.message = "stream: a batch has no streams", .param = "stream", .code = "unsupported_value"});
    const auto call = std::make_shared<Call<WholeAnswer>>(*this, entry.custom_id, WholeAnswer(std::move(ready->prepared.form)));
    ready->host->submit(std::move(ready->prepared.requests), call);
  }

  void end(const std::string& custom_id, const Checked<std::string>& body, int64_t new_tokens = 0) {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    const Status written =
        output_.append(body.ok() ? output_line(custom_id, 200, *body) : output_line(custom_id, body.error().status, body.error().body()));
    if (problem_.ok()) problem_ = written;
    (body.ok() ? report_.answered : report_.refused) += 1;
    report_.new_tokens += new_tokens;
    in_flight_ -= 1;
    if (options_.progress) {
      options_.progress(static_cast<double>(report_.done_before + report_.answered + report_.refused) /
                        static_cast<double>(report_.requests));
    }
    changed_.notify_one();
  }

  template <typename Condition>
  Status wait_for(Condition condition) {
    std::unique_lock lock(mutex_);
    const auto stop = [&] { return options_.interrupted != nullptr && *options_.interrupted; };
    // A signal handler cannot notify: look now and then.
    while (!condition() && problem_.ok() && !stop()) changed_.wait_for(lock, std::chrono::milliseconds(100));
    if (problem_.ok() && !stop()) return {};
    stopped_ = true;
    if (!problem_.ok()) return problem_;
    return error(Code::cancelled, "interrupted with {} of {} requests answered: run it again to go on",
                 report_.done_before + report_.answered + report_.refused, report_.requests);
  }

  const Hosts& hosts_;
  const BatchOptions& options_;
  Output& output_;
  BatchReport& report_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int32_t in_flight_ = 0;
  bool stopped_ = false;
  Status problem_;
};

}  // namespace

Deliver deliver_at_once() {
  return [](std::vector<Delivery> deliveries) {
    for (Delivery& delivery : deliveries) delivery.receiver->receive(delivery.choice, std::move(delivery.event));
  };
}

Result<BatchReport> run_batch(const Hosts& hosts, const BatchOptions& options) {
  ONSET_ASSIGN(const std::string text, read_file(options.input));
  ONSET_ASSIGN(std::vector<Entry> entries, read_entries(text, options.input));
  ONSET_ASSIGN(const std::unique_ptr<Output> output, Output::open(options.output));
  ONSET_ASSIGN(std::unordered_set<std::string> done, output->done());
  BatchReport report{.requests = static_cast<int64_t>(entries.size()), .done_before = static_cast<int64_t>(done.size())};
  std::erase_if(entries, [&](const Entry& entry) { return done.erase(entry.custom_id) > 0; });
  if (!done.empty()) {
    return error(Code::invalid_argument, "{} has an answer to {}, which {} does not ask: expected an output of this input",
                 options.output.string(), shown(*done.begin()), options.input.string());
  }
  const auto began = Clock::now();
  Run run(hosts, options, *output, report);
  const Status status = run.all(entries);
  report.seconds = seconds_since(began);
  if (!status.ok()) run.abandon();
  ONSET_TRY(status);
  ONSET_TRY(output->sync());
  return report;
}

}  // namespace onset::serve
