#include "onset/engine/trace.h"

#include <fmt/format.h>

namespace onset {

std::string chrome_trace(std::span<const TraceEvent> events, const std::map<int64_t, std::string>& line_names) {
  std::string trace = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [";
  const char* separator = "\n";
  for (const auto& [line, name] : line_names) {
    trace += fmt::format("{}{{\"name\": \"thread_name\", \"ph\": \"M\", \"pid\": 1, \"tid\": {}, \"args\": {{\"name\": \"{}\"}}}}",
                         separator, line, name);
    separator = ",\n";
  }
  for (const TraceEvent& event : events) {
    std::string values;
    for (const auto& [name, value] : event.values) values += fmt::format("{}\"{}\": {}", values.empty() ? "" : ", ", name, value);
    trace += fmt::format(
        "{}{{\"name\": \"{}\", \"cat\": \"{}\", \"ph\": \"X\", \"pid\": 1, \"tid\": {}, \"ts\": {:.3f}, \"dur\": {:.3f}, \"args\": "
        "{{{}}}}}",
        separator, event.name, event.category, event.line, event.begin * 1e6, event.seconds * 1e6, values);
    separator = ",\n";
  }
  return trace + "\n]}\n";
}

std::string StepTrace::chrome_trace() const {
  std::vector<TraceEvent> events;
  std::map<int64_t, std::string> names = {{0, "steps"}};
  const auto add = [&](std::string name, const char* category, int64_t line, const StepReport& step, double seconds,
                       std::vector<std::pair<std::string, double>> values) {
    if (line > 0) names.emplace(line, fmt::format("request {}", line));
    events.push_back({std::move(name), category, line, step.begin_seconds, seconds, std::move(values)});
  };
  for (const StepReport& step : steps_) {
    add(fmt::format("{} prompt {} answers", step.prompt_rows, step.answer_rows), "step", 0, step, step.seconds,
        {{"number", static_cast<double>(step.number)},
         {"prompt_rows", step.prompt_rows},
         {"answer_rows", step.answer_rows},
         {"running", step.running},
         {"waiting", step.waiting},
         {"free_pages", static_cast<double>(step.free_pages)},
         {"predicted_ms", 1e3 * step.predicted_seconds}});
    for (const Preemption& gone : step.step.preempt) {
      add(gone.kind == PreemptionKind::swap ? "pages to the file" : "pages given up", "preempt", gone.id, step, 0, {});
    }
    for (const Span& span : step.step.spans) {
      add(span.answer ? "answer" : fmt::format("prompt {}", span.count), span.answer ? "answer" : "prompt", span.id, step, step.seconds,
          {{"first_token", span.first_token}, {"tokens", span.count}});
    }
  }
  return onset::chrome_trace(events, names);
}

}  // namespace onset
