// A parsed template: plain structs, made by the parser and walked by the interpreter.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "onset/text/jinja_value.h"

namespace onset::jinja {

struct Expression;
using ExpressionPointer = std::unique_ptr<Expression>;

enum class ExpressionKind : uint8_t {
  constant,     // value
  variable,     // name
  list,         // operands
  tuple,        // operands
  dictionary,   // operands: key, value, key, value, ...
  attribute,    // operands[0].text
  item,         // operands[0][operands[1]]
  slice,        // operands[0][operands[1]:operands[2]:operands[3]], the last three may be null
  call,         // operands[0](arguments)
  filter,       // operands[0] | text(arguments); a null operand is the text of a block
  test,         // operands[0] is text(arguments)
  negative,     // -operands[0]
  positive,     // +operands[0]
  logical_not,  // not operands[0]
  logical_and,  // operands, first falsy one or the last
  logical_or,   // operands, first truthy one or the last
  arithmetic,   // operands[0] operators[0] operands[1] operators[1] ..., from left to right
  concatenate,  // operands ~ ...
  comparison,   // operands[0] operators[0] operands[1] operators[1] ..., as Python chains them
  conditional,  // operands[0] if operands[1] else operands[2], which may be null
};

enum class Operator : uint8_t {
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  equal,
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
  in,
  not_in,
};

// What stands between the parentheses of a call.
struct CallArguments {
  std::vector<ExpressionPointer> positional;
  std::vector<std::pair<std::string, ExpressionPointer>> keywords;
  ExpressionPointer spread_positional, spread_keywords;  // *x, **x
};

struct Expression {
  ExpressionKind kind = ExpressionKind::constant;
  int line = 0;
  int depth = 1;      // the longest way down to a leaf
  uint32_t name = 0;  // of a variable: its place in Program::names
  std::string text;   // an attribute's, filter's or test's name
  Value value;
  std::vector<ExpressionPointer> operands;
  std::vector<Operator> operators;
  std::unique_ptr<CallArguments> arguments;
};

// Where an assignment goes: a variable, an attribute of a namespace, or several of these.
struct Target {
  enum class Kind : uint8_t { variable, attribute, tuple } kind = Kind::variable;
  int line = 0;
  uint32_t name = 0;
  std::string attribute;
  std::vector<Target> items;
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

enum class StatementKind : uint8_t {
  text,          // text
  print,         // expressions
  conditional,   // expressions[i] chooses blocks[i]; one block more is the else
  loop,          // for target in expressions[0] if expressions[1] (may be null): blocks[0], else blocks[1]
  assign,        // target = expressions[0]
  assign_block,  // target = text of blocks[0], through the filter expressions[0] (may be null)
  macro,         // macro
  call_block,    // macro is the caller, expressions[0] the call
  filter_block,  // expressions[0] over the text of blocks[0]
  with,          // targets[i] = expressions[i]: blocks[0]
  generation,    // blocks[0] in a scope of its own
  break_loop,
  continue_loop,
};

struct Macro {
  std::string name;  // empty for a caller
  std::vector<std::pair<uint32_t, std::string>> parameters;
  std::vector<ExpressionPointer> defaults;  // of the last parameters
  Block body;
  // Whether the body asks for these without naming them as parameters.
  bool uses_caller = false, uses_keywords = false, uses_varargs = false;
};

struct Statement {
  StatementKind kind = StatementKind::text;
  int line = 0;
  bool recursive = false;  // of a loop
  std::string text;
  std::vector<ExpressionPointer> expressions;
  std::vector<Target> targets;
  std::vector<Block> blocks;
  std::unique_ptr<Macro> macro;
};

struct Program {
  Block body;
  std::vector<std::string> names;  // of variables
  // Places in `names` of the names with a meaning of their own.
  uint32_t loop = 0, caller = 0, varargs = 0, keywords = 0;
};

}  // namespace onset::jinja
