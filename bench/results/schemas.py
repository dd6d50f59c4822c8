"""Fifty JSON schemas of the kinds that people send, with what to ask a model for. Used by serve_json_schema."""

TEXT = {"type": "string", "maxLength": 60}
NAME = {"type": "string", "minLength": 1, "maxLength": 30}


def record(required=None, **members):
    return {"type": "object", "properties": members, "required": list(members if required is None else required), "additionalProperties": False}


def listed(items, least=0, most=4):
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def integer(low, high):
    return {"type": "integer", "minimum": low, "maximum": high}


SCHEMAS = [
    ("a person", record(name=NAME, age=integer(0, 120))),
    ("a person with an address", record(name=NAME, address=record(street=NAME, city=NAME, zip={"type": "string", "pattern": "^[0-9]{5}$"}))),
    ("a list of three colours", listed({"enum": ["red", "green", "blue", "yellow"]}, 3, 3)),
    ("a book", record(title=TEXT, author=NAME, year=integer(1450, 2100), genres=listed(NAME, 1, 3))),
    ("a recipe", record(title=TEXT, minutes=integer(1, 300), ingredients=listed(record(name=NAME, grams=integer(1, 2000)), 1, 4))),
    ("the sentiment of: I loved it", record(sentiment={"enum": ["positive", "neutral", "negative"]}, confidence={"type": "number", "minimum": 0, "maximum": 1})),
    ("a point", record(x={"type": "number"}, y={"type": "number"})),
    ("a polygon", listed({"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}], "items": False, "minItems": 2}, 3, 5)),
    ("an answer to: is water wet?", record(answer={"type": "boolean"}, reason=TEXT)),
    ("a calendar event", record(title=TEXT, start={"type": "string", "format": "date-time"}, guests=listed({"type": "string", "format": "email"}, 0, 2))),
    ("a user account", record(id={"type": "string", "format": "uuid"}, email={"type": "string", "format": "email"}, roles=listed({"enum": ["admin", "editor", "reader"]}, 1, 2))),
    ("a server", record(host={"type": "string", "format": "hostname"}, ip={"type": "string", "format": "ipv4"}, port=integer(1, 65535))),
    ("a product", record(["name", "price"], name=NAME, price={"type": "number", "exclusiveMinimum": 0, "maximum": 9999.99}, tags=listed(NAME, 0, 3), note=TEXT)),
    ("a chess move", record(piece={"enum": ["K", "Q", "R", "B", "N", "P"]}, square={"type": "string", "pattern": "^[a-h][1-8]$"})),
    ("a traffic light", {"enum": ["red", "yellow", "green"]}),
    ("a dice roll", integer(1, 6)),
    ("a yes or a no", {"type": "boolean"}),
    ("a short sentence", {"type": "string", "minLength": 10, "maxLength": 80}),
    ("a temperature", record(value={"type": "number", "minimum": -273.15, "maximum": 5000}, unit={"enum": ["C", "F", "K"]})),
    ("a shape", {"oneOf": [record(kind={"const": "circle"}, radius={"type": "number", "exclusiveMinimum": 0}),
                           record(kind={"const": "square"}, side={"type": "number", "exclusiveMinimum": 0})]}),
    ("a name or nothing", {"anyOf": [NAME, {"type": "null"}]}),
    ("a family tree", {"$defs": {"person": record(["name"], name=NAME, children={"type": "array", "items": {"$ref": "#/$defs/person"}, "maxItems": 2})},
                       "$ref": "#/$defs/person"}),
    ("a linked list of numbers", {"$defs": {"node": record(value=integer(-9, 9), next={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]})},
                                  "$ref": "#/$defs/node"}),
    ("an arithmetic problem", record(left=integer(-99, 99), operator={"enum": ["+", "-", "*"]}, right=integer(-99, 99), result={"type": "integer"})),
    ("a weather report", record(city=NAME, celsius=integer(-60, 60), sky={"enum": ["clear", "cloudy", "rain", "snow"]}, wind={"type": ["number", "null"], "minimum": 0})),
    ("a song", record(title=TEXT, artist=NAME, seconds=integer(30, 900))),
    ("a password rule", record(least=integer(4, 12), most=integer(13, 64), symbols={"type": "boolean"})),
    ("a date", record(year=integer(1900, 2100), month=integer(1, 12), day=integer(1, 31))),
    ("a holiday", record(name=NAME, date={"type": "string", "format": "date"})),
    ("an opening time", record(day={"enum": ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]}, opens={"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"})),
    ("a colour", record(red=integer(0, 255), green=integer(0, 255), blue=integer(0, 255), hex={"type": "string", "pattern": "^#[0-9a-f]{6}$"})),
    ("a bill in steps of five", record(total={"type": "integer", "multipleOf": 5, "minimum": 5, "maximum": 500}, currency={"type": "string", "pattern": "^[A-Z]{3}$"})),
    ("a telephone number", {"type": "string", "pattern": r"^\+[1-9][0-9]{6,13}$"}),
    ("a quotation", record(text={"type": "string", "minLength": 5, "maxLength": 100}, speaker=NAME)),
    ("a multiple choice question", record(question=TEXT, choices=listed(TEXT, 2, 4), right=integer(0, 3))),
    ("a translation of: good morning", record(language={"enum": ["de", "fr", "es", "it"]}, text=TEXT)),
    ("keywords about the sea", listed(NAME, 2, 5)),
    ("a city", record(name=NAME, population=integer(0, 40000000), capital={"type": "boolean"}, mayor={"type": ["string", "null"], "maxLength": 30})),
    ("a bug report", record(title=TEXT, severity=integer(1, 5), steps=listed(TEXT, 1, 3), environment=record(os=NAME, version={"type": "string", "pattern": r"^\d+(\.\d+){1,2}$"}))),
    ("a matrix of two by two", listed(listed(integer(-9, 9), 2, 2), 2, 2)),
    ("a chemical element", record(symbol={"type": "string", "pattern": "^[A-Z][a-z]?$"}, number=integer(1, 118), mass={"type": "number", "minimum": 1, "maximum": 300})),
    ("a train connection", record(start=NAME, end=NAME, departure={"type": "string", "format": "time"}, changes=integer(0, 5))),
    ("a film", record(["title"], title=TEXT, director=NAME, year=integer(1888, 2100), oscars=integer(0, 11))),
    ("a message with extra fields", {"type": "object", "properties": {"to": NAME}, "required": ["to"], "additionalProperties": integer(0, 9)}),
    ("a sports result", record(home=NAME, away=NAME, score={"type": "array", "prefixItems": [integer(0, 20), integer(0, 20)], "items": False, "minItems": 2})),
    ("a coupon", record(code={"type": "string", "pattern": "^[A-Z0-9]{4}-[A-Z0-9]{4}$"}, percent=integer(1, 90), expires={"type": "string", "format": "date"})),
    ("a decision", {"allOf": [record(choice={"enum": ["left", "right"]}, sure={"type": "boolean"})]}),
    ("a playlist", record(name=NAME, songs=listed(record(title=TEXT, rating={"anyOf": [integer(1, 5), {"const": "unrated"}]}), 1, 3))),
    ("a measurement", record(sensor={"type": "string", "pattern": "^s[0-9]+$", "maxLength": 6}, values=listed({"type": "number", "minimum": -1, "maximum": 1}, 1, 4))),
    ("a constant and a choice", record(version={"const": 2}, mode={"enum": ["fast", "slow", None, 0]})),
]
assert len(SCHEMAS) == 50
