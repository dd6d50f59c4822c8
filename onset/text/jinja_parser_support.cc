// The parts of ExpressionParser below the grammar: tokens, names and the bounds of the tree.
#include <algorithm>

#include "onset/text/jinja_builtins.h"
#include "onset/text/jinja_expression_parser.h"

namespace onset::jinja {
namespace {

// Levels of parentheses, blocks and unary operators in the source, and the longest branch of an expression's
// tree: evaluation recurses as deep.
constexpr int kMaxNesting = 150;

[[noreturn]] void fail_deep(int line) {
  throw Failure{Code::resource_exhausted, fmt::format("line {}: nested more than {} deep", line, kMaxNesting)};
}

}  // namespace

ExpressionParser::ExpressionParser(std::string_view source) : tokens_(tokenize(source)), program_(std::make_shared<Program>()) {
  program_->loop = intern("loop");
  program_->caller = intern("caller");
  program_->varargs = intern("varargs");
  program_->keywords = intern("kwargs");
}

std::shared_ptr<const Program> ExpressionParser::finish() {
  const auto first = std::min_element(unknown_.begin(), unknown_.end(), [](const Unknown& a, const Unknown& b) { return a.line < b.line; });
  if (first != unknown_.end()) {
    throw Failure{first->in_jinja ? Code::unsupported : Code::invalid_argument, fmt::format("line {}: {}", first->line, first->message)};
  }
  return program_;
}

ExpressionParser::Nesting::Nesting(ExpressionParser& parser) : parser_(parser) {
  if (parser_.nesting_ >= kMaxNesting) fail_deep(parser_.current().line);
  ++parser_.nesting_;
}

// --- tokens

Token ExpressionParser::take() {
  return at_ + 1 < tokens_.size() ? std::move(tokens_[at_++]) : tokens_[at_];
}

void ExpressionParser::expect_symbol(std::string_view symbol) {
  if (!skip_symbol(symbol)) fail_at(current().line, "expected token '{}', got '{}'", symbol, describe(current()));
}

void ExpressionParser::expect_word(std::string_view name) {
  if (!skip_name(name)) fail_at(current().line, "expected token '{}', got '{}'", name, describe(current()));
}

Token ExpressionParser::expect(TokenKind kind) {
  if (current().kind != kind) {
    const std::string wanted = kind == TokenKind::name ? "name" : describe(Token{kind, 0, {}, 0, 0});
    fail_at(current().line, "expected token '{}', got '{}'", wanted, describe(current()));
  }
  return take();
}

// --- names

uint32_t ExpressionParser::intern(const std::string& name) {
  const auto [at, added] = names_.emplace(name, static_cast<uint32_t>(program_->names.size()));
  if (added) program_->names.push_back(name);
  return at->second;
}

ExpressionParser::MacroScope ExpressionParser::end_macro() {
  MacroScope scope = std::move(macros_.back());
  macros_.pop_back();
  return scope;
}

ExpressionPointer ExpressionParser::make_variable(const Token& token) {
  auto node = make(ExpressionKind::variable, token.line);
  node->name = intern(token.text);
  for (MacroScope& scope : macros_) {
    if (std::find(scope.stored.begin(), scope.stored.end(), node->name) != scope.stored.end()) continue;
    scope.caller = scope.caller || node->name == program_->caller;
    scope.varargs = scope.varargs || node->name == program_->varargs;
    scope.keywords = scope.keywords || node->name == program_->keywords;
  }
  return node;
}

void ExpressionParser::note_stored(uint32_t name, int line) {
  if (name == program_->loop && loops_ > 0) fail_at(line, "Can't assign to special loop variable in for-loop");
  if (name != program_->caller && name != program_->varargs && name != program_->keywords) return;
  for (MacroScope& scope : macros_) {
    if (scope.stored.size() < 3) scope.stored.push_back(name);
  }
}

void ExpressionParser::note_unknown(int line, const char* what, const std::string& name, bool in_jinja) {
  if (unknown_.size() >= 1000) return;  // one is enough to refuse the template
  unknown_.push_back({line, unknown_name(what, name), in_jinja, false});
}

void ExpressionParser::harden_unknown(size_t mark) {
  for (size_t i = mark; i < unknown_.size(); ++i) unknown_[i].hard = true;
}

void ExpressionParser::forgive_unknown(size_t mark) {
  const auto begin = unknown_.begin() + static_cast<ptrdiff_t>(std::min(mark, unknown_.size()));
  unknown_.erase(std::remove_if(begin, unknown_.end(), [](const Unknown& entry) { return !entry.hard; }), unknown_.end());
}

// --- the tree

ExpressionPointer ExpressionParser::make(ExpressionKind kind, int line) {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  return node;
}

void ExpressionParser::deepen(Expression& parent, int depth) {
  parent.depth = std::max(parent.depth, depth + 1);
  if (parent.depth > kMaxNesting) fail_deep(parent.line);
}

void ExpressionParser::adopt(Expression& parent, ExpressionPointer child) {
  if (child) deepen(parent, child->depth);
  parent.operands.push_back(std::move(child));
}

void ExpressionParser::adopt_arguments(Expression& parent, std::unique_ptr<CallArguments> arguments) {
  for (const auto& argument : arguments->positional) deepen(parent, argument->depth);
  for (const auto& [name, argument] : arguments->keywords) deepen(parent, argument->depth);
  if (arguments->spread_positional) deepen(parent, arguments->spread_positional->depth);
  if (arguments->spread_keywords) deepen(parent, arguments->spread_keywords->depth);
  parent.arguments = std::move(arguments);
}

}  // namespace onset::jinja
