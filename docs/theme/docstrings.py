"""Docstrings of this project as Markdown (a Griffe extension).

Several arguments may share a line there, fields of a class stand in a paragraph or are `setting`s
with a meaning and bounds, and `<` is a letter like any other. Types stand in the signature.
"""

import ast
import inspect
import re
import textwrap

import griffe

_SECTION = re.compile(r"^(Args|Fields|Attributes|Returns|Raises|Example):$")
_OF_CLASS = {"Args": "Fields", "Attributes": "Fields"}
_TITLES = {"Args": "Parameters"}


class Docstrings(griffe.Extension):
    """Rewrites the docstring of everything that has one."""

    def on_attribute_instance(self, *, node, attr, agent, **kwargs):
        """Notes what a `setting` means; a module's constant is told of by the comment above it."""
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "setting":
            default, meaning = call.args[:2]
            meaning = meaning.value if isinstance(meaning, ast.Constant) else ast.unparse(meaning)
            told = [
                meaning,
                *(f"{k.arg.replace('_', ' ')} {ast.unparse(k.value)}" for k in call.keywords),
            ]
            attr.extra["setting"]["text"] = "; ".join(told)
            attr.value = ast.unparse(default)
        elif attr.parent.is_module and attr.docstring is None and not attr.name.startswith("_"):
            above = agent.code.splitlines()[: node.lineno - 1]
            comment = []
            while above and above[-1].startswith("# "):
                comment.insert(0, above.pop()[2:])
            if comment:
                attr.docstring = griffe.Docstring("\n".join(comment), parent=attr)

    def on_class_members(self, *, cls, **kwargs):
        """Its fields become one list."""
        if cls.docstring:
            fields = {name: m for name, m in cls.members.items() if m.is_attribute}
            cls.docstring.value = markdown(cls.docstring.value, list(fields), fields)

    def on_function_instance(self, *, func, **kwargs):
        """With the names of its arguments."""
        if func.docstring:
            names = [parameter.name.lstrip("*") for parameter in func.parameters]
            func.docstring.value = markdown(func.docstring.value, names)

    def on_module_instance(self, *, mod, **kwargs):
        """Nothing has a name but the text."""
        if mod.docstring:
            mod.docstring.value = markdown(mod.docstring.value, [])


def markdown(text, names, fields=None):
    """A docstring as Markdown, an argument a line; fields: of a class, by name."""
    pieces, entries, errors = [], [], ""
    for header, block in _sections(inspect.cleandoc(text)):
        if fields is not None:
            header = _OF_CLASS.get(header, header)
        if header is None:
            block, found = _without_fields(block, names if fields is not None else [])
            pieces.append(_escaped(block))
            entries += found
        elif header == "Example":
            pieces.append(f"```python\n{block}\n```")
        elif header == "Returns":
            pieces.append(f"**Returns**\n\n- {_item(block)}")
        elif header == "Fields":
            entries += _entries(block, names)
        elif header == "Raises":
            errors = _listed(header, _entries(block, []))
        else:
            pieces.append(_listed(_TITLES.get(header, header), _entries(block, names)))
    told = {name for entry, _ in entries for name in entry.split(", ")}
    for name, field in (fields or {}).items():
        if name not in told and "setting" in field.extra:
            entries.append((name, field.extra["setting"]["text"]))
    if entries:
        pieces.append(_listed("Fields", entries, fields))
    return "\n\n".join(piece for piece in [*pieces, errors] if piece.strip())


def _sections(text):
    """(header or None, dedented block), in order."""
    header, lines = None, []
    for line in text.splitlines():
        starts = _SECTION.match(line)
        if starts or (header and line and not line.startswith(" ")):
            yield header, textwrap.dedent("\n".join(lines)).strip("\n")
            header, lines = (starts[1], []) if starts else (None, [line])
        else:
            lines.append(line)
    yield header, textwrap.dedent("\n".join(lines)).strip("\n")


def _name_pattern(names):
    one = r"\*{0,2}(?:" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + ")"
    return rf"{one}(?:, {one})*"


def _entries(block, names):
    """(name or names, text) of arguments that may share lines."""
    if names:
        block = re.sub(rf"(?<=[.;)\]]) (?=(?:{_name_pattern(names)}): )", "\n", block)
    entries = []
    for line in block.splitlines():
        starts = re.match(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)$", line)
        if starts:
            entries.append((starts[1], [starts[2]]))
        elif entries:
            entries[-1][1].append(line)
    return [(name, "\n".join(lines)) for name, lines in entries]


def _without_fields(text, names):
    """A class's prose, and the entries of those of its paragraphs that tell of fields."""
    prose, fields = [], []
    for paragraph in re.split(r"\n\n+", text):
        if names and re.match(rf"(?:{_name_pattern(names)}): ", paragraph):
            fields += _entries(paragraph, names)
        else:
            prose.append(paragraph)
    return "\n\n".join(prose), fields


def _listed(title, entries, fields=None):
    """A list under a title; an entry of one field has its type."""
    items = []
    for name, text in entries:
        names = ", ".join(f"**`{part}`**" for part in name.split(", "))
        annotation = getattr((fields or {}).get(name), "annotation", None)
        items.append(f"- {names}{f' `{annotation}`' if annotation else ''}: {_item(text)}")
    return f"**{title}**\n\n" + "\n".join(items)


def _item(text):
    """An entry's text, its later lines within the item of a list."""
    first, _, rest = text.partition("\n")
    rest = textwrap.dedent(rest)
    return _escaped(f"{first}\n{rest}".strip()).replace("\n", "\n    ")


def _escaped(text):
    """Prose with what Markdown would take for markup escaped; indented code stays as it is.

    Lines that begin with a value in quotes and a colon become a list.
    """
    text = re.sub(r"^'[\w, ']+':\s", r"- \g<0>", text, flags=re.MULTILINE)
    text = re.sub(r"^(?!- |\s)(.+)\n(?=- )", "\\1\n\n", text, flags=re.MULTILINE)
    lines, is_code, was_blank = [], False, True
    for line in text.splitlines():
        is_code = (is_code or was_blank) if line.startswith("    ") else is_code and not line
        was_blank = not line
        parts = re.split(r"(`[^`]+`)", line)
        if not is_code:
            parts[::2] = [re.sub(r"\*\*|<(?=[A-Za-z/])", _escape, part) for part in parts[::2]]
        lines.append("".join(parts))
    return "\n".join(lines)


def _escape(match):
    return {"**": r"\*\*", "<": "&lt;"}[match[0]]
