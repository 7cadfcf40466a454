"""Checks a chart's values against its schema, with nothing but Python's own library.

Every object of the schema is closed (or a map whose values have a type), every key of values.yaml is in the schema and
the other way round, and every section has a comment above it.
"""

import json
import pathlib
import re
import sys

chart = pathlib.Path(sys.argv[1])
schema = json.loads((chart / "values.schema.json").read_text())
problems = []


def resolve(node):
    return schema["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node


def closed(node, path):
    """`global` alone is open: helm fills it, and no template reads it."""
    if node.get("type") == "object" and path != "#/properties/global":
        extra = node.get("additionalProperties", True)
        if extra is True or extra == {}:
            problems.append(f"{path}: an open object")
    for key, value in node.items():
        if isinstance(value, dict):
            closed(value, f"{path}/{key}")


def schema_keys(node, path=""):
    for key, value in resolve(node).get("properties", {}).items():
        yield f"{path}{key}"
        yield from schema_keys(value, f"{path}{key}.")


closed(schema, "#")
known = set(schema_keys(schema))
given, undocumented, stack, comment = set(), [], [], False
for line in (chart / "values.yaml").read_text().splitlines():
    match = re.match(r"( *)([A-Za-z]\w*):(.*)", line)
    if line.lstrip().startswith("#"):
        comment = True
    elif not line.strip():
        comment = False
    elif match:
        depth = len(match[1]) // 2
        stack[depth:] = [match[2]]
        path = ".".join(stack)
        given.add(path)
        if not comment and not match[3].strip() and depth == 0:
            undocumented.append(path)

optional = re.compile(r"^global$|\.resources\.|\.(pullSecrets|tolerations)\b.*\.")
problems += [f"{path}: in values.yaml, not in the schema" for path in sorted(given - known) if ".resources." not in path]
problems += [f"{path}: in the schema, not in values.yaml" for path in sorted(known - given) if not optional.search(path)]
problems += [f"{path}: no comment in values.yaml" for path in undocumented]
print("\n".join(problems))
sys.exit(bool(problems))
