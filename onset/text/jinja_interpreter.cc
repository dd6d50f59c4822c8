// Statements, scopes and loops; jinja_evaluate.cc has the expressions.
#include "onset/text/jinja_interpreter.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace onset::jinja {

std::string macro_name(const Value& value) {
  return value.object<MacroObject>().macro->name;
}

Interpreter::Interpreter(const Program& program, const Limits& limits, std::optional<std::tm> now)
    : heap_(limits), program_(program), now_(now) {
  root_ = heap_.make<Scope>(sizeof(Scope) + program.names.size() * sizeof(Value));
}

Interpreter::~Interpreter() {
  // Namespaces and the scopes of macros can hold themselves: empty them one by one, while these lists still
  // hold all of them, so that no chain of them dies recursively.
  block_text_ = Value();
  for (const auto& scope : captured_) scope->variables.clear();
  for (const auto& name_space : namespaces_) name_space->table.clear();
  root_->by_name.clear();
}

std::string Interpreter::run(const nlohmann::ordered_json& variables) {
  static constexpr std::string_view kGlobals[] = {"range",        "dict",   "namespace", "raise_exception",
                                                  "strftime_now", "cycler", "joiner",    "lipsum"};
  for (const std::string& name : program_.names) {
    Value value = Value::missing();
    if (const auto found = variables.find(name); found != variables.end()) {
      value = heap_.from_json(*found);
    } else if (std::find(std::begin(kGlobals), std::end(kGlobals), name) != std::end(kGlobals)) {
      value = heap_.function(name);
    }
    root_->by_name.push_back(std::move(value));
  }
  TextBuilder out(heap_);
  execute(program_.body, root_, out);
  return out.take();
}

void Interpreter::fail_deep() const {
  throw Failure{Code::resource_exhausted, "nested too deep, or a macro that calls itself without end"};
}

// --- scopes

Interpreter::ScopePointer Interpreter::make_scope(const ScopePointer& parent) {
  auto scope = heap_.make<Scope>(sizeof(Scope));
  scope->parent = parent;
  return scope;
}

// An empty scope for the next turn of a loop: the same one again, unless a macro kept it.
void Interpreter::clear_scope(ScopePointer& scope, const ScopePointer& parent) {
  if (!scope || scope->is_captured) {
    scope = make_scope(parent);
  } else {
    scope->variables.clear();
  }
}

Value Interpreter::lookup(uint32_t name, const Scope& scope) {
  const Value* found = nullptr;
  for (const Scope* at = &scope; found == nullptr; at = at->parent.get()) {
    if (at->parent == nullptr) {
      found = &at->by_name[name];
      break;
    }
    heap_.work(at->variables.size() / 16);
    for (const auto& [other, value] : at->variables) {
      if (other == name) found = &value;
    }
  }
  if (found->kind() != Kind::missing) return *found;
  return heap_.undefined(fmt::format("'{}' is undefined", program_.names[name]));
}

void Interpreter::store(uint32_t name, Value value, Scope& scope) {
  if (scope.parent == nullptr) {
    scope.by_name[name] = std::move(value);
    return;
  }
  heap_.work(scope.variables.size() / 16);
  for (auto& [other, old] : scope.variables) {
    if (other != name) continue;
    old = std::move(value);
    return;
  }
  heap_.grow(scope, sizeof(scope.variables[0]));
  scope.variables.emplace_back(name, std::move(value));
}

void Interpreter::assign(const Target& target, const Value& value, const ScopePointer& scope) {
  switch (target.kind) {
    case Target::Kind::variable:
      return store(target.name, value, *scope);
    case Target::Kind::attribute:
      return assign_attribute(target, value, scope);
    case Target::Kind::tuple:
      break;
  }
  if (!is_iterable(value)) fail("cannot unpack non-iterable {} object", type_name(value));
  Iterator items(heap_, value);
  std::vector<Value> parts;
  for (Value item; parts.size() < target.items.size() && items.next(item);) parts.push_back(std::move(item));
  const size_t expected = target.items.size();
  if (parts.size() < expected) fail("not enough values to unpack (expected {}, got {})", expected, parts.size());
  if (Value item; items.next(item)) fail("too many values to unpack (expected {})", expected);
  for (size_t i = 0; i < expected; ++i) assign(target.items[i], parts[i], scope);
}

void Interpreter::assign_attribute(const Target& target, const Value& value, const ScopePointer& scope) {
  const Value holder = lookup(target.name, *scope);
  if (holder.kind() != Kind::name_space) fail("cannot assign attribute on non-namespace object");
  if (target.attribute.starts_with('_')) {
    fail(
        "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{}'. Please "
        "rename the "
        "attribute.",
        target.attribute);
  }
  auto& name_space = holder.object<NamespaceObject>();
  if (name_space.table.find(target.attribute) == nullptr) {
    heap_.grow(name_space, 2 * sizeof(Value) + 64 + target.attribute.size());
  }
  name_space.table.set(target.attribute, value);
}

// jinja2 looks at the targets before it evaluates what goes there.
void Interpreter::require_namespaces(const Target& target, const ScopePointer& scope) {
  if (target.kind == Target::Kind::attribute && lookup(target.name, *scope).kind() != Kind::name_space) {
    fail("cannot assign attribute on non-namespace object");
  }
  for (const Target& item : target.items) require_namespaces(item, scope);
}

// --- statements

Interpreter::Flow Interpreter::execute(const Block& block, const ScopePointer& scope, TextBuilder& out) {
  Level level(*this);
  for (const auto& statement : block) {
    heap_.work();
    line_ = statement->line;
    const Flow flow = execute_one(*statement, scope, out);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::execute_one(const Statement& statement, const ScopePointer& scope, TextBuilder& out) {
  switch (statement.kind) {
    case StatementKind::text:
      out.append(statement.text);
      return Flow::normal;
    case StatementKind::print:
      print(statement, scope, out);
      return Flow::normal;
    case StatementKind::conditional:
      return execute_conditional(statement, scope, out);
    case StatementKind::loop:
      return run_loop(statement, evaluate(*statement.expressions[0], scope), 0, scope, out);
    case StatementKind::assign:
      execute_assign(statement, scope);
      return Flow::normal;
    case StatementKind::assign_block:
      return execute_assign_block(statement, scope);
    case StatementKind::macro:
      store(statement.targets[0].name, make_macro(*statement.macro, scope), *scope);
      return Flow::normal;
    case StatementKind::call_block:
      execute_call_block(statement, scope, out);
      return Flow::normal;
    case StatementKind::filter_block:
      return execute_filter_block(statement, scope, out);
    case StatementKind::with:
      return execute_with(statement, scope, out);
    case StatementKind::generation:
      return execute(statement.blocks[0], make_scope(scope), out);
    case StatementKind::break_loop:
      return Flow::break_loop;
    case StatementKind::continue_loop:
      return Flow::continue_loop;
  }
  return Flow::normal;
}

void Interpreter::print(const Statement& statement, const ScopePointer& scope, TextBuilder& out) {
  for (const auto& expression : statement.expressions) append_text(heap_, evaluate(*expression, scope), out);
}

Interpreter::Flow Interpreter::execute_conditional(const Statement& statement, const ScopePointer& scope, TextBuilder& out) {
  for (size_t i = 0; i < statement.expressions.size(); ++i) {
    if (truth(evaluate(*statement.expressions[i], scope))) return execute(statement.blocks[i], scope, out);
  }
  if (statement.blocks.size() == statement.expressions.size()) return Flow::normal;
  return execute(statement.blocks.back(), scope, out);
}

void Interpreter::execute_assign(const Statement& statement, const ScopePointer& scope) {
  require_namespaces(statement.targets[0], scope);
  assign(statement.targets[0], evaluate(*statement.expressions[0], scope), scope);
}

// The text of a block through a chain of filters whose innermost has no operand; without filters, the text.
Value Interpreter::filter_text(const Expression* filter, std::string text, const ScopePointer& scope) {
  Value value = heap_.text(std::move(text));
  if (filter == nullptr) return value;
  std::swap(value, block_text_);
  Value out = evaluate(*filter, scope);
  block_text_ = std::move(value);
  return out;
}

Interpreter::Flow Interpreter::execute_assign_block(const Statement& statement, const ScopePointer& scope) {
  const ScopePointer inner = make_scope(scope);
  TextBuilder text(heap_);
  const Flow flow = execute(statement.blocks[0], inner, text);
  if (flow != Flow::normal) return flow;
  assign(statement.targets[0], filter_text(statement.expressions[0].get(), text.take(), inner), scope);
  return Flow::normal;
}

Interpreter::Flow Interpreter::execute_filter_block(const Statement& statement, const ScopePointer& scope, TextBuilder& out) {
  const ScopePointer inner = make_scope(scope);
  TextBuilder text(heap_);
  const Flow flow = execute(statement.blocks[0], inner, text);
  if (flow != Flow::normal) return flow;
  append_text(heap_, filter_text(statement.expressions[0].get(), text.take(), inner), out);
  return Flow::normal;
}

Interpreter::Flow Interpreter::execute_with(const Statement& statement, const ScopePointer& scope, TextBuilder& out) {
  const ScopePointer inner = make_scope(scope);
  for (size_t i = 0; i < statement.targets.size(); ++i) {
    assign(statement.targets[i], evaluate(*statement.expressions[i], scope), inner);
  }
  return execute(statement.blocks[0], inner, out);
}

Value Interpreter::make_macro(const Macro& macro, const ScopePointer& scope) {
  for (ScopePointer at = scope; at->parent != nullptr && !at->is_captured; at = at->parent) {
    at->is_captured = true;
    captured_.push_back(at);
  }
  auto object = heap_.make<MacroObject>(sizeof(MacroObject));
  object->macro = &macro;
  object->closure = scope;
  return Value(Kind::macro, std::move(object));
}

void Interpreter::execute_call_block(const Statement& statement, const ScopePointer& scope, TextBuilder& out) {
  const Value caller = make_macro(*statement.macro, scope);
  append_text(heap_, evaluate_call(*statement.expressions[0], scope, &caller), out);
}

// --- loops

Interpreter::Flow Interpreter::run_loop(const Statement& statement, const Value& source, int64_t depth0, ScopePointer scope,
                                        TextBuilder& out) {
  auto loop = heap_.make<LoopObject>(sizeof(LoopObject) + 512);
  loop->depth = source.depth() + 1;
  loop->statement = &statement;
  loop->outer = &scope;
  loop->source = source;
  loop->items.emplace(heap_, source);
  loop->depth0 = depth0;
  // However this loop is left, its object may live on: without items, and without what could hold the object
  // itself.
  struct End {
    LoopObject& loop;
    ~End() {
      loop.outer = nullptr;
      loop.items.reset();
      loop.ahead.clear();
      loop.last_changed.reset();
      loop.previous = loop.current = Value();
    }
  } end{*loop};

  bool any_completed = false;
  ScopePointer body;
  for (Value item; pull(*loop, item);) {
    ++loop->index0;
    loop->previous = std::exchange(loop->current, item);
    clear_scope(body, scope);
    store(program_.loop, Value(Kind::loop, loop), *body);
    assign(statement.targets[0], item, body);
    const Flow flow = execute(statement.blocks[0], body, out);
    if (flow == Flow::break_loop) break;
    // As in the Python that jinja2 makes of a loop, turns cut short do not keep the `else` from running.
    any_completed = any_completed || flow == Flow::normal;
  }
  if (any_completed || statement.blocks[1].empty()) return Flow::normal;
  return execute(statement.blocks[1], make_scope(scope), out);
}

// The next item that the loop's own `if` lets pass.
bool Interpreter::pull(LoopObject& loop, Value& out) {
  if (!loop.ahead.empty()) {
    out = std::move(loop.ahead.front());
    loop.ahead.pop_front();
    return true;
  }
  if (loop.outer == nullptr || !loop.items) return false;
  const Expression* filter = loop.statement->expressions[1].get();
  while (loop.items && loop.items->next(out)) {
    if (filter == nullptr) return true;
    const ScopePointer scope = make_scope(*loop.outer);
    assign(loop.statement->targets[0], out, scope);
    if (truth(evaluate(*filter, scope))) return true;
  }
  return false;
}

bool Interpreter::pull_ahead(LoopObject& loop) {
  Value item;
  std::deque<Value> earlier = std::exchange(loop.ahead, {});
  const bool found = pull(loop, item);
  loop.ahead = std::move(earlier);
  if (found) {
    heap_.grow(loop, sizeof(Value));
    loop.ahead.push_back(std::move(item));
  }
  return found;
}

int64_t Interpreter::loop_length(LoopObject& loop) {
  if (loop.known_length < 0) {
    if (has_length(loop.source) && loop.statement->expressions[1] == nullptr) {
      loop.known_length = length(loop.source);
    } else {
      while (pull_ahead(loop)) {
      }
      loop.known_length = loop.index0 + 1 + static_cast<int64_t>(loop.ahead.size());
    }
  }
  return loop.known_length;
}

bool Interpreter::loop_attribute(const Value& value, std::string_view name, Value& out) {
  auto& loop = value.object<LoopObject>();
  const auto has_next = [&] { return !loop.ahead.empty() || pull_ahead(loop); };
  if (name == "index") {
    out = Value::integer(loop.index0 + 1);
  } else if (name == "index0") {
    out = Value::integer(loop.index0);
  } else if (name == "first") {
    out = Value::boolean(loop.index0 == 0);
  } else if (name == "last") {
    out = Value::boolean(!has_next());
  } else if (name == "length") {
    out = Value::integer(loop_length(loop));
  } else if (name == "revindex") {
    out = Value::integer(loop_length(loop) - loop.index0);
  } else if (name == "revindex0") {
    out = Value::integer(loop_length(loop) - loop.index0 - 1);
  } else if (name == "previtem") {
    out = loop.index0 == 0 ? heap_.undefined("there is no previous item") : loop.previous;
  } else if (name == "nextitem") {
    out = has_next() ? loop.ahead.front() : heap_.undefined("there is no next item");
  } else if (name == "depth") {
    out = Value::integer(loop.depth0 + 1);
  } else if (name == "depth0") {
    out = Value::integer(loop.depth0);
  } else if (name == "cycle" || name == "changed") {
    out = heap_.function(std::string(name), value);
  } else {
    return false;
  }
  return true;
}

Value Interpreter::call_loop_method(LoopObject& loop, std::string_view name, const Arguments& arguments) {
  if (!arguments.keywords.empty()) fail("loop.{}() got an unexpected keyword argument", name);
  if (name == "cycle") {
    if (arguments.positional.empty()) fail("no items for cycling given");
    const auto count = static_cast<int64_t>(arguments.positional.size());
    return arguments.positional[static_cast<size_t>(((loop.index0 % count) + count) % count)];
  }
  Value value = heap_.tuple(arguments.positional);
  if (loop.outer == nullptr) fail("loop.changed() after the end of the loop");
  if (loop.last_changed && equal(heap_, *loop.last_changed, value)) return Value::boolean(false);
  loop.last_changed = std::move(value);
  return Value::boolean(true);
}

}  // namespace onset::jinja
