"""Docstrings of this project, laid out as mkdocstrings reads them (a Griffe extension).

Here several arguments may share a line, fields of a class stand in a paragraph or are `setting`s
with a meaning and bounds, and `<` is a letter like any other.
"""

import ast
import inspect
import re
import textwrap

import griffe

_SECTION = re.compile(r"^(Args|Fields|Attributes|Returns|Raises|Example):$")
_NAMED = ("Args", "Fields", "Attributes")


class Docstrings(griffe.Extension):
    """Rewrites the docstring of everything that has one."""

    def on_attribute_instance(self, *, node, attr, **kwargs):
        """Notes what a `setting` means."""
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "setting":
            default, meaning = call.args[:2]
            meaning = meaning.value if isinstance(meaning, ast.Constant) else ast.unparse(meaning)
            bounds = [f"{k.arg.replace('_', ' ')} {ast.unparse(k.value)}" for k in call.keywords]
            told = "; ".join([meaning, f"default `{ast.unparse(default)}`", *bounds])
            attr.extra["setting"]["text"] = told
            attr.value = ast.unparse(default)

    def on_class_members(self, *, cls, **kwargs):
        """Fields become one section of the class."""
        fields = [name for name, member in cls.members.items() if member.is_attribute]
        settings = {
            name: cls.members[name].extra["setting"]["text"]
            for name in fields
            if "setting" in cls.members[name].extra
        }
        if cls.docstring:
            cls.docstring.value = rewritten(cls.docstring.value, fields, settings)

    def on_function_instance(self, *, func, **kwargs):
        """With the names of its arguments."""
        if func.docstring:
            names = [parameter.name.lstrip("*") for parameter in func.parameters]
            func.docstring.value = rewritten(func.docstring.value, names)

    def on_module_instance(self, *, mod, **kwargs):
        """Nothing has a name but the text."""
        if mod.docstring:
            mod.docstring.value = rewritten(mod.docstring.value, [])


def rewritten(text, names, settings=None):
    """A docstring in Google's layout, an argument a line, its prose in Markdown."""
    pieces, fields = [], []
    for header, block in _sections(inspect.cleandoc(text)):
        if header is None:
            prose, found = _without_fields(block, names if settings is not None else [])
            pieces.append(_markdown(prose))
            fields += found
        elif header == "Example":
            pieces.append(f"```python\n{block}\n```")
        elif header in _NAMED and settings is not None:
            fields += _entries(block, names)
        elif header in (*_NAMED, "Raises"):
            header = "Raises" if header == "Raises" else "Args"
            pieces.append(_listed(header, _entries(block, names)))
        else:
            pieces.append(f"{header}:\n{_indented(_markdown(block))}")
    told = {name for entry, _ in fields for name in entry.split(", ")}
    fields += [(name, meaning) for name, meaning in (settings or {}).items() if name not in told]
    if fields:
        pieces.append(_listed("Attributes", fields))
    return "\n\n".join(piece for piece in pieces if piece.strip())


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


def _listed(header, entries):
    lines = [f"{name}: {_indented(_markdown(text), 8).strip()}" for name, text in entries]
    return f"{header}:\n" + "\n".join(f"    {line}" for line in lines)


def _indented(text, spaces=4):
    return "\n".join(" " * spaces + line if line else line for line in text.splitlines())


def _markdown(text):
    """Prose with what Markdown would take for markup escaped; indented lines stay as they are."""
    lines, is_code, was_blank = [], False, True
    for line in text.splitlines():
        is_code = line.startswith("    ") and (is_code or was_blank) or (is_code and not line)
        was_blank = not line
        lines.append(line if is_code else _escaped(line))
    return "\n".join(lines)


def _escaped(line):
    parts = re.split(r"(`[^`]+`)", line)
    parts[::2] = [re.sub(r"(\*\*|<(?=[A-Za-z/])|\|)", _escape, part) for part in parts[::2]]
    line = "".join(parts)
    return re.sub(r"^'(?=[\w, ']+':\s)", "- '", line)


def _escape(match):
    return {"**": r"\*\*", "<": "&lt;", "|": "&#124;"}[match[0]]
