#include "onset/text/jinja_expression_parser.h"

#include <algorithm>
#include <array>

#include "onset/text/jinja_builtins.h"

namespace onset::jinja {
namespace {

using OperatorName = std::pair<std::string_view, Operator>;
constexpr std::array<OperatorName, 2> kSums{{{"+", Operator::add}, {"-", Operator::subtract}}};
constexpr std::array<OperatorName, 4> kProducts{
    {{"*", Operator::multiply}, {"/", Operator::divide}, {"//", Operator::floor_divide}, {"%", Operator::modulo}}};
constexpr std::array<OperatorName, 1> kPowers{{{"**", Operator::power}}};
constexpr std::array<OperatorName, 6> kComparisons{{{"==", Operator::equal},
                                                    {"!=", Operator::not_equal},
                                                    {"<", Operator::less},
                                                    {"<=", Operator::less_equal},
                                                    {">", Operator::greater},
                                                    {">=", Operator::greater_equal}}};

template <typename Operators>
const Operator* find_operator(const Token& token, const Operators& operators) {
  if (token.kind != TokenKind::symbol) return nullptr;
  for (const auto& [symbol, op] : operators) {
    if (token.text == symbol) return &op;
  }
  return nullptr;
}

}  // namespace

// --- expressions, from the loosest binding to the tightest

ExpressionPointer ExpressionParser::parse_expression(bool with_conditional) {
  Nesting nesting(*this);
  return with_conditional ? parse_conditional() : parse_or();
}

ExpressionPointer ExpressionParser::parse_conditional() {
  const size_t mark = unknown_mark();
  ExpressionPointer value = parse_or();
  while (at_name("if")) {
    auto node = make(ExpressionKind::conditional, take().line);
    adopt(*node, std::move(value));
    adopt(*node, parse_or());
    Nesting nesting(*this);
    adopt(*node, skip_name("else") ? parse_conditional() : nullptr);
    forgive_unknown(mark);
    value = std::move(node);
  }
  return value;
}

ExpressionPointer ExpressionParser::parse_or() {
  ExpressionPointer first = parse_and();
  if (!at_name("or")) return first;
  auto node = make(ExpressionKind::logical_or, first->line);
  adopt(*node, std::move(first));
  while (skip_name("or")) adopt(*node, parse_and());
  return node;
}

ExpressionPointer ExpressionParser::parse_and() {
  ExpressionPointer first = parse_not();
  if (!at_name("and")) return first;
  auto node = make(ExpressionKind::logical_and, first->line);
  adopt(*node, std::move(first));
  while (skip_name("and")) adopt(*node, parse_not());
  return node;
}

ExpressionPointer ExpressionParser::parse_not() {
  if (!at_name("not")) return parse_compare();
  Nesting nesting(*this);
  auto node = make(ExpressionKind::logical_not, take().line);
  adopt(*node, parse_not());
  return node;
}

ExpressionPointer ExpressionParser::parse_compare() {
  ExpressionPointer first = parse_sum();
  ExpressionPointer node;
  while (true) {
    Operator op;
    if (const Operator* found = find_operator(current(), kComparisons)) {
      op = *found;
      take();
    } else if (skip_name("in")) {
      op = Operator::in;
    } else if (at_name("not") && is_name(following(), "in")) {
      take();
      take();
      op = Operator::not_in;
    } else {
      return node ? std::move(node) : std::move(first);
    }
    if (!node) {
      node = make(ExpressionKind::comparison, first->line);
      adopt(*node, std::move(first));
    }
    node->operators.push_back(op);
    adopt(*node, parse_sum());
  }
}

// operand (operator operand)*, all of one precedence, from left to right.
template <typename Operators>
ExpressionPointer ExpressionParser::parse_chain(ExpressionKind kind, ExpressionPointer (ExpressionParser::*operand)(),
                                                const Operators& operators) {
  ExpressionPointer first = (this->*operand)();
  if (find_operator(current(), operators) == nullptr) return first;
  auto node = make(kind, first->line);
  adopt(*node, std::move(first));
  while (const Operator* op = find_operator(current(), operators)) {
    node->operators.push_back(*op);
    take();
    adopt(*node, (this->*operand)());
  }
  return node;
}

ExpressionPointer ExpressionParser::parse_sum() {
  return parse_chain(ExpressionKind::arithmetic, &ExpressionParser::parse_concatenation, kSums);
}

ExpressionPointer ExpressionParser::parse_concatenation() {
  ExpressionPointer first = parse_product();
  if (!at_symbol("~")) return first;
  auto node = make(ExpressionKind::concatenate, first->line);
  adopt(*node, std::move(first));
  while (skip_symbol("~")) adopt(*node, parse_product());
  return node;
}

ExpressionPointer ExpressionParser::parse_product() {
  return parse_chain(ExpressionKind::arithmetic, &ExpressionParser::parse_power, kProducts);
}

ExpressionPointer ExpressionParser::parse_power() {
  return parse_chain(ExpressionKind::arithmetic, &ExpressionParser::parse_filtered_unary, kPowers);
}

ExpressionPointer ExpressionParser::parse_unary(bool with_filter) {
  ExpressionPointer node;
  if (at_symbol("-") || at_symbol("+")) {
    Nesting nesting(*this);
    node = make(at_symbol("-") ? ExpressionKind::negative : ExpressionKind::positive, current().line);
    take();
    adopt(*node, parse_unary(false));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filter ? parse_filters_and_tests(std::move(node)) : std::move(node);
}

ExpressionPointer ExpressionParser::parse_primary() {
  const int line = current().line;
  switch (current().kind) {
    case TokenKind::name: {
      const Token token = take();
      const bool is_true = token.text == "true" || token.text == "True";
      if (is_true || token.text == "false" || token.text == "False") {
        auto node = make(ExpressionKind::constant, line);
        node->value = Value::boolean(is_true);
        return node;
      }
      if (token.text == "none" || token.text == "None") {
        auto node = make(ExpressionKind::constant, line);
        node->value = Value::none();
        return node;
      }
      return make_variable(token);
    }
    case TokenKind::text: {
      std::string text = take().text;
      while (current().kind == TokenKind::text) text += take().text;
      auto node = make(ExpressionKind::constant, line);
      node->value = constant_text(std::move(text));
      return node;
    }
    case TokenKind::integer:
    case TokenKind::real: {
      const Token token = take();
      auto node = make(ExpressionKind::constant, line);
      node->value = token.kind == TokenKind::integer ? Value::integer(token.integer) : Value::real(token.real);
      return node;
    }
    default:
      if (at_symbol("(")) return parse_parentheses();
      if (at_symbol("[")) return parse_list();
      if (at_symbol("{")) return parse_dictionary();
      fail_at(line, "unexpected '{}'", describe(current()));
  }
}

bool ExpressionParser::at_tuple_end(std::string_view end_name) const {
  return current().kind == TokenKind::variable_end || current().kind == TokenKind::block_end || at_symbol(")") ||
         (!end_name.empty() && at_name(end_name));
}

ExpressionPointer ExpressionParser::parse_tuple(bool with_conditional, std::string_view end_name) {
  const int line = current().line;
  std::vector<ExpressionPointer> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) expect_symbol(",");
    if (at_tuple_end(end_name)) break;
    items.push_back(parse_expression(with_conditional));
    if (!at_symbol(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items.front());
  if (!is_tuple) fail_at(line, "Expected an expression, got '{}'", describe(current()));
  auto node = make(ExpressionKind::tuple, line);
  for (auto& item : items) adopt(*node, std::move(item));
  return node;
}

// (a), (a, b), () - only here may a tuple be empty.
ExpressionPointer ExpressionParser::parse_parentheses() {
  const int line = take().line;
  ExpressionPointer node = at_symbol(")") ? make(ExpressionKind::tuple, line) : parse_tuple();
  expect_symbol(")");
  return node;
}

ExpressionPointer ExpressionParser::parse_list() {
  auto node = make(ExpressionKind::list, take().line);
  while (!at_symbol("]")) {
    if (!node->operands.empty()) expect_symbol(",");
    if (at_symbol("]")) break;
    adopt(*node, parse_expression());
  }
  expect_symbol("]");
  return node;
}

ExpressionPointer ExpressionParser::parse_dictionary() {
  auto node = make(ExpressionKind::dictionary, take().line);
  while (!at_symbol("}")) {
    if (!node->operands.empty()) expect_symbol(",");
    if (at_symbol("}")) break;
    adopt(*node, parse_expression());
    expect_symbol(":");
    adopt(*node, parse_expression());
  }
  expect_symbol("}");
  return node;
}

ExpressionPointer ExpressionParser::parse_postfix(ExpressionPointer node) {
  while (true) {
    if (at_symbol(".") || at_symbol("[")) {
      node = parse_subscript(std::move(node));
    } else if (at_symbol("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPointer ExpressionParser::parse_filters_and_tests(ExpressionPointer node) {
  while (true) {
    if (at_symbol("|")) {
      node = parse_filter(std::move(node), false);
    } else if (at_name("is")) {
      node = parse_test(std::move(node));
    } else if (at_symbol("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPointer ExpressionParser::parse_subscript(ExpressionPointer node) {
  const int line = current().line;
  if (skip_symbol(".")) {
    if (current().kind == TokenKind::name) {
      auto attribute = make(ExpressionKind::attribute, line);
      attribute->text = take().text;
      // The interpreter looks attributes up as values when they are keys.
      attribute->value = constant_text(attribute->text);
      adopt(*attribute, std::move(node));
      return attribute;
    }
    if (current().kind != TokenKind::integer) fail_at(line, "expected name or number");
    auto index = make(ExpressionKind::constant, line);
    index->value = Value::integer(take().integer);
    auto item = make(ExpressionKind::item, line);
    adopt(*item, std::move(node));
    adopt(*item, std::move(index));
    return item;
  }
  expect_symbol("[");
  ExpressionPointer first;
  bool is_slice = false;
  if (!at_symbol(":")) first = parse_expression();
  auto out = make(ExpressionKind::item, line);
  adopt(*out, std::move(node));
  if (skip_symbol(":")) {
    is_slice = true;
    out->kind = ExpressionKind::slice;
    adopt(*out, std::move(first));
    for (int part = 0; part < 2; ++part) {
      const bool is_absent = at_symbol(":") || at_symbol("]") || at_symbol(",");
      adopt(*out, is_absent ? nullptr : parse_expression());
      if (part == 0 && !skip_symbol(":")) {
        out->operands.push_back(nullptr);
        break;
      }
    }
  } else if (at_symbol(",")) {
    auto tuple = make(ExpressionKind::tuple, line);
    adopt(*tuple, std::move(first));
    while (skip_symbol(",")) adopt(*tuple, parse_expression());
    adopt(*out, std::move(tuple));
  } else {
    adopt(*out, std::move(first));
  }
  if (is_slice && at_symbol(",")) {
    throw Failure{Code::unsupported, fmt::format("line {}: slices in several dimensions are not supported", line)};
  }
  expect_symbol("]");
  return out;
}

ExpressionPointer ExpressionParser::parse_call(ExpressionPointer node) {
  auto call = make(ExpressionKind::call, current().line);
  adopt(*call, std::move(node));
  adopt_arguments(*call, parse_arguments());
  return call;
}

std::unique_ptr<CallArguments> ExpressionParser::parse_arguments() {
  auto arguments = std::make_unique<CallArguments>();
  const int line = current().line;
  expect_symbol("(");
  const auto require = [&](bool valid) {
    if (!valid) fail_at(line, "invalid syntax for function call expression");
  };
  bool needs_comma = false;
  while (!at_symbol(")")) {
    if (needs_comma) {
      expect_symbol(",");
      if (at_symbol(")")) break;
    }
    if (skip_symbol("*")) {
      require(!arguments->spread_positional && !arguments->spread_keywords);
      arguments->spread_positional = parse_expression();
    } else if (skip_symbol("**")) {
      require(!arguments->spread_keywords);
      arguments->spread_keywords = parse_expression();
    } else if (current().kind == TokenKind::name && is_symbol(following(), "=")) {
      require(!arguments->spread_keywords);
      std::string name = take().text;
      take();
      const bool is_repeated =
          std::any_of(arguments->keywords.begin(), arguments->keywords.end(), [&](const auto& keyword) { return keyword.first == name; });
      if (is_repeated || arguments->keywords.size() >= 1000) fail_at(line, "keyword argument repeated: {}", name);
      arguments->keywords.emplace_back(std::move(name), parse_expression());
    } else {
      require(!arguments->spread_positional && !arguments->spread_keywords && arguments->keywords.empty());
      arguments->positional.push_back(parse_expression());
    }
    needs_comma = true;
  }
  expect_symbol(")");
  return arguments;
}

std::string ExpressionParser::parse_dotted_name() {
  std::string name = expect(TokenKind::name).text;
  while (skip_symbol(".")) name += "." + expect(TokenKind::name).text;
  return name;
}

ExpressionPointer ExpressionParser::parse_filter(ExpressionPointer operand, bool start_inline) {
  while (start_inline || at_symbol("|")) {
    if (!start_inline) take();
    start_inline = false;
    auto node = make(ExpressionKind::filter, current().line);
    node->text = parse_dotted_name();
    if (!is_filter(node->text)) note_unknown(node->line, "filter", node->text, is_jinja_filter(node->text));
    adopt(*node, std::move(operand));
    if (at_symbol("(")) adopt_arguments(*node, parse_arguments());
    operand = std::move(node);
  }
  return operand;
}

ExpressionPointer ExpressionParser::parse_test(ExpressionPointer operand) {
  const int line = take().line;
  const bool is_negated = skip_name("not");
  auto node = make(ExpressionKind::test, line);
  node->text = parse_dotted_name();
  if (!is_test(node->text)) note_unknown(line, "test", node->text, false);
  adopt(*node, std::move(operand));
  const TokenKind kind = current().kind;
  const bool begins_operand = kind == TokenKind::name || kind == TokenKind::text || kind == TokenKind::integer || kind == TokenKind::real ||
                              at_symbol("[") || at_symbol("{");
  if (at_symbol("(")) {
    adopt_arguments(*node, parse_arguments());
  } else if (begins_operand && !at_name("else") && !at_name("or") && !at_name("and")) {
    if (at_name("is")) fail_at(line, "You cannot chain multiple tests with is");
    auto arguments = std::make_unique<CallArguments>();
    arguments->positional.push_back(parse_postfix(parse_primary()));
    adopt_arguments(*node, std::move(arguments));
  }
  if (!is_negated) return node;
  auto negation = make(ExpressionKind::logical_not, line);
  adopt(*negation, std::move(node));
  return negation;
}

// --- targets of assignments

uint32_t ExpressionParser::parse_target_name(std::string* text) {
  const Token token = expect(TokenKind::name);
  static constexpr std::array<std::string_view, 6> kConstants{"true", "false", "none", "True", "False", "None"};
  if (std::find(kConstants.begin(), kConstants.end(), token.text) != kConstants.end()) {
    fail_at(token.line, "can't assign to '{}'", token.text);
  }
  if (text != nullptr) *text = token.text;
  const uint32_t name = intern(token.text);
  note_stored(name, token.line);
  return name;
}

Target ExpressionParser::parse_one_target(bool with_namespace) {
  Nesting nesting(*this);
  Target target;
  target.line = current().line;
  if (skip_symbol("(")) {
    target.kind = Target::Kind::tuple;
    bool is_tuple = at_symbol(")");
    while (!at_symbol(")")) {
      target.items.push_back(parse_one_target(false));
      if (!at_symbol(")")) {
        expect_symbol(",");
        is_tuple = true;
      }
    }
    take();
    if (!is_tuple) return Target(target.items.front());
    return target;
  }
  if (current().kind != TokenKind::name) fail_at(target.line, "can't assign to '{}'", describe(current()));
  if (with_namespace && is_symbol(following(), ".")) {
    target.kind = Target::Kind::attribute;
    target.name = make_variable(take())->name;
    take();
    target.attribute = expect(TokenKind::name).text;
    return target;
  }
  target.name = parse_target_name();
  return target;
}

Target ExpressionParser::parse_target(bool with_namespace, std::string_view end_name) {
  Target target;
  target.line = current().line;
  target.kind = Target::Kind::tuple;
  bool is_tuple = false;
  while (true) {
    if (!target.items.empty()) expect_symbol(",");
    if (at_tuple_end(end_name)) break;
    target.items.push_back(parse_one_target(with_namespace));
    if (!at_symbol(",")) break;
    is_tuple = true;
  }
  if (target.items.empty()) fail_at(target.line, "Expected an expression, got '{}'", describe(current()));
  if (!is_tuple) return Target(target.items.front());
  return target;
}

}  // namespace onset::jinja
