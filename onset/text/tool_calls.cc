#include "onset/text/tool_calls.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "onset/text/json_schema_compiler.h"

namespace onset {
namespace {

using Json = nlohmann::ordered_json;
using Place = AutomatonDraft::Place;

constexpr std::string_view open_tag = "<tool_call>", close_tag = "</tool_call>", python_tag = "<|python_tag|>";
constexpr std::string_view spaces = " \t\r\n";

size_t skip_space(std::string_view text, size_t at = 0) {
  return std::min(text.find_first_not_of(spaces, at), text.size());
}

// Where the white space at the end of `text` begins.
size_t trimmed(std::string_view text) {
  const size_t last = text.find_last_not_of(spaces);
  return last == std::string_view::npos ? 0 : last + 1;
}

// Bytes at the end of `text` that `tag` may begin with.
size_t overlap(std::string_view text, std::string_view tag) {
  size_t length = std::min(text.size(), tag.size() - 1);
  while (length > 0 && !tag.starts_with(text.substr(text.size() - length))) --length;
  return length;
}

bool is_number(std::string_view text) {
  // What the scanner lets into a word has only the right characters; the order is left to check.
  return Json::accept(text.begin(), text.end());
}

}  // namespace

ToolCallForm tool_call_form(std::string_view template_source) {
  const auto has = [&](std::string_view text) { return template_source.find(text) != std::string_view::npos; };
  if (has(open_tag)) return ToolCallForm::hermes;
  if (has(python_tag) || has("{\"name\": function name, \"parameters\":")) return ToolCallForm::llama3;
  return ToolCallForm::none;
}

// --- JSON byte by byte
// --------------------------------------------------------------------------------------------

JsonScanner::State JsonScanner::push(char byte) {
  if (string_) return in_string(byte);
  if (!word_.empty()) return in_word(byte);
  if (spaces.find(byte) != std::string_view::npos) return State::more;
  switch (next_) {
    case Next::value:
      return begin_value(byte);
    case Next::first_value:
      if (byte == ']') return end_value();
      return begin_value(byte);
    case Next::first_name:
      if (byte == '}') return end_value();
      [[fallthrough]];
    case Next::name:
      if (byte != '"') return State::bad;
      string_ = is_name_ = true;
      return State::more;
    case Next::colon:
      next_ = Next::value;
      return byte == ':' ? State::more : State::bad;
    case Next::after:
      break;
  }
  const bool in_object = open_.back() == '{';
  if (byte == ',') {
    next_ = in_object ? Next::name : Next::value;
    return State::more;
  }
  return byte == (in_object ? '}' : ']') ? end_value() : State::bad;
}

JsonScanner::State JsonScanner::begin_value(char byte) {
  if (byte == '{' || byte == '[') {
    open_.push_back(byte);
    next_ = byte == '{' ? Next::first_name : Next::first_value;
  } else if (byte == '"') {
    string_ = true;
    is_name_ = false;
  } else if (byte == '-' || (byte >= '0' && byte <= '9') || byte == 't' || byte == 'f' || byte == 'n') {
    word_ = byte;
  } else {
    return State::bad;
  }
  return State::more;
}

// At the brace or bracket that closes the innermost object or array.
JsonScanner::State JsonScanner::end_value() {
  open_.pop_back();
  next_ = Next::after;
  return open_.empty() ? State::done : State::more;
}

JsonScanner::State JsonScanner::in_word(char byte) {
  const bool goes_on =
      (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') || byte == '.' || byte == '+' || byte == '-' || byte == 'E';
  if (goes_on) {
    word_ += byte;
    return word_.size() > 400 ? State::bad : State::more;
  }
  const bool good = is_number(word_);  // or true, false, null
  word_.clear();
  if (!good) return State::bad;
  next_ = Next::after;
  return open_.empty() ? State::done : push(byte);
}

JsonScanner::State JsonScanner::in_string(char byte) {
  const bool hex = (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
  if (escape_ > 0) {
    --escape_;
    return hex ? State::more : State::bad;
  }
  if (escape_ < 0) {
    escape_ = byte == 'u' ? 4 : 0;
    return std::string_view("\"\\/bfnrtu").find(byte) != std::string_view::npos ? State::more : State::bad;
  }
  if (static_cast<unsigned char>(byte) < 0x20) return State::bad;
  if (byte == '\\') escape_ = -1;
  if (byte != '"') return State::more;
  string_ = false;
  next_ = is_name_ ? Next::colon : Next::after;
  return open_.empty() ? State::done : State::more;
}

// --- calls
// --------------------------------------------------------------------------------------------------------

// The beginning of a call, as far as it came.
struct ToolCallParser::Header {
  enum class State : uint8_t { more, bad, arguments, whole };
  State state = State::more;
  std::string name;
  size_t arguments = 0;  // where they begin in held_, and for a whole call
  size_t arguments_end = 0;
  size_t end = 0;  // whole: behind the last brace
};

ToolCallParser::ToolCallParser(ToolCallForm form, std::vector<std::string> functions)
    : form_(form),
      functions_(std::move(functions)),
      place_(form == ToolCallForm::llama3 ? Place::begin : Place::content),
      plain_(form == ToolCallForm::none) {}

std::vector<ToolCallEvent> ToolCallParser::push(std::string_view text) {
  Events events;
  held_ += text;
  run(events, false);
  return events;
}

std::vector<ToolCallEvent> ToolCallParser::finish() {
  Events events;
  run(events, true);
  return events;
}

void ToolCallParser::run(Events& events, bool last) {
  bool goes_on = true;
  while (goes_on) {
    switch (place_) {
      case Place::content:
        goes_on = in_content(events, last);
        break;
      case Place::begin:
        goes_on = at_begin(events, last);
        break;
      case Place::header:
        goes_on = in_header(events, last);
        break;
      case Place::arguments:
        goes_on = in_arguments(events, last);
        break;
      case Place::tail:
        goes_on = in_tail(last);
        break;
    }
  }
}

void ToolCallParser::add_content(Events& events, std::string_view text) {
  if (text.empty()) return;
  after_call_ = false;
  if (!events.empty() && events.back().kind == ToolCallEvent::Kind::content) {
    events.back().text += text;
  } else {
    events.push_back({.kind = ToolCallEvent::Kind::content, .call = 0, .text = std::string(text)});
  }
}

// Each of these does what it can with held_, and returns whether the next place can go on.

bool ToolCallParser::in_content(Events& events, bool last) {
  if (after_call_) held_.erase(0, skip_space(held_));
  if (plain_) {
    add_content(events, held_);
    held_.clear();
    return false;
  }
  const size_t tag = held_.find(open_tag);
  if (tag != std::string::npos) {
    const size_t end = trimmed(std::string_view(held_).substr(0, tag));
    add_content(events, std::string_view(held_).substr(0, end));
    front_ = held_.substr(end, tag + open_tag.size() - end);
    held_.erase(0, tag + open_tag.size());
    place_ = Place::header;
    return true;
  }
  size_t end = held_.size();
  if (!last) end = trimmed(std::string_view(held_).substr(0, end - overlap(held_, open_tag)));
  add_content(events, std::string_view(held_).substr(0, end));
  held_.erase(0, end);
  return false;
}

// Llama 3: in front of the answer, or behind a call and its semicolon.
bool ToolCallParser::at_begin(Events& events, bool last) {
  size_t at = skip_space(held_);
  const std::string_view rest = std::string_view(held_).substr(at);
  if (!last && (rest.empty() || (rest.size() < python_tag.size() && python_tag.starts_with(rest)))) return false;
  if (rest.starts_with(python_tag)) at += python_tag.size();
  const size_t brace = skip_space(held_, at);
  if (last && calls_ > 0 && brace == held_.size()) {
    held_.clear();
    return false;
  }
  if (!last && brace == held_.size()) return false;
  if (brace == held_.size() || held_[brace] != '{') {
    no_call(events);
    return true;
  }
  front_ += held_.substr(0, brace);
  held_.erase(0, brace);
  place_ = Place::header;
  return true;
}

// What seemed to be a call is content.
void ToolCallParser::no_call(Events& events) {
  place_ = Place::content;
  plain_ = form_ != ToolCallForm::hermes;
  if (after_call_) front_.erase(0, skip_space(front_));
  add_content(events, front_);
  front_.clear();
}

namespace {

// Reads one JSON value at the front of a text: its length, 0 if more is needed, npos if it is none.
size_t value_length(std::string_view text) {
  JsonScanner scanner;
  const size_t begin = skip_space(text);
  const bool word = begin < text.size() && text[begin] != '"' && text[begin] != '{' && text[begin] != '[';
  for (size_t i = begin; i < text.size(); ++i) {
    const JsonScanner::State state = scanner.push(text[i]);
    if (state == JsonScanner::State::bad) return std::string_view::npos;
    if (state == JsonScanner::State::done) return word ? i : i + 1;
  }
  return 0;
}

std::optional<std::string> string_value(std::string_view text) {
  const Json value = Json::parse(text.begin(), text.end(), nullptr, false);
  if (!value.is_string()) return {};
  return value.get<std::string>();
}

}  // namespace

ToolCallParser::Header ToolCallParser::read_header() const {
  const std::string_view text = held_;
  Header header;
  const auto bad = [&] {
    header.state = Header::State::bad;
    return header;
  };
  size_t at = skip_space(text);
  if (at == text.size()) return header;
  if (text[at] != '{') return bad();
  for (at = skip_space(text, at + 1); at < text.size(); at = skip_space(text, at)) {
    if (text[at] == '}' && header.arguments > 0) {
      header.state = header.name.empty() ? Header::State::bad : Header::State::whole;
      header.end = at + 1;
      return header;
    }
    if (text[at] != '"') return bad();
    const size_t key_length = value_length(text.substr(at));
    if (key_length == std::string_view::npos) return bad();
    if (key_length == 0) return header;
    const std::string key = string_value(text.substr(at, key_length)).value_or("");
    at = skip_space(text, at + key_length);
    if (at == text.size()) return header;
    if (text[at] != ':') return bad();
    at = skip_space(text, at + 1);
    if (at == text.size()) return header;
    const bool arguments = key == "arguments" || key == "parameters";
    if (!arguments && key != "name" && key != "type" && key != "id") return bad();
    if (arguments && (text[at] != '{' || header.arguments > 0)) return bad();
    if (arguments) header.arguments = at;
    if (arguments && !header.name.empty()) {
      header.state = Header::State::arguments;
      return header;
    }
    const size_t length = value_length(text.substr(at));
    if (length == std::string_view::npos) return bad();
    if (length == 0) return header;
    if (arguments) header.arguments_end = at + length;
    if (key == "name") {
      header.name = string_value(text.substr(at, length)).value_or("");
      if (std::find(functions_.begin(), functions_.end(), header.name) == functions_.end()) return bad();
    }
    at = skip_space(text, at + length);
    if (at < text.size() && text[at] == ',') {
      ++at;
    } else if (at < text.size() && text[at] != '}') {
      return bad();
    }
  }
  return header;
}

bool ToolCallParser::in_header(Events& events, bool last) {
  const Header header = read_header();
  if (header.state == Header::State::bad || (header.state == Header::State::more && last)) {
    no_call(events);
    return true;
  }
  if (header.state == Header::State::more) return false;
  front_.clear();
  after_call_ = true;
  events.push_back({.kind = ToolCallEvent::Kind::begin, .call = calls_, .text = header.name});
  if (header.state == Header::State::arguments) {
    held_.erase(0, header.arguments);
    scanner_ = {};
    place_ = Place::arguments;
    return true;
  }
  events.push_back({.kind = ToolCallEvent::Kind::arguments,
                    .call = calls_,
                    .text = held_.substr(header.arguments, header.arguments_end - header.arguments)});
  events.push_back({.kind = ToolCallEvent::Kind::end, .call = calls_++, .text = {}});
  held_.erase(0, header.end - 1);  // the tail begins with the brace
  place_ = Place::tail;
  return true;
}

bool ToolCallParser::in_arguments(Events& events, bool last) {
  JsonScanner::State state = JsonScanner::State::more;
  size_t length = 0;
  while (length < held_.size() && state == JsonScanner::State::more) state = scanner_.push(held_[length++]);
  const bool bad = state == JsonScanner::State::bad;
  if (bad) --length;
  if (length > 0) {
    events.push_back({.kind = ToolCallEvent::Kind::arguments, .call = calls_, .text = held_.substr(0, length)});
    held_.erase(0, length);
  }
  if (state == JsonScanner::State::done) {
    events.push_back({.kind = ToolCallEvent::Kind::end, .call = calls_++, .text = {}});
    place_ = Place::tail;
    return true;
  }
  if (!bad && !last) return false;
  events.push_back({.kind = ToolCallEvent::Kind::broken, .call = calls_++, .text = {}});
  after_call_ = false;
  place_ = Place::content;
  plain_ = plain_ || form_ != ToolCallForm::hermes;
  return true;
}

// Behind the arguments: further members (as "type"), the brace, and the closing tag or a semicolon.
bool ToolCallParser::in_tail(bool last) {
  const std::string_view text = held_;
  const auto leave = [&](size_t end, Place place) {
    held_.erase(0, end);
    place_ = place;
    return true;
  };
  // A text that stops within the tail loses only what closes the call.
  const auto wait = [&] { return last ? leave(held_.size(), Place::content) : false; };
  const auto give_up = [&] {
    plain_ = plain_ || form_ != ToolCallForm::hermes;
    return leave(0, Place::content);
  };
  size_t at = skip_space(text);
  while (at < text.size() && text[at] == ',') {
    const size_t name = value_length(text.substr(at + 1));
    if (name == std::string_view::npos) return give_up();
    if (name == 0) return last ? give_up() : false;
    const size_t colon = skip_space(text, at + 1 + name);
    if (colon == text.size()) return last ? give_up() : false;
    const size_t value = text[colon] == ':' ? value_length(text.substr(colon + 1)) : std::string_view::npos;
    if (value == std::string_view::npos) return give_up();
    if (value == 0) return last ? give_up() : false;
    at = skip_space(text, colon + 1 + value);
  }
  if (at == text.size()) return wait();
  if (text[at] != '}') return give_up();
  at = skip_space(text, at + 1);
  const std::string_view closing = form_ == ToolCallForm::hermes ? close_tag : std::string_view(";");
  const std::string_view rest = text.substr(at);
  if (rest.starts_with(closing)) {
    if (form_ != ToolCallForm::hermes) front_.assign(1, ';');  // content, if no other call follows
    return leave(at + closing.size(), form_ == ToolCallForm::hermes ? Place::content : Place::begin);
  }
  if (rest.size() < closing.size() && closing.starts_with(rest)) return wait();
  // The call is over without what should close it; the rest is text.
  held_.erase(0, at);
  return give_up();
}

// --- demanding calls
// ----------------------------------------------------------------------------------------------

namespace {

// A function as the tools' list has it.
struct Function {
  std::string name;
  const Json* parameters = nullptr;
};

Result<std::vector<Function>> functions_of(const Json& tools, const ToolCallDemand& demand) {
  if (!tools.is_array() || tools.empty()) return error(Code::invalid_argument, "tools: expected a list of functions");
  std::vector<Function> functions;
  for (size_t i = 0; i < tools.size(); ++i) {
    const bool function = tools[i].is_object() && tools[i].contains("function") && tools[i]["function"].is_object();
    const Json* found = function ? &tools[i]["function"] : nullptr;
    if (found == nullptr || !found->contains("name") || !(*found)["name"].is_string()) {
      return error(Code::invalid_argument, "tools[{}]: expected {{\"type\": \"function\", \"function\": {{\"name\": ...}}}}", i);
    }
    Function next{.name = (*found)["name"].get<std::string>()};
    if (found->contains("parameters") && !(*found)["parameters"].is_null()) next.parameters = &(*found)["parameters"];
    for (const Function& other : functions) {
      if (other.name == next.name) return error(Code::invalid_argument, "tools[{}]: there are two functions \"{}\"", i, next.name);
    }
    functions.push_back(std::move(next));
  }
  if (!demand.function) return functions;
  const auto found = std::find_if(functions.begin(), functions.end(), [&](const Function& each) { return each.name == *demand.function; });
  if (found == functions.end())
    return error(Code::invalid_argument, "tool_choice: there is no function \"{}\" among the tools", *demand.function);
  return std::vector<Function>{*found};
}

// Whether the schema leaves open that arguments are an object.
bool says_nothing(const Json& parameters) {
  if (parameters.is_boolean()) return parameters.get<bool>();
  return parameters.is_object() && std::none_of(parameters.begin(), parameters.end(), [](const Json&) { return true; });
}

}  // namespace

Result<Grammar> tool_call_grammar(ToolCallForm form, const Json& tools, const ToolCallDemand& demand) {
  if (form == ToolCallForm::none) return error(Code::unsupported, "the model's chat template has no form for calling tools");
  ONSET_ASSIGN(const std::vector<Function> functions, functions_of(tools, demand));
  const bool hermes = form == ToolCallForm::hermes;
  GrammarBuilder builder(JsonSchemaLimits().states);
  const uint32_t root = builder.add_rule("tool call");
  AutomatonDraft draft;
  const Place begin = draft.add(), end = draft.add(), call_end = draft.add();
  draft.skip(0, begin);
  const Place opened = draft.literal(begin, hermes ? "<tool_call>\n{\"name\": " : "{\"name\": ");
  for (const Function& function : functions) {
    const Place name = draft.literal(draft.literal(opened, Json(function.name).dump(-1, ' ', false, Json::error_handler_t::replace)),
                                     hermes ? ", \"arguments\": " : ", \"parameters\": ");
    const Json none;
    const bool any = function.parameters == nullptr || says_nothing(*function.parameters);
    JsonSchemaCompiler compiler(builder, any ? none : *function.parameters, fmt::format("function {}: parameters", function.name));
    if (any) {
      draft.skip(compiler.any_object(draft, name), call_end);
      continue;
    }
    if (!function.parameters->is_object() || function.parameters->value("type", Json("object")) != Json("object")) {
      return error(Code::invalid_argument, "function {}: parameters: expected the schema of an object", function.name);
    }
    ONSET_ASSIGN(const Place after, compiler.value(draft, name, *function.parameters, ""));
    draft.skip(after, call_end);
    ONSET_TRY(compiler.finish());
  }
  const Place closed = draft.literal(call_end, hermes ? "}\n</tool_call>" : "}");
  draft.skip(closed, end);
  if (demand.parallel) draft.skip(draft.literal(closed, hermes ? "\n" : "; "), begin);
  draft.set_final(end);
  ONSET_TRY(builder.define(root, draft).within("tools"));
  auto grammar = builder.finish(root);
  if (!grammar.ok()) return grammar.status().within("tools");
  return grammar;
}

}  // namespace onset
