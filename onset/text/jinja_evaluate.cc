// Expressions, calls, macros and the global functions.
#include <algorithm>
#include <array>

#include "onset/text/jinja_interpreter.h"

namespace onset::jinja {

Value Interpreter::evaluate(const Expression& expression, const ScopePointer& scope) {
  heap_.work();
  switch (expression.kind) {
    case ExpressionKind::constant:
      return expression.value;
    case ExpressionKind::variable:
      return lookup(expression.name, *scope);
    default:
      return evaluate_deep(expression, scope);
  }
}

// What has operands. Each kind is a function of its own, so that the frames of the recursion stay small.
Value Interpreter::evaluate_deep(const Expression& expression, const ScopePointer& scope) {
  Level level(*this);
  line_ = expression.line;
  switch (expression.kind) {
    case ExpressionKind::list:
    case ExpressionKind::tuple:
      return evaluate_items(expression, scope);
    case ExpressionKind::dictionary:
      return evaluate_dictionary(expression, scope);
    case ExpressionKind::attribute:
    case ExpressionKind::item:
      return evaluate_attribute(expression, scope);
    case ExpressionKind::slice:
      return evaluate_slice(expression, scope);
    case ExpressionKind::call:
      return evaluate_call(expression, scope, nullptr);
    case ExpressionKind::filter:
      return evaluate_filter(expression, scope);
    case ExpressionKind::test:
      return evaluate_test(expression, scope);
    case ExpressionKind::negative:
      return negate(evaluate(*expression.operands[0], scope));
    case ExpressionKind::positive:
      return plus(evaluate(*expression.operands[0], scope));
    case ExpressionKind::logical_not:
      return Value::boolean(!truth(evaluate(*expression.operands[0], scope)));
    case ExpressionKind::logical_and:
    case ExpressionKind::logical_or:
      return evaluate_logical(expression, scope);
    case ExpressionKind::arithmetic:
      return evaluate_arithmetic(expression, scope);
    case ExpressionKind::concatenate:
      return evaluate_concatenation(expression, scope);
    case ExpressionKind::comparison:
      return evaluate_comparison(expression, scope);
    case ExpressionKind::conditional:
      return evaluate_conditional(expression, scope);
    case ExpressionKind::constant:
    case ExpressionKind::variable:
      break;
  }
  return {};
}

Value Interpreter::evaluate_items(const Expression& expression, const ScopePointer& scope) {
  std::vector<Value> items;
  items.reserve(expression.operands.size());
  for (const auto& operand : expression.operands) items.push_back(evaluate(*operand, scope));
  return heap_.sequence(expression.kind == ExpressionKind::list ? Flavor::list : Flavor::tuple, std::move(items));
}

Value Interpreter::evaluate_dictionary(const Expression& expression, const ScopePointer& scope) {
  Table table;
  for (size_t i = 0; i < expression.operands.size(); i += 2) {
    Value key = evaluate(*expression.operands[i], scope);
    table.set(heap_, std::move(key), evaluate(*expression.operands[i + 1], scope));
  }
  return heap_.dictionary(std::move(table));
}

Value Interpreter::attribute_of(const Value& value, const Value& name, bool prefer_item) {
  Value out;
  if (value.kind() == Kind::loop && name.is_text() && loop_attribute(value, name.as_text(), out)) return out;
  if (value.kind() == Kind::macro && name.is_text()) {
    const auto& object = value.object<MacroObject>();
    const std::string_view text = name.as_text();
    if (text == "name") return heap_.text(object.macro->name);
    if (text == "catch_kwargs") return Value::boolean(object.macro->uses_keywords);
    if (text == "catch_varargs") return Value::boolean(object.macro->uses_varargs);
    if (text == "caller") return Value::boolean(object.macro->uses_caller);
    if (text == "arguments") {
      std::vector<Value> names;
      for (const auto& [id, parameter] : object.macro->parameters) names.push_back(heap_.text(parameter));
      return heap_.tuple(std::move(names));
    }
  }
  return prefer_item ? get_item(heap_, value, name) : get_attribute(heap_, value, name);
}

Value Interpreter::evaluate_attribute(const Expression& expression, const ScopePointer& scope) {
  const Value holder = evaluate(*expression.operands[0], scope);
  if (expression.kind == ExpressionKind::attribute) return attribute_of(holder, expression.value, false);
  return attribute_of(holder, evaluate(*expression.operands[1], scope), true);
}

Value Interpreter::evaluate_slice(const Expression& expression, const ScopePointer& scope) {
  const Value holder = evaluate(*expression.operands[0], scope);
  std::array<Value, 3> bounds{Value::none(), Value::none(), Value::none()};
  for (size_t i = 0; i < bounds.size(); ++i) {
    if (expression.operands[i + 1]) bounds[i] = evaluate(*expression.operands[i + 1], scope);
  }
  return get_slice(heap_, holder, bounds[0], bounds[1], bounds[2]);
}

Value Interpreter::evaluate_logical(const Expression& expression, const ScopePointer& scope) {
  const bool stops_at = expression.kind == ExpressionKind::logical_or;
  Value value;
  for (const auto& operand : expression.operands) {
    value = evaluate(*operand, scope);
    if (truth(value) == stops_at) break;
  }
  return value;
}

Value Interpreter::evaluate_arithmetic(const Expression& expression, const ScopePointer& scope) {
  Value left = evaluate(*expression.operands[0], scope);
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    const Value right = evaluate(*expression.operands[i + 1], scope);
    left = arithmetic(heap_, expression.operators[i], left, right);
  }
  return left;
}

Value Interpreter::evaluate_concatenation(const Expression& expression, const ScopePointer& scope) {
  TextBuilder out(heap_);
  std::vector<Value> values;
  for (const auto& operand : expression.operands) values.push_back(evaluate(*operand, scope));
  for (const Value& value : values) append_text(heap_, value, out);
  return heap_.text(out.take());
}

Value Interpreter::evaluate_comparison(const Expression& expression, const ScopePointer& scope) {
  Value left = evaluate(*expression.operands[0], scope);
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    Value right = evaluate(*expression.operands[i + 1], scope);
    bool holds = false;
    switch (expression.operators[i]) {
      case Operator::equal:
        holds = equal(heap_, left, right);
        break;
      case Operator::not_equal:
        holds = !equal(heap_, left, right);
        break;
      case Operator::less:
        holds = compare(heap_, Comparison::less, left, right);
        break;
      case Operator::less_equal:
        holds = compare(heap_, Comparison::less_equal, left, right);
        break;
      case Operator::greater:
        holds = compare(heap_, Comparison::greater, left, right);
        break;
      case Operator::greater_equal:
        holds = compare(heap_, Comparison::greater_equal, left, right);
        break;
      case Operator::in:
        holds = contains(heap_, right, left);
        break;
      default:
        holds = !contains(heap_, right, left);
        break;
    }
    if (!holds) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interpreter::evaluate_conditional(const Expression& expression, const ScopePointer& scope) {
  if (truth(evaluate(*expression.operands[1], scope))) return evaluate(*expression.operands[0], scope);
  if (expression.operands[2]) return evaluate(*expression.operands[2], scope);
  return heap_.undefined(
      fmt::format("the inline if-expression on line {} evaluated to false and no else section was defined.", expression.line));
}

Value Interpreter::evaluate_filter(const Expression& expression, const ScopePointer& scope) {
  const Value value = expression.operands[0] ? evaluate(*expression.operands[0], scope) : block_text_;
  return apply_filter(heap_, expression.text, value, evaluate_arguments(expression.arguments.get(), scope));
}

Value Interpreter::evaluate_test(const Expression& expression, const ScopePointer& scope) {
  const Value value = evaluate(*expression.operands[0], scope);
  return Value::boolean(apply_test(heap_, expression.text, value, evaluate_arguments(expression.arguments.get(), scope)));
}

Arguments Interpreter::evaluate_arguments(const CallArguments* arguments, const ScopePointer& scope) {
  Arguments out;
  if (arguments == nullptr) return out;
  for (const auto& argument : arguments->positional) out.positional.push_back(evaluate(*argument, scope));
  for (const auto& [name, argument] : arguments->keywords) out.keywords.emplace_back(name, evaluate(*argument, scope));
  if (arguments->spread_positional) {
    for (Value& value : to_items(heap_, evaluate(*arguments->spread_positional, scope))) {
      out.positional.push_back(std::move(value));
    }
  }
  if (arguments->spread_keywords) {
    const Value spread = evaluate(*arguments->spread_keywords, scope);
    require_defined(spread);
    if (!spread.is_dictionary()) fail("argument after ** must be a mapping, not {}", type_name(spread));
    for (const auto& [key, value] : spread.as_dictionary().table.entries()) {
      if (!key.is_text()) fail("keywords must be strings");
      const auto is_same = [&](const auto& keyword) { return keyword.first == key.as_text(); };
      heap_.work(1 + out.keywords.size() / 8);
      if (std::any_of(out.keywords.begin(), out.keywords.end(), is_same)) {
        fail("got multiple values for keyword argument '{}'", key.as_text());
      }
      out.keywords.emplace_back(key.as_text(), value);
    }
  }
  return out;
}

// --- calls

Value Interpreter::evaluate_call(const Expression& expression, const ScopePointer& scope, const Value* caller) {
  const Value callee = evaluate(*expression.operands[0], scope);
  Arguments arguments = evaluate_arguments(expression.arguments.get(), scope);
  if (caller != nullptr) arguments.keywords.emplace_back("caller", *caller);
  line_ = expression.line;
  return call(callee, arguments);
}

Value Interpreter::call(const Value& callee, const Arguments& arguments) {
  switch (callee.kind()) {
    case Kind::macro:
      return call_macro(callee.object<MacroObject>(), arguments);
    case Kind::function: {
      const auto& function = callee.object<FunctionObject>();
      if (function.self.is_undefined()) return call_global(function.name, arguments);
      if (function.self.kind() == Kind::loop) {
        return call_loop_method(function.self.object<LoopObject>(), function.name, arguments);
      }
      return call_method(heap_, function.self, function.name, arguments);
    }
    case Kind::loop: {
      auto& loop = callee.object<LoopObject>();
      if (!loop.statement->recursive || loop.outer == nullptr) {
        fail("The loop must have the 'recursive' marker to be called recursively.");
      }
      const Parameters parameters("loop", arguments, {"iterable"}, 1);
      TextBuilder out(heap_);
      run_loop(*loop.statement, parameters.at(0), loop.depth0 + 1, *loop.outer, out);
      return heap_.text(out.take());
    }
    default:
      require_defined(callee);
      fail("'{}' object is not callable", type_name(callee));
  }
}

Value Interpreter::call_macro(const MacroObject& object, const Arguments& arguments) {
  Level level(*this);
  // The call may outlive every other reference to the macro.
  const ScopePointer scope = make_scope(object.closure);
  const Macro& macro = *object.macro;
  bind_parameters(macro, arguments, scope);
  TextBuilder out(heap_);
  execute(macro.body, scope, out);
  return heap_.text(out.take());
}

void Interpreter::bind_parameters(const Macro& macro, const Arguments& arguments, const ScopePointer& scope) {
  const size_t count = macro.parameters.size(), given = arguments.positional.size();
  std::vector<bool> used(arguments.keywords.size(), false);
  const auto take_keyword = [&](std::string_view name) {
    for (size_t i = 0; i < arguments.keywords.size(); ++i) {
      heap_.work();
      if (used[i] || arguments.keywords[i].first != name) continue;
      used[i] = true;
      return arguments.keywords[i].second;
    }
    return Value::missing();
  };
  for (size_t i = 0; i < count; ++i) {
    const auto& [name, text] = macro.parameters[i];
    store(name, i < given ? arguments.positional[i] : take_keyword(text), *scope);
  }
  if (macro.uses_caller) {
    Value caller = take_keyword("caller");
    if (caller.kind() == Kind::missing) caller = heap_.undefined("No caller defined");
    store(program_.caller, std::move(caller), *scope);
  }
  Table rest;
  for (size_t i = 0; i < arguments.keywords.size(); ++i) {
    if (used[i]) continue;
    const auto& [name, value] = arguments.keywords[i];
    if (!macro.uses_keywords) fail("macro '{}' takes no keyword argument '{}'", macro.name, name);
    rest.set(heap_, heap_.text(name), value);
  }
  if (macro.uses_keywords) store(program_.keywords, heap_.dictionary(std::move(rest)), *scope);
  if (macro.uses_varargs) {
    const auto begin = arguments.positional.begin() + static_cast<ptrdiff_t>(std::min(count, given));
    store(program_.varargs, heap_.tuple(std::vector<Value>(begin, arguments.positional.end())), *scope);
  } else if (given > count) {
    fail("macro '{}' takes not more than {} argument(s)", macro.name, count);
  }
  // Defaults see the parameters, whatever their order; a parameter without a value hides outer variables of
  // its name.
  for (size_t i = 0; i < count; ++i) {
    const auto& [name, text] = macro.parameters[i];
    const auto at = std::find_if(scope->variables.begin(), scope->variables.end(),
                                 [&, id = name](const auto& variable) { return variable.first == id; });
    if (at->second.kind() != Kind::missing) continue;
    const size_t required = count - macro.defaults.size();
    Value value = i < required ? heap_.undefined(fmt::format("parameter '{}' was not provided", text))
                               : evaluate(*macro.defaults[i - required], scope);
    store(name, std::move(value), *scope);
  }
}

// dict(mapping or pairs, name=value, ...)
Table Interpreter::table_of(std::string_view function, const Arguments& arguments) {
  if (arguments.positional.size() > 1) {
    fail("{} expected at most 1 argument, got {}", function, arguments.positional.size());
  }
  Table table;
  for (const Value& source : arguments.positional) {
    if (source.is_dictionary()) {
      heap_.work(source.as_dictionary().table.size());
      heap_.check_room(source.as_dictionary().table.size() * (2 * sizeof(Value) + 48));
      table = source.as_dictionary().table;
      continue;
    }
    Iterator pairs(heap_, source);
    for (Value pair; pairs.next(pair);) {
      const std::vector<Value> parts = to_items(heap_, pair);
      if (parts.size() != 2) fail("dictionary update sequence element has length {}; 2 is required", parts.size());
      if (table.size() % 1024 == 1023) heap_.check_room(table.size() * (2 * sizeof(Value) + 48));
      table.set(heap_, parts[0], parts[1]);
    }
  }
  for (const auto& [name, value] : arguments.keywords) table.set(heap_, heap_.text(name), value);
  return table;
}

Value Interpreter::call_global(std::string_view name, const Arguments& arguments) {
  heap_.work();
  if (name == "range") {
    if (!arguments.keywords.empty()) fail("range() takes no keyword arguments");
    const Parameters parameters("range", arguments, {"start", "stop", "step"}, 1);
    const int64_t first = parameters.integer_or(0, 0);
    if (!parameters.has(1)) return heap_.range(0, first, 1);
    return heap_.range(first, parameters.integer_or(1, 0), parameters.integer_or(2, 1));
  }
  if (name == "dict") return heap_.dictionary(table_of("dict", arguments));
  if (name == "namespace") {
    Table table = table_of("namespace", arguments);
    for (const auto& [key, value] : table.entries()) {
      if (key.is_text() && key.as_text().starts_with('_')) {
        fail(
            "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{}'. Please "
            "rename "
            "the attribute.",
            key.as_text());
      }
    }
    auto object = heap_.make<NamespaceObject>(sizeof(NamespaceObject) + 64 + table.size() * (2 * sizeof(Value) + 48));
    object->table = std::move(table);
    namespaces_.push_back(object);
    return Value(Kind::name_space, std::move(object));
  }
  if (name == "raise_exception") {
    const Parameters parameters("raise_exception", arguments, {"message"}, 1);
    const Value& message = parameters.at(0);
    throw Failure{Code::invalid_argument, message.is_none() ? "" : to_text(heap_, message), true};
  }
  if (name == "strftime_now") return format_time(arguments);
  fail_unsupported("the function '{}' is not supported", name);
}

Value Interpreter::format_time(const Arguments& arguments) {
  const Parameters parameters("strftime_now", arguments, {"format"}, 1);
  const std::string_view given = parameters.text(0);
  if (given.size() > 1000) fail("strftime_now() got a format of more than 1000 bytes");
  if (given.find('\0') != std::string_view::npos) fail("embedded null character");
  if (!now_) {
    const std::time_t seconds = std::time(nullptr);
    std::tm local{};
    localtime_r(&seconds, &local);
    now_ = local;
  }
  // With a mark in front, an empty result is no error.
  const std::string format = "." + std::string(given);
  std::array<char, 16384> buffer;
  const size_t size = std::strftime(buffer.data(), buffer.size(), format.c_str(), &*now_);
  if (size == 0) fail("strftime_now() would give a text of more than {} bytes", buffer.size() - 2);
  return heap_.text(std::string_view(buffer.data(), size).substr(1));
}

}  // namespace onset::jinja
